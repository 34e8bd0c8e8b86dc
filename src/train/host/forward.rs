//! The walk over the nodes. Batch norms are in `normalise`.
use std::{collections::HashMap, sync::Arc};

use burn::backend::{Flex, flex::FlexTensor};
use rand_chacha::ChaCha8Rng;

use super::{
    Done, Input, Mask, Pass, Statistics, Step, Tape,
    convolve::Layer,
    graph::{Member, last_uses, lazily_read, made_together, plain_terms, read_in_parts},
    normalise::NormLayer,
    record::{Mix, Part, Read, Record, Separable},
    unsupported,
    value::{Norm, Normal, Value, dims},
};
use crate::ir::{self, MixTerm, Node, Op, ParamId, ValueId};
use crate::kernels::{
    self,
    cpu::{combine::Combination, combine::Source, norm, planes, readable, separable, vector, with_team},
    ops::{KernelGrads, KernelOps},
};
use crate::train::drop_path::keep_mask;
use crate::train::module::kernel_window;
use crate::train::{IMPORTED, QUANTIZED, TrainError};

/// Runs the graph, with batch statistics in training and running ones in evaluation.
///
/// # Errors
/// When an input or a window has a form that the kernels do not have.
pub fn forward(pass: &Pass, inputs: Vec<Input>, rng: &mut ChaCha8Rng) -> Result<Done, TrainError> {
    with_team(|| walk(pass, inputs, rng))
}

fn walk(pass: &Pass, inputs: Vec<Input>, rng: &mut ChaCha8Rng) -> Result<Done, TrainError> {
    let graph = pass.graph;
    let mut walk = Walk {
        pass,
        values: vec![None; graph.values.len()],
        needs: vec![false; graph.values.len()],
        last_use: last_uses(graph),
        together: made_together(graph),
        lazy: lazily_read(graph),
        joined: read_in_parts(graph),
        records: Vec::new(),
        statistics: Vec::new(),
        known: HashMap::new(),
        rng,
    };
    for ((&id, input), wanted) in graph.inputs.iter().zip(inputs).zip(pass.wanted) {
        walk.values[id.index()] = Some(match input {
            Input::Image(image) => Value::Dense(readable(image)),
            Input::Flat(values) => Value::Flat(Arc::new(values)),
        });
        walk.needs[id.index()] = *wanted;
    }
    for (i, node) in graph.nodes.iter().enumerate() {
        walk.node(i, node)?;
        node.inputs.iter().filter(|v| walk.last_use[v.index()] == i).for_each(|v| walk.values[v.index()] = None);
    }
    let outputs: Vec<ValueId> = graph.outputs.iter().map(|output| output.value).collect();
    let tensors = outputs.iter().zip(&graph.outputs).map(|(v, output)| match &walk.values[v.index()] {
        Some(Value::Dense(rows)) => Ok(rows.clone()),
        _ => Err(unsupported(&output.name, "an output must be [N, classes]")),
    });
    Ok(Done {
        outputs: tensors.collect::<Result<_, _>>()?,
        statistics: walk.statistics,
        tape: Tape {
            records: walk.records,
            outputs,
            inputs: graph.inputs.iter().map(|v| (*v, graph.shape(*v).elements())).collect(),
            values: graph.values.len(),
            params: graph.params.len(),
            weights: pass.weights,
        },
    })
}

/// A pass as far as it has come.
pub struct Walk<'a> {
    pub pass: &'a Pass<'a>,
    values: Vec<Option<Value>>,
    /// Which values want a gradient.
    needs: Vec<bool>,
    last_use: Vec<usize>,
    /// The convolutions that each one makes.
    together: Vec<Vec<Member>>,
    /// Which values are read only by nodes that apply a normalisation themselves.
    pub lazy: Vec<bool>,
    /// Which values are read only by nodes that find their channels where they were made.
    joined: Vec<bool>,
    records: Vec<Step>,
    pub statistics: Vec<Statistics>,
    /// Mean and variance of values that have been normalised.
    known: HashMap<ValueId, Arc<[[f32; 2]]>>,
    rng: &'a mut ChaCha8Rng,
}

impl Walk<'_> {
    fn node(&mut self, i: usize, node: &Node) -> Result<(), TrainError> {
        let Some(&x) = node.inputs.first() else { return Err(unsupported(&node.name, IMPORTED)) };
        let mut needs = node.inputs.iter().any(|v| self.needs[v.index()]);
        let trainable = |id: ParamId| self.pass.graph.param(id).role.is_trainable();
        needs |= self.pass.weights && node.op.params().into_iter().any(trainable);
        let (value, record) = match &node.op {
            Op::Conv { weight, bias, window, groups, relu_in, relu_out } => {
                let members = std::mem::take(&mut self.together[i]);
                if members.is_empty() {
                    (self.value(node.output, node)?.clone(), Record::Made)
                } else {
                    let shape = &self.pass.graph.param(*weight).shape;
                    let filter = [shape[1], shape[2], shape[3]];
                    let window = kernel_window(window, node)?;
                    let relu = [*relu_in, *relu_out];
                    self.conv(node, members, &Layer { bias: *bias, filter, window, groups: *groups, relu })?
                }
            }
            Op::Linear { weight, bias } => {
                let shape = &self.pass.graph.param(*weight).shape;
                let filter = [shape[1], 1, 1];
                let window = kernels::Window::square(1, 1, 0, 1);
                let members = vec![Member { output: node.output, weight: *weight, outs: shape[0] }];
                self.conv(node, members, &Layer { bias: *bias, filter, window, groups: 1, relu: [false, false] })?
            }
            &Op::BatchNorm { scale, shift, mean, var, epsilon } => {
                let z = self.dense(x, node)?;
                let [n, c, h, w] = dims(&z);
                // Several edges normalise one pool, each with running statistics of its own.
                let known = self.known.get(&x).cloned();
                let statistics = known.unwrap_or_else(|| match self.pass.train {
                    true => norm::statistics(&norm::plane_moments(&z), [n, c], h * w).into(),
                    false => [].into(),
                });
                self.known.insert(x, statistics.clone());
                let layer = NormLayer { scale, shift, mean, var, epsilon, statistics: &statistics, count: n * h * w };
                let mut norm = Norm::default();
                self.norm(&layer, &mut norm);
                self.normalised(node, x, Normal { z, norm: Arc::new(norm) }, [scale, shift])
            }
            Op::Relu => {
                let y = Flex::rectify(self.dense(x, node)?);
                (Value::Dense(y.clone()), Record::Relu { x, y })
            }
            Op::QuantizeDequantize(grid) => {
                if self.pass.train {
                    return Err(unsupported(&node.name, QUANTIZED));
                }
                let y = planes::map(self.dense(x, node)?, |v| grid.nearest(v));
                // Nobody goes back, so any record will do: it is dropped below.
                (Value::Dense(y), Record::Reshape { x, dims: [0; 4] })
            }
            Op::Imported(_) => return Err(unsupported(&node.name, IMPORTED)),
            Op::MaxPool(window) => {
                let (of, border) = self.whole_windows(self.dense(x, node)?, window);
                let window = kernel_window(&ir::Window { ceil: false, ..*window }, node)?;
                if needs {
                    let dims = dims(&of);
                    let (y, argmax) = Flex::pool_max_with_argmax(of, window);
                    (Value::Dense(y), Record::MaxPool { x, dims, argmax, window, border })
                } else {
                    // Nobody goes back, so any record will do: it is dropped below.
                    (Value::Dense(Flex::pool_max(of, window)), Record::Reshape { x, dims: [0; 4] })
                }
            }
            Op::AvgPool { window, count_include_pad } => {
                if window.ceil {
                    return Err(unsupported(&node.name, "average pooling with ceil mode cannot be trained"));
                }
                let (of, window) = (self.dense(x, node)?, kernel_window(window, node)?);
                let (dims, count_include_pad) = (dims(&of), *count_include_pad);
                let y = Flex::pool_avg(of, window, count_include_pad);
                (Value::Dense(y), Record::AvgPool { x, dims, window, count_include_pad })
            }
            Op::GlobalAvgPool => {
                let of = self.dense(x, node)?;
                let [_, _, h, w] = dims(&of);
                (Value::Dense(planes::means(of)), Record::Mean { x, size: [h, w] })
            }
            Op::Flatten { axis } => {
                let of = self.dense(x, node)?;
                let dims = dims(&of);
                let (rows, columns) = dims.split_at(*axis);
                let shape = [rows.iter().product(), columns.iter().product(), 1, 1];
                (Value::Dense(planes::reshape(of, shape)), Record::Reshape { x, dims })
            }
            Op::Slice { ranges } => self.slice(node, ranges)?,
            Op::Pad { pads, value } => {
                let &[[0, 0], [0, 0], rows, columns] = pads.as_slice() else {
                    return Err(unsupported(&node.name, "only height and width can be padded in training"));
                };
                let border = [rows, columns];
                (Value::Dense(planes::pad(self.dense(x, node)?, border, *value)), Record::Pad { x, border })
            }
            Op::Separable { units } => self.separable(node, units)?,
            Op::Mix { channels, terms } => self.mix(node, *channels, terms)?,
            Op::Add | Op::Concat { .. } | Op::WeightedSum { .. } | Op::ChannelShuffle { .. } | Op::DropPath => {
                let (channels, terms) = plain_terms(self.pass.graph, node)?;
                self.mix(node, channels, &terms)?
            }
        };
        self.values[node.output.index()] = Some(value);
        self.needs[node.output.index()] = needs;
        if needs {
            self.records.push(Step { output: node.output, record });
        }
        Ok(())
    }

    pub fn value(&self, id: ValueId, node: &Node) -> Result<&Value, TrainError> {
        let why = || format!("the input `{}` was not given", self.pass.graph.value(id).name);
        self.values[id.index()].as_ref().ok_or_else(|| unsupported(&node.name, &why()))
    }

    pub fn dense(&self, id: ValueId, node: &Node) -> Result<FlexTensor, TrainError> {
        match self.value(id, node)? {
            Value::Dense(x) => Ok(x.clone()),
            Value::Normal(normal) => Ok(normal.tensor()),
            Value::Joined(parts) => Ok(joined(parts).tensor()),
            Value::Flat(_) => Err(unsupported(&node.name, "the input must be [N, C, H, W]")),
        }
    }

    /// The images whose channels one after the other are the value.
    pub fn parts(&self, id: ValueId, node: &Node) -> Result<Vec<FlexTensor>, TrainError> {
        match self.value(id, node)? {
            Value::Joined(parts) => Ok(parts.clone()),
            _ => Ok(vec![self.dense(id, node)?]),
        }
    }

    pub fn set(&mut self, id: ValueId, value: Value) {
        self.values[id.index()] = Some(value);
    }

    pub fn needs(&self, id: ValueId) -> bool {
        self.needs[id.index()]
    }

    fn flat(&self, id: ValueId, node: &Node) -> Result<&Arc<Vec<f32>>, TrainError> {
        match self.value(id, node)? {
            Value::Flat(values) => Ok(values),
            _ => Err(unsupported(&node.name, "the weights must be flat")),
        }
    }

    pub fn contents(&self, id: ParamId) -> Vec<f32> {
        vector(&self.pass.params[id.index()])
    }

    /// Turns ceil mode into a border behind the image, where a last window is only partly covered.
    fn whole_windows(&self, x: FlexTensor, window: &ir::Window) -> (FlexTensor, planes::Border) {
        let [_, _, h, w] = dims(&x);
        let [down, right] = window.ceil_border([h, w]);
        let border = [[0, down], [0, right]];
        if down + right == 0 { (x, border) } else { (planes::pad(x, border, f32::MIN), border) }
    }

    fn slice(&self, node: &Node, ranges: &[ir::Range]) -> Result<(Value, Record), TrainError> {
        let x = node.inputs[0];
        if let &[ir::Range { axis: 1, start, len, step: 1 }] = ranges {
            let cut = |x: &FlexTensor| x.narrow(1, start, len);
            let (value, dims) = match self.value(x, node)? {
                Value::Normal(Normal { z, norm }) => {
                    (Value::Normal(Normal { z: cut(z), norm: Arc::new(norm.part(start, len)) }), dims(z))
                }
                Value::Dense(x) => (Value::Dense(cut(x)), dims(x)),
                Value::Joined(parts) => {
                    let x = joined(parts).tensor();
                    (Value::Dense(cut(&x)), dims(&x))
                }
                Value::Flat(_) => return Err(unsupported(&node.name, "the input must be [N, C, H, W]")),
            };
            return Ok((value, Record::Channels { x, dims, start }));
        }
        let of = self.dense(x, node)?;
        let [_, _, h, w] = dims(&of);
        let mut border = [[0, 0], [0, 0]];
        for range in ranges {
            let (axis @ (2 | 3), 1) = (range.axis, range.step) else {
                return Err(unsupported(&node.name, "a slice of this form cannot be trained"));
            };
            border[axis - 2] = [range.start, [h, w][axis - 2] - range.start - range.len];
        }
        Ok((Value::Dense(planes::crop(of, border)), Record::Crop { x, border }))
    }

    fn separable(&mut self, node: &Node, layers: &[ir::Unit]) -> Result<(Value, Record), TrainError> {
        let x = node.inputs[0];
        let (read, lines) = match self.value(x, node)? {
            Value::Normal(Normal { z, norm }) => (z.clone(), Some(norm.clone())),
            Value::Dense(_) | Value::Joined(_) => (self.dense(x, node)?, None),
            Value::Flat(_) => return Err(unsupported(&node.name, "the input must be [N, C, H, W]")),
        };
        let graph = self.pass.graph;
        let unit = |layer: &ir::Unit| {
            let (ins, outs) = (graph.param(layer.depthwise).shape[0], graph.param(layer.pointwise).shape[0]);
            Ok(separable::Unit { from: layer.from, ins, outs, window: kernel_window(&layer.window, node)? })
        };
        let units: Vec<separable::Unit> = layers.iter().map(unit).collect::<Result<_, TrainError>>()?;
        let weights = |layer: &ir::Unit| separable::UnitWeights {
            depthwise: self.contents(layer.depthwise),
            pointwise: self.contents(layer.pointwise),
        };
        let weights: Vec<separable::UnitWeights> = layers.iter().map(weights).collect();
        let (z, moments) = separable::forward(&read, lines.as_ref().map(|norm| &norm.lines), &units, &weights);
        let [n, c, h, w] = dims(&z);
        let statistics = norm::statistics(&moments, [n, c], h * w);
        let (mut norm, mut start) = (Norm::default(), 0);
        for (layer, unit) in layers.iter().zip(&units) {
            let &ir::Unit { scale, shift, mean, var, epsilon, .. } = layer;
            let statistics = &statistics[start..start + unit.outs];
            self.norm(&NormLayer { scale, shift, mean, var, epsilon, statistics, count: n * h * w }, &mut norm);
            start += unit.outs;
        }
        let norm = Arc::new(norm);
        let value = Value::Normal(Normal { z: z.clone(), norm: norm.clone() });
        let (layers, wanted_x) = (layers.to_vec(), self.needs[x.index()]);
        Ok((value, Record::Separable(Separable { x, read, lines, units, layers, weights, z, norm, wanted_x })))
    }

    fn mix(&mut self, node: &Node, channels: usize, terms: &[MixTerm]) -> Result<(Value, Record), TrainError> {
        let mut parts = Vec::with_capacity(terms.len());
        let mut sum: Option<Combination> = None;
        for term in terms {
            let x = node.inputs[term.input];
            let value = match self.value(x, node)? {
                Value::Joined(parts) => Value::Dense(joined(parts).tensor()),
                other => other.clone(),
            };
            let read = match &value {
                Value::Dense(x) => x,
                Value::Normal(normal) => &normal.z,
                Value::Joined(_) | Value::Flat(_) => {
                    return Err(unsupported(&node.name, "a term must be [N, C, H, W]"));
                }
            };
            let dims = dims(read);
            let mut weights = Vec::with_capacity(term.weights.len());
            for &(input, element) in &term.weights {
                let id = node.inputs[input];
                weights.push((id, element, self.flat(id, node)?[element], self.needs[id.index()]));
            }
            let factor: f32 = weights.iter().map(|weight| weight.2).product();
            let mask: Mask = (term.drop_path && self.pass.drop_path > 0.0)
                .then(|| keep_mask(dims[0], self.pass.drop_path, self.rng).into());
            let sum = sum.get_or_insert_with(|| Combination::zeros([dims[0], dims[2], dims[3]], channels));
            let lines = |channel: usize| match &value {
                Value::Normal(Normal { norm, .. }) => [norm.lines.factor[channel], norm.lines.offset[channel]],
                _ => [1.0, 0.0],
            };
            let of_channel = |i: usize| {
                let [by, plus] = lines(term.from + i);
                (term.to + i * term.step, term.from + i, factor * by, factor * plus)
            };
            sum.add(Source::scaled(read.clone(), mask.clone()), (0..term.len).map(of_channel));
            let wanted_x = self.needs[x.index()];
            let wanted_weight = weights.iter().any(|weight| weight.3);
            let read = match value {
                Value::Normal(normal) if wanted_x || wanted_weight => Read::Normal(normal),
                Value::Dense(x) if wanted_weight => Read::Dense(x),
                _ => Read::Nothing,
            };
            let &MixTerm { from, to, len, step, .. } = term;
            parts.push(Part { x, dims, from, to, len, step, factor, weights, mask, read, wanted_x });
        }
        let sum = sum.ok_or_else(|| unsupported(&node.name, "there must be a term"))?;
        let value = match self.joined[node.output.index()] {
            true => Value::Joined(sum.parts()),
            false => Value::Dense(sum.tensor()),
        };
        Ok((value, Record::Mix(Mix { terms: parts })))
    }
}

/// Images whose channels come one after the other.
fn joined(parts: &[FlexTensor]) -> Combination {
    let [n, _, h, w] = dims(&parts[0]);
    let mut all = Combination::zeros([n, h, w], parts.iter().map(|part| dims(part)[1]).sum());
    let mut start = 0;
    for part in parts {
        all.add_all(&Combination::whole(part.clone()), start);
        start += dims(part)[1];
    }
    all
}
