//! Wires one cell: two inputs, intermediate nodes, concat.
//!
//! Takes the two cell inputs and what fills the edges; gives the cell's output. Edges are either one primitive or a mixed
//! operation over all candidates; nothing else differs between a found cell and a search cell.

use super::layers::{Layers, Scope};
use super::primitive::{Setting, expand};
use super::{LowerError, SearchSpace};
use crate::genotype::{Cell, Primitive};
use crate::ir::{Op, Range, ValueId, Window};

/// Where a cell stands.
#[derive(Debug, Clone)]
pub(super) struct CellFrame {
    /// The cell's scope.
    pub scope: Scope,
    /// Channels of each node.
    pub channels: usize,
    /// Whether this cell halves the resolution.
    pub reduction: bool,
    /// Whether its older input has twice the resolution of the newer one.
    pub reduction_before: bool,
}

/// What fills the edges of a cell.
#[derive(Debug, Clone, Copy)]
pub(super) enum Filling<'a> {
    /// One primitive an edge.
    One(&'a Cell),
    /// All primitives an edge, weighted.
    Mixed {
        space: &'a SearchSpace,
        /// `[edges, primitives]`.
        alphas: ValueId,
        /// `[edges]`, absent without edge normalisation.
        betas: Option<ValueId>,
    },
}

/// Adds the cell and gives its output (the concat of its nodes).
pub(super) fn cell(
    layers: &mut Layers,
    frame: &CellFrame,
    filling: Filling,
    inputs: [ValueId; 2],
) -> Result<ValueId, LowerError> {
    let at = &frame.scope;
    let older = at.child("preprocess0", "preprocess0");
    let s0 = if frame.reduction_before {
        layers.factorized_reduce(&older, inputs[0], frame.channels)?
    } else {
        layers.relu_conv_bn(&older, inputs[0], frame.channels)?
    };
    let s1 = layers.relu_conv_bn(&at.child("preprocess1", "preprocess1"), inputs[1], frame.channels)?;
    let mut states = vec![s0, s1];
    match filling {
        Filling::One(cell) => found_nodes(layers, frame, cell, &mut states)?,
        Filling::Mixed { space, alphas, betas } => mixed_nodes(layers, frame, space, alphas, betas, &mut states)?,
    }
    let concat: Vec<ValueId> = match filling {
        Filling::One(cell) => cell.concat.iter().map(|&i| states[i]).collect(),
        Filling::Mixed { .. } => states[2..].to_vec(),
    };
    Ok(layers.concat(&at.child("concat", ""), &concat)?)
}

fn stride(frame: &CellFrame, input: usize) -> usize {
    if frame.reduction && input < 2 { 2 } else { 1 }
}

/// Each node adds its two edges; edges that are not the identity can be dropped in training.
fn found_nodes(
    layers: &mut Layers,
    frame: &CellFrame,
    cell: &Cell,
    states: &mut Vec<ValueId>,
) -> Result<(), LowerError> {
    for (i, edges) in cell.nodes.iter().enumerate() {
        let node = frame.scope.child(format!("node{i}"), "");
        let mut terms = Vec::with_capacity(2);
        for (j, edge) in edges.iter().enumerate() {
            let place = node.child(format!("edge{j}"), "");
            let at = place.child(edge.primitive.name(), format!("_ops.{}", 2 * i + j));
            let x = states[edge.input];
            let y = expand(layers, &at, edge.primitive, x, stride(frame, edge.input), Setting::Found)?;
            let identity = y == x;
            let drop = place.child("drop_path", "");
            terms.push(if identity { y } else { layers.graph.node(drop.path(), Op::DropPath, &[y])? });
        }
        states.push(layers.graph.node(node.child("add", "").path(), Op::Add, &terms)?);
    }
    Ok(())
}

/// Each node sums its incoming mixed edges, weighted by beta where there is edge normalisation.
fn mixed_nodes(
    layers: &mut Layers,
    frame: &CellFrame,
    space: &SearchSpace,
    alphas: ValueId,
    betas: Option<ValueId>,
    states: &mut Vec<ValueId>,
) -> Result<(), LowerError> {
    let mut edge = 0;
    for i in 0..space.nodes {
        let node = frame.scope.child(format!("node{i}"), "");
        let first = edge;
        let mut terms = Vec::with_capacity(i + 2);
        for (j, &state) in states.iter().enumerate() {
            let at = node.child(format!("edge{j}"), format!("_ops.{edge}"));
            terms.push(mixed_edge(layers, &at, space, alphas, edge, state, stride(frame, j))?);
            edge += 1;
        }
        let sum = node.child("sum", "");
        states.push(match betas {
            Some(betas) => {
                let op = Op::WeightedSum { indices: (first..edge).collect() };
                let inputs: Vec<ValueId> = std::iter::once(betas).chain(terms).collect();
                layers.graph.node(sum.path(), op, &inputs)?
            }
            None => {
                let mut total = terms[0];
                for (j, &term) in terms.iter().enumerate().skip(1) {
                    total = layers.graph.node(sum.child(format!("add{j}"), "").path(), Op::Add, &[total, term])?;
                }
                total
            }
        });
    }
    Ok(())
}

/// The first C / K channels through every candidate, weighted by alpha; the others past them; the two shuffled together.
/// The candidate `none` contributes zero and is left out; its weight still takes part in the softmax.
fn mixed_edge(
    layers: &mut Layers,
    at: &Scope,
    space: &SearchSpace,
    alphas: ValueId,
    edge: usize,
    x: ValueId,
    stride: usize,
) -> Result<ValueId, LowerError> {
    let k = space.partial_channels;
    let c = layers.channels(x);
    let cut = |layers: &mut Layers, name: &str, start: usize, len: usize| {
        let ranges = vec![Range { axis: 1, start, len, step: 1 }];
        layers.graph.node(at.child(name, "").path(), Op::Slice { ranges }, &[x])
    };
    let part = if k == 1 { x } else { cut(layers, "searched", 0, c / k)? };
    let (mut inputs, mut indices) = (vec![alphas], Vec::new());
    for (m, &primitive) in space.primitives.iter().enumerate().filter(|(_, p)| **p != Primitive::None) {
        let place = at.child(primitive.name(), format!("_ops.{m}"));
        inputs.push(expand(layers, &place, primitive, part, stride, Setting::Candidate)?);
        indices.push(edge * space.primitives.len() + m);
    }
    let mixed = layers.graph.node(at.child("mixed", "").path(), Op::WeightedSum { indices }, &inputs)?;
    if k == 1 {
        return Ok(mixed);
    }
    let mut bypass = cut(layers, "bypass", c / k, c - c / k)?;
    if stride == 2 {
        // Odd sizes round up, as the strided candidates do.
        let window = Window { ceil: true, ..Window::valid(2, 2) };
        bypass = layers.graph.node(at.child("bypass_pool", "").path(), Op::MaxPool(window), &[bypass])?;
    }
    let whole = layers.concat(&at.child("concat", ""), &[mixed, bypass])?;
    Ok(layers.graph.node(at.child("shuffle", "").path(), Op::ChannelShuffle { groups: k }, &[whole])?)
}
