//! A compiled model as plain data: what runs, in which order, on which buffers.
//!
//! Takes nothing; gives [`Program`], which `emit` fills and a session carries out. All of it can be written to a file: it
//! knows neither a device nor the graph it came from.

use serde::{Deserialize, Serialize};

use super::kernel::{FOLD, Kernel};
use super::storage::Storage;
use crate::ir::{Dim, Shape};
use crate::passes::plan::PART_ALIGN;

/// Weights of one binding start at a multiple of this many bytes, as values do.
pub const BINDING_ALIGN: usize = PART_ALIGN as usize;

/// A model compiled for one batch size.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Program {
    /// Name of the graph.
    pub name: String,
    /// Images in a run.
    pub batch: usize,
    /// What the buffers of values and weights hold. The tensors of the caller are float32, whatever it is.
    pub storage: Storage,
    /// Bytes of each value buffer, multiples of 16.
    pub buffers: Vec<u64>,
    /// Bytes that all values would take without sharing buffers.
    pub unshared_bytes: u64,
    /// Where the caller's tensors go.
    pub inputs: Vec<Port>,
    /// The groups of nodes in order.
    pub steps: Vec<Step>,
    /// Where the results lie after the last step.
    pub outputs: Vec<Port>,
    /// The packed parameters, rounded to the storage; a large array that belongs in a file of its own.
    #[serde(skip)]
    pub weights: Vec<f32>,
}

/// A tensor at the border of a program.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Port {
    /// Name of the graph input or output.
    pub name: String,
    /// Dimensions, with the batch put in.
    pub shape: Vec<usize>,
    /// Whether its first dimension is the batch.
    pub batched: bool,
    /// Where it lies.
    pub place: Place,
}

impl Port {
    /// The shape as the graph has it.
    pub fn symbolic(&self) -> Shape {
        let mut shape = Shape::fixed(&self.shape);
        if self.batched {
            shape.0[0] = Dim::Batch;
        }
        shape
    }
}

/// One group of nodes, called like its last node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Path of the node.
    pub node: String,
    /// Name of its op.
    pub op: String,
    /// Dimensions of its value.
    pub shape: Vec<usize>,
    /// Where its value lies once the dispatches have run, and until a later step reuses the memory.
    pub place: Place,
    /// What computes it; empty where the value already lies there.
    pub dispatches: Vec<Dispatch>,
}

/// One launch of a kernel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Dispatch {
    /// The kernel.
    pub kernel: Kernel,
    /// Its override constants; those that are missing keep their default. One pipeline for each distinct set.
    pub constants: Vec<(String, u32)>,
    /// The contents of its `Sizes` uniform, word by word.
    pub sizes: Vec<u32>,
    /// What it reads, in the order of the bindings.
    pub reads: Vec<Source>,
    /// What it writes. Values that it reads may lie beside it in the same buffer.
    pub write: Place,
    /// Workgroups in x and y.
    pub workgroups: [u32; 2],
}

/// A part of a value buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Index into [`Program::buffers`].
    pub buffer: usize,
    /// First byte, a multiple of `BINDING_ALIGN`.
    pub offset: u64,
    /// Number of bytes, a multiple of 16.
    pub bytes: u64,
}

/// Something a kernel reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// A value.
    Value(Place),
    /// A part of [`Program::weights`].
    Weights {
        /// First byte, a multiple of `BINDING_ALIGN`.
        offset: usize,
        /// Number of bytes.
        bytes: usize,
    },
}

impl Program {
    /// Bytes of the packed parameters.
    pub fn weight_bytes(&self) -> u64 {
        self.storage.bytes() as u64 * self.weights.len() as u64
    }

    /// Every dispatch in order.
    pub fn dispatches(&self) -> impl Iterator<Item = &Dispatch> {
        self.steps.iter().flat_map(|s| &s.dispatches)
    }
}

/// The folded workgroup counts for `count` workgroups.
pub fn fold(count: usize) -> [u32; 2] {
    [count.min(FOLD) as u32, count.div_ceil(FOLD) as u32]
}

/// The folded workgroup counts for `threads` threads of `kernel`.
pub fn fold_threads(kernel: Kernel, threads: usize) -> [u32; 2] {
    fold(threads.div_ceil(kernel.workgroup()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workgroups_beyond_the_limit_of_a_dimension_go_into_y() {
        let cases = [(1, [1, 1]), (65535, [65535, 1]), (65536, [65535, 2]), (200_000, [65535, 4])];
        for (count, expected) in cases {
            assert_eq!(fold(count), expected);
            assert!(expected[0] as usize * expected[1] as usize >= count);
        }
        assert_eq!(fold_threads(Kernel::Relu, 65), [2, 1]);
    }
}
