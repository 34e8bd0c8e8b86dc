//! Weighted sums, sums, concatenations, channel shuffles, slices and drop paths that feed each other become one `Mix`.
//!
//! All of them only move channels and multiply them, so a whole tree of them is a list of terms: for a node of a supernet,
//! each candidate of each edge times alpha times beta, at the channel where the shuffle puts it. A value that something else
//! reads too stays, and is a leaf. The replaced nodes stay behind for `dead_code`.

use crate::ir::{Graph, MixTerm, Model, Node, NodeId, Op, Range, ValueId};

pub(super) fn run(model: &mut Model) -> usize {
    let graph = &mut model.graph;
    let producers = graph.producers();
    let readers: Vec<usize> = graph.consumers().iter().map(Vec::len).collect();
    let mut taken = vec![false; graph.nodes.len()];
    let mut rewrites = 0;
    // From the end, so that a tree is met at its root.
    for i in (0..graph.nodes.len()).rev() {
        if taken[i] || !is_root(graph, &graph.nodes[i]) {
            continue;
        }
        let mut tree = Tree { graph, producers: &producers, readers: &readers, inputs: Vec::new(), inner: Vec::new() };
        let Some(terms) = tree.terms_of(NodeId(i as u32)) else { continue };
        let (inputs, inner) = (tree.inputs, tree.inner);
        inner.iter().for_each(|id| taken[id.index()] = true);
        let channels = graph.shape(graph.nodes[i].output).dim(1).expect("an image has channels");
        graph.nodes[i].op = Op::Mix { channels, terms };
        graph.nodes[i].inputs = inputs;
        rewrites += 1;
    }
    rewrites
}

fn is_root(graph: &Graph, node: &Node) -> bool {
    let image = graph.shape(node.output).chw().is_some();
    let other_axis = matches!(node.op, Op::Concat { axis } if axis != 1);
    let moves = node.op.moves_channels() && !other_axis && !matches!(node.op, Op::Mix { .. } | Op::DropPath);
    image && moves
}

/// A tree on its way to becoming one node.
struct Tree<'a> {
    graph: &'a Graph,
    producers: &'a [Option<NodeId>],
    readers: &'a [usize],
    /// The inputs of the new node.
    inputs: Vec<ValueId>,
    /// Nodes that the new one replaces.
    inner: Vec<NodeId>,
}

impl Tree<'_> {
    /// The terms that a value comes to: those of its node if nothing else reads it, else the value itself.
    fn terms(&mut self, value: ValueId) -> Option<Vec<MixTerm>> {
        let maker = self.producers[value.index()];
        let node = maker.map(|id| &self.graph.nodes[id.index()]);
        let alone = self.readers[value.index()] == 1 && !self.graph.is_output(value);
        match (maker, node.map(|node| &node.op)) {
            (Some(id), Some(Op::DropPath)) if alone => {
                self.inner.push(id);
                // One draw serves all that the drop path reads, so that must be one value.
                let source = self.graph.nodes[id.index()].inputs[0];
                Some(vec![MixTerm { drop_path: true, ..self.slice_or_leaf(source)? }])
            }
            (Some(id), Some(_)) if alone && is_root(self.graph, &self.graph.nodes[id.index()]) => {
                self.inner.push(id);
                self.terms_of(id)
            }
            _ => Some(vec![self.slice_or_leaf(value)?]),
        }
    }

    fn terms_of(&mut self, id: NodeId) -> Option<Vec<MixTerm>> {
        let graph = self.graph;
        let node = &graph.nodes[id.index()];
        let mut all = Vec::new();
        match &node.op {
            Op::WeightedSum { indices } => {
                let weights = self.input(node.inputs[0]);
                for (&index, &x) in indices.iter().zip(&node.inputs[1..]) {
                    let mut terms = self.terms(x)?;
                    terms.iter_mut().for_each(|term| term.weights.push((weights, index)));
                    all.extend(terms);
                }
            }
            Op::Concat { .. } => {
                let mut start = 0;
                for &x in &node.inputs {
                    let mut terms = self.terms(x)?;
                    terms.iter_mut().for_each(|term| term.to += start);
                    all.extend(terms);
                    start += graph.shape(x).dim(1)?;
                }
            }
            Op::ChannelShuffle { groups } => {
                let per_group = graph.shape(node.output).dim(1)? / groups;
                all.extend(self.terms(node.inputs[0])?.iter().flat_map(|term| shuffled(term, *groups, per_group)));
            }
            Op::Add => {
                for &x in &node.inputs {
                    all.extend(self.terms(x)?);
                }
            }
            // No roots: nothing asks for their terms.
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
            | Op::Mix { .. }
            | Op::QuantizeDequantize(_)
            | Op::Imported(_)
            | Op::DropPath => return None,
        }
        Some(all)
    }

    fn leaf(&mut self, value: ValueId) -> Option<MixTerm> {
        let len = self.graph.shape(value).dim(1)?;
        let input = self.input(value);
        Some(MixTerm { input, from: 0, len, to: 0, step: 1, weights: Vec::new(), drop_path: false })
    }

    /// The channels that `value` is a slice of, else the value.
    fn slice_or_leaf(&mut self, value: ValueId) -> Option<MixTerm> {
        let graph = self.graph;
        if let Some(id) = self.producers[value.index()]
            && let Node { op: Op::Slice { ranges }, inputs, .. } = &graph.nodes[id.index()]
            && let &[Range { axis: 1, start, len, step: 1 }] = ranges.as_slice()
        {
            return Some(MixTerm { from: start, len, ..self.leaf(inputs[0])? });
        }
        self.leaf(value)
    }

    fn input(&mut self, value: ValueId) -> usize {
        self.inputs.iter().position(|v| *v == value).unwrap_or_else(|| {
            self.inputs.push(value);
            self.inputs.len() - 1
        })
    }
}

/// Where a shuffle of `groups` blocks of `per_group` channels puts a term: channel `g * per_group + c` goes to `c * groups + g`.
fn shuffled(term: &MixTerm, groups: usize, per_group: usize) -> Vec<MixTerm> {
    let place = |channel: usize| channel % per_group * groups + channel / per_group;
    if term.step != 1 {
        let of_channel = |i: usize| MixTerm {
            from: term.from + i,
            len: 1,
            to: place(term.to + i * term.step),
            step: 1,
            ..term.clone()
        };
        return (0..term.len).map(of_channel).collect();
    }
    let mut parts = Vec::new();
    let mut done = 0;
    while done < term.len {
        let first = term.to + done;
        let len = (per_group - first % per_group).min(term.len - done);
        parts.push(MixTerm { from: term.from + done, len, to: place(first), step: groups, ..term.clone() });
        done += len;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::Shape;
    use crate::passes::MIX;
    use crate::passes::testing::{model, ops, run};

    fn term(input: usize, from: usize, len: usize, to: usize, step: usize, weights: &[(usize, usize)]) -> MixTerm {
        MixTerm { input, from, len, to, step, weights: weights.to_vec(), drop_path: false }
    }

    fn terms(model: &Model) -> Vec<MixTerm> {
        match &model.graph.nodes.last().unwrap().op {
            Op::Mix { terms, .. } => terms.clone(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_edge_of_a_supernet_becomes_terms_behind_the_shuffle() {
        let before = model(|b, x| {
            let slice = |start, len| Op::Slice { ranges: vec![Range { axis: 1, start, len, step: 1 }] };
            let alphas = b.input("alphas", Shape::fixed(&[2, 4]));
            let betas = b.input("betas", Shape::fixed(&[2]));
            let part = b.node("part", slice(0, 2), &[x]).unwrap();
            let rest = b.node("rest", slice(2, 4), &[x]).unwrap();
            let y = b.node("relu", Op::Relu, &[part]).unwrap();
            let mixed = b.node("mixed", Op::WeightedSum { indices: vec![1, 5] }, &[alphas, part, y]).unwrap();
            let whole = b.node("concat", Op::Concat { axis: 1 }, &[mixed, rest]).unwrap();
            let whole = b.node("shuffle", Op::ChannelShuffle { groups: 3 }, &[whole]).unwrap();
            b.node("sum", Op::WeightedSum { indices: vec![1] }, &[betas, whole]).unwrap()
        });
        let (after, rewrites) = run(MIX, before);
        assert_eq!((rewrites, ops(&after)), (1, vec!["slice", "relu", "mix"]));
        let names = after.graph.nodes[2].inputs.iter().map(|v| after.graph.value(*v).name.as_str());
        assert_eq!(names.collect::<Vec<_>>(), ["betas", "alphas", "input", "relu"]);
        let beta = (0, 1);
        let expected = [
            term(2, 0, 2, 0, 3, &[(1, 1), beta]),
            term(3, 0, 2, 0, 3, &[(1, 5), beta]),
            term(2, 2, 2, 1, 3, &[beta]),
            term(2, 4, 2, 2, 3, &[beta]),
        ];
        assert_eq!(terms(&after), expected);
    }

    #[test]
    fn a_value_read_elsewhere_is_a_leaf_and_drop_path_marks_its_term() {
        let before = model(|b, x| {
            let shared = b.node("shared", Op::Add, &[x, x]).unwrap();
            let dropped = b.node("drop", Op::DropPath, &[shared]).unwrap();
            b.node("concat", Op::Concat { axis: 1 }, &[dropped, shared]).unwrap()
        });
        let (after, rewrites) = run(MIX, before);
        assert_eq!((rewrites, ops(&after)), (2, vec!["mix", "mix"]));
        let expected = [MixTerm { drop_path: true, ..term(0, 0, 6, 0, 1, &[]) }, term(0, 0, 6, 6, 1, &[])];
        assert_eq!(terms(&after), expected);
    }

    #[test]
    fn shuffling_twice_takes_channels_one_by_one() {
        let before = model(|b, x| {
            let y = b.node("shuffle", Op::ChannelShuffle { groups: 2 }, &[x]).unwrap();
            b.node("back", Op::ChannelShuffle { groups: 3 }, &[y]).unwrap()
        });
        let (after, _) = run(MIX, before);
        let mut places: Vec<[usize; 2]> = terms(&after).iter().map(|t| [t.from, t.to]).collect();
        places.sort();
        assert_eq!(places, (0..6).map(|i| [i, i]).collect::<Vec<_>>());
    }
}
