//! ReLU, depthwise convolution, pointwise convolution and batch norm in a row become one `Separable` unit; units that read the
//! same value and make planes of one size become one node.
//!
//! A unit reads the channels of its input itself, so a slice before it is skipped. What a unit made becomes a slice of what
//! all of them make. The replaced nodes stay behind for `dead_code`.

use std::collections::HashMap;

use crate::ir::{Graph, Model, Node, NodeId, Op, Range, Shape, Unit, Value, ValueId, Window};

/// Which units can share a node: those of one input and one size of plane.
type Key = (ValueId, Vec<Option<usize>>);

pub(super) fn fuse(model: &mut Model) -> usize {
    let graph = &mut model.graph;
    let producers = graph.producers();
    let readers: Vec<usize> = graph.consumers().iter().map(Vec::len).collect();
    let mut rewrites = 0;
    for i in 0..graph.nodes.len() {
        let Some((x, unit)) = unit(graph, &producers, &readers, &graph.nodes[i]) else { continue };
        graph.nodes[i].op = Op::Separable { units: vec![unit] };
        graph.nodes[i].inputs = vec![x];
        rewrites += 1;
    }
    rewrites
}

pub(super) fn batch(model: &mut Model) -> usize {
    let graph = &mut model.graph;
    let mut groups: Vec<Group> = Vec::new();
    let mut known: HashMap<Key, usize> = HashMap::new();
    // Where a value lies in the result of a group.
    let mut slices: HashMap<ValueId, (usize, usize)> = HashMap::new();
    for (i, node) in graph.nodes.iter().enumerate() {
        let Op::Separable { units } = &node.op else { continue };
        let shape = graph.shape(node.output);
        let (input, from) = match slices.get(&node.inputs[0]) {
            Some(&(group, from)) => (groups[group].output, from),
            None => (node.inputs[0], 0),
        };
        let next = groups.len();
        let group = *known.entry((input, vec![shape.dim(2), shape.dim(3)])).or_insert(next);
        if group == next {
            // The values of the groups follow those that there are.
            let output = ValueId((graph.values.len() + next) as u32);
            groups.push(Group { first: i, input, output, members: Vec::new(), units: Vec::new(), channels: 0 });
        }
        let group_of = &mut groups[group];
        slices.insert(node.output, (group, group_of.channels));
        group_of.members.push(i);
        group_of.units.extend(units.iter().map(|unit| Unit { from: unit.from + from, ..unit.clone() }));
        group_of.channels += shape.dim(1).unwrap_or_default();
    }
    rebuild(graph, &groups, &slices)
}

/// Units that become one node.
struct Group {
    /// The first of its nodes: all read one value, so they can all be computed there.
    first: usize,
    input: ValueId,
    output: ValueId,
    members: Vec<usize>,
    units: Vec<Unit>,
    channels: usize,
}

fn rebuild(graph: &mut Graph, groups: &[Group], slices: &HashMap<ValueId, (usize, usize)>) -> usize {
    for group in groups {
        let first = &graph.nodes[group.first];
        let mut shape: Shape = graph.shape(first.output).clone();
        shape.0[1] = crate::ir::Dim::Fixed(group.channels);
        graph.values.push(Value { name: format!("{}/units", first.name), shape });
    }
    let old = std::mem::take(&mut graph.nodes);
    for (i, node) in old.iter().enumerate() {
        if let Some(group) = groups.iter().find(|group| group.first == i) {
            let op = Op::Separable { units: group.units.clone() };
            let name = graph.value(group.output).name.clone();
            graph.nodes.push(Node { name, op, inputs: vec![group.input], output: group.output });
            for node in group.members.iter().map(|&member| &old[member]) {
                let (_, start) = slices[&node.output];
                let len = graph.shape(node.output).dim(1).unwrap_or_default();
                let op = Op::Slice { ranges: vec![Range { axis: 1, start, len, step: 1 }] };
                let (name, output) = (node.name.clone(), node.output);
                graph.nodes.push(Node { name, op, inputs: vec![group.output], output });
            }
        }
        if !matches!(node.op, Op::Separable { .. }) {
            graph.nodes.push(node.clone());
        }
    }
    groups.iter().map(|group| group.members.len() - 1).sum()
}

/// The unit that ends in the batch norm `node`, and the value that it reads.
fn unit(graph: &Graph, producers: &[Option<NodeId>], readers: &[usize], node: &Node) -> Option<(ValueId, Unit)> {
    let &Op::BatchNorm { scale, shift, mean, var, epsilon } = &node.op else { return None };
    let maker = |v: ValueId| producers[v.index()].map(|id| &graph.nodes[id.index()]);
    // Nothing else may need the values inside.
    let inner = |v: ValueId| (readers[v.index()] == 1 && !graph.is_output(v)).then(|| maker(v)).flatten();
    let plain = |node: &Node| {
        let Op::Conv { weight, bias: None, window, groups, relu_in: false, relu_out: false } = node.op else {
            return None;
        };
        Some((weight, window, groups))
    };
    let pointwise_node = inner(node.inputs[0])?;
    let (pointwise, pixel, 1) = plain(pointwise_node)? else { return None };
    let depthwise_node = inner(pointwise_node.inputs[0])?;
    let (depthwise, window, groups) = plain(depthwise_node)?;
    let shape = &graph.param(depthwise).shape;
    let is_depthwise = shape[0] == groups && shape[1] == 1;
    if pixel != Window::valid(1, 1) || !is_depthwise || window.symmetric_padding().is_none() {
        return None;
    }
    let relu = maker(depthwise_node.inputs[0])?;
    let Op::Relu = relu.op else { return None };
    let (mut x, mut from) = (relu.inputs[0], 0);
    if let Some(Node { op: Op::Slice { ranges }, inputs, .. }) = maker(x)
        && let [Range { axis: 1, start, step: 1, .. }] = ranges.as_slice()
    {
        (x, from) = (inputs[0], *start);
    }
    Some((x, Unit { from, window, depthwise, pointwise, scale, shift, mean, var, epsilon }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::Builder;
    use crate::passes::testing::{batch_norm, model, ops, run, weight};
    use crate::passes::{BATCH_UNITS, SEPARABLE};

    fn chain(b: &mut Builder, name: &str, x: ValueId, window: Window) -> ValueId {
        let c = b.shape(x).dim(1).unwrap();
        let y = b.node(format!("{name}/relu"), Op::Relu, &[x]).unwrap();
        let w = weight(b, &format!("{name}.depthwise"), &[c, 1, window.kernel[0], window.kernel[1]]);
        let y = b.node(format!("{name}/depthwise"), Op::conv(w, None, window, c), &[y]).unwrap();
        let w = weight(b, &format!("{name}.pointwise"), &[c, c, 1, 1]);
        let y = b.node(format!("{name}/pointwise"), Op::conv(w, None, Window::valid(1, 1), 1), &[y]).unwrap();
        batch_norm(b, name, y, false)
    }

    fn sliced(b: &mut Builder, x: ValueId) -> ValueId {
        let ranges = vec![Range { axis: 1, start: 1, len: 3, step: 1 }];
        b.node("slice", Op::Slice { ranges }, &[x]).unwrap()
    }

    #[test]
    fn a_chain_becomes_a_unit_that_reads_channels_itself() {
        let before = model(|b, x| {
            let y = sliced(b, x);
            chain(b, "a", y, Window::same(3, 1, 2))
        });
        let (after, rewrites) = run(SEPARABLE, before);
        assert_eq!((rewrites, ops(&after)), (1, vec!["separable"]));
        let Op::Separable { units } = &after.graph.nodes[0].op else { unreachable!() };
        assert_eq!((units[0].from, after.graph.param(units[0].depthwise).name.as_str()), (1, "a.depthwise"));
    }

    #[test]
    fn a_value_read_elsewhere_is_not_hidden() {
        let before = model(|b, x| {
            let y = chain(b, "a", x, Window::same(3, 1, 1));
            let inner = ValueId(y.0 - 1);
            b.node("add", Op::Add, &[y, inner]).unwrap()
        });
        assert_eq!(run(SEPARABLE, before).1, 0);
    }

    #[test]
    fn units_of_one_input_and_size_share_a_node_at_both_levels() {
        let before = model(|b, x| {
            let first = ["a", "b"].map(|name| chain(b, name, x, Window::same(3, 1, 1)));
            let strided = chain(b, "c", x, Window::same(3, 2, 1));
            let second = [0, 1].map(|i| chain(b, &format!("d{i}"), first[i], Window::same(5, 2, 1)));
            let y = b.node("add0", Op::Add, &second).unwrap();
            b.node("add1", Op::Add, &[y, strided]).unwrap()
        });
        let (fused, rewrites) = run(SEPARABLE, before);
        assert_eq!(rewrites, 5);
        let (after, rewrites) = run(BATCH_UNITS, fused);
        assert_eq!(rewrites, 2);
        assert_eq!(ops(&after).iter().filter(|op| **op == "separable").count(), 3);
        let units = after.graph.nodes.iter().filter_map(|n| match &n.op {
            Op::Separable { units } => Some(units.iter().map(|unit| unit.from).collect::<Vec<_>>()),
            _ => None,
        });
        assert_eq!(units.collect::<Vec<_>>(), [vec![0, 0], vec![0], vec![0, 6]]);
    }
}
