//! Moves ReLUs into convolutions: into the one that makes the value (where only the ReLU reads it), else into the
//! convolutions that read it, whole or a slice (where nothing else does), which then apply it as they load.

use crate::ir::{Graph, Model, NodeId, Op, ValueId};

pub(super) fn run(model: &mut Model) -> usize {
    (0..model.graph.nodes.len()).filter(|&i| fuse(model, i)).count()
}

fn fuse(model: &mut Model, i: usize) -> bool {
    let graph = &mut model.graph;
    let Op::Relu = graph.nodes[i].op else { return false };
    let (input, output) = (graph.nodes[i].inputs[0], graph.nodes[i].output);
    let consumers = graph.consumers();
    let only_reader = consumers[input.index()] == [NodeId(i as u32)] && !graph.is_output(input);
    let maker = graph.producers()[input.index()].map(NodeId::index);
    if let (true, Some(maker)) = (only_reader, maker)
        && let Op::Conv { relu_out, .. } = &mut graph.nodes[maker].op
    {
        *relu_out = true;
        graph.replace_uses(output, input);
        return true;
    }
    let Some(readers) = convolutions(graph, &consumers, output) else { return false };
    for reader in readers {
        if let Op::Conv { relu_in, .. } = &mut graph.nodes[reader].op {
            *relu_in = true;
        }
    }
    graph.replace_uses(output, input);
    true
}

/// The convolutions that read the value or slices of it, if there are some and nothing else does.
fn convolutions(graph: &Graph, consumers: &[Vec<NodeId>], value: ValueId) -> Option<Vec<usize>> {
    if graph.is_output(value) || consumers[value.index()].is_empty() {
        return None;
    }
    let mut all = Vec::new();
    for reader in consumers[value.index()].iter().map(|id| id.index()) {
        let node = &graph.nodes[reader];
        if matches!(node.op, Op::Conv { .. }) {
            all.push(reader);
        } else if matches!(node.op, Op::Slice { .. }) {
            all.extend(convolutions(graph, consumers, node.output)?);
        } else {
            return None;
        }
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use crate::ir::{Builder, Op, Range, ValueId, Window};
    use crate::passes::FUSE_ACTIVATIONS;
    use crate::passes::testing::{model, ops, run, weight};

    fn conv(b: &mut Builder, name: &str, x: ValueId) -> ValueId {
        let w = weight(b, &format!("{name}.weight"), &[6, 6, 1, 1]);
        b.node(name, Op::conv(w, None, Window::valid(1, 1), 1), &[x]).unwrap()
    }

    fn flags(model: &crate::ir::Model) -> Vec<(bool, bool)> {
        let flags = |op: &Op| match op {
            Op::Conv { relu_in, relu_out, .. } => Some((*relu_in, *relu_out)),
            _ => None,
        };
        model.graph.nodes.iter().filter_map(|n| flags(&n.op)).collect()
    }

    #[test]
    fn a_relu_between_convolutions_goes_into_the_first() {
        let before = model(|b, x| {
            let y = conv(b, "a", x);
            let y = b.node("relu", Op::Relu, &[y]).unwrap();
            conv(b, "b", y)
        });
        let (after, rewrites) = run(FUSE_ACTIVATIONS, before);
        assert_eq!((rewrites, flags(&after)), (1, vec![(false, true), (false, false)]));
    }

    #[test]
    fn a_relu_of_a_shared_value_goes_into_its_readers() {
        let before = model(|b, x| {
            let y = b.node("relu", Op::Relu, &[x]).unwrap();
            let (a, c) = (conv(b, "a", y), conv(b, "b", y));
            let d = b.node("add", Op::Add, &[a, c]).unwrap();
            b.node("add_x", Op::Add, &[d, x]).unwrap()
        });
        let (after, rewrites) = run(FUSE_ACTIVATIONS, before);
        assert_eq!((rewrites, flags(&after)), (1, vec![(true, false), (true, false)]));
        assert_eq!(ops(&after), ["conv", "conv", "add", "add"]);
    }

    #[test]
    fn a_relu_passes_slices_on_its_way_to_its_readers() {
        let slice = |b: &mut Builder, name: &str, y: ValueId| {
            let ranges = vec![Range { axis: 2, start: 1, len: 7, step: 1 }];
            b.node(name, Op::Slice { ranges }, &[y]).unwrap()
        };
        let before = model(|b, x| {
            let y = b.node("relu", Op::Relu, &[x]).unwrap();
            let part = slice(b, "part", y);
            let (whole, part) = (conv(b, "a", y), conv(b, "b", part));
            let cut = slice(b, "cut", whole);
            b.node("add", Op::Add, &[cut, part]).unwrap()
        });
        let (after, rewrites) = run(FUSE_ACTIVATIONS, before);
        assert_eq!((rewrites, flags(&after)), (1, vec![(true, false), (true, false)]));
        let before = model(|b, x| {
            let y = b.node("relu", Op::Relu, &[x]).unwrap();
            let part = slice(b, "part", y);
            let read = conv(b, "a", part);
            b.node("add", Op::Add, &[read, part]).unwrap()
        });
        assert_eq!(run(FUSE_ACTIVATIONS, before).1, 0, "a sum reads the slice, too");
    }

    #[test]
    fn a_relu_that_something_else_reads_stays() {
        let before = model(|b, x| {
            let y = b.node("relu", Op::Relu, &[x]).unwrap();
            let a = conv(b, "a", y);
            b.node("add", Op::Add, &[a, y]).unwrap()
        });
        assert_eq!(run(FUSE_ACTIVATIONS, before).1, 0);
    }
}
