//! `bench search` and `bench train`: time and memory of one training step.
//!
//! Takes sizes; runs steps on random images, without a loader, and prints medians after a warm-up step. Floating-point
//! operations are counted, not measured: a multiply-accumulate is 2; a pass for gradients of values costs one forward pass
//! more, one for gradients of weights another. What the machine can do is measured: a product of large matrices, on the same
//! device and threads.

use std::time::Instant;

use anyhow::{Context, Result};
use burn::tensor::{Device, Tensor, TensorData};
use clap::Args;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use super::Verdict;
use super::args::above_zero;
use super::bench::quantile;
use super::load;
use super::progress::Console;
use crate::data::Batch;
use crate::ir::{Model, ValueId, cost, verify};
use crate::lower::{Cells, Network, Stem, lower};
use crate::passes::{TRAINING, apply};
use crate::search::arch::Arch;
use crate::search::config::SearchConfig;
use crate::search::supernet::Supernet;
use crate::train::config::TrainConfig;
use crate::train::device::DeviceChoice;
use crate::train::generator;
use crate::train::loss::cross_entropy;
use crate::train::memory::peak_mib;
use crate::train::module::{GraphModule, Mode, download};
use crate::train::optim::Sgd;

/// One architecture step and one weight step of the CIFAR-10 supernet
#[derive(Debug, Args)]
pub struct BenchSearchArgs {
    /// Images in a step
    #[arg(long, value_name = "N", value_parser = above_zero, default_value_t = 64)]
    batch: usize,
    /// Steps that are timed, after one that is not
    #[arg(long, value_name = "N", value_parser = above_zero, default_value_t = 5)]
    steps: usize,
    /// Device to train on: auto, cpu, cuda[:N], vulkan[:N] or metal[:N]
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    device: DeviceChoice,
}

/// One training step of a CIFAR-10 network with its auxiliary head
#[derive(Debug, Args)]
pub struct BenchTrainArgs {
    #[arg(value_name = "GENOTYPE", help = load::GENOTYPE_HELP, default_value = "PC_DARTS_cifar")]
    genotype: String,
    /// Channels of the first cells
    #[arg(long, value_name = "C", value_parser = above_zero, default_value_t = 36)]
    channels: usize,
    /// Cells of the network
    #[arg(long, value_name = "N", value_parser = above_zero, default_value_t = 20)]
    cells: usize,
    /// Images in a step
    #[arg(long, value_name = "N", value_parser = above_zero, default_value_t = 32)]
    batch: usize,
    /// Steps that are timed, after one that is not
    #[arg(long, value_name = "N", value_parser = above_zero, default_value_t = 5)]
    steps: usize,
    /// Device to train on: auto, cpu, cuda[:N], vulkan[:N] or metal[:N]
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    device: DeviceChoice,
}

#[derive(Serialize)]
struct SearchTimes {
    arch_step_s: f64,
    weight_step_s: f64,
    step_s: f64,
    peak_mib: Option<u64>,
    /// What `search` and `build` would have said before.
    estimated_mib: Option<u64>,
    batch: usize,
    threads: usize,
    device: String,
    params: u64,
    #[serde(flatten)]
    speed: Speed,
}

#[derive(Serialize)]
struct TrainTimes {
    step_s: f64,
    peak_mib: Option<u64>,
    /// What `search` and `build` would have said before.
    estimated_mib: Option<u64>,
    images_per_s: f64,
    batch: usize,
    threads: usize,
    device: String,
    params: u64,
    #[serde(flatten)]
    speed: Speed,
}

/// Floating-point operations of a step, and what the machine could do.
#[derive(Serialize)]
struct Speed {
    flops_per_step: u64,
    gflops: f64,
    /// Of a product of two square matrices of [`SIDE`].
    matmul_gflops: f64,
    /// `gflops` of `matmul_gflops`.
    share: f64,
}

/// Rows and columns of the matrices that tell what the machine can do.
const SIDE: usize = 1024;

impl Speed {
    fn measure(flops_per_step: u64, step_s: f64, device: &Device) -> Result<Self> {
        let matrix = |seed| {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let values = (0..SIDE * SIDE).map(|_| rng.random_range(-1.0f32..1.0)).collect();
            Tensor::<2>::from_data(TensorData::new(values, [SIDE, SIDE]), device)
        };
        let (a, b) = (matrix(1), matrix(2));
        let mut best = f64::INFINITY;
        // The first one warms up, and on a GPU compiles.
        for _ in 0..8 {
            let start = Instant::now();
            let product = a.clone().matmul(b.clone());
            device.sync().context("--device: waiting for the device failed")?;
            best = best.min(start.elapsed().as_secs_f64());
            drop(product);
        }
        let matmul_gflops = 2.0 * (SIDE as f64).powi(3) / best / 1e9;
        let gflops = flops_per_step as f64 / step_s / 1e9;
        Ok(Self { flops_per_step, gflops, matmul_gflops, share: gflops / matmul_gflops })
    }
}

impl std::fmt::Display for Speed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let percent = 100.0 * self.share;
        write!(f, "{:.1} GFLOP/s, {percent:.0} % of the {:.0} of a large product", self.gflops, self.matmul_gflops)
    }
}

pub fn search(args: &BenchSearchArgs, console: &Console) -> Result<Verdict> {
    let (config, _) = SearchConfig::resolved(&SearchConfig::layers("cifar10")?)?;
    let (device, name) = args.device.open()?;
    let mut supernet = Supernet::new(&config, 10, [32, 32], &device)?;
    let arch = Arch::new(config.shape()?, config.edge_normalisation, config.seed);
    let mut sgd = Sgd::new(config.weights.momentum, config.weights.weight_decay, config.weights.clip);
    let estimated_mib = supernet.module.need(args.batch, true).map(|need| need.peak_mib());
    let graph = supernet.module.graph();
    let price = cost(graph, &[graph.outputs[0].value]);
    let bar = console.bar(args.steps as u64 + 1, "steps");
    let (mut arch_s, mut weight_s, mut both_s) = (Vec::new(), Vec::new(), Vec::new());
    for i in 0..=args.steps {
        let (first, second) = (random_batch(args.batch, 2 * i as u64), random_batch(args.batch, 2 * i as u64 + 1));
        let start = Instant::now();
        let step = supernet.step(first, &arch, false)?;
        step.architecture_gradient(&arch)?;
        supernet.module.update_statistics(&step.pass);
        drop(step);
        device.sync().context("--device: waiting for the device failed")?;
        let middle = start.elapsed().as_secs_f64();
        let step = supernet.step(second, &arch, true)?;
        let gradients = step.pass.gradients(&mut step.loss.backward());
        // A small rate: what is timed is the work, and random labels must not make the weights diverge.
        sgd.step(&mut supernet.module, gradients, 1e-3)?;
        supernet.module.update_statistics(&step.pass);
        drop(step);
        device.sync().context("--device: waiting for the device failed")?;
        let whole = start.elapsed().as_secs_f64();
        if i > 0 {
            arch_s.push(middle);
            weight_s.push(whole - middle);
            both_s.push(whole);
        }
        bar.advance(1);
    }
    drop(bar);
    let step_s = median(both_s);
    // Two forward passes, two passes for gradients of values, one for gradients of weights.
    let flops_per_step = 5 * 2 * price.macs * args.batch as u64;
    let times = SearchTimes {
        arch_step_s: median(arch_s),
        weight_step_s: median(weight_s),
        step_s,
        peak_mib: peak_mib(),
        estimated_mib,
        batch: args.batch,
        threads: rayon::current_num_threads(),
        device: name,
        params: price.params,
        speed: Speed::measure(flops_per_step, step_s, &device)?,
    };
    console.result(&times, |t| {
        let memory = t.peak_mib.map_or(String::new(), |m| format!(", {m} MiB at most"));
        format!(
            "search step at batch {} on {} with {} threads: {:.3} s (architecture {:.3}, weights {:.3}), {}{memory}",
            t.batch, t.device, t.threads, t.step_s, t.arch_step_s, t.weight_step_s, t.speed
        )
    })?;
    Ok(Verdict::Right)
}

pub fn train(args: &BenchTrainArgs, console: &Console) -> Result<Verdict> {
    let (config, _) = TrainConfig::resolved(&TrainConfig::layers("cifar10")?)?;
    let (device, name) = args.device.open()?;
    let genotype = load::genotype(&args.genotype)?;
    let network = Network {
        stem: Stem::Cifar,
        channels: args.channels,
        cells: args.cells,
        classes: 10,
        image: [32, 32],
        auxiliary: true,
    };
    let graph = lower(&network, Cells::Fixed(&genotype))?;
    let price = cost(&graph, &[graph.outputs[0].value]);
    let outputs: Vec<ValueId> = graph.outputs.iter().map(|output| output.value).collect();
    let macs = cost(&graph, &outputs).macs;
    let (model, _) = apply(TRAINING, verify(Model::initial(graph, 0))?)?;
    let mut module = GraphModule::new(&model, &device);
    let estimated_mib = module.need(args.batch, false).map(|need| need.peak_mib());
    let mut sgd = Sgd::new(config.weights.momentum, config.weights.weight_decay, config.weights.clip);
    let bar = console.bar(args.steps as u64 + 1, "steps");
    let mut seconds = Vec::new();
    for i in 0..=args.steps {
        let batch = random_batch(args.batch, i as u64);
        let mut rng = generator(0, "drop-path", i);
        let start = Instant::now();
        let images = module.images(batch.images, [batch.len, 3, 32, 32]);
        // Half of the recipe's drop path, what an epoch in the middle of a run has.
        let mode = Mode::Train { weights: true, drop_path: config.drop_path / 2.0, rng: &mut rng };
        let pass = module.forward(vec![images], mode)?;
        let loss = |i: usize| cross_entropy(pass.outputs[i].clone(), &batch.labels, 0.0);
        let loss = loss(0) + loss(1) * config.auxiliary_weight;
        download(loss.clone())?;
        sgd.step(&mut module, pass.gradients(&mut loss.backward()), 1e-3)?;
        module.update_statistics(&pass);
        drop((pass, loss));
        device.sync().context("--device: waiting for the device failed")?;
        if i > 0 {
            seconds.push(start.elapsed().as_secs_f64());
        }
        bar.advance(1);
    }
    drop(bar);
    let step_s = median(seconds);
    let times = TrainTimes {
        step_s,
        peak_mib: peak_mib(),
        estimated_mib,
        images_per_s: args.batch as f64 / step_s,
        batch: args.batch,
        threads: rayon::current_num_threads(),
        device: name,
        params: price.params,
        // Forward, gradients of values, gradients of weights.
        speed: Speed::measure(3 * 2 * macs * args.batch as u64, step_s, &device)?,
    };
    console.result(&times, |t| {
        let memory = t.peak_mib.map_or(String::new(), |m| format!(", {m} MiB at most"));
        format!(
            "training step of {} at batch {} on {} with {} threads: {:.3} s, {:.1} images/s, {}{memory}",
            genotype.name, t.batch, t.device, t.threads, t.step_s, t.images_per_s, t.speed
        )
    })?;
    Ok(Verdict::Right)
}

/// Images of uniform noise with labels at random, for ten classes of 32x32 pixels.
fn random_batch(len: usize, seed: u64) -> Batch {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let images = (0..len * 3 * 32 * 32).map(|_| rng.random_range(-1.7f32..1.7)).collect();
    let labels = (0..len).map(|_| rng.random_range(0..10)).collect();
    Batch { images, labels, len, height: 32, width: 32 }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    quantile(&values, 0.5)
}
