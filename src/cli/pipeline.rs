//! `pipeline`: search, build and validate in one go.
//!
//! Takes a preset, data and a folder; runs both stages as `search` and `build` do, into the folders `search` and `build`
//! below it. What both are configured with is written first, so that a pipeline can go on from anywhere.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::{Deserialize, Serialize};

use super::Verdict;
use super::args::Common;
use super::build::{BuildReport, Plan, build_stage};
use super::export::ExportOptions;
use super::progress::Console;
use super::search::{SearchPlan, SearchReport, search_stage};
use super::stage::{self, RunOptions};
use super::stop::Stop;
use crate::onnx::Target;
use crate::runtime::AdapterChoice;
use crate::search::config::SearchConfig;
use crate::train::checkpoint::{CheckpointError, is_begun, is_unfinished};
use crate::train::config::TrainConfig;
use crate::train::config_merge::record;
use crate::train::device::DeviceChoice;

/// Search, build and validate in one go
#[derive(Debug, Args)]
pub struct PipelineArgs {
    /// Built-in configuration of both stages
    #[arg(long, value_name = "NAME", default_value = "quick", value_parser = ["quick", "cifar10", "imagenet"])]
    preset: String,
    /// Images: CIFAR-10 or CIFAR-100 "binary version", or class folders; `quick` has images of its own
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Folder of the run
    #[arg(long, value_name = "DIR", default_value = "runs/pipeline")]
    out: PathBuf,
    #[command(flatten)]
    run: RunOptions,
    /// Set one value of a stage, such as search.epochs=2 or build.weights.lr=0.05
    #[arg(long, value_name = "STAGE.KEY=VALUE")]
    set: Vec<String>,
    /// Seed of all that is random
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Device to train on: auto, cpu, cuda[:N], vulkan[:N] or metal[:N]
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    device: DeviceChoice,
    /// Adapter to validate on, as `devices` prints them; the best one if absent
    #[arg(long, value_name = "ADAPTER")]
    adapter: Option<AdapterChoice>,
}

/// What a pipeline ends with.
#[derive(Debug, Serialize)]
struct PipelineReport {
    onnx: String,
    top1: Option<f64>,
    validated: bool,
    search: SearchReport,
    build: BuildReport,
    wall_s: f64,
}

/// What a pipeline goes on from.
#[derive(Debug, Serialize, Deserialize)]
struct Recorded {
    /// Where the data are; none for built-in data.
    data: Option<PathBuf>,
    search: serde_yaml::Value,
    build: serde_yaml::Value,
}

const CONFIG: &str = "config.yaml";

pub fn run(args: &PipelineArgs, common: &Common, console: &Console) -> Result<Verdict> {
    let start = std::time::Instant::now();
    let out = args.run.resume.as_ref().unwrap_or(&args.out);
    let folders = ["search", "build"].map(|stage| out.join(stage));
    let recorded = args.run.resume.as_deref().map(Recorded::read).transpose()?;
    let (searching, building) = configurations(args, recorded.as_ref(), common, console)?;
    stage::threads(searching.threads, common)?;
    let built_in = if recorded.as_ref().is_some_and(|r| r.data.is_none()) { "quick" } else { &args.preset };
    let data_path = args.data.clone().or(recorded.as_ref().and_then(|r| r.data.clone()));
    let data = stage::dataset(data_path.as_deref(), built_in, console)?;
    if recorded.is_none() {
        for folder in &folders {
            if is_unfinished(folder)? {
                return Err(CheckpointError::Occupied { folder: out.clone() }.into());
            }
        }
        stage::folder(out)?;
        Recorded::write(out, data_path.as_deref(), &searching, &building)?;
    }
    let stop = &Stop::listen()?;
    // A stage that has left no checkpoint yet begins.
    let options = |folder: &Path| -> Result<RunOptions> {
        let begun = is_begun(folder)?;
        Ok(RunOptions { resume: args.run.resume.clone().filter(|_| begun), ..args.run.clone() })
    };
    let (search_run, build_run) = (options(&folders[0])?, options(&folders[1])?);
    let (data_path, device) = (data_path.as_deref(), args.device);
    let plan = SearchPlan { config: &searching, data: &data, data_path, device, run: &search_run, stop };
    let go_on = || format!("`idarts-compile pipeline --resume {}` goes on with both stages", out.display());
    let (search, genotype) = search_stage(&plan, &folders[0], console).with_context(go_on)?;
    let folder = &folders[1];
    let onnx = folder.join("model.onnx");
    let plan = Plan {
        genotype: &genotype,
        config: &building,
        data: Some(&data),
        weights: None,
        device,
        data_path,
        run: &build_run,
        stop,
        folder: Some(folder),
        onnx: &onnx,
        export: ExportOptions {
            opset: 17,
            static_batch: None,
            keep_bn: false,
            keep_reduce: false,
            half: false,
            target: Target::Onnx,
            int8: None,
            validate: true,
            adapter: args.adapter.clone().unwrap_or_default(),
            samples: 64,
        },
    };
    let build = build_stage(&plan, console).with_context(go_on)?;
    let verdict = if build.exported.agrees() { Verdict::Right } else { Verdict::Wrong };
    let report = PipelineReport {
        onnx: build.onnx.clone(),
        top1: build.top1,
        validated: build.exported.validated,
        search,
        build,
        wall_s: start.elapsed().as_secs_f64(),
    };
    console.result(&report, |r| {
        format!(
            "genotype: {}\n{}\nvalidated: {}\n{:.0} s in all",
            r.search.genotype,
            r.build.text(),
            r.validated,
            r.wall_s
        )
    })?;
    Ok(verdict)
}

impl Recorded {
    fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(CONFIG);
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("--resume {}: there is no pipeline to go on with", folder.display()))?;
        serde_yaml::from_str(&text).with_context(|| format!("{}: not the configuration of a pipeline", path.display()))
    }

    fn write(folder: &Path, data: Option<&Path>, search: &SearchConfig, build: &TrainConfig) -> Result<()> {
        let value = |e| anyhow::Error::new(e).context("the configuration as YAML");
        let recorded = Self {
            data: data.map(stage::absolute),
            search: serde_yaml::to_value(search).map_err(value)?,
            build: serde_yaml::to_value(build).map_err(value)?,
        };
        let header = concat!("idarts-compile ", env!("CARGO_PKG_VERSION"), " pipeline");
        stage::write(&folder.join(CONFIG), &record(&recorded, header)?)
    }
}

/// The configurations of both stages: the recorded ones, or those of the preset; then what the options say.
fn configurations(
    args: &PipelineArgs,
    recorded: Option<&Recorded>,
    common: &Common,
    console: &Console,
) -> Result<(SearchConfig, TrainConfig)> {
    let (mut search, mut build) = (SearchConfig::layers(&args.preset)?, TrainConfig::layers(&args.preset)?);
    if let Some(recorded) = recorded {
        for (layers, values) in [(&mut search, &recorded.search), (&mut build, &recorded.build)] {
            let text = serde_yaml::to_string(values).context("the recorded configuration")?;
            layers.text(Path::new(CONFIG), &text)?;
        }
    }
    for assignment in &args.set {
        match assignment.split_once('.') {
            Some(("search", rest)) => search.set(rest)?,
            Some(("build", rest)) => build.set(rest)?,
            _ => bail!("--set {assignment}: begin with `search.` or `build.`, the stage that it is for"),
        }
    }
    for layers in [&mut search, &mut build] {
        if let Some(seed) = args.seed {
            layers.flag("--seed", "seed", seed)?;
        }
        if let Some(threads) = common.threads {
            layers.flag("--threads", "threads", threads as u64)?;
        }
    }
    let (search, said) = SearchConfig::resolved(&search)?;
    said.iter().for_each(|m| console.message(format_args!("search: {m}")));
    let (build, said) = TrainConfig::resolved(&build)?;
    said.iter().for_each(|m| console.message(format_args!("build: {m}")));
    Ok((search, build))
}
