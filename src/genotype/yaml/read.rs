//! A YAML tree to a genotype.
//!
//! Takes the tree, gives a genotype whose keys, types and primitive names are right, or the first
//! thing that is not and its key path. Whether the edges fit together is left to `check`.

use super::KeyFault;
use super::path::{Aim, KeyPath};
use super::tree::Tree;
use crate::genotype::error::Problem;
use crate::genotype::primitive::{Primitive, UnknownPrimitive};
use crate::genotype::suggest::nearest;
use crate::genotype::{Cell, Edge, Genotype, Provenance};

const KEYS: [&str; 5] = ["version", "name", "normal", "reduce", "provenance"];
const CELL_KEYS: [&str; 2] = ["nodes", "concat"];
const EDGE_KEYS: [&str; 2] = ["op", "input"];

/// The genotype that the tree describes.
pub(super) fn genotype(tree: &Tree) -> Result<Genotype, KeyFault> {
    let path = KeyPath::default();
    let top = At { tree, path }.map("a map with the keys version, name, normal and reduce")?;
    // Before the keys are looked at: another version may have others.
    let version = top.need("version", "version: 1")?;
    let found = version.whole("the number 1")?;
    if found != 1 {
        return Err(version.fault(Problem::Version { found }));
    }
    top.only(&KEYS)?;
    let name = top.need("name", "name: my_cells")?;
    let normal = top.need("normal", "normal: {nodes: [...], concat: [...]}")?;
    let reduce = top.need("reduce", "reduce: {nodes: [...], concat: [...]}")?;
    Ok(Genotype {
        name: name.text()?,
        normal: cell(&normal)?,
        reduce: cell(&reduce)?,
        provenance: match top.get("provenance") {
            Some(at) => provenance(&at)?,
            None => Provenance::default(),
        },
    })
}

fn cell(at: &At<'_>) -> Result<Cell, KeyFault> {
    let map = at.map("a map with the keys nodes and concat")?;
    map.only(&CELL_KEYS)?;
    let nodes = map.need("nodes", "nodes: [[{op: sep_conv_3x3, input: 0}, {op: skip_connect, input: 1}]]")?;
    let concat = map.need("concat", "concat: [2, 3, 4, 5]")?;
    let nodes = nodes.list("a list of nodes")?;
    let concat = concat.list("a list of states, e.g. [2, 3, 4, 5]")?;
    Ok(Cell {
        nodes: nodes.iter().enumerate().map(|(index, at)| node(index, at)).collect::<Result<_, _>>()?,
        concat: concat.iter().map(At::state).collect::<Result<_, _>>()?,
    })
}

fn node(node: usize, at: &At<'_>) -> Result<[Edge; 2], KeyFault> {
    let edges = at.list("a list of two edges, e.g. [{op: sep_conv_3x3, input: 0}, {...}]")?;
    match edges.as_slice() {
        [first, second] => Ok([edge(first)?, edge(second)?]),
        edges => {
            let found = edges.len();
            Err(at.fault(Problem::EdgesPerNode { node, found }))
        }
    }
}

fn edge(at: &At<'_>) -> Result<Edge, KeyFault> {
    let map = at.map("an edge, e.g. {op: sep_conv_3x3, input: 0}")?;
    map.only(&EDGE_KEYS)?;
    let op = map.need("op", "op: sep_conv_3x3")?;
    let input = map.need("input", "input: 0")?;
    let primitive = match op.tree {
        // An unquoted `null` is YAML's nothing; who writes it means the primitive `none`.
        Tree::Null => Ok(Primitive::None),
        _ => op.text()?.parse(),
    };
    Ok(Edge {
        primitive: primitive.map_err(|unknown: UnknownPrimitive| op.fault(unknown.into()))?,
        input: input.state()?,
    })
}

fn provenance(at: &At<'_>) -> Result<Provenance, KeyFault> {
    let map = at.map("a map of facts, e.g. {source: a paper}")?;
    map.only(&Provenance::KEYS)?;
    let text = |key| map.get(key).map(|at| at.text()).transpose();
    let whole = |key| {
        let found = map.get(key).map(|at| at.whole("a whole number from 0"));
        found.transpose()
    };
    let epochs = map.get("epochs").map(|at| at.count("a number of epochs"));
    let valid_top1 = map.get("valid_top1").map(|at| at.real());
    Ok(Provenance {
        source: text("source")?,
        method: text("method")?,
        dataset: text("dataset")?,
        seed: whole("seed")?,
        epochs: epochs.transpose()?,
        valid_top1: valid_top1.transpose()?,
        config_hash: text("config_hash")?,
        tool: text("tool")?,
        created: text("created")?,
    })
}

/// A value and the path to it.
struct At<'a> {
    tree: &'a Tree,
    path: KeyPath,
}

/// A map and the path to it.
struct Map<'a> {
    entries: &'a [(String, Tree)],
    path: KeyPath,
}

impl<'a> At<'a> {
    fn map(&self, expected: &'static str) -> Result<Map<'a>, KeyFault> {
        match self.tree {
            Tree::Map(entries) => Ok(Map { entries, path: self.path.clone() }),
            _ => Err(self.wrong(expected)),
        }
    }

    fn list(&self, expected: &'static str) -> Result<Vec<At<'a>>, KeyFault> {
        let Tree::List(items) = self.tree else {
            return Err(self.wrong(expected));
        };
        let at = |(index, tree)| At { tree, path: self.path.index(index) };
        Ok(items.iter().enumerate().map(at).collect())
    }

    fn text(&self) -> Result<String, KeyFault> {
        match self.tree {
            Tree::Text(text) => Ok(text.clone()),
            Tree::Map(_) | Tree::List(_) | Tree::Null => Err(self.wrong("text")),
            _ => Err(self.wrong("text (put it in quotes)")),
        }
    }

    fn whole(&self, expected: &'static str) -> Result<u64, KeyFault> {
        match self.tree {
            Tree::Whole(number) => Ok(*number),
            _ => Err(self.wrong(expected)),
        }
    }

    fn count(&self, expected: &'static str) -> Result<usize, KeyFault> {
        let number = self.whole(expected)?;
        usize::try_from(number).map_err(|_| self.wrong(expected))
    }

    fn state(&self) -> Result<usize, KeyFault> {
        self.count("the number of a state (0 and 1 are the cell's inputs, 2 is node 0)")
    }

    fn real(&self) -> Result<f64, KeyFault> {
        match self.tree {
            Tree::Real(number) => Ok(*number),
            Tree::Whole(number) => Ok(*number as f64),
            Tree::Negative(number) => Ok(*number as f64),
            _ => Err(self.wrong("a number")),
        }
    }

    fn wrong(&self, expected: &'static str) -> KeyFault {
        let found = described(self.tree);
        self.fault(Problem::Expected { expected, found })
    }

    fn fault(&self, problem: Problem) -> KeyFault {
        KeyFault { path: self.path.clone(), aim: Aim::Value, problem }
    }
}

impl<'a> Map<'a> {
    /// Refuse keys that are not `known` and keys that are given twice.
    fn only(&self, known: &'static [&'static str]) -> Result<(), KeyFault> {
        for (index, (key, _)) in self.entries.iter().enumerate() {
            let (aim, problem) = if !known.contains(&key.as_str()) {
                let nearest = nearest(key, known.iter().copied());
                let key = key.clone();
                let problem = Problem::UnknownKey { key, known, nearest };
                (Aim::Key(0), problem)
            } else if self.entries[..index].iter().any(|(other, _)| other == key) {
                let key = key.clone();
                (Aim::Key(1), Problem::DuplicateKey { key })
            } else {
                continue;
            };
            let path = self.path.key(key);
            return Err(KeyFault { path, aim, problem });
        }
        Ok(())
    }

    fn need(&self, key: &'static str, example: &'static str) -> Result<At<'a>, KeyFault> {
        self.find(key).ok_or_else(|| KeyFault {
            path: self.path.clone(),
            aim: Aim::Value,
            problem: Problem::MissingKey { key, example },
        })
    }

    /// A key that may be left out, or left without a value.
    fn get(&self, key: &str) -> Option<At<'a>> {
        self.find(key).filter(|at| *at.tree != Tree::Null)
    }

    fn find(&self, key: &str) -> Option<At<'a>> {
        let (_, tree) = self.entries.iter().find(|(other, _)| other == key)?;
        let path = self.path.key(key);
        Some(At { tree, path })
    }
}

/// A value in the words of an error message.
fn described(tree: &Tree) -> String {
    const SHOWN: usize = 40;
    match tree {
        Tree::Null => "nothing".to_owned(),
        Tree::Bool(value) => format!("the truth value {value}"),
        Tree::Whole(number) => format!("the number {number}"),
        Tree::Negative(number) => format!("the number {number}"),
        Tree::Real(number) => format!("the number {number:?}"),
        Tree::Text(text) if text.chars().count() > SHOWN => {
            let start: String = text.chars().take(SHOWN).collect();
            format!("the text {start:?}...")
        }
        Tree::Text(text) => format!("the text {text:?}"),
        Tree::List(items) => format!("a list of {} item(s)", items.len()),
        Tree::Map(_) => "a map".to_owned(),
    }
}
