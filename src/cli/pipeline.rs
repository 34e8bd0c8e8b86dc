//! `pipeline`: search, build and validate in one go.
//!
//! Takes a preset, data and a folder; runs both stages as `search` and `build` do, into the folders `search` and `build`
//! below it.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;
use serde::Serialize;

use super::args::Common;
use super::build::{BuildReport, Plan, build_stage};
use super::export::ExportOptions;
use super::progress::Console;
use super::search::{SearchReport, search_stage};
use super::{Verdict, stage};
use crate::runtime::AdapterChoice;
use crate::search::config::SearchConfig;
use crate::train::config::TrainConfig;
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

pub fn run(args: &PipelineArgs, common: &Common, console: &Console) -> Result<Verdict> {
    let start = std::time::Instant::now();
    let (searching, building) = configurations(args, common, console)?;
    stage::threads(searching.threads, common)?;
    let data = stage::dataset(args.data.as_deref(), &args.preset, console)?;
    let (search, genotype) = search_stage(&searching, &data, args.device, &args.out.join("search"), console)?;
    let folder = args.out.join("build");
    let onnx = folder.join("model.onnx");
    let plan = Plan {
        genotype: &genotype,
        config: &building,
        data: Some(&data),
        weights: None,
        device: args.device,
        folder: Some(&folder),
        onnx: &onnx,
        export: ExportOptions {
            opset: 17,
            static_batch: None,
            keep_bn: false,
            validate: true,
            adapter: args.adapter.clone().unwrap_or_default(),
            samples: 64,
        },
    };
    let build = build_stage(&plan, console)?;
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

/// The configurations of both stages.
fn configurations(args: &PipelineArgs, common: &Common, console: &Console) -> Result<(SearchConfig, TrainConfig)> {
    let (mut search, mut build) = (SearchConfig::layers(&args.preset)?, TrainConfig::layers(&args.preset)?);
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
