//! Training: one module over the IR, its optimiser, losses and the fit loop.
//!
//! Takes verified models, data and settings; gives trained weights and measurements. The supernet and the final network
//! are trained by the same code; what the architecture weights are is left to `search`.

pub mod augmentation;
pub mod calibrate;
pub mod checkpoint;
mod checkpoint_file;
pub mod config;
pub mod config_check;
mod config_error;
mod config_keys;
mod config_locate;
pub mod config_merge;
pub mod device;
#[cfg(test)]
mod differences;
pub mod drop_path;
pub mod evaluate;
pub mod fit;
mod host;
pub mod keeper;
mod log;
pub mod loss;
pub mod memory;
pub mod module;
pub mod optim;
mod origin;
pub mod progress;
pub mod recipe;
pub mod schedule;
mod tensor_file;
mod torch;
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
    #[error(
        "training diverged: {what}; a smaller learning rate may help (`--set weights.lr=...`, in a search arch.lr too)"
    )]
    Diverged {
        /// What is no number.
        what: String,
    },
    /// The user asked for an end.
    #[error("interrupted in epoch {} of {epochs}{}", epoch + 1, match resume {
        Some(folder) => format!("; a checkpoint is written, go on by `--resume {}`", folder.display()),
        None => ", and nothing is kept: only a run with a folder (`--out DIR`) can go on".into(),
    })]
    Interrupted {
        /// From 0.
        epoch: usize,
        /// Of the whole run.
        epochs: usize,
        /// The folder with the checkpoint.
        resume: Option<PathBuf>,
    },
    /// More memory than there is.
    #[error(
        "batch_size {batch}: training needs about {needed} MiB more, and {available} MiB are free; {}",
        match fits {
            0 => "not even one image fits, a smaller network may".into(),
            fits => format!("batch_size {fits} would fit"),
        }
    )]
    Memory {
        /// Images in a step.
        batch: usize,
        /// MiB that training takes.
        needed: u64,
        /// MiB that are left.
        available: u64,
        /// The largest batch that fits.
        fits: u64,
    },
    /// The numbers of a run left all bounds.
    #[error("epoch {} of {epochs}: {source}{}", epoch + 1, match resume {
        Some(((done, step), folder)) => format!(
            "; the run can go on from its checkpoint after {done} epochs and {step} steps, with other values too: \
             `--resume {} --set weights.lr=...`",
            folder.display()
        ),
        None => String::new(),
    })]
    AtEpoch {
        /// From 0.
        epoch: usize,
        /// Of the whole run.
        epochs: usize,
        /// The last checkpoint and its folder, if there is one.
        resume: Option<(keeper::Place, PathBuf)>,
        /// What failed.
        source: Box<TrainError>,
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
    /// There is no checkpoint to go on from, or none can be written.
    #[error(transparent)]
    Checkpoint(#[from] checkpoint::CheckpointError),
    /// Weights cannot be read or written.
    #[error(transparent)]
    Weights(#[from] weights::WeightsError),
    /// The model is not one that can be trained.
    #[error(transparent)]
    Ir(#[from] IrError),
    /// A pass made a mistake.
    #[error(transparent)]
    Pass(#[from] PassError),
}

/// Why a quantised network is not trained: rounding has no gradient.
const QUANTIZED: &str = "it rounds to eight bits, which has no gradient; train the network before it is quantised";

/// Why a model of another program is not trained.
const IMPORTED: &str = "it occurs in imported models only, which are run and validated and not trained";

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

/// The loss of a training pass, if it is still one of a network that learns: at most a hundred times that of guessing.
///
/// # Errors
/// [`TrainError::Diverged`] with the words `what`.
pub fn converging(values: Vec<f32>, classes: usize, what: &str) -> Result<f64, TrainError> {
    let loss = finite(values, what)?;
    let guessing = (classes.max(2) as f64).ln();
    if loss > 100.0 * guessing {
        return Err(TrainError::Diverged { what: format!("{what} is {loss:.1}, guessing has {guessing:.1}") });
    }
    Ok(loss)
}

/// A generator of its own for every purpose and number (of an epoch or a step), so that a run can go on anywhere.
pub fn generator(seed: u64, purpose: &str, number: usize) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let purpose = purpose.bytes().fold(0u64, |h, b| h.wrapping_mul(31).wrapping_add(u64::from(b)));
    rng.set_stream((purpose << 32) | number as u64);
    rng
}
