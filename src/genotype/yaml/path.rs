//! Key paths: `normal.nodes[2][1].op`.
//!
//! Gives the steps from the top of a file to one value, how they are written, and the path of
//! each [`Part`] of a genotype. Following a path through a text is left to `locate`.

use std::fmt;

use crate::genotype::check::{CellPart, EdgeAt, Part};

/// The keys and indices that lead from the top of the file to a value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct KeyPath(pub Vec<Step>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Key(String),
    Index(usize),
}

/// What at the end of a path is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Aim {
    /// The value.
    Value,
    /// The last key itself, where it stands for the nth time (from 0).
    Key(usize),
}

impl KeyPath {
    pub fn key(&self, key: &str) -> KeyPath {
        self.then(Step::Key(key.to_owned()))
    }

    pub fn index(&self, index: usize) -> KeyPath {
        self.then(Step::Index(index))
    }

    fn then(&self, step: Step) -> KeyPath {
        let mut steps = self.0.clone();
        steps.push(step);
        KeyPath(steps)
    }
}

impl From<Part> for KeyPath {
    fn from(part: Part) -> Self {
        let top = KeyPath::default();
        let (side, part) = match part {
            Part::Name => return top.key("name"),
            Part::ValidTop1 => return top.key("provenance").key("valid_top1"),
            Part::Cell(side, part) => (side, part),
        };
        let cell = top.key(side.name());
        let edge = |at: EdgeAt| cell.key("nodes").index(at.node).index(at.edge);
        match part {
            CellPart::Nodes => cell.key("nodes"),
            CellPart::Op(at) => edge(at).key("op"),
            CellPart::Input(at) => edge(at).key("input"),
            CellPart::Concat => cell.key("concat"),
            CellPart::ConcatItem(index) => cell.key("concat").index(index),
        }
    }
}

impl fmt::Display for KeyPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (depth, step) in self.0.iter().enumerate() {
            match step {
                Step::Index(index) => write!(f, "[{index}]")?,
                Step::Key(key) if depth == 0 => f.write_str(key)?,
                Step::Key(key) => write!(f, ".{key}")?,
            }
        }
        Ok(())
    }
}
