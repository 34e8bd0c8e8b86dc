//! Keeps a run: when a checkpoint is due, how long the run has taken, and what is said when it ends early.
//!
//! Takes the moments of a stage's loop; gives checkpoints and errors. The loops of retraining and of the search share it.

use std::path::PathBuf;
use std::time::Instant;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::TrainError;
use super::checkpoint::{Loaded, Origin, Run, Store};
use super::checkpoint_file::Tensors;

/// A place in a run: epochs that are over, and steps of the one after them.
pub type Place = (usize, usize);

/// Keeps one run, from its start or from its last checkpoint.
#[derive(Debug)]
pub struct Keeper {
    store: Option<Store>,
    folder: Option<PathBuf>,
    epochs: usize,
    start: Instant,
    saved: Instant,
    saved_at: Option<Place>,
    /// Seconds before this process.
    before: f64,
}

impl Keeper {
    /// Of a run of `epochs` epochs that leaves nothing behind.
    pub fn without_folder(epochs: usize) -> Self {
        let now = Instant::now();
        Self { store: None, folder: None, epochs, start: now, saved: now, saved_at: None, before: 0.0 }
    }

    /// Of a run in a folder, and the checkpoint that it goes on from, if it is to go on; writes the files that the run begins
    /// with.
    ///
    /// # Errors
    /// No checkpoint to go on from, or a new run in the folder of one that is not over.
    pub fn open<S: DeserializeOwned>(
        run: &Run,
        origin: Origin,
        epochs: usize,
    ) -> Result<(Self, Option<Loaded<S>>), TrainError> {
        let store = Store::new(run, origin);
        let loaded = if run.resume {
            Some(store.load::<S>()?)
        } else {
            store.clear()?;
            None
        };
        for (name, text) in &run.files {
            let path = run.folder.join(name);
            std::fs::write(&path, text).map_err(|source| TrainError::Io { path, source })?;
        }
        let folder = Some(run.folder.clone());
        Ok((Self { store: Some(store), folder, ..Self::without_folder(epochs) }, loaded))
    }

    /// Says from where the run goes on, and how long it had taken until then.
    pub fn resumed(&mut self, at: Place, seconds: f64) {
        (self.saved_at, self.before) = (Some(at), seconds);
    }

    /// Whether it is time for a checkpoint within an epoch.
    pub fn is_due(&self) -> bool {
        self.store.as_ref().is_some_and(|store| self.saved.elapsed() >= store.every)
    }

    /// Writes a checkpoint after `steps` steps of the whole run. Without a folder `tensors` is not asked for.
    ///
    /// # Errors
    /// When it cannot be written, or the tensors cannot be read.
    pub fn save(
        &mut self,
        at: Place,
        steps: usize,
        state: &impl Serialize,
        tensors: impl FnOnce() -> Result<Tensors, TrainError>,
    ) -> Result<(), TrainError> {
        let Some(store) = &self.store else { return Ok(()) };
        store.save(steps, at.0 >= self.epochs, state, &tensors()?)?;
        (self.saved, self.saved_at) = (Instant::now(), Some(at));
        Ok(())
    }

    /// Seconds of the whole run.
    pub fn wall_s(&self) -> f64 {
        self.before + self.start.elapsed().as_secs_f64()
    }

    /// The run ends because it was asked to, in `epoch`; what is kept was saved before.
    pub fn interrupted(&self, epoch: usize) -> TrainError {
        let resume = self.saved_at.and(self.folder.clone());
        TrainError::Interrupted { epoch, epochs: self.epochs, resume }
    }

    /// The run ends because its numbers left all bounds in `epoch`.
    pub fn diverged(&self, epoch: usize, source: TrainError) -> TrainError {
        let resume = self.saved_at.zip(self.folder.clone());
        TrainError::AtEpoch { epoch, epochs: self.epochs, resume, source: Box::new(source) }
    }
}
