//! ONNX files: the graph IR written as one, one read as graph IR, and what travels with it.
//!
//! Takes [`Verified`](crate::ir::Verified) models and gives bytes ([`write()`]), takes bytes and gives a
//! [`Model`](crate::ir::Model) to verify ([`read()`]); [`ModelInfo`] is the meaning of the metadata. Touches no files: reading
//! and writing them is left to the caller.
//!
//! The two directions fit each other: a file written here, read and written again is the same, byte for byte.

mod half;
mod metadata;
mod mirror;
mod names;
pub mod proto;
mod read;
mod write;

#[cfg(test)]
mod tests;

pub use metadata::ModelInfo;
pub use read::{ExternalFiles, read, read_tensor, read_with_files};
pub use write::{Target, WriteOptions, write};

use crate::ir::IrError;

/// What can be wrong with an ONNX file, or with a model that shall become one.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum OnnxError {
    /// An option of the writer has no meaning.
    #[error("{option} {got}: {why}")]
    Option {
        /// The option as on the command line.
        option: &'static str,
        /// What was given.
        got: String,
        /// What is allowed.
        why: String,
    },
    /// The bytes are no ONNX model, or only part of one.
    #[error("{file}: {why}")]
    File {
        /// What the caller called the file.
        file: String,
        /// What is missing, and where.
        why: String,
    },
    /// Valid ONNX, or valid IR, but outside of what this crate translates.
    #[error("node `{node}` ({op}): {why}")]
    Unsupported {
        /// Name of the node.
        node: String,
        /// Its operator.
        op: String,
        /// What is not supported, and what is.
        why: String,
    },
    /// A node breaks the rules of its operator.
    #[error("node `{node}` ({op}): {why} (the model is malformed)")]
    Node {
        /// Name of the node.
        node: String,
        /// Its operator.
        op: String,
        /// Which rule.
        why: String,
    },
    /// A constant cannot be used.
    #[error("tensor `{tensor}`: {why}")]
    Tensor {
        /// Name of the tensor.
        tensor: String,
        /// What is wrong with it.
        why: String,
    },
    /// An input, an output or a value in between cannot be used.
    #[error("value `{value}`: {why}")]
    Value {
        /// Name of the value.
        value: String,
        /// What is wrong with it.
        why: String,
    },
    /// Shapes do not fit.
    #[error(transparent)]
    Graph(#[from] IrError),
    /// The metadata lacks a key, or its text has the wrong form.
    #[error("metadata key `{key}`: {why}")]
    Metadata {
        /// The key.
        key: &'static str,
        /// What is wrong, and where the text comes from.
        why: String,
    },
}

/// The version of the file format that belongs to `opset`, by the table of releases in the
/// [ONNX versioning rules](https://github.com/onnx/onnx/blob/main/docs/Versioning.md).
fn ir_version(opset: i64) -> i64 {
    match opset {
        ..=8 => 3,
        9 => 4,
        10 => 5,
        11 => 6,
        12..=14 => 7,
        15..=18 => 8,
        19..=20 => 9,
        21..=22 => 10,
        23 => 11,
        24 => 12,
        25.. => 13,
    }
}
