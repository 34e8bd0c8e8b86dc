//! What the commands that search and train have in common: data, run folders, going on, progress.
//!
//! Takes options and events; gives data sets, runs and configurations to go on from, and shows how far a stage is.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;

use super::args::{Common, not_negative};
use super::progress::{Bar, Console};
use super::set_threads;
use super::stop::Stop;
use crate::data::Dataset;
use crate::train::checkpoint::{Origin, Run};
use crate::train::config_merge::Layers;
use crate::train::progress::Event;

/// How a run starts and what it leaves behind on the way.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Training")]
pub struct RunOptions {
    /// Go on with the interrupted run in this folder: its configuration and data are used
    #[arg(long, value_name = "DIR", conflicts_with_all = ["out", "preset"])]
    pub resume: Option<PathBuf>,
    /// Minutes between checkpoints within an epoch; there is one after every epoch too
    #[arg(long, value_name = "MINUTES", default_value = "10", value_parser = not_negative)]
    pub checkpoint_every: f64,
}

impl RunOptions {
    /// The run in `folder` on `data`, computed on `device`, that begins with `files`.
    pub fn run(&self, folder: &Path, data: Option<&Path>, device: &str, files: Vec<(&'static str, String)>) -> Run {
        Run {
            folder: folder.into(),
            resume: self.resume.is_some(),
            every: Duration::try_from_secs_f64(60.0 * self.checkpoint_every).unwrap_or(Duration::MAX),
            data: data.map(absolute),
            device: device.into(),
            files,
        }
    }
}

/// The path from the root, so that a run finds its data from anywhere; one that cannot be told is kept as it was given.
pub fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.into())
}

/// Lays the configuration of the run in `folder` over `layers`, and gives where its data are.
///
/// # Errors
/// There is no checkpoint, or it is of another stage than `stage`.
pub fn recorded(layers: &mut Layers, folder: &Path, stage: &str) -> Result<Option<PathBuf>> {
    let origin = Origin::read(folder).context("--resume")?;
    if origin.stage != stage {
        bail!("--resume {}: this run is of `{}`; use that command", folder.display(), origin.stage);
    }
    layers.text(&folder.join("checkpoint"), &origin.config)?;
    Ok(origin.data)
}

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

/// Shows the events of a stage: a bar for each epoch, and a line when it is over. Answers with an end when a signal came.
pub struct Progress<'a> {
    console: &'a Console,
    stop: &'a Stop,
    what: &'static str,
    epochs: usize,
    bar: Option<Bar>,
    ending: bool,
}

impl<'a> Progress<'a> {
    /// For the stage called `what`.
    pub fn new(console: &'a Console, stop: &'a Stop, what: &'static str) -> Self {
        stop.in_stage(true);
        Self { console, stop, what, epochs: 0, bar: None, ending: false }
    }

    /// One event.
    pub fn show(&mut self, event: Event) -> ControlFlow<()> {
        match event {
            Event::Message(text) => self.console.message(text),
            Event::Warning(text) => self.console.warn(text),
            Event::EpochStart { epoch, epochs, steps, done } => {
                self.epochs = epochs;
                let name = format!("{} epoch {}/{epochs}", self.what, epoch + 1);
                let bar = self.console.bar(steps as u64, &name);
                bar.advance(done as u64);
                self.bar = Some(bar);
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
        if self.stop.signal().is_none() {
            return ControlFlow::Continue(());
        }
        if !self.ending {
            self.ending = true;
            self.console.message("ending after a checkpoint; a second signal ends at once");
        }
        ControlFlow::Break(())
    }
}

impl Drop for Progress<'_> {
    fn drop(&mut self) {
        self.stop.in_stage(false);
    }
}
