//! `build`: from a genotype to a validated ONNX file.
//!
//! Takes a genotype and options; lowers the network, trains it (or loads weights, or keeps the starting ones), exports it
//! and validates the file through the shaders. The stages themselves are library calls; export and validation of a built
//! network are in `export`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::Serialize;

use super::args::{Common, above_zero};
use super::args_train::{TrainOptions, check_classes};
use super::export::{ExportOptions, Exported, check_form, export};
use super::int8::{self, Int8Args};
use super::progress::Console;
use super::stage::{self, RunOptions};
use super::stop::Stop;
use super::{Verdict, load};
use crate::data::Dataset;
use crate::genotype::Genotype;
use crate::ir::{Cost, Model, cost, verify};
use crate::lower::{Cells, Network, Stem, lower};
use crate::onnx::Target;
use crate::runtime::AdapterChoice;
use crate::train::config::{self, TrainConfig};
use crate::train::config_merge::record;
use crate::train::evaluate::Evaluation;
use crate::train::fit::fit;
use crate::train::weights;

/// Build the network of a genotype: train it, export ONNX, validate the file through the shaders
#[derive(Debug, Args)]
pub struct BuildArgs {
    #[arg(value_name = "GENOTYPE", help = load::GENOTYPE_HELP, required_unless_present = "resume")]
    genotype: Option<String>,
    #[command(flatten)]
    options: TrainOptions,
    #[command(flatten)]
    run: RunOptions,
    /// Frame of the network; that of the preset if absent
    #[arg(long, value_parser = ["cifar", "imagenet"])]
    network: Option<String>,
    /// Weights: safetensors, or a PyTorch checkpoint (.pt, .pth.tar), with our names or those of DARTS code; trained further only
    /// with --epochs
    #[arg(long, value_name = "FILE", conflicts_with = "resume")]
    weights: Option<PathBuf>,
    /// The ONNX file, or the folder of the run; runs/NAME if absent
    #[arg(long, value_name = "FILE.onnx|DIR")]
    out: Option<PathBuf>,
    /// Version of the ONNX operator set, 13 to 22
    #[arg(long, value_name = "N", default_value_t = 17, value_parser = clap::value_parser!(i64).range(13..=22))]
    opset: i64,
    /// Fix the number of images in the file
    #[arg(long, value_name = "N", value_parser = above_zero)]
    static_batch: Option<usize>,
    /// Keep batch norms apart instead of folding them into convolutions
    #[arg(long)]
    keep_bn: bool,
    /// Keep factorised reductions as slice, two convolutions and concat instead of one convolution
    #[arg(long)]
    keep_reduce: bool,
    /// Weights and arithmetic of the file in float16; inputs and outputs stay float32
    #[arg(long)]
    fp16: bool,
    /// Programs that the file is for: all that read ONNX, or candle-onnx too, which knows fewer operators
    #[arg(long, default_value = "onnx", value_parser = ["onnx", "candle"])]
    target: String,
    #[command(flatten)]
    int8: Int8Args,
    /// Do not run the exported file
    #[arg(long)]
    no_validate: bool,
    /// Adapter to validate on, as `devices` prints them; the best one if absent
    #[arg(long, value_name = "ADAPTER")]
    adapter: Option<AdapterChoice>,
    /// Images that the exported file is compared on; they are kept in samples.safetensors with the trained network's logits
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = above_zero)]
    samples: usize,
}

/// What `build` ends with.
#[derive(Debug, Serialize)]
pub struct BuildReport {
    pub onnx: String,
    pub params: u64,
    pub macs: u64,
    pub top1: Option<f64>,
    pub top5: Option<f64>,
    pub best_top1: Option<f64>,
    #[serde(flatten)]
    pub exported: Exported,
    pub steps: usize,
    pub wall_s: f64,
    pub device: String,
}

/// What is built, with all choices made.
pub struct Plan<'a> {
    pub genotype: &'a Genotype,
    pub config: &'a TrainConfig,
    /// Images; without them nothing is trained.
    pub data: Option<&'a Dataset>,
    pub weights: Option<&'a Path>,
    pub device: crate::train::device::DeviceChoice,
    /// Where the data are; none for built-in data.
    pub data_path: Option<&'a Path>,
    pub run: &'a RunOptions,
    pub stop: &'a Stop,
    /// Where config, logs and weights go; `None` leaves the ONNX file alone.
    pub folder: Option<&'a Path>,
    pub onnx: &'a Path,
    pub export: ExportOptions,
}

/// The genotype in the folder of a run.
const GENOTYPE: &str = "genotype.yaml";

pub fn run(args: &BuildArgs, common: &Common, console: &Console) -> Result<Verdict> {
    let options = &args.options;
    let genotype = match (&args.genotype, &args.run.resume) {
        (Some(genotype), _) => load::genotype(genotype)?,
        (None, Some(folder)) => load::genotype(&folder.join(GENOTYPE).display().to_string())?,
        (None, None) => bail!("GENOTYPE is missing: give a file, or the name of one that comes with the program"),
    };
    let int8 = args.int8.chosen()?;
    let export = ExportOptions {
        opset: args.opset,
        static_batch: args.static_batch,
        keep_bn: args.keep_bn,
        keep_reduce: args.keep_reduce,
        half: args.fp16,
        target: if args.target == "candle" { Target::Candle } else { Target::Onnx },
        int8,
        validate: !args.no_validate,
        adapter: args.adapter.clone().unwrap_or_default(),
        samples: args.samples,
    };
    export.check()?;
    let preset = match (options.preset.as_deref(), args.network.as_deref()) {
        (Some(preset), _) => preset,
        (None, Some("imagenet")) => "imagenet",
        (None, _) => "cifar10",
    };
    let mut layers = TrainConfig::layers(preset)?;
    let resume = args.run.resume.as_deref();
    let recorded = resume.map(|folder| stage::recorded(&mut layers, folder, "build")).transpose()?;
    options.lay_over(&mut layers, common.threads)?;
    if let Some(network) = &args.network {
        layers.flag("--network", "network", network.as_str())?;
    }
    let (mut config, messages) = TrainConfig::resolved(&layers)?;
    messages.iter().for_each(|m| console.message(m));
    stage::threads(config.threads, common)?;
    if args.weights.is_some() && options.epochs.is_none() {
        // Given weights are used as they are, unless epochs are asked for by name.
        config.epochs = 0;
    }
    let built_in = if recorded == Some(None) { "quick" } else { preset };
    let data_path = options.data.clone().or(recorded.flatten());
    if export.int8.is_some() && data_path.is_none() && built_in != "quick" {
        bail!(int8::NEEDS_DATA);
    }
    let wants_data = data_path.is_some() || config.epochs > 0 || export.int8.is_some();
    let data = wants_data.then(|| stage::dataset(data_path.as_deref(), built_in, console)).transpose()?;
    let default = PathBuf::from("runs").join(&genotype.name);
    let out = args.run.resume.as_ref().or(args.out.as_ref()).unwrap_or(&default);
    let is_file = out.extension().is_some_and(|e| e.eq_ignore_ascii_case("onnx"));
    let (folder, onnx) = if is_file { (None, out.clone()) } else { (Some(out.as_path()), out.join("model.onnx")) };
    let plan = Plan {
        genotype: &genotype,
        config: &config,
        data: data.as_ref(),
        weights: args.weights.as_deref(),
        device: options.device,
        data_path: data_path.as_deref(),
        run: &args.run,
        stop: &Stop::listen()?,
        folder,
        onnx: &onnx,
        export,
    };
    let report = build_stage(&plan, console)?;
    let verdict = if report.exported.agrees() { Verdict::Right } else { Verdict::Wrong };
    console.result(&report, BuildReport::text)?;
    Ok(verdict)
}

/// Builds, and writes what the plan says.
///
/// # Errors
/// Everything that a stage can fail of.
pub fn build_stage(plan: &Plan, console: &Console) -> Result<BuildReport> {
    let config = plan.config;
    let (device, name) = plan.device.open()?;
    let network = network(plan)?;
    let graph = lower(&network, Cells::Fixed(plan.genotype))?;
    let logits = graph.output("logits").context("the network has no logits")?;
    let Cost { params, macs, .. } = cost(&graph, &[logits]);
    let mut model = Model::initial(graph, config.seed);
    if let Some(path) = plan.weights {
        weights::assign(&mut model, weights::read(path)?, path).context("--weights")?;
    }
    let header = format!("idarts-compile {} build of {}", env!("CARGO_PKG_VERSION"), plan.genotype.name);
    let files = vec![("config.yaml", record(config, &header)?), (GENOTYPE, plan.genotype.to_yaml())];
    plan.folder.map_or(Ok(()), stage::folder)?;
    let model = verify(model)?;
    // Training that ends in a file which cannot be written would be for nothing.
    check_form(&model, &plan.export)?;
    console.message(format_args!(
        "{}: {params} parameters, {:.1} M multiply-accumulates, {} cells, {} channels",
        plan.genotype.name,
        macs as f64 / 1e6,
        config.cells,
        config.channels
    ));
    let trains = plan.data.is_some() && config.epochs > 0;
    // A run writes them at its start.
    if let Some(folder) = plan.folder.filter(|_| !trains) {
        files.iter().try_for_each(|(name, text)| stage::write(&folder.join(name), text))?;
    }
    let (model, (last, best_top1, steps, wall_s)) = match plan.data {
        None => (model, (None, None, 0, 0.0)),
        Some(data) => {
            if trains {
                console.message(format_args!(
                    "training on {name}, {} epochs of batch {}",
                    config.epochs, config.batch_size
                ));
            }
            let run = plan.folder.filter(|_| trains);
            let run = run.map(|folder| plan.run.run(folder, plan.data_path, &name, files));
            let mut progress = stage::Progress::new(console, plan.stop, "train");
            let cells = plan.genotype.to_python();
            let trained = fit(model, &cells, data, config, &device, run.as_ref(), &mut |event| progress.show(event))?;
            (trained.model, (Some(trained.last), Some(trained.best_top1), trained.steps, trained.wall_s))
        }
    };
    if let Some(folder) = plan.folder {
        weights::write(&folder.join("weights.safetensors"), &model.graph, &model.weights)?;
    }
    let top1 = last.map(|l: Evaluation| l.top1);
    let exported = export(&model, plan, &network, &device, top1, console)?;
    Ok(BuildReport {
        onnx: plan.onnx.display().to_string(),
        params,
        macs,
        top1,
        top5: last.map(|l| l.top5),
        best_top1,
        exported,
        steps,
        wall_s,
        device: name,
    })
}

/// The frame: from the configuration, and from the data what it leaves open.
fn network(plan: &Plan) -> Result<Network> {
    let (config, data) = (plan.config, plan.data);
    if let Some(data) = data {
        check_classes(config.classes, data)?;
    }
    let (stem, classes, size) = match config.network {
        config::Network::Cifar => (Stem::Cifar, 10, 32),
        config::Network::Imagenet => (Stem::ImageNet, 1000, 224),
    };
    let image = match (config.image_size, data) {
        (Some(size), _) => [size; 2],
        (None, Some(data)) => data.image_size,
        (None, None) => [size; 2],
    };
    let classes = data.map_or(config.classes.unwrap_or(classes), |data| data.classes.len());
    if classes < 2 {
        bail!("--classes: {classes} is too few, at least 2 are needed");
    }
    let (channels, cells) = (config.channels, config.cells);
    Ok(Network { stem, channels, cells, classes, image, auxiliary: config.auxiliary_weight > 0.0 })
}

impl BuildReport {
    /// For people.
    pub fn text(&self) -> String {
        let accuracy = self.top1.map_or(String::new(), |t| format!(", test top-1 {:.2} %", 100.0 * t));
        format!("{}: {} parameters{accuracy}; {}", self.onnx, self.params, self.exported.text())
    }
}
