//! What a training step will hold: the walk and its way back once more, with blocks of memory instead of numbers.
//!
//! Takes a graph; gives the most bytes that tensors of one image take at once. Each record keeps here what it keeps in
//! `forward`, each gradient lives here as long as in `backward`; parameters, the loader and scratch of the threads are not in it.
use std::{cell::Cell, rc::Rc};

use super::graph::{last_uses, lazily_read, read_in_parts};
use crate::ir::{Graph, MixTerm, Node, Op, ValueId};

/// The most bytes an image that a training pass takes, forward and backward. `weights`: whether gradients of the parameters
/// are wanted, else those of the flat inputs are.
pub fn bytes_per_image(graph: &Graph, weights: bool) -> u64 {
    let meter = Rc::new(Cell::new(Meter::default()));
    let mut walk = Walk {
        graph,
        weights,
        meter: meter.clone(),
        values: vec![Vec::new(); graph.values.len()],
        needs: vec![false; graph.values.len()],
        lazy: lazily_read(graph),
        joined: read_in_parts(graph),
        records: Vec::new(),
    };
    for &input in &graph.inputs {
        let image = graph.shape(input).chw().is_some();
        walk.values[input.index()] = vec![walk.block(input)];
        walk.needs[input.index()] = !image && !weights;
    }
    let last_use = last_uses(graph);
    for (i, node) in graph.nodes.iter().enumerate() {
        walk.node(node);
        node.inputs.iter().filter(|v| last_use[v.index()] == i).for_each(|v| walk.values[v.index()].clear());
    }
    walk.back();
    meter.get().most
}

#[derive(Clone, Copy, Default)]
struct Meter {
    now: u64,
    most: u64,
}

/// Memory of one tensor.
struct Held {
    bytes: u64,
    meter: Rc<Cell<Meter>>,
}

type Block = Rc<Held>;

impl Drop for Held {
    fn drop(&mut self) {
        let Meter { now, most } = self.meter.get();
        self.meter.set(Meter { now: now - self.bytes, most });
    }
}

/// How a gradient gets past a node.
enum Way {
    /// Its planes are those of the input's gradient, for some channels or with a normalisation.
    Through(ValueId),
    /// It is written out, and read by the gradients of these inputs.
    Shared(Vec<ValueId>),
    /// It is written out where `whole`, and the input's gradient, if there is one, in as many bytes.
    New { whole: bool, input: Option<(ValueId, u64)> },
}

struct Record {
    output: ValueId,
    kept: Vec<Block>,
    way: Way,
}

struct Walk<'a> {
    graph: &'a Graph,
    weights: bool,
    meter: Rc<Cell<Meter>>,
    /// What each value lies in.
    values: Vec<Vec<Block>>,
    needs: Vec<bool>,
    lazy: Vec<bool>,
    joined: Vec<bool>,
    records: Vec<Record>,
}

impl Walk<'_> {
    fn bytes(&self, value: ValueId) -> u64 {
        4 * self.graph.shape(value).elements() as u64
    }

    fn held(&self, bytes: u64) -> Block {
        let now = self.meter.get().now + bytes;
        self.meter.set(Meter { now, most: self.meter.get().most.max(now) });
        Rc::new(Held { bytes, meter: self.meter.clone() })
    }

    fn block(&self, value: ValueId) -> Block {
        self.held(self.bytes(value))
    }

    /// Where a value lies; every value that is read has been made.
    fn at(&self, value: ValueId) -> Vec<Block> {
        self.values[value.index()].clone()
    }

    fn node(&mut self, node: &Node) {
        // What the pass refuses takes nothing.
        let (Some(&x), output) = (node.inputs.first(), node.output) else { return };
        let trainable = |id| self.graph.param(id).role.is_trainable();
        let needs = node.inputs.iter().any(|v| self.needs[v.index()])
            || (self.weights && node.op.params().into_iter().any(trainable));
        let wanted = |v: ValueId| self.needs[v.index()];
        let input = wanted(x).then(|| (x, self.bytes(x)));
        let (block, kept, way) = match &node.op {
            Op::Conv { relu_out, .. } => {
                let (block, mut kept) = (self.block(output), self.at(x));
                kept.extend(relu_out.then(|| block.clone()));
                (block, kept, Way::New { whole: true, input })
            }
            Op::Linear { .. } => (self.block(output), self.at(x), Way::New { whole: true, input }),
            Op::BatchNorm { .. } if self.lazy[output.index()] => {
                let Some(block) = self.values[x.index()].first().cloned() else { return };
                (block.clone(), vec![block], Way::Through(x))
            }
            Op::BatchNorm { scale, shift, .. } => {
                let block = self.block(output);
                let kept = if (scale, shift) == (&None, &None) { vec![block.clone()] } else { self.at(x) };
                (block, kept, Way::Through(x))
            }
            Op::Relu => {
                let block = self.block(output);
                (block.clone(), vec![block], Way::New { whole: true, input })
            }
            Op::Imported(_) => return,
            Op::MaxPool(_) => {
                // Which pixel of its window was the largest, in a byte each.
                let argmax = if needs { vec![self.held(self.bytes(output) / 4)] } else { Vec::new() };
                (self.block(output), argmax, Way::New { whole: true, input })
            }
            Op::AvgPool { .. } | Op::GlobalAvgPool | Op::Pad { .. } | Op::QuantizeDequantize(_) => {
                (self.block(output), Vec::new(), Way::New { whole: true, input })
            }
            Op::Flatten { .. } => {
                let Some(block) = self.values[x.index()].first().cloned() else { return };
                (block, Vec::new(), Way::Through(x))
            }
            Op::Slice { ranges } => match (ranges.as_slice(), self.values[x.index()].first().cloned()) {
                ([range], Some(block)) if range.axis == 1 => (block, Vec::new(), Way::Through(x)),
                _ => (self.block(output), Vec::new(), Way::New { whole: true, input }),
            },
            Op::Separable { .. } => {
                let (block, mut kept) = (self.block(output), self.at(x));
                kept.push(block.clone());
                (block, kept, Way::New { whole: false, input })
            }
            Op::Mix { terms, .. } => {
                let (kept, way) = self.sum(node, terms);
                let (parts, rest) = self.parts(node, terms);
                self.values[output.index()] = parts;
                (self.held(rest), kept, way)
            }
            Op::Add | Op::Concat { .. } | Op::WeightedSum { .. } | Op::ChannelShuffle { .. } | Op::DropPath => {
                let (kept, way) = self.sum(node, &[]);
                (self.block(output), kept, way)
            }
        };
        self.values[output.index()].push(block);
        self.needs[output.index()] = needs;
        if needs {
            self.records.push(Record { output, kept, way });
        }
    }

    /// The inputs that are a part of a sum as they are, where its readers find them there, and the bytes of what is written.
    fn parts(&self, node: &Node, terms: &[MixTerm]) -> (Vec<Block>, u64) {
        let (mut parts, mut rest) = (Vec::new(), self.bytes(node.output));
        for term in terms.iter().filter(|_| self.joined[node.output.index()]) {
            let x = node.inputs[term.input];
            let whole = self.graph.shape(x).dim(1) == Some(term.len) && (term.step, term.from) == (1, 0);
            let plain = term.weights.is_empty() && !term.drop_path && !(self.lazy[x.index()] && self.normalised(x));
            let channels = |term: &MixTerm| term.to..term.to + term.len;
            let alone = terms.iter().filter(|other| channels(other).contains(&term.to)).count() == 1;
            if whole && plain && alone {
                parts.extend(self.at(x));
                rest -= self.bytes(x);
            }
        }
        (parts, rest)
    }

    fn sum(&self, node: &Node, terms: &[MixTerm]) -> (Vec<Block>, Way) {
        let wanted = |v: &ValueId| self.needs[v.index()];
        // A normalised value is read once more for the gradient of what was normalised, any value for that of its weight.
        let weighted =
            |i: usize| terms.iter().any(|t| t.input == i && t.weights.iter().any(|(w, _)| wanted(&node.inputs[*w])));
        let reads = |i: usize, v: ValueId| weighted(i) || (self.lazy[v.index()] && self.normalised(v) && wanted(&v));
        let images = node.inputs.iter().enumerate().filter(|(_, v)| self.graph.shape(**v).chw().is_some());
        let kept = images.clone().filter(|(i, v)| reads(*i, **v)).flat_map(|(_, v)| self.at(*v)).collect();
        let inputs = images.map(|(_, v)| *v).filter(wanted).collect();
        (kept, Way::Shared(inputs))
    }

    /// Whether a batch norm made the value.
    fn normalised(&self, value: ValueId) -> bool {
        let maker = self.graph.nodes.iter().find(|node| node.output == value);
        maker.is_some_and(|node| {
            matches!(node.op, Op::BatchNorm { .. } | Op::Separable { .. })
                || (matches!(node.op, Op::Slice { .. }) && self.normalised(node.inputs[0]))
        })
    }

    fn back(mut self) {
        self.values.clear();
        let mut gradients: Vec<Vec<Block>> = vec![Vec::new(); self.needs.len()];
        for output in &self.graph.outputs {
            gradients[output.value.index()].push(self.block(output.value));
        }
        while let Some(Record { output, kept, way }) = self.records.pop() {
            let mut given = std::mem::take(&mut gradients[output.index()]);
            if given.is_empty() {
                continue;
            }
            let whole = |given: &mut Vec<Block>| {
                if given.len() > 1 {
                    let block = self.block(output);
                    *given = vec![block];
                }
            };
            match way {
                Way::Through(x) => {
                    gradients[x.index()].append(&mut given);
                    gradients[x.index()].extend(kept);
                }
                Way::Shared(inputs) => {
                    whole(&mut given);
                    inputs.iter().for_each(|x| gradients[x.index()].extend(given.iter().cloned()));
                }
                Way::New { whole: written, input } => {
                    if written {
                        whole(&mut given);
                    }
                    if let Some((x, bytes)) = input {
                        let block = self.held(bytes);
                        gradients[x.index()].push(block);
                    }
                }
            }
        }
    }
}
