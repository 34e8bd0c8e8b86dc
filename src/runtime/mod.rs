//! Runs a verified model on a GPU through the shaders of `shaders/`, and says how well the result agrees.
//!
//! Takes a verified model, the choice of an adapter and input tensors; gives output tensors and comparisons. Reading model
//! files, preparing images and printing are left to others.
//!
//! ```text
//! Verified<Model> -+-> passes::plan -> emit (Program: plain data) -> Session (wgpu) -> outputs -+-> compare
//!                  +-> Reference (host, float64 accumulators) -------------------------> outputs -+
//! ```
//!
//! A [`Program`] is everything that depends on the model: which kernels run in which order, on which buffers, with which
//! sizes and packed weights. A [`Session`] is the same made real on one device.

mod adapter;
mod compare;
mod device;
mod emit;
mod inputs;
mod kernel;
mod layers;
mod pack;
mod pipeline_cache;
mod plan_file;
mod profile;
mod program;
mod readback;
mod reference;
mod session;
mod storage;

#[cfg(test)]
mod cases;
#[cfg(test)]
mod naive;
#[cfg(test)]
mod tests;

pub use adapter::{AdapterChoice, AdapterFacts, BackendName, DeviceKind, LimitFacts, adapters};
pub use compare::{Comparison, Tolerance, compare};
pub use device::Gpu;
pub use emit::{Target, emit};
pub use kernel::{Binding, Kernel};
pub use layers::{LayerComparison, NonFinite, compare_layers, first_non_finite};
pub use pipeline_cache::CacheFacts;
pub use profile::{LaunchTime, Profile};
pub use program::{Dispatch, Place, Port, Program, Source, Step};
pub use readback::Started;
pub use reference::{Precision, Reference, Steps};
pub use session::{Session, SessionFacts};
pub use storage::Storage;

use crate::ir::Shape;

/// What can go wrong when a model runs. Each variant says whose fault it is.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The machine has no adapter at all, so nothing could be validated on a GPU.
    #[error(
        "no GPU adapter was found, not even a software one; install a Vulkan driver, or for a software one on Debian and \
         Ubuntu: apt-get install mesa-vulkan-drivers"
    )]
    NoAdapter,
    /// Adapters exist, but none fits the choice.
    #[error("no adapter fits `{wanted}`; found: {found}")]
    AdapterNotFound {
        /// The choice, printed.
        wanted: String,
        /// The adapters there are, printed.
        found: String,
    },
    /// The text that should choose an adapter cannot be understood.
    #[error("adapter `{text}`: {why}; write [vulkan:|gl:|metal:|dx12:]NAME or an index as `devices` prints it")]
    AdapterSyntax {
        /// The text.
        text: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The model does not fit the adapter.
    #[error("{what}: the model needs {needed}, adapter `{adapter}` has {available}")]
    Limit {
        /// Name of the adapter.
        adapter: String,
        /// The limit, and the value or parameter that needs it.
        what: String,
        /// What the model needs.
        needed: u64,
        /// What the adapter has.
        available: u64,
    },
    /// The adapter cannot run compute shaders at all (old OpenGL).
    #[error("adapter `{adapter}` cannot run compute shaders; choose another with --adapter")]
    NoCompute {
        /// Name of the adapter.
        adapter: String,
    },
    /// Values were to be stored in 16 bits, and the adapter's shaders know no such numbers.
    #[error(
        "adapter `{adapter}` has no 16-bit floats in shaders; leave --fp16 out, or choose with --adapter one for which \
         `devices` prints them"
    )]
    NoHalf {
        /// Name of the adapter.
        adapter: String,
    },
    /// The driver refused to open the adapter.
    #[error("adapter `{adapter}` could not be opened: {why}")]
    Open {
        /// Name of the adapter.
        adapter: String,
        /// The driver's words.
        why: String,
    },
    /// The inputs given are not those of the model.
    #[error("the model takes {expected} inputs, got {got}")]
    InputCount {
        /// Inputs of the graph.
        expected: usize,
        /// Tensors given.
        got: usize,
    },
    /// An input has the wrong shape, or its data do not fill its shape.
    #[error("input `{name}` must be {expected}, got {got:?} with {elements} elements{note}")]
    InputShape {
        /// Name of the input.
        name: String,
        /// Its shape in the graph.
        expected: Shape,
        /// The shape given.
        got: Vec<usize>,
        /// The elements given.
        elements: usize,
        /// More about what was expected, such as the batch of the session.
        note: String,
    },
    /// Something that the IR allows and no kernel does.
    #[error("node `{node}`: {op} cannot run: {why}")]
    Unsupported {
        /// Path of the node.
        node: String,
        /// Name of the op.
        op: &'static str,
        /// What is not supported.
        why: String,
    },
    /// Two tensors to be compared do not have one shape.
    #[error("`{name}` has shape {got:?}, expected is {expected:?}")]
    CompareShape {
        /// What was compared.
        name: String,
        /// Shape of the result.
        got: Vec<usize>,
        /// Shape of the expected value.
        expected: Vec<usize>,
    },
    /// The files of a plan cannot be written, read or used.
    #[error("plan {}: {why}", path.display())]
    Plan {
        /// The file.
        path: std::path::PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The device has too little memory.
    #[error("out of memory on adapter `{adapter}` while {doing}; try a smaller batch")]
    OutOfMemory {
        /// Name of the adapter.
        adapter: String,
        /// What was being done.
        doing: String,
    },
    /// The device went away: driver reset, crash or removal.
    #[error("adapter `{adapter}` was lost while {doing}: {why}")]
    DeviceLost {
        /// Name of the adapter.
        adapter: String,
        /// What was being done.
        doing: String,
        /// The driver's words.
        why: String,
    },
    /// The driver or the validation of wgpu rejected a call.
    #[error("adapter `{adapter}` failed while {doing}: {why} (a bug in this program or in the driver)")]
    Device {
        /// Name of the adapter.
        adapter: String,
        /// What was being done.
        doing: String,
        /// The message of wgpu.
        why: String,
    },
}
