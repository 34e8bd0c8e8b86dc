//! Parameters: what they are called, how large they are, how they start, and their contents.
//!
//! Takes seeds and data; gives [`Param`] (the description, part of the graph) and [`Weights`] (the contents, beside it).

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{Codes, Graph};

/// Names one parameter of a graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ParamId(pub u32);

impl ParamId {
    /// The index into [`Graph::params`] and [`Weights`].
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// What a parameter is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Filters of a convolution or the matrix of a linear layer.
    Weight,
    /// Added per output channel.
    Bias,
    /// Batch norm: multiplied.
    Scale,
    /// Batch norm: added.
    Shift,
    /// Batch norm: running mean, not trained by gradients.
    RunningMean,
    /// Batch norm: running variance, not trained by gradients.
    RunningVar,
}

impl Role {
    /// Whether gradients train it (running statistics are not; counts of parameters leave those out).
    pub fn is_trainable(self) -> bool {
        !matches!(self, Role::RunningMean | Role::RunningVar)
    }
}

/// How a parameter starts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Init {
    /// All elements have this value.
    Constant(f32),
    /// Uniform in `+-bound`; PyTorch's default for convolutions and linear layers has `bound = 1 / sqrt(fan_in)`.
    Uniform {
        /// The largest magnitude.
        bound: f32,
    },
}

/// The description of one parameter.
#[derive(Debug, Clone, PartialEq)]
pub struct Param {
    /// Unique; the safetensors key, the ONNX initializer and the GPU label.
    pub name: String,
    /// The name of the same tensor in a PyTorch DARTS state_dict, where it has one.
    pub alias: Option<String>,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// What it is for.
    pub role: Role,
    /// How it starts.
    pub init: Init,
    /// The whole numbers that its contents consist of, if they do. Who changes the contents sets it to `None`.
    pub codes: Option<Codes>,
}

impl Param {
    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// A dense float32 tensor on the host.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Tensor {
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// Elements in row-major order.
    pub data: Vec<f32>,
}

impl Tensor {
    /// A tensor from its parts; the caller keeps the number of elements right.
    pub fn new(shape: impl Into<Vec<usize>>, data: Vec<f32>) -> Self {
        let shape = shape.into();
        debug_assert_eq!(shape.iter().product::<usize>(), data.len());
        Self { shape, data }
    }
}

/// The contents of a graph's parameters, indexed by [`ParamId`].
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Weights(pub Vec<Tensor>);

impl Weights {
    /// The starting values of every parameter of `graph`. The same seed gives the same values for a parameter of the same
    /// name, whatever else the graph holds.
    pub fn initial(graph: &Graph, seed: u64) -> Self {
        Self(graph.params.iter().map(|p| Tensor::new(p.shape.clone(), start(p, seed))).collect())
    }

    /// The contents of parameter `id`.
    pub fn get(&self, id: ParamId) -> &Tensor {
        &self.0[id.index()]
    }
}

fn start(param: &Param, seed: u64) -> Vec<f32> {
    match param.init {
        Init::Constant(c) => vec![c; param.elements()],
        Init::Uniform { bound } => {
            let mut rng = ChaCha8Rng::seed_from_u64(seed ^ fnv1a(&param.name));
            (0..param.elements()).map(|_| rng.random_range(-bound..=bound)).collect()
        }
    }
}

/// Sixteen hexadecimal digits that tell texts apart: a fingerprint, no protection against forgery.
pub fn fingerprint(text: &str) -> String {
    format!("{:016x}", fnv1a(text))
}

/// The 64-bit FNV-1a hash: stable across releases, which the standard hasher does not promise.
fn fnv1a(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}
