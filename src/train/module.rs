//! The one trainable module: walks the IR on burn, for the supernet and for final networks alike.
//!
//! Takes a verified model and a device; gives logits for images. Training mode (batch statistics, drop path, a tape) and
//! evaluation mode (running statistics, no tape) differ only here. Optimising is left to `optim`, losses to `loss`.
//!
//! Parameters are kept flat, one `Tensor<1>` each on the inner (tape-free) device, so that an optimiser needs no shapes; a
//! tracked copy is made for each pass whose gradients are wanted.

use burn::tensor::{Device, Gradients, Tensor as Tensor_, TensorData, activation};
use rand_chacha::ChaCha8Rng;

use super::TrainError;
use super::drop_path::keep_mask;
use crate::ir::{Graph, Model, Node, Op, ParamId, Range, Tensor, ValueId, Verified, Weights, Window};
use crate::kernels;

/// A burn tensor of one of the ranks that the IR's values have.
#[derive(Debug, Clone)]
pub enum Value {
    /// `[N, C, H, W]`.
    Image(Tensor_<4>),
    /// `[N, C]`.
    Rows(Tensor_<2>),
    /// Architecture weights, flat.
    Flat(Tensor_<1>),
}

/// How a pass over the graph behaves.
pub enum Mode<'a> {
    /// Batch statistics; drop path with the given probability.
    Train {
        /// Whether gradients of the parameters are wanted. Without it only inputs that require gradients get them.
        weights: bool,
        /// Probability that a sample of an edge is dropped.
        drop_path: f64,
        /// Decides which.
        rng: &'a mut ChaCha8Rng,
    },
    /// Running statistics, no drop path, no tape.
    Eval,
}

/// A graph with its parameters on a device.
pub struct GraphModule {
    graph: Graph,
    device: Device,
    params: Vec<Tensor_<1>>,
    last_use: Vec<usize>,
}

/// What a training pass leaves behind.
pub struct Pass {
    /// The graph outputs, in order, `[N, classes]`.
    pub outputs: Vec<Tensor_<2>>,
    tracked: Vec<Option<Tensor_<1>>>,
    statistics: Vec<Statistics>,
}

/// The batch statistics of one batch norm.
struct Statistics {
    mean_id: ParamId,
    var_id: ParamId,
    mean: Tensor_<1>,
    /// Unbiased.
    var: Tensor_<1>,
}

impl GraphModule {
    /// Puts a model on `device` (without autodiff; training passes add it).
    pub fn new(model: &Verified<Model>, device: &Device) -> Self {
        let device = device.clone().without_autodiff();
        let graph = model.graph.clone();
        let params = model.weights.0.iter().map(|t| upload(&t.data, &device)).collect();
        let mut last_use = vec![0; graph.values.len()];
        for (i, node) in graph.nodes.iter().enumerate() {
            node.inputs.iter().for_each(|v| last_use[v.index()] = i);
        }
        graph.outputs.iter().for_each(|o| last_use[o.value.index()] = usize::MAX);
        Self { graph, device, params, last_use }
    }

    /// The graph that the module walks.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// The device without autodiff.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The trainable parameters with their current contents, flat, in order of their ids.
    pub fn trainable(&mut self) -> impl Iterator<Item = (ParamId, &mut Tensor_<1>)> {
        let roles: Vec<bool> = self.graph.params.iter().map(|p| p.role.is_trainable()).collect();
        self.params
            .iter_mut()
            .enumerate()
            .filter(move |(i, _)| roles[*i])
            .map(|(i, tensor)| (ParamId(i as u32), tensor))
    }

    /// Copies every parameter to the host.
    ///
    /// # Errors
    /// When the device cannot be read.
    pub fn weights(&self) -> Result<Weights, TrainError> {
        let read = |(param, tensor): (&crate::ir::Param, &Tensor_<1>)| {
            Ok(Tensor::new(param.shape.clone(), download(tensor.clone())?))
        };
        self.graph.params.iter().zip(&self.params).map(read).collect::<Result<_, TrainError>>().map(Weights)
    }

    /// Replaces every parameter by the given contents, which must be those of the same graph.
    pub fn load(&mut self, weights: &Weights) {
        self.params = weights.0.iter().map(|t| upload(&t.data, &self.device)).collect();
    }

    /// A batch of images `[N, 3, H, W]` from host memory.
    pub fn images(&self, data: Vec<f32>, shape: [usize; 4]) -> Value {
        Value::Image(Tensor_::from_data(TensorData::new(data, shape), &self.device))
    }

    /// Runs the graph on `inputs` (in the order of [`Graph::inputs`]).
    ///
    /// # Errors
    /// When an input or a window has a form that the back end does not have.
    pub fn forward(&self, inputs: Vec<Value>, mut mode: Mode) -> Result<Pass, TrainError> {
        let (train, with_weights) = match &mode {
            Mode::Train { weights, .. } => (true, *weights),
            Mode::Eval => (false, false),
        };
        let tracked: Vec<Option<Tensor_<1>>> = self
            .graph
            .params
            .iter()
            .zip(&self.params)
            .map(|(p, t)| (with_weights && p.role.is_trainable()).then(|| t.clone().autodiff().require_grad()))
            .collect();
        let mut walk = Walk { module: self, tracked: &tracked, train, statistics: Vec::new() };
        let mut values: Vec<Option<Value>> = vec![None; self.graph.values.len()];
        for (id, value) in self.graph.inputs.iter().zip(inputs) {
            values[id.index()] = Some(value.on_tape(train));
        }
        for (i, node) in self.graph.nodes.iter().enumerate() {
            let inputs: Vec<Value> =
                node.inputs.iter().map(|v| self.read(&mut values, *v, i, node)).collect::<Result<_, TrainError>>()?;
            values[node.output.index()] = Some(walk.node(node, inputs, &mut mode)?);
        }
        let statistics = walk.statistics;
        let outputs = self.graph.outputs.iter().map(|o| match values[o.value.index()].clone() {
            Some(Value::Rows(rows)) => Ok(rows),
            _ => Err(TrainError::Unsupported { node: o.name.clone(), why: "an output must be [N, classes]".into() }),
        });
        Ok(Pass { outputs: outputs.collect::<Result<_, _>>()?, tracked, statistics })
    }

    /// Moves the running statistics a tenth of the way to those of the batch (PyTorch's momentum 0.1, unbiased variance).
    pub fn update_statistics(&mut self, pass: &Pass) {
        for s in &pass.statistics {
            for (id, batch) in [(s.mean_id, &s.mean), (s.var_id, &s.var)] {
                let running = &mut self.params[id.index()];
                *running = running.clone() * 0.9 + batch.clone() * 0.1;
            }
        }
    }

    fn read(&self, values: &mut [Option<Value>], id: ValueId, at: usize, node: &Node) -> Result<Value, TrainError> {
        let slot = &mut values[id.index()];
        // The last reader takes the value, which frees its memory as soon as nothing on the tape holds it. A node that
        // reads one value twice must not take it the first time.
        let last = self.last_use[id.index()] == at && node.inputs.iter().filter(|v| **v == id).count() == 1;
        let value = if last { slot.take() } else { slot.clone() };
        value.ok_or_else(|| TrainError::Unsupported {
            node: node.name.clone(),
            why: format!("the input `{}` was not given", self.graph.value(id).name),
        })
    }
}

impl Pass {
    /// Gradients of the trainable parameters, flat, on the inner device; `None` for parameters that the loss does not
    /// depend on or that were not tracked.
    pub fn gradients(&self, gradients: &mut Gradients) -> Vec<Option<Tensor_<1>>> {
        self.tracked.iter().map(|t| t.as_ref().and_then(|t| t.grad_remove(gradients))).collect()
    }
}

impl Value {
    fn on_tape(self, train: bool) -> Self {
        match self {
            Value::Image(t) if train => Value::Image(t.autodiff()),
            Value::Rows(t) if train => Value::Rows(t.autodiff()),
            Value::Flat(t) if train => Value::Flat(t.autodiff()),
            other => other,
        }
    }
}

/// Copies `data` to `device` as a flat tensor.
pub fn upload(data: &[f32], device: &Device) -> Tensor_<1> {
    Tensor_::from_data(TensorData::new(data.to_vec(), [data.len()]), device)
}

/// Copies a tensor to the host.
///
/// # Errors
/// When the device cannot be read.
pub fn download<const D: usize>(tensor: Tensor_<D>) -> Result<Vec<f32>, TrainError> {
    tensor
        .try_into_vec_as::<f32>()
        .map_err(|e| TrainError::Device { why: format!("reading a tensor back failed: {e}") })
}

/// One pass over the nodes.
struct Walk<'a> {
    module: &'a GraphModule,
    tracked: &'a [Option<Tensor_<1>>],
    train: bool,
    statistics: Vec<Statistics>,
}

impl Walk<'_> {
    fn param(&self, id: ParamId) -> Tensor_<1> {
        let plain = || {
            let tensor = self.module.params[id.index()].clone();
            if self.train { tensor.autodiff() } else { tensor }
        };
        self.tracked[id.index()].clone().unwrap_or_else(plain)
    }

    fn shaped<const D: usize>(&self, id: ParamId) -> Tensor_<D> {
        let shape = &self.module.graph.param(id).shape;
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
            Op::BatchNorm { scale, shift, mean, var, epsilon } => {
                let x = image(next()?, node)?;
                let (scale, shift) = (scale.map(|s| self.param(s)), shift.map(|s| self.param(s)));
                if self.train {
                    let [n, _, h, w] = x.dims();
                    let count = (n * h * w) as f32;
                    let out = kernels::batch_norm_train(x, scale, shift, *epsilon);
                    // PyTorch keeps the unbiased variance; of a single value there is none, so the biased one stays.
                    let unbiased = if count > 1.0 { count / (count - 1.0) } else { 1.0 };
                    let (batch_mean, batch_var) = (out.mean.without_autodiff(), out.var.without_autodiff() * unbiased);
                    self.statistics.push(Statistics { mean_id: *mean, var_id: *var, mean: batch_mean, var: batch_var });
                    Value::Image(out.y)
                } else {
                    let (mean, var) = (self.param(*mean), self.param(*var));
                    Value::Image(kernels::batch_norm_eval(x, scale, shift, mean, var, *epsilon))
                }
            }
            Op::Relu => match next()? {
                Value::Image(x) => Value::Image(kernels::relu(x)),
                Value::Rows(x) => Value::Rows(activation::relu(x)),
                Value::Flat(x) => Value::Flat(activation::relu(x)),
            },
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
                let all: Vec<Tensor_<4>> = inputs.map(|v| image(v, node)).collect::<Result<_, _>>()?;
                Value::Image(if *axis == 1 { kernels::concat_channels(all) } else { Tensor_::cat(all, *axis) })
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
            Op::DropPath => match (next()?, mode) {
                (Value::Image(x), Mode::Train { drop_path, rng, .. }) if *drop_path > 0.0 => {
                    let mask = keep_mask(x.dims()[0], *drop_path, rng);
                    let n = mask.len();
                    let mask = Tensor_::<4>::from_data(TensorData::new(mask, [n, 1, 1, 1]), &self.module.device);
                    Value::Image(x * mask.autodiff())
                }
                (value, _) => value,
            },
        })
    }
}

fn image(value: Value, node: &Node) -> Result<Tensor_<4>, TrainError> {
    match value {
        Value::Image(x) => Ok(x),
        _ => Err(TrainError::Unsupported { node: node.name.clone(), why: "the input must be [N, C, H, W]".into() }),
    }
}

/// The window without ceil mode, whose padding must be symmetric.
fn kernel_window(window: &Window, node: &Node) -> Result<kernels::Window, TrainError> {
    let Some(padding) = window.symmetric_padding() else {
        let why = format!("padding {:?} is not symmetric; only symmetric padding can be trained", window.padding);
        return Err(TrainError::Unsupported { node: node.name.clone(), why });
    };
    let Window { kernel, stride, dilation, .. } = *window;
    Ok(kernels::Window { kernel, stride, padding, dilation })
}

/// Turns ceil mode into padding behind the image with `fill`, where a last window is only partly covered.
fn whole_windows(x: Tensor_<4>, window: &Window, fill: f32) -> (Tensor_<4>, Window) {
    let [_, _, h, w] = x.dims();
    let missing = |size: usize, axis: usize| {
        let outputs = window.output(size, axis).unwrap_or(1);
        let needed = (outputs - 1) * window.stride[axis] + window.extent(axis);
        needed.saturating_sub(size + window.padding[axis] + window.padding[axis + 2])
    };
    let (down, right) = if window.ceil { (missing(h, 0), missing(w, 1)) } else { (0, 0) };
    let window = Window { ceil: false, ..*window };
    if down + right == 0 {
        return (x, window);
    }
    (x.pad((0, right, 0, down), burn::tensor::ops::PadMode::Constant(fill)), window)
}

fn slice(x: Tensor_<4>, ranges: &[Range], node: &Node) -> Result<Tensor_<4>, TrainError> {
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
