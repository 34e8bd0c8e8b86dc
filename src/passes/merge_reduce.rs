//! The two strided 1x1 convolutions of a factorised reduction become one 2x2 convolution of stride 2.
//!
//! The first sees the pixels (0, 0), (0, 2), ...; the second, behind a slice, (1, 1), (1, 3), .... One 2x2 window holds
//! both: half of its filters use the tap (0, 0), half the tap (1, 1). Slice and concat disappear. Fires only where height
//! and width are even, which lowering sees to, so that the windows of both cover the same pixels.

use crate::ir::{Graph, Model, Node, NodeId, Op, Param, ParamId, Range, Tensor, ValueId, Window};

pub(super) fn run(model: &mut Model) -> usize {
    let producers = model.graph.producers();
    let mut rewrites = 0;
    for i in 0..model.graph.nodes.len() {
        let Some((x, even, odd)) = pattern(&model.graph, &producers, &model.graph.nodes[i]) else { continue };
        let weight = merged(model, even, odd);
        let node = &mut model.graph.nodes[i];
        node.op = Op::conv(weight, None, Window::valid(2, 2), 1);
        node.inputs = vec![x];
        rewrites += 1;
    }
    rewrites
}

/// The input and the two weights, if `node` is the concat of a factorised reduction.
fn pattern(graph: &Graph, producers: &[Option<NodeId>], node: &Node) -> Option<(ValueId, ParamId, ParamId)> {
    let (Op::Concat { axis: 1 }, &[a, b]) = (&node.op, node.inputs.as_slice()) else { return None };
    let maker = |v: ValueId| producers[v.index()].map(|id| &graph.nodes[id.index()]);
    let strided = |v: ValueId| {
        let made = maker(v)?;
        let Op::Conv { weight, bias: None, window, groups: 1, relu_in: false, relu_out: false } = made.op else {
            return None;
        };
        (window == Window::valid(1, 2)).then_some((made.inputs[0], weight))
    };
    let ((x, even), (shifted, odd)) = (strided(a)?, strided(b)?);
    let [_, h, w] = graph.shape(x).chw()?;
    let tail = |axis: usize, size: usize| Range { axis, start: 1, len: size - 1, step: 1 };
    let slice = maker(shifted)?;
    let shift = Op::Slice { ranges: vec![tail(2, h), tail(3, w)] };
    let fits = h.is_multiple_of(2) && w.is_multiple_of(2);
    (fits && slice.op == shift && slice.inputs == [x]).then_some((x, even, odd))
}

/// Adds the 2x2 weight. Its name is the common path of the two.
fn merged(model: &mut Model, even: ParamId, odd: ParamId) -> ParamId {
    let (a, b) = (model.weights.get(even), model.weights.get(odd));
    let inner = a.shape[1];
    let taps = |source: &Tensor, tap: usize| {
        source.data.iter().flat_map(move |&w| (0..4).map(move |t| if t == tap { w } else { 0.0 })).collect::<Vec<_>>()
    };
    let mut data = taps(a, 0);
    data.extend(taps(b, 3));
    let shape = vec![a.shape[0] + b.shape[0], inner, 2, 2];
    let source = model.graph.param(even);
    let stem = source.name.trim_end_matches(".weight").trim_end_matches(".even");
    let name = format!("{stem}.reduce.weight");
    let param = Param { name, alias: None, shape: shape.clone(), codes: None, ..source.clone() };
    model.graph.params.push(param);
    model.weights.0.push(Tensor::new(shape, data));
    ParamId(model.graph.params.len() as u32 - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::passes::MERGE_REDUCE;
    use crate::passes::testing::{model, ops, run, weight};

    fn reduction(start: usize) -> crate::ir::Verified<Model> {
        model(|b, x| {
            let ranges = [2, 3].map(|axis| Range { axis, start, len: 8 - start, step: 1 }).to_vec();
            let y = b.node("shift", Op::Slice { ranges }, &[x]).unwrap();
            let (wa, wb) = (weight(b, "r.even.weight", &[2, 6, 1, 1]), weight(b, "r.odd.weight", &[3, 6, 1, 1]));
            let a = b.node("even", Op::conv(wa, None, Window::valid(1, 2), 1), &[x]).unwrap();
            let c = b.node("odd", Op::conv(wb, None, Window::valid(1, 2), 1), &[y]).unwrap();
            b.node("concat", Op::Concat { axis: 1 }, &[a, c]).unwrap()
        })
    }

    #[test]
    fn a_factorised_reduction_becomes_one_convolution_with_two_taps() {
        let before = reduction(1);
        let (even, odd) = (before.weights.0[0].data.clone(), before.weights.0[1].data.clone());
        let (after, rewrites) = run(MERGE_REDUCE, before);
        assert_eq!((rewrites, ops(&after)), (1, vec!["conv"]));
        let w = &after.weights.0[0];
        assert_eq!(w.shape, [5, 6, 2, 2]);
        for (i, &value) in even.iter().chain(&odd).enumerate() {
            let tap = if i < even.len() { 0 } else { 3 };
            let expected: Vec<f32> = (0..4).map(|t| if t == tap { value } else { 0.0 }).collect();
            assert_eq!(w.data[4 * i..4 * i + 4], expected);
        }
        assert_eq!(after.graph.params[0].name, "r.reduce.weight");
    }

    #[test]
    fn a_shift_by_two_pixels_is_left_alone() {
        assert_eq!(run(MERGE_REDUCE, reduction(0)).1, 0);
    }
}
