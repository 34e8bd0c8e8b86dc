//! `search`: from data to a genotype.
//!
//! Takes options; runs the search and writes `config.yaml`, the logs and `genotype.yaml` into the run's folder.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;
use serde::Serialize;

use super::args::Common;
use super::args_train::TrainOptions;
use super::progress::Console;
use super::{Verdict, stage};
use crate::data::Dataset;
use crate::genotype::Genotype;
use crate::search::config::SearchConfig;
use crate::search::run::search;
use crate::train::config_merge::record;
use crate::train::device::DeviceChoice;

/// Search an architecture; writes genotype.yaml and logs into the run's folder
#[derive(Debug, Args)]
pub struct SearchArgs {
    #[command(flatten)]
    options: TrainOptions,
    /// What is searched with: idarts backtracks, pc-darts does not, darts has neither partial channels nor beta, darts-2nd
    /// is that with the second-order gradient, at four times the passes
    #[arg(long, value_name = "METHOD", value_parser = ["idarts", "pc-darts", "darts", "darts-2nd"])]
    method: Option<String>,
    /// Folder of the run
    #[arg(long, value_name = "DIR", default_value = "runs/search")]
    out: PathBuf,
}

/// What a search ends with.
#[derive(Debug, Serialize)]
pub struct SearchReport {
    pub genotype: String,
    pub epochs: usize,
    pub best_valid_top1: f64,
    pub final_valid_top1: f64,
    pub valid_loss: f64,
    pub wall_s: f64,
    pub steps: usize,
    pub device: String,
}

pub fn run(args: &SearchArgs, common: &Common, console: &Console) -> Result<Verdict> {
    let options = &args.options;
    let preset = options.preset.as_deref().unwrap_or("cifar10");
    let mut layers = SearchConfig::layers(preset)?;
    options.lay_over(&mut layers, common.threads)?;
    if let Some(method) = &args.method {
        layers.flag("--method", "method", method.as_str())?;
    }
    let (config, messages) = SearchConfig::resolved(&layers)?;
    messages.iter().for_each(|m| console.message(m));
    stage::threads(config.threads, common)?;
    let data = stage::dataset(options.data.as_deref(), preset, console)?;
    let (report, found) = search_stage(&config, &data, options.device, &args.out, console)?;
    console.result(&report, |r| {
        format!(
            "{}\nvalidation top-1 {:.2} % in {:.0} s; written to {}",
            found.to_python().trim_end(),
            100.0 * r.final_valid_top1,
            r.wall_s,
            r.genotype
        )
    })?;
    Ok(Verdict::Right)
}

/// Searches, and writes the run's folder.
///
/// # Errors
/// Everything that a search can fail of.
pub fn search_stage(
    config: &SearchConfig,
    data: &Dataset,
    device: DeviceChoice,
    out: &Path,
    console: &Console,
) -> Result<(SearchReport, Genotype)> {
    super::args_train::check_classes(config.classes, data)?;
    let (device, name) = device.open()?;
    stage::folder(out)?;
    let header = format!("idarts-compile {} search on {name}, data {}", env!("CARGO_PKG_VERSION"), data.name);
    stage::write(&out.join("config.yaml"), &record(config, &header)?)?;
    console.message(format_args!("searching on {name}, {} epochs of batch {}", config.epochs, config.batch_size));
    let mut progress = stage::Progress::new(console, "search");
    let found = search(config, data, &device, out, &mut |event| progress.show(event))?;
    let path = out.join("genotype.yaml");
    found.genotype.write(&path)?;
    let report = SearchReport {
        genotype: path.display().to_string(),
        epochs: config.epochs,
        best_valid_top1: found.best_top1,
        final_valid_top1: found.last.top1,
        valid_loss: found.last.loss,
        wall_s: found.wall_s,
        steps: found.steps,
        device: name,
    };
    Ok((report, found.genotype))
}
