//! A call of `Genotype` to a genotype.
//!
//! Takes the tokens, has the call read by `call`, pairs its edges to nodes and checks the result.
//! Every fault tells the item of the literal (`normal[5][0]`) and its place.

use super::Fault;
use super::call::{self, StateList, Written};
use super::module::Literal;
use super::token::Token;
use crate::genotype::check::{self, CellPart, Part, Side};
use crate::genotype::error::{Position, Problem};
use crate::genotype::{Cell, Genotype, Provenance};

/// Read and check the genotype of `literal`, which is a call among `tokens`.
pub(super) fn genotype(tokens: &[Token], literal: &Literal) -> Result<Genotype, Fault> {
    let [normal, reduce] = call::cells(tokens, literal)?;
    let genotype = Genotype {
        name: literal.name.clone(),
        normal: cell(&normal, Side::Normal)?,
        reduce: cell(&reduce, Side::Reduce)?,
        provenance: Provenance::default(),
    };
    check::check(&genotype).map_err(|fault| {
        let (position, key) = match fault.part {
            Part::Name | Part::ValidTop1 => (literal.position, String::new()),
            Part::Cell(side @ Side::Normal, part) => place(&normal, side, part),
            Part::Cell(side @ Side::Reduce, part) => place(&reduce, side, part),
        };
        Fault { position, key, problem: fault.problem }
    })?;
    Ok(genotype)
}

fn cell(written: &Written, side: Side) -> Result<Cell, Fault> {
    let (pairs, rest) = written.edges.items.as_chunks::<2>();
    if !rest.is_empty() {
        let found = written.edges.items.len();
        let (position, key) = place(written, side, CellPart::Nodes);
        return Err(Fault { position, key, problem: Problem::OddEdges { found } });
    }
    let nodes: Vec<_> = pairs.iter().map(|[a, b]| [a.edge, b.edge]).collect();
    let concat = match &written.states.list {
        StateList::Items(items) => items.iter().map(|(state, _)| *state).collect(),
        // However long the range is, this many states hold one that the check refuses.
        StateList::Range(from, to) => {
            let most = from.saturating_add(nodes.len() + 1);
            (*from..most.min(*to)).collect()
        }
    };
    Ok(Cell { nodes, concat })
}

/// Where a part stands and what it is called in the literal.
fn place(written: &Written, side: Side, part: CellPart) -> (Position, String) {
    let cell = side.name();
    let Written { edges, states } = written;
    match part {
        CellPart::Nodes => (edges.position, cell.to_owned()),
        CellPart::Op(at) => {
            let index = 2 * at.node + at.edge;
            (edges.items[index].op, format!("{cell}[{index}][0]"))
        }
        CellPart::Input(at) => {
            let index = 2 * at.node + at.edge;
            (edges.items[index].input, format!("{cell}[{index}][1]"))
        }
        CellPart::Concat => (states.position, format!("{cell}_concat")),
        CellPart::ConcatItem(index) => {
            let position = match &states.list {
                StateList::Items(items) => items[index].1,
                StateList::Range(..) => states.position,
            };
            (position, format!("{cell}_concat[{index}]"))
        }
    }
}
