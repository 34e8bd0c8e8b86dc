//! `bench infer`: how fast a model runs through the shaders.
//!
//! Takes an ONNX file and random inputs; prints the time to load and compile, of the first run and of the runs after it, and
//! of every kernel launch. A run uploads the inputs and reads the outputs back.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use clap::Args;
use serde::Serialize;

use super::args::above_zero;
use super::bench::quantile;
use super::progress::Console;
use super::tensors::random_inputs;
use super::validation::rows_of;
use super::{Verdict, load};
use crate::ir::Tensor;
use crate::passes::{RUNTIME, apply};
use crate::runtime::{AdapterChoice, BackendName, CacheFacts, LaunchTime, Session, Storage};

/// Time an ONNX model on a GPU adapter
#[derive(Debug, Args)]
pub struct InferArgs {
    /// ONNX model
    #[arg(value_name = "MODEL.onnx")]
    model: PathBuf,
    /// Images in a run; 1 if absent and the model has no static batch
    #[arg(long, value_name = "N", value_parser = above_zero)]
    batch: Option<usize>,
    /// Runs to measure after the first
    #[arg(long, value_name = "N", value_parser = above_zero, default_value_t = 50)]
    steps: usize,
    /// Adapter to run on: [vulkan:|gl:|metal:|dx12:]NAME or an index as `devices` prints them; the best one if absent
    #[arg(long, value_name = "ADAPTER")]
    adapter: Option<AdapterChoice>,
    /// Measure once more with so many runs on their way at once: the device computes one while the host reads another
    #[arg(long, value_name = "N", value_parser = above_zero)]
    in_flight: Option<usize>,
    /// Store values and weights as float16 on the adapter, which must have 16-bit floats in shaders; sums stay float32
    #[arg(long)]
    fp16: bool,
    /// Seed of the inputs
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
}

/// Launches that are printed.
const SLOWEST: usize = 8;

#[derive(Serialize)]
struct Timings {
    adapter: String,
    backend: BackendName,
    /// What values and weights are stored as.
    storage: Storage,
    /// To read the file, apply the passes, choose kernels and upload the weights.
    load_ms: f64,
    /// To compile the pipelines.
    compile_ms: f64,
    /// What was kept of them from runs of the program before; `null` if the driver has no cache that can be kept.
    pipeline_cache: Option<CacheFacts>,
    first_ms: f64,
    median_ms: f64,
    p95_ms: f64,
    batch: usize,
    steps: usize,
    dispatches: usize,
    buffer_mib: f64,
    /// What the buffers would take if no two values shared one.
    unshared_mib: f64,
    weight_mib: f64,
    images_per_s: f64,
    /// With several runs on their way.
    #[serde(skip_serializing_if = "Option::is_none")]
    in_flight: Option<InFlight>,
    /// Whether the adapter took the times of the layers; else the host did, with the cost of a submission in each.
    timestamps: bool,
    /// Every kernel launch in order, in one run of its own.
    layers: Vec<LaunchTime>,
}

#[derive(Serialize)]
struct InFlight {
    runs: usize,
    images_per_s: f64,
}

pub fn run(args: &InferArgs, console: &Console) -> Result<Verdict> {
    // Opening the device is the driver's time, not the model's.
    let gpu = load::gpu(&args.adapter.clone().unwrap_or_default())?;
    let start = Instant::now();
    let model = load::model(&args.model)?;
    let batch = rows_of(&model, args.batch, 1)?;
    let (model, _) = apply(RUNTIME, model)?;
    let storage = if args.fp16 { Storage::Float16 } else { Storage::Float32 };
    let mut session = Session::with_storage(&gpu, &model, batch, storage)?;
    let ready_ms = milliseconds(start);

    let inputs = random_inputs(&model.graph, batch, args.seed, 0);
    let mut time = || -> Result<f64> {
        let start = Instant::now();
        session.run(&inputs)?;
        Ok(milliseconds(start))
    };
    let first_ms = time()?;
    let bar = console.bar(args.steps as u64, "runs");
    let mut runs = Vec::with_capacity(args.steps);
    for _ in 0..args.steps {
        let run_ms = time()?;
        runs.push(run_ms);
        bar.note(format_args!("{run_ms:.1} ms"));
        bar.advance(1);
    }
    drop(bar);
    runs.sort_by(f64::total_cmp);

    let in_flight = args.in_flight.map(|runs| in_flight(&mut session, &inputs, args.steps, runs)).transpose()?;
    let profile = session.profile(&inputs)?;
    let facts = session.facts();
    let median_ms = quantile(&runs, 0.5);
    let mib = |bytes: u64| bytes as f64 / (1 << 20) as f64;
    let timings = Timings {
        adapter: facts.adapter.name.clone(),
        backend: facts.adapter.backend,
        storage: facts.storage,
        load_ms: ready_ms - facts.compile_ms,
        compile_ms: facts.compile_ms,
        pipeline_cache: facts.pipeline_cache,
        first_ms,
        median_ms,
        p95_ms: quantile(&runs, 0.95),
        batch,
        steps: args.steps,
        dispatches: facts.dispatches,
        buffer_mib: mib(facts.buffer_bytes),
        unshared_mib: mib(facts.unshared_bytes),
        weight_mib: mib(facts.weight_bytes),
        images_per_s: 1e3 * batch as f64 / median_ms,
        in_flight: in_flight.map(|(runs, ms)| InFlight { runs, images_per_s: 1e3 * batch as f64 / ms }),
        timestamps: profile.timestamps,
        layers: profile.launches,
    };
    console.result(&timings, text)?;
    Ok(Verdict::Right)
}

/// Milliseconds a run takes on average, with `runs` of them on their way.
fn in_flight(session: &mut Session, inputs: &[Tensor], steps: usize, runs: usize) -> Result<(usize, f64)> {
    let start = Instant::now();
    let mut flying = VecDeque::new();
    for _ in 0..steps {
        flying.push_back(session.start(inputs)?);
        if flying.len() == runs
            && let Some(first) = flying.pop_front()
        {
            session.finish(first)?;
        }
    }
    for run in flying {
        session.finish(run)?;
    }
    Ok((runs, milliseconds(start) / steps as f64))
}

fn milliseconds(start: Instant) -> f64 {
    1e3 * start.elapsed().as_secs_f64()
}

fn text(t: &Timings) -> String {
    let mut text = format!(
        "{} ({}), batch {}, {} dispatches{}\n  load {:.1} ms, compile {:.1} ms{}, first run {:.2} ms\n  \
         {} runs: median {:.2} ms, 95 % within {:.2} ms, {:.1} images a second\n  \
         memory: buffers {:.2} MiB ({:.2} without sharing), weights {:.2} MiB\n",
        t.adapter,
        t.backend,
        t.batch,
        t.dispatches,
        if t.storage == Storage::Float16 { ", values in float16" } else { "" },
        t.load_ms,
        t.compile_ms,
        if t.pipeline_cache.is_some_and(|cache| cache.warm) { " with pipelines kept from before" } else { "" },
        t.first_ms,
        t.steps,
        t.median_ms,
        t.p95_ms,
        t.images_per_s,
        t.buffer_mib,
        t.unshared_mib,
        t.weight_mib
    );
    if let Some(InFlight { runs, images_per_s }) = &t.in_flight {
        text += &format!("  with {runs} runs on their way: {images_per_s:.1} images a second\n");
    }
    let clock = if t.timestamps { "the adapter's clock" } else { "the host's clock" };
    let total: f64 = t.layers.iter().map(|layer| layer.gpu_us).sum();
    text += &format!("  slowest of {} launches by {clock}, {:.2} ms in all:", t.layers.len(), total / 1e3);
    let mut slowest: Vec<&LaunchTime> = t.layers.iter().collect();
    slowest.sort_by(|a, b| b.gpu_us.total_cmp(&a.gpu_us));
    for layer in slowest.into_iter().take(SLOWEST) {
        text += &format!("\n    {:8.1} us  {} ({})", layer.gpu_us, layer.name, layer.kernel.file());
    }
    text
}
