//! The graph IR: what every stage reads and writes.
//!
//! Takes nothing from the rest of the crate; gives [`Graph`], [`Op`], [`Model`] and the tools to build, check, print and
//! price them. It knows neural network operators and nothing of architecture search: a supernet is an ordinary graph
//! whose architecture weights are graph inputs, read by [`Op::WeightedSum`].
//!
//! # Meaning
//!
//! A graph is a list of nodes in an order in which every value is made before it is read. A node applies one [`Op`] to
//! its input values and makes exactly one output value. Values are dense float32 tensors; images are NCHW. Every value has
//! a [`Shape`], whose first dimension is usually [`Dim::Batch`]: the number of images, known only at run time.
//! Parameters (weights, batch-norm statistics) are not values: an op names them by [`ParamId`], and their contents lie
//! beside the graph in [`Weights`], so that one graph serves for counting, training and export.
//!
//! A quantised graph is an ordinary one: [`Op::QuantizeDequantize`] rounds a value to numbers that eight bits can hold, and a
//! parameter with [`Codes`] has contents of that kind. Both stay float32, so that every back end computes the same thing.
//!
//! In training mode `BatchNorm` uses the statistics of the batch and `DropPath` drops; in evaluation mode `BatchNorm` uses
//! the running statistics and `DropPath` is the identity. All other ops mean the same in both.

mod build;
mod cost;
mod graph;
mod imported;
mod op;
mod params;
mod print;
mod quantize;
mod shape;
mod verify;
mod window;

pub use build::Builder;
pub use cost::{Cost, NodeCost, cost};
pub use graph::{Graph, Node, NodeId, Output, Value, ValueId};
pub use imported::{Arithmetic, Imported, broadcast};
pub use op::{MixTerm, Op, Unit};
pub use params::{Init, Param, ParamId, Role, Tensor, Weights, fingerprint};
pub use quantize::{Codes, Grid, Width};
pub use shape::{Dim, Shape};
pub use verify::{Model, Verified, verify};
pub use window::{Range, Window};

/// What can be wrong with a graph. Each variant names the node and says whose fault it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IrError {
    /// An op was given the wrong number of inputs.
    #[error("node `{node}`: {op} takes {expected} inputs, got {got} (malformed graph)")]
    Arity {
        /// Path of the node.
        node: String,
        /// Name of the op.
        op: &'static str,
        /// What the op takes, in words.
        expected: &'static str,
        /// How many inputs the node has.
        got: usize,
    },
    /// Shapes of inputs or parameters do not fit the op.
    #[error("node `{node}`: {op} on {shapes}: {why}")]
    Shape {
        /// Path of the node.
        node: String,
        /// Name of the op.
        op: &'static str,
        /// The shapes of the inputs, printed.
        shapes: String,
        /// What does not fit.
        why: String,
    },
    /// The contents of a parameter are unusable.
    #[error("parameter `{param}`: {why}")]
    NotFinite {
        /// Name of the parameter.
        param: String,
        /// Which element, and what that means.
        why: String,
    },
    /// The graph itself is inconsistent; a builder or pass of this crate made it so.
    #[error("{place}: {why} (a bug in the compiler, please report it)")]
    Invariant {
        /// The node, value or parameter.
        place: String,
        /// The property that does not hold.
        why: String,
    },
}
