//! Training: one module over the IR, its optimiser, losses and the fit loop.
//!
//! Takes verified models, data and settings; gives trained weights and measurements. The supernet and the final network
//! are trained by the same code; what the architecture weights are is left to `search`.

pub mod augmentation;
pub mod config;
pub mod config_check;
mod config_error;
mod config_keys;
mod config_locate;
pub mod config_merge;
pub mod device;
pub mod drop_path;
pub mod evaluate;
pub mod fit;
mod host;
mod log;
pub mod loss;
pub mod module;
pub mod optim;
pub mod progress;
pub mod recipe;
pub mod schedule;
mod walk;
pub mod weights;

use std::path::PathBuf;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::data::DataError;
use crate::ir::IrError;
use crate::passes::PassError;

pub use config_error::{ConfigError, Place};
pub use log::Lines;

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
    /// The device failed, or is not there.
    #[error("{why}")]
    Device {
        /// What it said.
        why: String,
    },
    /// The numbers left the range of float32.
    #[error("training diverged: {what}; try a smaller learning rate (`--set weights.lr=...`)")]
    Diverged {
        /// What is no number.
        what: String,
    },
    /// A log cannot be written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The data cannot be read.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The model is not one that can be trained.
    #[error(transparent)]
    Ir(#[from] IrError),
    /// A pass made a mistake.
    #[error(transparent)]
    Pass(#[from] PassError),
}

/// The one element of a loss, if it is a finite number.
///
/// # Errors
/// [`TrainError::Diverged`] with the words `what`.
pub fn finite(values: Vec<f32>, what: &str) -> Result<f64, TrainError> {
    match values.as_slice() {
        [value] if value.is_finite() => Ok(f64::from(*value)),
        other => Err(TrainError::Diverged { what: format!("{what} is {other:?}") }),
    }
}

/// A generator of its own for every purpose and epoch, so that a run can go on at any epoch.
pub fn generator(seed: u64, purpose: &str, epoch: usize) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let purpose = purpose.bytes().fold(0u64, |h, b| h.wrapping_mul(31).wrapping_add(u64::from(b)));
    rng.set_stream((purpose << 32) | epoch as u64);
    rng
}
