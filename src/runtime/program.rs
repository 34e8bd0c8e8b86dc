//! A compiled model as plain data: what runs, in which order, on which buffers.
//!
//! Takes nothing; gives [`Program`], which `emit` fills and a session carries out. All of it can be written to a file: it
//! knows neither a device nor the graph it came from.

use serde::Serialize;

use super::kernel::{FOLD, Kernel};

/// Weights of one binding start at a multiple of this many bytes, the largest offset alignment that WebGPU allows.
pub const BINDING_ALIGN: usize = 256;

/// A model compiled for one batch size.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Program {
    /// Name of the graph.
    pub name: String,
    /// Images in a run.
    pub batch: usize,
    /// Bytes of each value buffer, multiples of 16.
    pub buffers: Vec<u64>,
    /// Bytes that all values would take without sharing buffers.
    pub unshared_bytes: u64,
    /// Where the caller's tensors go.
    pub inputs: Vec<Port>,
    /// The nodes in order.
    pub steps: Vec<Step>,
    /// Where the results lie after the last step.
    pub outputs: Vec<Port>,
    /// The packed parameters; a large array that belongs in a file of its own.
    #[serde(skip)]
    pub weights: Vec<f32>,
}

/// A tensor at the border of a program.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Port {
    /// Name of the graph input or output.
    pub name: String,
    /// Dimensions, with the batch put in.
    pub shape: Vec<usize>,
    /// Index into [`Program::buffers`]; the tensor starts at the buffer's first byte.
    pub buffer: usize,
}

/// One node of the graph.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Step {
    /// Path of the node.
    pub node: String,
    /// Name of its op.
    pub op: &'static str,
    /// Dimensions of its value.
    pub shape: Vec<usize>,
    /// The buffer that holds its value once the dispatches have run, and until a later step reuses it.
    pub buffer: usize,
    /// What computes it; empty where the value is the very contents of an input.
    pub dispatches: Vec<Dispatch>,
}

/// One launch of a kernel.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Dispatch {
    /// The kernel.
    pub kernel: Kernel,
    /// Its override constants; those that are missing keep their default. One pipeline for each distinct set.
    pub constants: Vec<(&'static str, u32)>,
    /// The contents of its `Sizes` uniform, word by word.
    pub sizes: Vec<u32>,
    /// What it reads, in the order of the bindings.
    pub reads: Vec<Source>,
    /// The buffer it writes.
    pub write: usize,
    /// Workgroups in x and y.
    pub workgroups: [u32; 2],
}

/// Something a kernel reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// A value buffer, by index.
    Buffer(usize),
    /// A part of [`Program::weights`].
    Weights {
        /// First byte, a multiple of `BINDING_ALIGN`.
        offset: usize,
        /// Number of bytes.
        bytes: usize,
    },
}

impl Program {
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
