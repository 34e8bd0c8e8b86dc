//! A training pass on the CPU: the graph forward, and backward by hand.
//!
//! Takes a graph, its parameters and inputs as CPU tensors; gives the outputs and a [`Tape`], which turns gradients of the
//! outputs into gradients of parameters and inputs. Other devices record on burn's tape instead; both compute the same.
//!
//! Three things make it fast. A normalised value is kept as what it was before, with a factor and an offset per channel that
//! whoever reads it applies. A gradient is kept as the list of planes and factors that it is the sum of, and is written out
//! only where a kernel needs it whole. And the tape keeps what the way back reads, nothing else, and lets go of it as it goes.
//!
//! `forward` walks the nodes, with `normalise` for batch norms, `backward` walks the tape, `convolve` does convolutions for both, `gradient` holds sums of gradients,
//! `graph` asks the graph, `value` is what lies between nodes; `estimate` walks both ways with sizes alone.
mod backward;
mod convolve;
mod estimate;
mod forward;
mod gradient;
mod graph;
mod normalise;
mod record;
mod value;

use std::sync::Arc;

use burn::{
    backend::{Flex, flex::FlexTensor},
    tensor::Tensor,
};

pub use estimate::bytes_per_image;
pub use forward::forward;
use record::Record;

use super::TrainError;
use crate::ir::{Graph, ParamId, ValueId};
use crate::kernels::cpu::planes;

/// What a pass reads.
pub struct Pass<'a> {
    /// The graph; its images have a known number of channels.
    pub graph: &'a Graph,
    /// Contents of the parameters, flat.
    pub params: &'a [FlexTensor],
    /// Whether batch norms use the statistics of the batch, else the running ones.
    pub train: bool,
    /// Whether gradients of the parameters are wanted.
    pub weights: bool,
    /// Which graph inputs want a gradient.
    pub wanted: &'a [bool],
    /// Probability that a sample of an edge is dropped.
    pub drop_path: f64,
}

/// An input of the graph.
pub enum Input {
    /// `[N, C, H, W]`.
    Image(FlexTensor),
    /// Architecture weights.
    Flat(Vec<f32>),
}

/// What a pass leaves.
pub struct Done {
    /// The graph outputs, in order, `[N, classes, 1, 1]`.
    pub outputs: Vec<FlexTensor>,
    /// Mean and unbiased variance of each batch norm, with the parameters that follow them.
    pub statistics: Vec<Statistics>,
    /// The way back.
    pub tape: Tape,
}

/// The batch statistics of one batch norm.
pub struct Statistics {
    /// The running mean.
    pub mean_id: ParamId,
    /// The running variance.
    pub var_id: ParamId,
    /// `[C]`.
    pub mean: Vec<f32>,
    /// `[C]`, unbiased.
    pub var: Vec<f32>,
}

/// What the way back reads, node by node.
pub struct Tape {
    records: Vec<Step>,
    outputs: Vec<ValueId>,
    /// The graph inputs, with the number of elements of flat ones.
    inputs: Vec<(ValueId, usize)>,
    values: usize,
    params: usize,
    weights: bool,
}

/// Gradients that a tape ends in.
pub struct Gradients {
    /// Of the parameters, flat, by their ids; none where the outputs do not depend on one or it was not wanted.
    pub params: Vec<Option<FlexTensor>>,
    /// Of the flat graph inputs, by their order.
    pub inputs: Vec<Option<Vec<f32>>>,
}

/// One node's record.
struct Step {
    output: ValueId,
    record: Record,
}

/// Factors of the images, where samples are dropped.
type Mask = Option<Arc<[f32]>>;

impl Tape {
    /// Takes the gradients of the outputs from burn's, and gives those of parameters and inputs as burn tensors.
    pub fn gradients(
        self,
        outputs: &[Tensor<2>],
        gradients: &mut burn::tensor::Gradients,
    ) -> [Vec<Option<Tensor<1>>>; 2] {
        let of_output = |rows: &Tensor<2>| {
            let [n, classes] = rows.dims();
            let g = rows.grad_remove(gradients).unwrap_or_else(|| Tensor::zeros([n, classes], &rows.device()));
            let image: Tensor<4> = g.reshape([n, classes, 1, 1]);
            image.try_into_primitive::<Flex>().expect("the gradient of a CPU tensor is one")
        };
        let outputs = outputs.iter().map(of_output).collect();
        let Gradients { params, inputs } = self.backward(outputs);
        let flat = |values: Vec<f32>| {
            let len = values.len();
            planes::tensor(values, [len])
        };
        let burns = |all: Vec<Option<FlexTensor>>| {
            all.into_iter().map(|g| g.map(Tensor::<1>::from_primitive::<Flex>)).collect()
        };
        [burns(params), burns(inputs.into_iter().map(|g| g.map(flat)).collect())]
    }
}

/// An error that names a node.
fn unsupported(node: &str, why: &str) -> TrainError {
    TrainError::Unsupported { node: node.into(), why: why.into() }
}
