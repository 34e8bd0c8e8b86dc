//! What the walk has to know of the graph: sums of channels as terms, last readers, who can read a value lazily, and which
//! convolutions are made together.
use std::collections::HashMap;

use super::unsupported;
use crate::ir::{Graph, MixTerm, Node, Op, ParamId, ValueId, Window};
use crate::train::TrainError;

/// The terms of a node that no pass has made into a sum of channels.
pub fn plain_terms(graph: &Graph, node: &Node) -> Result<(usize, Vec<MixTerm>), TrainError> {
    let channels = |v: ValueId| {
        let known = graph.shape(v).dim(1).filter(|_| matches!(graph.shape(v).rank(), 2 | 4));
        known.ok_or_else(|| unsupported(&node.name, "the inputs must be [N, C, H, W]"))
    };
    let total = channels(node.output)?;
    let whole = |input: usize, len: usize| MixTerm {
        input,
        from: 0,
        len,
        to: 0,
        step: 1,
        weights: Vec::new(),
        drop_path: false,
    };
    let terms = match &node.op {
        Op::WeightedSum { indices } => {
            let term = |(k, &index): (usize, &usize)| MixTerm { weights: vec![(0, index)], ..whole(k + 1, total) };
            indices.iter().enumerate().map(term).collect()
        }
        Op::Concat { axis: 1 } => {
            let (mut terms, mut to) = (Vec::new(), 0);
            for (input, &v) in node.inputs.iter().enumerate() {
                terms.push(MixTerm { to, ..whole(input, channels(v)?) });
                to += channels(v)?;
            }
            terms
        }
        Op::Concat { .. } => return Err(unsupported(&node.name, "only channels can be concatenated in training")),
        Op::ChannelShuffle { groups } => {
            let of_group =
                |g: usize| MixTerm { from: g * (total / groups), to: g, step: *groups, ..whole(0, total / groups) };
            (0..*groups).map(of_group).collect()
        }
        Op::DropPath => vec![MixTerm { drop_path: true, ..whole(0, total) }],
        Op::Add => (0..node.inputs.len()).map(|input| whole(input, total)).collect(),
        Op::Conv { .. }
        | Op::BatchNorm { .. }
        | Op::Relu
        | Op::MaxPool(_)
        | Op::AvgPool { .. }
        | Op::GlobalAvgPool
        | Op::Flatten { .. }
        | Op::Linear { .. }
        | Op::Slice { .. }
        | Op::Pad { .. }
        | Op::Separable { .. }
        | Op::QuantizeDequantize(_)
        | Op::Imported(_)
        | Op::Mix { .. } => return Err(unsupported(&node.name, "it is no sum of channels")),
    };
    Ok((total, terms))
}

/// One of several convolutions that are made together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its result.
    pub output: ValueId,
    /// Its weights.
    pub weight: ParamId,
    /// Channels of its result.
    pub outs: usize,
}

/// For each convolution itself and the later ones that can be made with it: those that read the same value through the same
/// window. Empty for one that an earlier one makes, and for other nodes.
pub fn made_together(graph: &Graph) -> Vec<Vec<Member>> {
    let mut all: Vec<Vec<Member>> = vec![Vec::new(); graph.nodes.len()];
    let mut known: HashMap<_, usize> = HashMap::new();
    for (i, node) in graph.nodes.iter().enumerate() {
        let &Op::Conv { weight, bias, ref window, groups, relu_in, relu_out } = &node.op else { continue };
        let shape = &graph.param(weight).shape;
        let member = Member { output: node.output, weight, outs: shape[0] };
        let alike = (node.inputs[0], window, shape[1], relu_in);
        let first = if (bias, groups, relu_out) == (None, 1, false) { *known.entry(alike).or_insert(i) } else { i };
        all[first].push(member);
    }
    all
}

/// For each value the last node that reads it; none for outputs.
pub fn last_uses(graph: &Graph) -> Vec<usize> {
    let mut last = vec![usize::MAX; graph.values.len()];
    for (i, node) in graph.nodes.iter().enumerate() {
        node.inputs.iter().for_each(|v| last[v.index()] = i);
    }
    graph.outputs.iter().for_each(|output| last[output.value.index()] = usize::MAX);
    last
}

/// For each value whether all that read it can read it before its normalisation.
pub fn lazily_read(graph: &Graph) -> Vec<bool> {
    let mut lazy = vec![true; graph.values.len()];
    for node in &graph.nodes {
        let can = node.op.moves_channels() || matches!(node.op, Op::Separable { .. });
        if !can {
            node.inputs.iter().for_each(|v| lazy[v.index()] = false);
        }
    }
    graph.outputs.iter().for_each(|output| lazy[output.value.index()] = false);
    lazy
}

/// For each value whether all that read it are convolutions of its single pixels, which find its channels wherever they are.
pub fn read_in_parts(graph: &Graph) -> Vec<bool> {
    let mut parts = vec![true; graph.values.len()];
    for node in &graph.nodes {
        if !of_pixels(&node.op) {
            node.inputs.iter().for_each(|v| parts[v.index()] = false);
        }
    }
    graph.outputs.iter().for_each(|output| parts[output.value.index()] = false);
    parts
}

/// Whether this is a convolution of single pixels and nothing else.
fn of_pixels(op: &Op) -> bool {
    let &Op::Conv { bias: None, ref window, groups: 1, relu_out: false, .. } = op else { return false };
    Window { dilation: [1, 1], ..*window } == Window::valid(1, 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{Builder, Init, Role, Shape};

    #[test]
    fn what_only_convolutions_of_pixels_read_may_lie_in_parts() {
        let mut b = Builder::new("test");
        let [x, y, z] = ["x", "y", "z"].map(|name| b.input(name, Shape::image(4, 8, 8)));
        let mut conv = |from: ValueId, kernel: usize, stride: usize| {
            let (name, window) = (format!("{}-{kernel}-{stride}", from.index()), Window::valid(kernel, stride));
            let weight = b.param(name.clone(), None, &[4, 4, kernel, kernel], Role::Weight, Init::Constant(1.0));
            b.node(&name, Op::conv(weight, None, window, 1), &[from]).unwrap()
        };
        let first = conv(x, 1, 1);
        conv(first, 1, 1);
        let last = conv(first, 1, 1);
        conv(y, 1, 1);
        conv(y, 3, 1);
        conv(z, 1, 2);
        b.output("last", last);
        let parts = read_in_parts(&b.finish());
        assert_eq!([x, first, y, z, last].map(|v| parts[v.index()]), [true, true, false, false, false]);
    }

    #[test]
    fn convolutions_of_one_value_through_one_window_are_made_together() {
        let mut b = Builder::new("test");
        let x = b.input("input", Shape::image(6, 8, 8));
        let mut conv = |name: &str, from: ValueId, outs: usize, kernel: usize, groups: usize| {
            let shape = [outs, 6 / groups, kernel, kernel];
            let weight = b.param(format!("{name}.weight"), None, &shape, Role::Weight, Init::Constant(1.0));
            b.node(name, Op::conv(weight, None, Window::valid(kernel, 1), groups), &[from]).unwrap()
        };
        let first = conv("first", x, 4, 1, 1);
        let other_window = conv("other_window", x, 4, 3, 1);
        let grouped = conv("grouped", x, 6, 1, 2);
        let second = conv("second", x, 6, 1, 1);
        let other_value = conv("other_value", second, 4, 1, 1);
        let again = conv("again", x, 5, 3, 1);
        let graph = b.finish();
        let outputs: Vec<Vec<(ValueId, usize)>> = made_together(&graph)
            .into_iter()
            .map(|members| members.into_iter().map(|member| (member.output, member.outs)).collect())
            .collect();
        let want = [
            vec![(first, 4), (second, 6)],
            vec![(other_window, 4), (again, 5)],
            vec![(grouped, 6)],
            vec![],
            vec![(other_value, 4)],
            vec![],
        ];
        assert_eq!(outputs, want);
    }
}
