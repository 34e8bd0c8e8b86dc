//! JSON lines: one object an epoch, readable while the run goes on.
//!
//! Takes serialisable values; appends them to a file, flushed line by line. Without a file they are kept in memory alone.
//! All lines so far are at hand for a checkpoint.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

use serde::Serialize;

use super::TrainError;

/// A log of JSON lines.
#[derive(Debug)]
pub struct Lines {
    file: Option<(PathBuf, File)>,
    text: String,
}

impl Lines {
    /// Starts the log at `path`, if it has one, with the lines of `text`: those of the checkpoint that a run goes on from,
    /// or none. What else the file held is lost.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn begin(path: Option<PathBuf>, text: String) -> Result<Self, TrainError> {
        let open = |path: PathBuf| {
            let written = File::create(&path).and_then(|mut file| file.write_all(text.as_bytes()).map(|()| file));
            match written {
                Ok(file) => Ok((path, file)),
                Err(source) => Err(TrainError::Io { path, source }),
            }
        };
        let file = path.map(open).transpose()?;
        Ok(Self { file, text })
    }

    /// Appends `value` as one line.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&mut self, value: &impl Serialize) -> Result<(), TrainError> {
        let path = || self.file.as_ref().map_or_else(|| "the log".into(), |(path, _)| path.clone());
        let mut line = serde_json::to_string(value).map_err(|e| TrainError::Io { path: path(), source: e.into() })?;
        line.push('\n');
        self.text.push_str(&line);
        match &mut self.file {
            Some((path, file)) => file
                .write_all(line.as_bytes())
                .and_then(|()| file.flush())
                .map_err(|source| TrainError::Io { path: path.clone(), source }),
            None => Ok(()),
        }
    }

    /// All lines so far.
    pub fn text(&self) -> &str {
        &self.text
    }
}
