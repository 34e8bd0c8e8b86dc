//! The structural checks of a genotype, however it was made.
//!
//! Takes a [`Genotype`], gives the first thing that is wrong as a [`Fault`]. It checks that
//! - the name is not empty and a known accuracy is a number,
//! - each cell has a node,
//! - no edge holds `none`,
//! - an edge of node i (state i + 2) reads one of the states 0..=i + 1,
//! - each cell's output lists at least one state, only node states, and none twice.
//!
//! Two edges of a node may read the same state, and a node may stay out of the output: NASNet and
//! AmoebaNet do both. Finding the line and column of a fault is left to the readers.

use super::error::Problem;
use super::primitive::Primitive;
use super::{Cell, Edge, Genotype};

/// What is wrong with which part.
pub(super) struct Fault {
    pub part: Part,
    pub problem: Problem,
}

/// A part of a genotype that an error can be about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Name,
    ValidTop1,
    Cell(Side, CellPart),
}

/// A part of one cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CellPart {
    Nodes,
    Op(EdgeAt),
    Input(EdgeAt),
    Concat,
    ConcatItem(usize),
}

/// Which of the two cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Normal,
    Reduce,
}

/// An edge by its place among the edges of its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EdgeAt {
    pub node: usize,
    pub edge: usize,
}

/// The first fault of a genotype, normal cell before reduction cell.
pub(super) fn check(genotype: &Genotype) -> Result<(), Fault> {
    if genotype.name.trim().is_empty() {
        return fault(Part::Name, Problem::EmptyName);
    }
    for (side, cell) in [(Side::Normal, &genotype.normal), (Side::Reduce, &genotype.reduce)] {
        if let Err((part, problem)) = check_cell(cell) {
            return fault(Part::Cell(side, part), problem);
        }
    }
    match genotype.provenance.valid_top1 {
        Some(value) if !value.is_finite() => fault(Part::ValidTop1, Problem::NotAnAccuracy { value }),
        _ => Ok(()),
    }
}

impl Side {
    /// The cell's key.
    pub fn name(self) -> &'static str {
        match self {
            Side::Normal => "normal",
            Side::Reduce => "reduce",
        }
    }
}

fn check_cell(cell: &Cell) -> Result<(), (CellPart, Problem)> {
    let nodes = cell.nodes.len();
    if nodes == 0 {
        return Err((CellPart::Nodes, Problem::EmptyCell));
    }
    for (node, edges) in cell.nodes.iter().enumerate() {
        for (edge, &Edge { primitive, input }) in edges.iter().enumerate() {
            let at = EdgeAt { node, edge };
            if primitive == Primitive::None {
                return Err((CellPart::Op(at), Problem::NoneInGenotype));
            }
            if input > node + 1 {
                let problem = Problem::InputOutOfRange { node, input };
                return Err((CellPart::Input(at), problem));
            }
        }
    }
    if cell.concat.is_empty() {
        return Err((CellPart::Concat, Problem::EmptyConcat { nodes }));
    }
    for (index, &state) in cell.concat.iter().enumerate() {
        let item = CellPart::ConcatItem(index);
        if !(2..nodes + 2).contains(&state) {
            return Err((item, Problem::ConcatOutOfRange { state, nodes }));
        }
        if cell.concat[..index].contains(&state) {
            return Err((item, Problem::DuplicateConcat { state }));
        }
    }
    Ok(())
}

fn fault(part: Part, problem: Problem) -> Result<(), Fault> {
    Err(Fault { part, problem })
}
