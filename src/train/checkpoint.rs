//! Checkpoints: what a run needs to go on as if it had never stopped.
//!
//! Takes the state of a stage (any serialisable value) and tensors; keeps the two newest of them in the run's folder, each
//! written as a whole or not at all, and gives back the newest that can be used, saying of every newer one why it cannot.
//! What the state holds is left to the stages, the file's format to `checkpoint_file`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::TrainError;
use super::checkpoint_file::{self as file, Tensors};
use super::module::{GraphModule, download, upload};
use super::optim::Sgd;
pub use super::origin::Origin;
use crate::ir::{Graph, Tensor, Weights};

/// Why there is no checkpoint to go on from, or none can be written.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// A file or folder cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file is not whole.
    #[error("{}: damaged: {why}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What shows it.
        why: String,
    },
    /// A checkpoint of something else.
    #[error("{}: of another run: {why}", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What differs.
        why: String,
    },
    /// The network has a parameter that the checkpoint has not.
    #[error(
        "the checkpoint has no tensor of shape {shape:?} for `{name}`: another version of the program wrote it; go on with that one, or start a new run"
    )]
    Tensor {
        /// The parameter.
        name: String,
        /// Its shape.
        shape: Vec<usize>,
    },
    /// There is none.
    #[error("{}: there is no checkpoint here to go on from; give the folder of a run that was interrupted", dir.display())]
    Missing {
        /// Where they would be.
        dir: PathBuf,
    },
    /// There are some, but none can be used.
    #[error("no checkpoint can be used: {}; go on as that run was configured, or start a new run in another folder", reasons.join("; "))]
    Unusable {
        /// What is wrong with each, the newest first.
        reasons: Vec<String>,
    },
    /// A run would overwrite another one that is not over.
    #[error(
        "{}: an unfinished run is here; go on with it by `--resume {}`, or give another folder, or remove this one",
        folder.display(),
        folder.display()
    )]
    Occupied {
        /// The run's folder.
        folder: PathBuf,
    },
}

/// Where a run keeps its files, and how it is to start.
#[derive(Debug, Clone)]
pub struct Run {
    /// The existing folder.
    pub folder: PathBuf,
    /// Whether to go on from the newest checkpoint in the folder.
    pub resume: bool,
    /// Time between two checkpoints within an epoch.
    pub every: Duration,
    /// Where the data are, to be found again; none for built-in data.
    pub data: Option<PathBuf>,
    /// What computes, for the record.
    pub device: String,
    /// Files that the run begins with, by name: its configuration and what else it goes on from.
    pub files: Vec<(&'static str, String)>,
}

impl Run {
    /// A new run on built-in data in an existing folder, with a checkpoint every ten minutes.
    pub fn new(folder: &Path, device: &str) -> Self {
        let every = Duration::from_secs(600);
        Self { folder: folder.into(), resume: false, every, data: None, device: device.into(), files: Vec::new() }
    }
}

/// The checkpoints of one run.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    origin: Origin,
    /// Time between two checkpoints within an epoch.
    pub every: Duration,
}

/// What a run goes on from.
#[derive(Debug)]
pub struct Loaded<S> {
    /// The stage's state.
    pub state: S,
    /// Its tensors.
    pub tensors: Tensors,
    /// What the user should know: files that were passed over, values that differ.
    pub warnings: Vec<String>,
}

/// How many checkpoints are kept.
const KEPT: usize = 2;

impl Origin {
    /// Of the newest checkpoint in the run's `folder` that can be read.
    ///
    /// # Errors
    /// There is none.
    pub fn read(folder: &Path) -> Result<Self, CheckpointError> {
        let dir = folder.join("checkpoint");
        let mut reasons = Vec::new();
        for path in newest_first(&dir)? {
            match file::read(&path) {
                Ok(file) => return Ok(file.origin),
                Err(error) => reasons.push(error.to_string()),
            }
        }
        Err(none(dir, reasons))
    }
}

impl Store {
    /// The checkpoints of `run`.
    pub fn new(run: &Run, origin: Origin) -> Self {
        Self { dir: run.folder.join("checkpoint"), origin, every: run.every }
    }

    /// Writes a checkpoint after `steps` steps of the whole run, which is `finished` or not, and removes all but the newest
    /// two.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(
        &self,
        steps: usize,
        finished: bool,
        state: &impl Serialize,
        tensors: &Tensors,
    ) -> Result<(), CheckpointError> {
        fs::create_dir_all(&self.dir).map_err(|source| CheckpointError::Io { path: self.dir.clone(), source })?;
        let path = self.dir.join(format!("{steps:010}.safetensors"));
        file::write(&path, finished, &self.origin, state, tensors)?;
        for old in newest_first(&self.dir)?.into_iter().skip(KEPT) {
            fs::remove_file(&old).map_err(|source| CheckpointError::Io { path: old.clone(), source })?;
        }
        Ok(())
    }

    /// The newest checkpoint that can be used.
    ///
    /// # Errors
    /// There is none; with what is wrong with each.
    pub fn load<S: DeserializeOwned>(&self) -> Result<Loaded<S>, CheckpointError> {
        let mut reasons = Vec::new();
        for path in newest_first(&self.dir)? {
            match self.open(&path) {
                Ok((state, tensors, notes)) => {
                    let passed = reasons.iter().map(|r| format!("{r}; the checkpoint before it is used"));
                    return Ok(Loaded { state, tensors, warnings: passed.chain(notes).collect() });
                }
                Err(error) => reasons.push(error.to_string()),
            }
        }
        Err(none(self.dir.clone(), reasons))
    }

    fn open<S: DeserializeOwned>(&self, path: &Path) -> Result<(S, Tensors, Vec<String>), CheckpointError> {
        let file = file::read(path)?;
        let foreign = |why| CheckpointError::Foreign { path: path.into(), why };
        let notes = self.origin.compare(&file.origin).map_err(foreign)?;
        let state = file.state(path)?;
        Ok((state, file.tensors, notes))
    }

    /// Makes room for a new run. The checkpoints of a finished one are removed.
    ///
    /// # Errors
    /// [`CheckpointError::Occupied`] by an unfinished one, or the old checkpoints cannot be removed.
    pub fn clear(&self) -> Result<(), CheckpointError> {
        let folder = self.dir.parent().unwrap_or(&self.dir);
        if is_unfinished(folder)? {
            return Err(CheckpointError::Occupied { folder: folder.into() });
        }
        for path in newest_first(&self.dir)? {
            fs::remove_file(&path).map_err(|source| CheckpointError::Io { path, source })?;
        }
        Ok(())
    }
}

/// Whether the run in `folder` has left a checkpoint, whole or not.
///
/// # Errors
/// The folder cannot be read.
pub fn is_begun(folder: &Path) -> Result<bool, CheckpointError> {
    Ok(!newest_first(&folder.join("checkpoint"))?.is_empty())
}

/// Whether there is a run in `folder` that is not over. Checkpoints that cannot be read do not count.
///
/// # Errors
/// The folder cannot be read.
pub fn is_unfinished(folder: &Path) -> Result<bool, CheckpointError> {
    let files = newest_first(&folder.join("checkpoint"))?;
    Ok(files.iter().find_map(|path| file::read(path).ok()).is_some_and(|file| !file.finished))
}

/// The weights of a module, with its running statistics, and the momentum of its optimiser.
///
/// # Errors
/// When the device cannot be read.
pub fn pack(module: &GraphModule, sgd: &Sgd) -> Result<Tensors, TrainError> {
    let params = &module.graph().params;
    let mut tensors: Tensors =
        params.iter().zip(module.weights()?.0).map(|(p, tensor)| (format!("weight/{}", p.name), tensor)).collect();
    for (param, buffer) in params.iter().zip(sgd.buffers()) {
        if let Some(buffer) = buffer {
            let tensor = Tensor::new(param.shape.clone(), download(buffer.clone())?);
            tensors.insert(format!("momentum/{}", param.name), tensor);
        }
    }
    Ok(tensors)
}

/// Puts what [`pack`] gave back.
///
/// # Errors
/// A tensor that is missing or has another shape: the run is of another graph.
pub fn unpack(module: &mut GraphModule, sgd: &mut Sgd, tensors: &Tensors) -> Result<(), TrainError> {
    let graph: &Graph = module.graph();
    let mut weights = Vec::with_capacity(graph.params.len());
    let mut buffers = Vec::with_capacity(graph.params.len());
    for param in &graph.params {
        let find = |kind: &str| {
            let tensor = tensors.get(&format!("{kind}/{}", param.name));
            tensor.filter(|t| t.shape == param.shape)
        };
        let weight = find("weight")
            .ok_or_else(|| CheckpointError::Tensor { name: param.name.clone(), shape: param.shape.clone() })?;
        weights.push(weight.clone());
        buffers.push(find("momentum").map(|t| upload(&t.data, module.device())));
    }
    module.load(&Weights(weights));
    sgd.restore(buffers);
    Ok(())
}

/// The checkpoint files of a folder, by their numbers, the largest first. None if there is no folder.
fn newest_first(dir: &Path) -> Result<Vec<PathBuf>, CheckpointError> {
    let io = |source| CheckpointError::Io { path: dir.into(), source };
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(io(e)),
    };
    let mut numbered = Vec::new();
    for entry in entries {
        let path = entry.map_err(io)?.path();
        let stem = path.file_stem().and_then(|s| s.to_str());
        let whole = path.extension().is_some_and(|e| e == "safetensors");
        if let (true, Some(number)) = (whole, stem.and_then(|s| s.parse::<u64>().ok())) {
            numbered.push((number, path));
        }
    }
    numbered.sort_unstable_by(|a, b| b.cmp(a));
    Ok(numbered.into_iter().map(|(_, path)| path).collect())
}

fn none(dir: PathBuf, reasons: Vec<String>) -> CheckpointError {
    if reasons.is_empty() { CheckpointError::Missing { dir } } else { CheckpointError::Unusable { reasons } }
}

#[cfg(test)]
mod tests;
