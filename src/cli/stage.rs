//! What the commands that search and train have in common: data, run folders, progress.
//!
//! Takes options and events; gives data sets and shows how far a stage is.

use std::path::Path;

use anyhow::{Context, Result, bail};

use super::args::Common;
use super::progress::{Bar, Console};
use super::set_threads;
use crate::data::Dataset;
use crate::train::progress::Event;

/// Training images of the built-in synthetic set.
const SYNTHETIC_TRAIN: usize = 6000;
/// Its test images.
const SYNTHETIC_TEST: usize = 1000;

/// The data set in `path`; without one the built-in synthetic set where the preset is `quick`.
///
/// # Errors
/// No data set, or one that cannot be read.
pub fn dataset(path: Option<&Path>, preset: &str, console: &Console) -> Result<Dataset> {
    let Some(path) = path else {
        if preset != "quick" {
            bail!("--data DIR is missing: the preset `{preset}` has no built-in images (the preset `quick` has)");
        }
        console.message(format_args!("data: the built-in synthetic set, {SYNTHETIC_TRAIN} training images"));
        return Ok(Dataset::synthetic(0, SYNTHETIC_TRAIN, SYNTHETIC_TEST)?);
    };
    let bar = console.bar(0, "images read");
    let data = Dataset::open_with(path, Some(&|done, all| bar.set(done as u64, all as u64)))
        .with_context(|| format!("--data {}", path.display()))?;
    drop(bar);
    let [h, w] = data.image_size;
    console.message(format_args!(
        "data: {} with {} classes, {} training and {} test images, {h}x{w} pixels",
        data.name,
        data.classes.len(),
        data.train.len(),
        data.test.len()
    ));
    Ok(data)
}

/// Makes the folder of a run.
///
/// # Errors
/// When it cannot be made.
pub fn folder(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path).with_context(|| format!("--out {}: cannot make the folder", path.display()))
}

/// Writes a text file of a run.
///
/// # Errors
/// When it cannot be written.
pub fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// Fixes the number of threads that a configuration asks for, unless the option did.
///
/// # Errors
/// When threads cannot be started.
pub fn threads(configured: Option<usize>, common: &Common) -> Result<()> {
    match (common.threads, configured) {
        (None, Some(threads)) => set_threads(threads),
        _ => Ok(()),
    }
}

/// Shows the events of a stage: a bar for each epoch, and a line when it is over.
pub struct Progress<'a> {
    console: &'a Console,
    what: &'static str,
    epochs: usize,
    bar: Option<Bar>,
}

impl<'a> Progress<'a> {
    /// For the stage called `what`.
    pub fn new(console: &'a Console, what: &'static str) -> Self {
        Self { console, what, epochs: 0, bar: None }
    }

    /// One event.
    pub fn show(&mut self, event: Event) {
        match event {
            Event::Message(text) => self.console.message(text),
            Event::Warning(text) => self.console.warn(text),
            Event::EpochStart { epoch, epochs, steps } => {
                self.epochs = epochs;
                let name = format!("{} epoch {}/{epochs}", self.what, epoch + 1);
                self.bar = Some(self.console.bar(steps as u64, &name));
            }
            Event::Step { loss } => {
                if let Some(bar) = &self.bar {
                    bar.advance(1);
                    if let Some(loss) = loss {
                        bar.note(format_args!("loss {loss:.3}"));
                    }
                }
            }
            Event::EpochEnd { epoch, line } => {
                self.bar = None;
                self.console.message(format_args!("{} epoch {}/{}: {line}", self.what, epoch + 1, self.epochs));
            }
        }
    }
}
