//! JSON lines: one object an epoch, readable while the run goes on.
//!
//! Takes serialisable values; appends them to a file, flushed line by line.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::TrainError;

/// A file of JSON lines.
#[derive(Debug)]
pub struct Lines {
    path: PathBuf,
    file: File,
}

impl Lines {
    /// Starts the file anew.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn create(path: &Path) -> Result<Self, TrainError> {
        let file = File::create(path).map_err(|source| TrainError::Io { path: path.into(), source })?;
        Ok(Self { path: path.into(), file })
    }

    /// Appends `value` as one line.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&mut self, value: &impl Serialize) -> Result<(), TrainError> {
        let io = |source| TrainError::Io { path: self.path.clone(), source };
        let mut line = serde_json::to_string(value).map_err(|e| io(e.into()))?;
        line.push('\n');
        self.file.write_all(line.as_bytes()).and_then(|()| self.file.flush()).map_err(io)
    }
}
