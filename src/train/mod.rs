//! Training: one module over the IR, its optimiser, losses and the fit loop.
//!
//! Takes verified models, data and settings; gives trained weights and measurements. The supernet and the final network
//! are trained by the same code; what the architecture weights are is left to `search`.

pub mod config;
pub mod config_check;
mod config_error;
mod config_keys;
mod config_locate;
pub mod config_merge;
pub mod drop_path;
pub mod loss;
pub mod module;
pub mod optim;
pub mod recipe;
pub mod schedule;
pub mod weights;

pub use config_error::{ConfigError, Place};

/// What can go wrong while training.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The graph has something that the trainable module cannot do.
    #[error("node `{node}` cannot be trained: {why}")]
    Unsupported {
        /// Path of the node.
        node: String,
        /// What is not there.
        why: String,
    },
    /// The device failed.
    #[error("device: {why}")]
    Device {
        /// What it said.
        why: String,
    },
    /// The numbers left the range of float32.
    #[error("training diverged: {what}; try a smaller learning rate (`--set`)")]
    Diverged {
        /// What is no number.
        what: String,
    },
}
