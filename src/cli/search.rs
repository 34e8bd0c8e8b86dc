//! `search`: from data to a genotype.
//!
//! Takes options; runs the search and writes `config.yaml`, the logs and `genotype.yaml` into the run's folder.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;
use serde::Serialize;

use super::Verdict;
use super::args::Common;
use super::args_train::TrainOptions;
use super::progress::Console;
use super::seeds::{self, Group, Seeds};
use super::stage::{self, RunOptions};
use super::stop::Stop;
use crate::data::Dataset;
use crate::genotype::Genotype;
use crate::search::config::SearchConfig;
use crate::search::run::search;
use crate::train::config_merge::record;
use crate::train::device::DeviceChoice;

/// Search an architecture; writes genotype.yaml, logs and checkpoints into the run's folder
#[derive(Debug, Args)]
pub struct SearchArgs {
    #[command(flatten)]
    options: TrainOptions,
    #[command(flatten)]
    run: RunOptions,
    /// What is searched with: idarts backtracks, pc-darts does not, darts has neither partial channels nor beta, darts-2nd
    /// is that with the second-order gradient, at four times the passes
    #[arg(long, value_name = "METHOD", value_parser = ["idarts", "pc-darts", "darts", "darts-2nd"])]
    method: Option<String>,
    /// Several searches one after another, each in a folder of its own below the run's: 0..3 for the seeds 0, 1 and 2, or
    /// 0,4,7; the result is that of the best final validation accuracy
    #[arg(long, value_name = "SEEDS", conflicts_with_all = ["seed", "resume"])]
    seeds: Option<Seeds>,
    /// Folder of the run
    #[arg(long, value_name = "DIR", default_value = "runs/search")]
    out: PathBuf,
}

/// What a search ends with.
#[derive(Debug, Clone, Serialize)]
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

/// What is searched, with all choices made.
pub struct SearchPlan<'a> {
    pub config: &'a SearchConfig,
    pub data: &'a Dataset,
    /// Where the data are; none for built-in data.
    pub data_path: Option<&'a Path>,
    pub device: DeviceChoice,
    pub run: &'a RunOptions,
    pub stop: &'a Stop,
}

pub fn run(args: &SearchArgs, common: &Common, console: &Console) -> Result<Verdict> {
    let options = &args.options;
    let out = args.run.resume.as_ref().unwrap_or(&args.out);
    let group = args.run.resume.as_deref().map(Group::read).transpose()?.flatten();
    let preset = options.preset.as_deref().unwrap_or("cifar10");
    let mut layers = SearchConfig::layers(preset)?;
    let recorded = match (&args.run.resume, &group) {
        (None, _) => None,
        (Some(_), Some(group)) => {
            layers.file(&out.join("config.yaml"))?;
            Some(group.data.clone())
        }
        (Some(folder), None) => Some(stage::recorded(&mut layers, folder, "search")?),
    };
    options.lay_over(&mut layers, common.threads)?;
    if let Some(method) = &args.method {
        layers.flag("--method", "method", method.as_str())?;
    }
    let (config, messages) = SearchConfig::resolved(&layers)?;
    messages.iter().for_each(|m| console.message(m));
    stage::threads(config.threads, common)?;
    let built_in = if recorded == Some(None) { "quick" } else { preset };
    let data_path = options.data.clone().or(recorded.flatten());
    let data = stage::dataset(data_path.as_deref(), built_in, console)?;
    let stop = &Stop::listen()?;
    let (data_path, device, run) = (data_path.as_deref(), options.device, &args.run);
    let plan = SearchPlan { config: &config, data: &data, data_path, device, run, stop };
    let seeds = args.seeds.clone().or(group.map(|group| group.seeds));
    match seeds {
        Some(seeds) => seeds::run(&seeds, &plan, out, console)?,
        None => {
            let (report, found) = search_stage(&plan, out, console)?;
            console.result(&report, |r| {
                format!(
                    "{}\nvalidation top-1 {:.2} % in {:.0} s; written to {}",
                    found.to_python().trim_end(),
                    100.0 * r.final_valid_top1,
                    r.wall_s,
                    r.genotype
                )
            })?;
        }
    }
    Ok(Verdict::Right)
}

/// Searches, and writes the run's folder.
///
/// # Errors
/// Everything that a search can fail of.
pub fn search_stage(plan: &SearchPlan, out: &Path, console: &Console) -> Result<(SearchReport, Genotype)> {
    let (config, data) = (plan.config, plan.data);
    super::args_train::check_classes(config.classes, data)?;
    let (device, name) = plan.device.open()?;
    stage::folder(out)?;
    let header = format!("idarts-compile {} search on {name}, data {}", env!("CARGO_PKG_VERSION"), data.name);
    console.message(format_args!("searching on {name}, {} epochs of batch {}", config.epochs, config.batch_size));
    let mut progress = stage::Progress::new(console, plan.stop, "search");
    let files = vec![("config.yaml", record(config, &header)?)];
    let run = plan.run.run(out, plan.data_path, &name, files);
    let found = search(config, data, &device, &run, &mut |event| progress.show(event))?;
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
