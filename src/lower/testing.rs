//! Pieces of networks as graphs of their own, for the tests of what walks them.
//!
//! Takes what the piece is made of; gives a graph whose output is the piece's result, flattened.

use super::cell::{CellFrame, Filling, cell};
use super::layers::{Layers, Scope};
use super::network::{cifar_stem, imagenet_stem};
use super::primitive::{Setting, expand};
use super::{SearchSpace, Stem};
use crate::genotype::Primitive;
use crate::ir::{Builder, Graph, Op, Shape, ValueId};

/// One primitive: as a candidate while searching, or on an edge of a found cell.
pub(crate) fn primitive(
    primitive: Primitive,
    stride: usize,
    searching: bool,
    channels: usize,
    [h, w]: [usize; 2],
) -> Graph {
    piece(!searching, |layers| {
        let x = layers.input("input", Shape::image(channels, h, w));
        let setting = if searching { Setting::Candidate } else { Setting::Found };
        vec![expand(layers, &Scope::new("edge", "edge"), primitive, x, stride, setting).unwrap()]
    })
}

/// A factorised reduction to another number of channels.
pub(crate) fn factorized_reduce([channels, out]: [usize; 2], [h, w]: [usize; 2]) -> Graph {
    piece(true, |layers| {
        let x = layers.input("input", Shape::image(channels, h, w));
        vec![layers.factorized_reduce(&Scope::new("reduce", "reduce"), x, out).unwrap()]
    })
}

/// A stem, with both of its results.
pub(crate) fn stem(stem: Stem, out: usize, [h, w]: [usize; 2]) -> Graph {
    piece(true, |layers| {
        let x = layers.input("input", Shape::image(3, h, w));
        let (s0, s1) = match stem {
            Stem::Cifar => cifar_stem(layers, x, out),
            Stem::ImageNet => imagenet_stem(layers, x, out),
        }
        .unwrap();
        if s0 == s1 { vec![s0] } else { vec![s0, s1] }
    })
}

/// A searched cell on two images, the older of which is twice as large with `reduction_before`.
pub(crate) fn searched_cell(
    space: &SearchSpace,
    channels: usize,
    [reduction, reduction_before]: [bool; 2],
    [h, w]: [usize; 2],
) -> Graph {
    piece(false, |layers| {
        let times = if reduction_before { 2 } else { 1 };
        let older = layers.input("older", Shape::image(3, times * h, times * w));
        let newer = layers.input("newer", Shape::image(5, h, w));
        let rows = space.edges();
        let alphas = layers.input("alphas", Shape::fixed(&[rows, space.primitives.len()]));
        let betas = space.edge_normalisation.then(|| layers.input("betas", Shape::fixed(&[rows])));
        let frame = CellFrame { scope: Scope::new("cell", "cell"), channels, reduction, reduction_before };
        vec![cell(layers, &frame, Filling::Mixed { space, alphas, betas }, [older, newer]).unwrap()]
    })
}

fn piece(affine: bool, build: impl FnOnce(&mut Layers) -> Vec<ValueId>) -> Graph {
    let mut layers = Layers { graph: Builder::new("piece"), affine };
    for (i, value) in build(&mut layers).into_iter().enumerate() {
        let flat = layers.graph.node(format!("flatten{i}"), Op::Flatten { axis: 1 }, &[value]).unwrap();
        layers.graph.output(format!("output{i}"), flat);
    }
    layers.graph.finish()
}
