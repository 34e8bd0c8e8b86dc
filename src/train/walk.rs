//! A pass on any device: each node by one of the kernels, recorded on burn's tape.
//!
//! Takes the graph, its parameters and inputs; gives the outputs and the batch statistics. What exists for the CPU only (see
//! `host`) is put together from the plain operations here.

use burn::tensor::{Device, Int, Tensor, TensorData, activation};

use super::drop_path::keep_mask;
use super::module::{Mode, Statistics, Value, kernel_window, unbiased};
use super::{IMPORTED, QUANTIZED, TrainError};
use crate::ir::{Graph, Grid, MixTerm, Node, Op, ParamId, Range, Unit, ValueId, Window};
use crate::kernels;

/// What a pass reads besides its inputs.
pub(super) struct Context<'a> {
    pub graph: &'a Graph,
    /// Without autodiff.
    pub device: &'a Device,
    pub params: &'a [Tensor<1>],
    /// The parameters whose gradients are wanted, on the tape.
    pub tracked: &'a [Option<Tensor<1>>],
    pub train: bool,
}

/// Runs the graph; `last_use` names for each value the last node that reads it.
///
/// # Errors
/// When an input or a window has a form that the back end does not have.
pub(super) fn forward(
    context: &Context,
    last_use: &[usize],
    inputs: Vec<Value>,
    mode: &mut Mode,
) -> Result<(Vec<Tensor<2>>, Vec<Statistics>), TrainError> {
    let graph = context.graph;
    let mut walk = Walk { context, statistics: Vec::new() };
    let mut values: Vec<Option<Value>> = vec![None; graph.values.len()];
    for (id, value) in graph.inputs.iter().zip(inputs) {
        values[id.index()] = Some(value);
    }
    for (i, node) in graph.nodes.iter().enumerate() {
        let inputs = node.inputs.iter().map(|v| read(graph, &mut values, *v, last_use[v.index()] == i, node));
        let inputs: Vec<Value> = inputs.collect::<Result<_, TrainError>>()?;
        values[node.output.index()] = Some(walk.node(node, inputs, mode)?);
    }
    let outputs = graph.outputs.iter().map(|o| match values[o.value.index()].clone() {
        Some(Value::Rows(rows)) => Ok(rows),
        _ => Err(TrainError::Unsupported { node: o.name.clone(), why: "an output must be [N, classes]".into() }),
    });
    Ok((outputs.collect::<Result<_, _>>()?, walk.statistics))
}

fn read(
    graph: &Graph,
    values: &mut [Option<Value>],
    id: ValueId,
    last: bool,
    node: &Node,
) -> Result<Value, TrainError> {
    let slot = &mut values[id.index()];
    // The last reader takes the value, which frees its memory as soon as nothing on the tape holds it. A node that reads one
    // value twice must not take it the first time.
    let last = last && node.inputs.iter().filter(|v| **v == id).count() == 1;
    let value = if last { slot.take() } else { slot.clone() };
    value.ok_or_else(|| TrainError::Unsupported {
        node: node.name.clone(),
        why: format!("the input `{}` was not given", graph.value(id).name),
    })
}

/// One pass over the nodes.
struct Walk<'a> {
    context: &'a Context<'a>,
    statistics: Vec<Statistics>,
}

/// A batch norm's parameters.
struct NormLayer {
    scale: Option<ParamId>,
    shift: Option<ParamId>,
    mean: ParamId,
    var: ParamId,
    epsilon: f32,
}

impl Walk<'_> {
    fn param(&self, id: ParamId) -> Tensor<1> {
        let plain = || {
            let tensor = self.context.params[id.index()].clone();
            if self.context.train { tensor.autodiff() } else { tensor }
        };
        self.context.tracked[id.index()].clone().unwrap_or_else(plain)
    }

    fn shaped<const D: usize>(&self, id: ParamId) -> Tensor<D> {
        let shape = &self.context.graph.param(id).shape;
        let dims: [usize; D] = shape.as_slice().try_into().expect("the verifier checked the rank of the parameter");
        self.param(id).reshape(dims)
    }

    fn node(&mut self, node: &Node, inputs: Vec<Value>, mode: &mut Mode) -> Result<Value, TrainError> {
        let unsupported = |why: &str| TrainError::Unsupported { node: node.name.clone(), why: why.into() };
        let mut inputs = inputs.into_iter();
        let mut next = || inputs.next().ok_or_else(|| unsupported("an input is missing"));
        Ok(match &node.op {
            Op::Conv { weight, bias, window, groups, relu_in, relu_out } => {
                let mut x = image(next()?, node)?;
                if *relu_in {
                    x = kernels::relu(x);
                }
                let bias = bias.map(|b| self.param(b));
                let y = kernels::conv2d(x, self.shaped::<4>(*weight), bias, kernel_window(window, node)?, *groups);
                Value::Image(if *relu_out { kernels::relu(y) } else { y })
            }
            &Op::BatchNorm { scale, shift, mean, var, epsilon } => {
                Value::Image(self.norm(image(next()?, node)?, &NormLayer { scale, shift, mean, var, epsilon }))
            }
            Op::Separable { units } => Value::Image(self.separable(&image(next()?, node)?, units, node)?),
            Op::Mix { channels, terms } => {
                let inputs: Vec<Value> = inputs.collect();
                Value::Image(self.mix(&inputs, *channels, terms, node, mode)?)
            }
            Op::Relu => match next()? {
                Value::Image(x) => Value::Image(kernels::relu(x)),
                Value::Rows(x) => Value::Rows(activation::relu(x)),
                Value::Flat(x) => Value::Flat(activation::relu(x)),
            },
            Op::QuantizeDequantize(_) if self.context.train => return Err(unsupported(QUANTIZED)),
            Op::QuantizeDequantize(grid) => match next()? {
                Value::Image(x) => Value::Image(nearest(x, *grid)),
                Value::Rows(x) => Value::Rows(nearest(x, *grid)),
                Value::Flat(x) => Value::Flat(nearest(x, *grid)),
            },
            Op::Imported(_) => return Err(unsupported(IMPORTED)),
            Op::MaxPool(window) => {
                let x = image(next()?, node)?;
                let (x, window) = whole_windows(x, window, f32::MIN);
                Value::Image(kernels::max_pool2d(x, kernel_window(&window, node)?))
            }
            Op::AvgPool { window, count_include_pad } => {
                if window.ceil {
                    return Err(unsupported("average pooling with ceil mode cannot be trained"));
                }
                let window = kernel_window(window, node)?;
                Value::Image(kernels::avg_pool2d(image(next()?, node)?, window, *count_include_pad))
            }
            Op::GlobalAvgPool => Value::Image(image(next()?, node)?.mean_dims(&[2, 3])),
            Op::Flatten { axis } => {
                let x = image(next()?, node)?;
                let dims = x.dims();
                let rows: usize = dims[..*axis].iter().product();
                let columns: usize = dims[*axis..].iter().product();
                Value::Rows(x.reshape([rows, columns]))
            }
            Op::Linear { weight, bias } => {
                let Value::Rows(x) = next()? else { return Err(unsupported("the input must be [N, I]")) };
                // As a 1x1 convolution of one pixel: burn's matrix product is wrong on SwiftShader (it gives zeros), its
                // convolutions are right there, and the layer is small.
                let [n, inner] = x.dims();
                let weight = self.param(*weight);
                let outer = weight.dims()[0] / inner.max(1);
                let (x, weight) = (x.reshape([n, inner, 1, 1]), weight.reshape([outer, inner, 1, 1]));
                let pixel = kernels::Window { kernel: [1, 1], stride: [1, 1], padding: [0, 0], dilation: [1, 1] };
                let y = kernels::conv2d(x, weight, bias.map(|b| self.param(b)), pixel, 1);
                Value::Rows(y.reshape([n, outer]))
            }
            Op::Add => match (next()?, next()?) {
                (Value::Image(a), Value::Image(b)) => Value::Image(a + b),
                (Value::Rows(a), Value::Rows(b)) => Value::Rows(a + b),
                _ => return Err(unsupported("the inputs must both be images or both be rows")),
            },
            Op::Concat { axis } => {
                let all: Vec<Tensor<4>> = inputs.map(|v| image(v, node)).collect::<Result<_, _>>()?;
                Value::Image(if *axis == 1 { kernels::concat_channels(all) } else { Tensor::cat(all, *axis) })
            }
            Op::Slice { ranges } => Value::Image(slice(image(next()?, node)?, ranges, node)?),
            Op::Pad { pads, value } => {
                let x = image(next()?, node)?;
                let &[[0, 0], [0, 0], [t, b], [l, r]] = pads.as_slice() else {
                    return Err(unsupported("only height and width can be padded in training"));
                };
                Value::Image(x.pad((l, r, t, b), burn::tensor::ops::PadMode::Constant(*value)))
            }
            Op::WeightedSum { indices } => {
                let Value::Flat(weights) = next()? else { return Err(unsupported("the weights must be flat")) };
                let xs = inputs.map(|v| image(v, node)).collect::<Result<_, _>>()?;
                Value::Image(kernels::weighted_sum(weights, indices, xs))
            }
            Op::ChannelShuffle { groups } => Value::Image(kernels::channel_shuffle(image(next()?, node)?, *groups)),
            Op::DropPath => match next()? {
                Value::Image(x) => Value::Image(self.dropped(x, mode)),
                value => value,
            },
        })
    }

    fn norm(&mut self, x: Tensor<4>, layer: &NormLayer) -> Tensor<4> {
        let (scale, shift) = (layer.scale.map(|s| self.param(s)), layer.shift.map(|s| self.param(s)));
        if !self.context.train {
            let (mean, var) = (self.param(layer.mean), self.param(layer.var));
            return kernels::batch_norm_eval(x, scale, shift, mean, var, layer.epsilon);
        }
        let [n, _, h, w] = x.dims();
        let out = kernels::batch_norm_train(x, scale, shift, layer.epsilon);
        let (mean, var) = (out.mean.without_autodiff(), out.var.without_autodiff() * unbiased(n * h * w));
        self.statistics.push(Statistics { mean_id: layer.mean, var_id: layer.var, mean, var });
        out.y
    }

    fn separable(&mut self, x: &Tensor<4>, units: &[Unit], node: &Node) -> Result<Tensor<4>, TrainError> {
        let mut all = Vec::with_capacity(units.len());
        for unit in units {
            let channels = self.context.graph.param(unit.depthwise).shape[0];
            let y = kernels::relu(kernels::slice_channels(x.clone(), unit.from, channels));
            let window = kernel_window(&unit.window, node)?;
            let y = kernels::conv2d(y, self.shaped::<4>(unit.depthwise), None, window, channels);
            let pixel = kernels::Window::square(1, 1, 0, 1);
            let y = kernels::conv2d(y, self.shaped::<4>(unit.pointwise), None, pixel, 1);
            let &Unit { scale, shift, mean, var, epsilon, .. } = unit;
            all.push(self.norm(y, &NormLayer { scale, shift, mean, var, epsilon }));
        }
        Ok(kernels::concat_channels(all))
    }

    fn mix(
        &self,
        inputs: &[Value],
        channels: usize,
        terms: &[MixTerm],
        node: &Node,
        mode: &mut Mode,
    ) -> Result<Tensor<4>, TrainError> {
        // Terms for the same channels are added up; blocks that meet only in part are taken apart.
        let apart = terms.iter().any(|a| terms.iter().any(|b| meet_in_part(a, b)));
        let mut blocks: Vec<(Vec<usize>, Tensor<4>)> = Vec::new();
        for term in terms {
            let x = image(inputs[term.input].clone(), node)?;
            let mut x = kernels::slice_channels(x, term.from, term.len);
            for &(input, element) in &term.weights {
                let Value::Flat(weights) = inputs[input].clone() else {
                    return Err(TrainError::Unsupported {
                        node: node.name.clone(),
                        why: "weights must be flat".into(),
                    });
                };
                x = kernels::weighted_sum(weights, &[element], vec![x]);
            }
            if term.drop_path {
                x = self.dropped(x, mode);
            }
            let places: Vec<usize> = places(term).collect();
            let parts: Vec<(Vec<usize>, Tensor<4>)> = match apart {
                true => (0..term.len).map(|i| (vec![places[i]], kernels::slice_channels(x.clone(), i, 1))).collect(),
                false => vec![(places, x)],
            };
            for (places, x) in parts {
                match blocks.iter_mut().find(|(known, _)| *known == places) {
                    Some((_, sum)) => *sum = sum.clone() + x,
                    None => blocks.push((places, x)),
                }
            }
        }
        let named: Vec<usize> = blocks.iter().flat_map(|(places, _)| places.iter().copied()).collect();
        let silent: Vec<usize> = (0..channels).filter(|c| !named.contains(c)).collect();
        if let (false, Some((_, x))) = (silent.is_empty(), blocks.first()) {
            let [n, _, h, w] = x.dims();
            let zeros = Tensor::zeros([n, silent.len(), h, w], &x.device());
            blocks.push((silent, zeros));
        }
        let order: Vec<usize> = blocks.iter().flat_map(|(places, _)| places.iter().copied()).collect();
        let joined = kernels::concat_channels(blocks.into_iter().map(|(_, x)| x).collect());
        if order.is_sorted() {
            return Ok(joined);
        }
        let mut from = vec![0i32; channels];
        order.iter().enumerate().for_each(|(at, &place)| from[place] = at as i32);
        let from = Tensor::<1, Int>::from_data(TensorData::new(from, [channels]), &joined.device());
        Ok(joined.select(1, from))
    }

    /// Drops samples as the mode says.
    fn dropped(&self, x: Tensor<4>, mode: &mut Mode) -> Tensor<4> {
        match mode {
            Mode::Train { drop_path, rng, .. } if *drop_path > 0.0 => {
                let mask = keep_mask(x.dims()[0], *drop_path, rng);
                let n = mask.len();
                let mask = Tensor::<4>::from_data(TensorData::new(mask, [n, 1, 1, 1]), self.context.device);
                x * mask.autodiff()
            }
            Mode::Train { .. } | Mode::Eval => x,
        }
    }
}

fn places(term: &MixTerm) -> impl Iterator<Item = usize> {
    let &MixTerm { to, len, step, .. } = term;
    (0..len).map(move |i| to + i * step)
}

/// Whether two terms share some channels of the result but not all.
fn meet_in_part(a: &MixTerm, b: &MixTerm) -> bool {
    let same = (a.to, a.len, a.step) == (b.to, b.len, b.step);
    !same && places(a).any(|place| places(b).any(|other| other == place))
}

fn image(value: Value, node: &Node) -> Result<Tensor<4>, TrainError> {
    match value {
        Value::Image(x) => Ok(x),
        _ => Err(TrainError::Unsupported { node: node.name.clone(), why: "the input must be [N, C, H, W]".into() }),
    }
}

/// [`Grid::nearest`] of every element.
fn nearest<const D: usize>(x: Tensor<D>, grid: Grid) -> Tensor<D> {
    let zero = f32::from(grid.zero_point);
    ((x / grid.scale).round() + zero).clamp(-128.0, 127.0).sub_scalar(zero) * grid.scale
}

/// Turns ceil mode into padding behind the image with `fill`, where a last window is only partly covered.
fn whole_windows(x: Tensor<4>, window: &Window, fill: f32) -> (Tensor<4>, Window) {
    let [_, _, h, w] = x.dims();
    let [down, right] = window.ceil_border([h, w]);
    let window = Window { ceil: false, ..*window };
    if down + right == 0 {
        return (x, window);
    }
    (x.pad((0, right, 0, down), burn::tensor::ops::PadMode::Constant(fill)), window)
}

fn slice(x: Tensor<4>, ranges: &[Range], node: &Node) -> Result<Tensor<4>, TrainError> {
    let mut x = x;
    for r in ranges {
        if r.step != 1 {
            let why = format!("a slice with step {} cannot be trained", r.step);
            return Err(TrainError::Unsupported { node: node.name.clone(), why });
        }
        x = match r.axis {
            1 => kernels::slice_channels(x, r.start, r.len),
            axis => x.narrow(axis, r.start, r.len),
        };
    }
    Ok(x)
}
