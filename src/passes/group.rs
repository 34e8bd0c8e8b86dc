//! Groups of nodes that one kernel computes, for the runtime.
//!
//! Takes a graph after the passes of the runtime; gives [`Group`]s in the order in which they run. A group makes one value, the
//! one of its last node; the values inside it never lie in memory. It rewrites nothing, so that the interpreter runs the same
//! graph node by node. Which kernel runs a group is left to the runtime.

use crate::ir::{Graph, Node, NodeId, Op, ValueId, Window};

/// Nodes that run together. All of them but a lone node are around one convolution or one linear layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Group {
    /// The depthwise convolution whose result `node`, a pointwise one, reads.
    pub depthwise: Option<NodeId>,
    /// The global average pool and the `Flatten` behind it whose result `node`, a linear layer, reads.
    pub mean: Option<[NodeId; 2]>,
    /// The convolution or linear layer, or the only node.
    pub node: NodeId,
    /// An `Add` of the convolution's result and of another value.
    pub add: Option<(NodeId, ValueId)>,
}

/// Whether a kernel can fuse a depthwise convolution with the window, from planes of the first size to planes of the second.
pub type Fits = fn(&Window, [usize; 2], [usize; 2]) -> bool;

/// What groups may hold.
#[derive(Debug, Clone, Copy)]
pub struct Grouping {
    /// Which depthwise convolutions are fused with the pointwise one behind them; `None` leaves all of them alone.
    pub separable: Option<Fits>,
    /// Whether a convolution adds another value to its result.
    pub add: bool,
    /// The most inputs of a linear layer that makes the means of planes before it; `None` if none does.
    pub mean: Option<usize>,
}

impl Grouping {
    /// Every node by itself.
    pub const NONE: Self = Self { separable: None, add: false, mean: None };
}

impl Group {
    /// The nodes in order.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> {
        let before = self.mean.into_iter().flatten().chain(self.depthwise);
        before.chain([self.node]).chain(self.add.map(|(id, _)| id))
    }

    /// The node whose value the group makes.
    pub fn last(&self) -> NodeId {
        self.add.map_or(self.node, |(id, _)| id)
    }

    /// The values that the group reads.
    pub fn reads(&self, graph: &Graph) -> Vec<ValueId> {
        let first = self.nodes().next().unwrap_or(self.node);
        let mut reads = graph.nodes[first.index()].inputs.clone();
        reads.extend(self.add.map(|(_, other)| other));
        reads
    }
}

/// The groups of `graph`, ordered by their last nodes, so that everything is made before it is read.
pub fn groups(graph: &Graph, grouping: Grouping) -> Vec<Group> {
    let asked = Asked { graph, producers: graph.producers(), readers: graph.consumers(), grouping };
    let mut taken = vec![false; graph.nodes.len()];
    let mut groups = Vec::new();
    // From the end: an `Add` takes the later of its two convolutions before that is met by itself.
    for i in (0..graph.nodes.len()).rev() {
        if taken[i] {
            continue;
        }
        let id = NodeId(i as u32);
        let (node, add) = match asked.added(id) {
            Some((conv, other)) => (conv, Some((id, other))),
            None => (id, None),
        };
        let group = Group { depthwise: asked.depthwise(node), mean: asked.mean(node), node, add };
        group.nodes().for_each(|id| taken[id.index()] = true);
        groups.push(group);
    }
    groups.reverse();
    groups
}

struct Asked<'a> {
    graph: &'a Graph,
    producers: Vec<Option<NodeId>>,
    readers: Vec<Vec<NodeId>>,
    grouping: Grouping,
}

impl Asked<'_> {
    /// The convolution that `id`, if it is an `Add`, can be a part of, and the value that is added.
    fn added(&self, id: NodeId) -> Option<(NodeId, ValueId)> {
        let node = &self.graph.nodes[id.index()];
        let (true, Op::Add, &[a, b]) = (self.grouping.add, &node.op, node.inputs.as_slice()) else { return None };
        let of_conv = |value, other| {
            let maker = self.inner(value)?;
            let Op::Conv { relu_out: false, .. } = self.graph.nodes[maker.index()].op else { return None };
            Some((maker, other))
        };
        [of_conv(a, b), of_conv(b, a)].into_iter().flatten().max_by_key(|(maker, _)| maker.index())
    }

    /// The depthwise convolution that `id`, if it is a pointwise one, can swallow.
    fn depthwise(&self, id: NodeId) -> Option<NodeId> {
        let fits = self.grouping.separable?;
        let node: &Node = &self.graph.nodes[id.index()];
        let Op::Conv { window: pixel, groups: 1, relu_in: false, .. } = &node.op else { return None };
        let maker = self.inner(node.inputs[0])?;
        let first = &self.graph.nodes[maker.index()];
        let &Op::Conv { weight, bias: None, window, groups, relu_out: false, .. } = &first.op else { return None };
        let [c, h, w] = self.graph.shape(first.inputs[0]).chw()?;
        let [_, oh, ow] = self.graph.shape(first.output).chw()?;
        let depthwise = groups == c && groups > 1 && self.graph.param(weight).shape[0] == c;
        let pointwise = Window { dilation: [1, 1], ..*pixel } == Window::valid(1, 1);
        (depthwise && pointwise && fits(&window, [h, w], [oh, ow])).then_some(maker)
    }

    /// The global average pool and the `Flatten` that `id`, if it is a linear layer, can swallow.
    fn mean(&self, id: NodeId) -> Option<[NodeId; 2]> {
        let most = self.grouping.mean?;
        let node: &Node = &self.graph.nodes[id.index()];
        let Op::Linear { weight, .. } = node.op else { return None };
        let flatten = self.inner(node.inputs[0])?;
        let Op::Flatten { axis: 1 } = self.graph.nodes[flatten.index()].op else { return None };
        let pool = self.inner(self.graph.nodes[flatten.index()].inputs[0])?;
        let Op::GlobalAvgPool = self.graph.nodes[pool.index()].op else { return None };
        (self.graph.param(weight).shape[1] <= most).then_some([pool, flatten])
    }

    /// The maker of `value`, if nothing but one input of one node needs the value.
    fn inner(&self, value: ValueId) -> Option<NodeId> {
        let alone = self.readers[value.index()].len() == 1 && !self.graph.is_output(value);
        self.producers[value.index()].filter(|_| alone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::Builder;
    use crate::passes::testing::{model, weight};

    const ALL: Grouping = Grouping { separable: Some(|_, _, _| true), add: true, mean: Some(6) };

    fn conv(b: &mut Builder, name: &str, x: ValueId, kernel: usize, groups: usize) -> ValueId {
        let w = weight(b, &format!("{name}.weight"), &[6, 6 / groups, kernel, kernel]);
        b.node(name, Op::conv(w, None, Window::same(kernel, 1, 1), groups), &[x]).unwrap()
    }

    fn check(grouping: Grouping, f: impl FnOnce(&mut Builder, ValueId) -> ValueId, expected: &[&[&str]]) {
        let model = model(f);
        let groups = groups(&model.graph, grouping);
        let names = |group: &Group| group.nodes().map(|id| model.graph.nodes[id.index()].name.clone()).collect();
        let got: Vec<Vec<String>> = groups.iter().map(names).collect();
        assert_eq!(got, expected);
    }

    fn unit(b: &mut Builder, name: &str, x: ValueId) -> ValueId {
        let d = conv(b, &format!("{name}d"), x, 3, 6);
        conv(b, &format!("{name}p"), d, 1, 1)
    }

    fn two_units(b: &mut Builder, x: ValueId) -> ValueId {
        let (a, c) = (unit(b, "a", x), unit(b, "b", x));
        b.node("add", Op::Add, &[a, c]).unwrap()
    }

    #[test]
    fn a_unit_is_one_group_and_the_later_one_of_two_takes_their_sum() {
        check(ALL, two_units, &[&["ad", "ap"], &["bd", "bp", "add"]]);
        let add = Grouping { separable: None, ..ALL };
        check(add, two_units, &[&["ad"], &["ap"], &["bd"], &["bp", "add"]]);
        check(Grouping::NONE, two_units, &[&["ad"], &["ap"], &["bd"], &["bp"], &["add"]]);
    }

    #[test]
    fn a_group_runs_where_its_last_node_stands() {
        let f = |b: &mut Builder, x: ValueId| {
            let a = unit(b, "a", x);
            let relu = b.node("relu", Op::Relu, &[x]).unwrap();
            b.node("add", Op::Add, &[a, relu]).unwrap()
        };
        check(ALL, f, &[&["relu"], &["ad", "ap", "add"]]);
    }

    #[test]
    fn a_linear_layer_takes_the_means_before_it_if_they_are_few_enough() {
        let f = |b: &mut Builder, x: ValueId| {
            let pool = b.node("pool", Op::GlobalAvgPool, &[x]).unwrap();
            let flat = b.node("flat", Op::Flatten { axis: 1 }, &[pool]).unwrap();
            let weight = weight(b, "linear.weight", &[4, 6]);
            b.node("linear", Op::Linear { weight, bias: None }, &[flat]).unwrap()
        };
        check(ALL, f, &[&["pool", "flat", "linear"]]);
        for grouping in [Grouping { mean: Some(5), ..ALL }, Grouping::NONE] {
            check(grouping, f, &[&["pool"], &["flat"], &["linear"]]);
        }
    }

    #[test]
    fn what_something_else_reads_stays_in_memory() {
        let f = |b: &mut Builder, x: ValueId| {
            let d = conv(b, "d", x, 3, 6);
            let p = conv(b, "p", d, 1, 1);
            let sum = b.node("add", Op::Add, &[p, d]).unwrap();
            b.node("twice", Op::Add, &[sum, sum]).unwrap()
        };
        check(ALL, f, &[&["d"], &["p", "add"], &["twice"]]);
    }
}
