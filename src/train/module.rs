//! The one trainable module: walks the IR on burn, for the supernet and for final networks alike.
//!
//! Takes a verified model and a device; gives logits for images. Training mode (batch statistics, drop path, a tape) and
//! evaluation mode (running statistics, no tape) differ only here. On the CPU the nodes are walked by `host`, on other devices
//! by `walk`. Optimising is left to `optim`, losses to `loss`.
//!
//! Parameters are kept flat, one `Tensor<1>` each on the inner (tape-free) device, so that an optimiser needs no shapes.

use std::cell::RefCell;

use burn::backend::{Flex, flex::FlexTensor};
use burn::tensor::{Device, Gradients, Tensor as Tensor_, TensorData};
use rand_chacha::ChaCha8Rng;

use super::memory::Need;
use super::{TrainError, host, walk};
use crate::ir::{Graph, Model, Node, ParamId, Tensor, Verified, Weights, Window};
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
    /// The graph outputs, in order, `[N, classes]`; in training they are tracked, for a loss.
    pub outputs: Vec<Tensor_<2>>,
    statistics: Vec<Statistics>,
    tape: RefCell<Tape>,
}

/// The way back from the outputs.
enum Tape {
    /// On burn's tape, with the leaves: parameters and inputs.
    Burn { params: Vec<Option<Tensor_<1>>>, inputs: Vec<Option<Tensor_<1>>> },
    /// On the CPU.
    Host(Box<host::Tape>),
    /// Used up: the gradients that have not been fetched yet.
    Done { params: Vec<Option<Tensor_<1>>>, inputs: Vec<Option<Tensor_<1>>> },
}

/// The batch statistics of one batch norm.
pub(super) struct Statistics {
    pub mean_id: ParamId,
    pub var_id: ParamId,
    pub mean: Tensor_<1>,
    /// Unbiased.
    pub var: Tensor_<1>,
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

    /// What training will hold beyond what it holds now, on the CPU; other devices do not tell what they have. `arch`:
    /// whether there are architecture steps too.
    pub fn need(&self, batch: usize, arch: bool) -> Option<Need> {
        self.host_params()?;
        let [weights, arch] = [(true, true), (false, arch)]
            .map(|(weights, wanted)| if wanted { host::bytes_per_image(&self.graph, weights) } else { 0 });
        let trainable = self.graph.params.iter().filter(|param| param.role.is_trainable());
        let elements: usize = trainable.map(|param| param.elements()).sum();
        // Gradients and momentum, and the new values beside the old ones.
        Some(Need { fixed: 3 * 4 * elements as u64, per_image: weights.max(arch), batch })
    }

    /// Runs the graph on `inputs` (in the order of [`Graph::inputs`]). In training, flat inputs that require gradients get them.
    ///
    /// # Errors
    /// When an input or a window has a form that the back end does not have.
    pub fn forward(&self, inputs: Vec<Value>, mode: Mode) -> Result<Pass, TrainError> {
        match self.host_params() {
            Some(params) => self.on_host(&params, inputs, mode),
            None => self.on_device(inputs, mode),
        }
    }

    /// On burn's operations and tape.
    ///
    /// # Errors
    /// As [`GraphModule::forward`].
    pub fn on_device(&self, inputs: Vec<Value>, mut mode: Mode) -> Result<Pass, TrainError> {
        let (train, with_weights) = match &mode {
            Mode::Train { weights, .. } => (true, *weights),
            Mode::Eval => (false, false),
        };
        let trainable = self.graph.params.iter().map(|p| with_weights && p.role.is_trainable());
        let leaf = |t: &Tensor_<1>| t.clone().without_autodiff().autodiff().require_grad();
        let params: Vec<_> = trainable.zip(&self.params).map(|(wanted, t)| wanted.then(|| leaf(t))).collect();
        let tracked: Vec<_> = inputs
            .iter()
            .map(|input| match input {
                Value::Flat(t) if train && t.is_require_grad() => Some(leaf(t)),
                _ => None,
            })
            .collect();
        let on_tape = |(value, leaf): (Value, &Option<Tensor_<1>>)| match leaf {
            Some(leaf) => Value::Flat(leaf.clone()),
            None => value.on_tape(train),
        };
        let inputs = inputs.into_iter().zip(&tracked).map(on_tape).collect();
        let context =
            walk::Context { graph: &self.graph, device: &self.device, params: &self.params, tracked: &params, train };
        let (outputs, statistics) = walk::forward(&context, &self.last_use, inputs, &mut mode)?;
        Ok(Pass { outputs, statistics, tape: RefCell::new(Tape::Burn { params, inputs: tracked }) })
    }

    /// On the CPU.
    fn on_host(&self, params: &[FlexTensor], inputs: Vec<Value>, mode: Mode) -> Result<Pass, TrainError> {
        let mut unused = super::generator(0, "evaluation", 0);
        let (train, weights, drop_path, rng) = match mode {
            Mode::Train { weights, drop_path, rng } => (true, weights, drop_path, rng),
            Mode::Eval => (false, false, 0.0, &mut unused),
        };
        let wanted: Vec<bool> =
            inputs.iter().map(|v| matches!(v, Value::Flat(t) if train && t.is_require_grad())).collect();
        let pass = host::Pass { graph: &self.graph, params, train, weights, wanted: &wanted, drop_path };
        let inputs = inputs.into_iter().map(Value::on_host).collect::<Result<_, _>>()?;
        let host::Done { outputs, statistics, tape } = host::forward(&pass, inputs, rng)?;
        let output = |rows: FlexTensor| {
            let [n, classes, ..] = rows.layout().shape().dims::<4>();
            let rows = Tensor_::<4>::from_primitive::<Flex>(rows).reshape([n, classes]);
            if train { rows.autodiff().require_grad() } else { rows }
        };
        let statistics = statistics.into_iter().map(|s| {
            let vector = |values: Vec<f32>| upload(&values, &self.device);
            Statistics { mean_id: s.mean_id, var_id: s.var_id, mean: vector(s.mean), var: vector(s.var) }
        });
        Ok(Pass {
            outputs: outputs.into_iter().map(output).collect(),
            statistics: statistics.collect(),
            tape: RefCell::new(Tape::Host(Box::new(tape))),
        })
    }

    /// The parameters as CPU tensors, if that is where they are.
    fn host_params(&self) -> Option<Vec<FlexTensor>> {
        self.params.iter().map(host).collect()
    }

    /// Moves the running statistics a tenth of the way to those of the batch (PyTorch's momentum 0.1, unbiased variance).
    pub fn update_statistics(&mut self, pass: &Pass) {
        for s in &pass.statistics {
            for (id, batch) in [(s.mean_id, &s.mean), (s.var_id, &s.var)] {
                let running = &mut self.params[id.index()];
                *running = match (host(running), host(batch)) {
                    (Some(old), Some(new)) => {
                        Tensor_::from_primitive::<Flex>(kernels::cpu::update::follow(&old, &new, [0.9, 0.1]))
                    }
                    _ => running.clone() * 0.9 + batch.clone() * 0.1,
                };
            }
        }
    }
}

impl Pass {
    /// Gradients of the trainable parameters, flat, on the inner device, from those of a loss of the outputs; `None` for
    /// parameters that the loss does not depend on or that were not tracked.
    pub fn gradients(&self, gradients: &mut Gradients) -> Vec<Option<Tensor_<1>>> {
        self.backward(gradients);
        match &mut *self.tape.borrow_mut() {
            Tape::Done { params, .. } => std::mem::take(params),
            Tape::Burn { .. } | Tape::Host(_) => Vec::new(),
        }
    }

    /// The same of the graph inputs.
    pub fn input_gradients(&self, gradients: &mut Gradients) -> Vec<Option<Tensor_<1>>> {
        self.backward(gradients);
        match &mut *self.tape.borrow_mut() {
            Tape::Done { inputs, .. } => std::mem::take(inputs),
            Tape::Burn { .. } | Tape::Host(_) => Vec::new(),
        }
    }

    fn backward(&self, gradients: &mut Gradients) {
        let used = Tape::Done { params: Vec::new(), inputs: Vec::new() };
        let (params, inputs) = match self.tape.replace(used) {
            Tape::Burn { params, inputs } => {
                let mut fetch = |leaves: Vec<Option<Tensor_<1>>>| {
                    leaves.into_iter().map(|t| t.and_then(|t| t.grad_remove(gradients))).collect()
                };
                (fetch(params), fetch(inputs))
            }
            Tape::Host(tape) => tape.gradients(&self.outputs, gradients).into(),
            Tape::Done { params, inputs } => (params, inputs),
        };
        self.tape.replace(Tape::Done { params, inputs });
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

    fn on_host(self) -> Result<host::Input, TrainError> {
        let elsewhere = |_| TrainError::Device { why: "an input is not where the parameters are".into() };
        Ok(match self {
            Value::Image(t) => {
                host::Input::Image(t.without_autodiff().try_into_primitive::<Flex>().map_err(elsewhere)?)
            }
            Value::Rows(t) => {
                let [n, c] = t.dims();
                let image: Tensor_<4> = t.without_autodiff().reshape([n, c, 1, 1]);
                host::Input::Image(image.try_into_primitive::<Flex>().map_err(elsewhere)?)
            }
            Value::Flat(t) => host::Input::Flat(download(t.without_autodiff())?),
        })
    }
}

/// Copies `data` to `device` as a flat tensor.
pub fn upload(data: &[f32], device: &Device) -> Tensor_<1> {
    Tensor_::from_data(TensorData::new(data.to_vec(), [data.len()]), device)
}

/// The tensor as the CPU's back end has it, if it lies there.
pub fn host(tensor: &Tensor_<1>) -> Option<FlexTensor> {
    tensor.clone().try_into_primitive::<Flex>().ok()
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

/// What makes the variance of `count` values the unbiased one, which PyTorch keeps; of a single value there is none, so the
/// biased one stays.
pub(super) fn unbiased(count: usize) -> f32 {
    let count = count as f32;
    if count > 1.0 { count / (count - 1.0) } else { 1.0 }
}

/// The window without ceil mode, whose padding must be symmetric.
pub(super) fn kernel_window(window: &Window, node: &Node) -> Result<kernels::Window, TrainError> {
    let Some(padding) = window.symmetric_padding() else {
        let why = format!("padding {:?} is not symmetric; only symmetric padding can be trained", window.padding);
        return Err(TrainError::Unsupported { node: node.name.clone(), why });
    };
    let Window { kernel, stride, dilation, .. } = *window;
    Ok(kernels::Window { kernel, stride, padding, dilation })
}
