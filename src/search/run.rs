//! The bilevel loop: from a configuration and data to a genotype.
//!
//! Takes a [`SearchConfig`], a data set and a device; gives a [`Found`] genotype, and writes `metrics.jsonl` and `arch.jsonl`
//! into the run's folder. Within a step the architecture moves first, on images of its own, then alpha is backtracked, then
//! the weights move. The methods differ only in what the configuration says.

use std::path::Path;
use std::time::Instant;

use burn::tensor::Device;
use serde::Serialize;

use super::adam::ArchAdam;
use super::arch::{Arch, ArchValues};
use super::config::SearchConfig;
use super::derive::{Choice, derive};
use super::second_order::Unroll;
use super::stats::{CellStats, MoveStats, stats};
use super::supernet::{ArchPass, Supernet};
use super::{SearchError, backtrack::Backtracked};
use crate::data::{Batch, DataError, Dataset, ImageSet, Loader};
use crate::genotype::{Cell, Edge, Genotype, Primitive, Provenance};
use crate::train::augmentation;
use crate::train::evaluate::{Evaluation, Tally, evaluate};
use crate::train::optim::Sgd;
use crate::train::progress::{Event, Observer};
use crate::train::{Lines, TrainError};

/// What a search ends with.
#[derive(Debug)]
pub struct Found {
    /// The genotype of the last epoch.
    pub genotype: Genotype,
    /// On the architecture's images, after the last epoch.
    pub last: Evaluation,
    /// The best validation top-1 of all epochs.
    pub best_top1: f64,
    /// Weight steps that were made.
    pub steps: usize,
    /// Seconds.
    pub wall_s: f64,
}

/// One line of `metrics.jsonl`.
#[derive(Debug, Serialize)]
struct EpochLine {
    epoch: usize,
    lr: f64,
    train_loss: f64,
    train_top1: f64,
    arch_loss: Option<f64>,
    valid_loss: f64,
    valid_top1: f64,
    gradient_norm: f64,
    images_per_s: f64,
    wall_s: f64,
}

/// One line of `arch.jsonl`.
#[derive(Debug, Serialize)]
struct ArchLine<'a> {
    epoch: usize,
    /// Raw values.
    values: &'a ArchValues,
    zeta: usize,
    normal: &'a CellStats,
    reduce: &'a CellStats,
    backtracking: [&'a MoveStats; 2],
    genotype: String,
}

/// Searches as `config` says. `out` is an existing folder for the logs; `device` is without autodiff.
///
/// # Errors
/// Data that cannot be read, a device that fails, values that are no finite numbers, logs that cannot be written.
pub fn search(
    config: &SearchConfig,
    data: &Dataset,
    device: &Device,
    out: &Path,
    observer: Observer,
) -> Result<Found, SearchError> {
    let start = Instant::now();
    let loaders = Loaders::new(config, data)?;
    let mut supernet = Supernet::new(config, data.classes.len(), loaders.train.size(), device)?;
    let shape = config.shape()?;
    let mut arch = Arch::new(shape, config.edge_normalisation, config.seed);
    let mut adam = ArchAdam::new(shape, config.arch.adam());
    let mut sgd = Sgd::new(config.weights.momentum, config.weights.weight_decay, config.weights.clip);
    let schedule = config.schedule();
    let mut metrics = Lines::create(&out.join("metrics.jsonl"))?;
    let mut history = Lines::create(&out.join("arch.jsonl"))?;
    let (mut best_top1, mut last, mut steps) = (0.0f64, Evaluation::default(), 0);
    for epoch in 0..config.epochs {
        let began = Instant::now();
        let lr = schedule.rate(epoch);
        let zeta = config.zeta(epoch, shape.edges());
        let total = loaders.train.batches() + loaders.valid.batches();
        observer(Event::EpochStart { epoch, epochs: config.epochs, steps: total });
        let mut arch_batches = ArchBatches::new(&loaders.arch, epoch);
        let (mut tally, mut arch_tally, mut norms) = (Tally::default(), Tally::default(), 0.0);
        let mut moves = [MoveStats::new(shape), MoveStats::new(shape)];
        for (i, batch) in loaders.train.epoch(epoch as u64).enumerate() {
            let batch = batch?;
            if epoch >= config.arch.frozen_until {
                let mut mover = Mover { config, arch: &mut arch, adam: &mut adam };
                let due = config.backtracking.due(i, loaders.train.batches());
                let zeta = if due { zeta } else { 0 };
                let unroll = Unroll::of(config, &sgd, lr, &batch);
                let done = mover.step(&mut supernet, arch_batches.next()?, unroll, zeta, &mut arch_tally)?;
                done.iter().zip(&mut moves).filter(|_| zeta > 0).for_each(|(done, stats)| stats.add(done));
            }
            let labels = batch.labels.clone();
            let step = supernet.step(batch, &arch, true)?;
            let gradients = step.pass.gradients(&mut step.loss.backward());
            norms += sgd.step(&mut supernet.module, gradients, lr)?;
            supernet.module.update_statistics(&step.pass);
            tally.add(step.loss_value, &step.logits, &labels);
            observer(Event::Step { loss: Some(step.loss_value) });
            steps += 1;
        }
        let trained = began.elapsed().as_secs_f64();
        last = evaluate(&supernet.module, &loaders.valid, &supernet.inputs(&arch), observer)?;
        best_top1 = best_top1.max(last.top1);
        device.memory_cleanup();

        let (mean, arch_mean) = (tally.mean(), arch_tally.mean());
        let genotype = genotype(&arch, &supernet, config, data, Some(last.top1))?;
        let line = EpochLine {
            epoch,
            lr,
            train_loss: mean.loss,
            train_top1: mean.top1,
            arch_loss: (arch_mean.images > 0).then_some(arch_mean.loss),
            valid_loss: last.loss,
            valid_top1: last.top1,
            gradient_norm: norms / loaders.train.batches() as f64,
            images_per_s: (mean.images + arch_mean.images) as f64 / trained,
            wall_s: start.elapsed().as_secs_f64(),
        };
        metrics.write(&line)?;
        let soft = arch.weights();
        let [normal, reduce] = [&soft.normal, &soft.reduce].map(|cell| stats(shape, cell));
        history.write(&ArchLine {
            epoch,
            values: &arch.values,
            zeta,
            normal: &normal,
            reduce: &reduce,
            backtracking: moves.each_ref(),
            genotype: genotype.to_python(),
        })?;
        observer(Event::EpochEnd { epoch, line: line.to_string() });
    }
    let genotype = genotype(&arch, &supernet, config, data, Some(last.top1))?;
    Ok(Found { genotype, last, best_top1, steps, wall_s: start.elapsed().as_secs_f64() })
}

/// The three ways the images are read.
struct Loaders {
    train: Loader,
    arch: Loader,
    /// The architecture's images without augmentation.
    valid: Loader,
}

impl Loaders {
    fn new(config: &SearchConfig, data: &Dataset) -> Result<Self, SearchError> {
        let images = match config.subset {
            Some(n) => data.train.subset(n, config.seed)?,
            None => data.train.clone(),
        };
        let [weights, arch] = images.split_fractions([config.split.weights, config.split.arch], config.seed)?;
        let size = config.image_size.map_or(data.image_size, |size| [size; 2]);
        let augment = augmentation::training(&config.augmentation, size);
        let shuffled = |set: &ImageSet, stream: u64| -> Result<Loader, DataError> {
            Ok(Loader::shuffled(set, data.normalise(), augment.clone(), config.batch_size, config.seed)?.stream(stream))
        };
        let whole = augmentation::evaluation(config.network, size, arch.common_size());
        let valid = Loader::in_order(&arch, data.normalise(), whole, config.batch_size)?;
        Ok(Self { train: shuffled(&weights, 0)?, arch: shuffled(&arch, 1)?, valid })
    }
}

/// The architecture's batches of one epoch, started over when they end before the weights' batches do.
struct ArchBatches<'a> {
    loader: &'a Loader,
    epoch: usize,
    round: u64,
    batches: Option<crate::data::Epoch>,
}

impl<'a> ArchBatches<'a> {
    fn new(loader: &'a Loader, epoch: usize) -> Self {
        Self { loader, epoch, round: 0, batches: None }
    }

    fn next(&mut self) -> Result<Batch, SearchError> {
        loop {
            // Each round has an order of its own; rounds beyond the first are far from the epochs' own numbers.
            let number = self.epoch as u64 + (self.round << 32);
            let batches = self.batches.get_or_insert_with(|| self.loader.epoch(number));
            match batches.next() {
                Some(batch) => return Ok(batch?),
                None => {
                    self.round += 1;
                    self.batches = None;
                }
            }
        }
    }
}

/// Moves the architecture.
struct Mover<'a> {
    config: &'a SearchConfig,
    arch: &'a mut Arch,
    adam: &'a mut ArchAdam,
}

impl Mover<'_> {
    /// One step on `batch`, of second order with `unroll`, and, where `zeta` is above 0, the backtracking of both cell
    /// types behind it.
    fn step(
        &mut self,
        supernet: &mut Supernet,
        batch: Batch,
        unroll: Option<Unroll>,
        zeta: usize,
        tally: &mut Tally,
    ) -> Result<Vec<Backtracked>, SearchError> {
        let labels = batch.labels.clone();
        let ArchPass { mut gradient, loss, logits } = match unroll {
            Some(unroll) => unroll.gradient(supernet, batch, self.arch)?,
            None => supernet.first_order(batch, self.arch)?,
        };
        tally.add(loss, &logits, &labels);
        if let Some(limit) = self.config.arch.clip {
            gradient.clip(limit);
        }
        let before = self.arch.values.clone();
        self.adam.step(&mut self.arch.values, &gradient);
        let mut done = Vec::new();
        if zeta > 0 {
            let (rule, lr, shape) = (&self.config.backtracking, self.config.arch.lr, self.arch.shape);
            let ArchValues { normal, reduce } = &mut self.arch.values;
            done.push(rule.apply(shape, zeta, lr, &before.normal, normal, &gradient.normal.beta));
            done.push(rule.apply(shape, zeta, lr, &before.reduce, reduce, &gradient.reduce.beta));
        }
        self.arch.values.check(self.arch.shape)?;
        Ok(done)
    }
}

/// The genotype that the architecture's values stand for, with where it comes from.
fn genotype(
    arch: &Arch,
    supernet: &Supernet,
    config: &SearchConfig,
    data: &Dataset,
    valid_top1: Option<f64>,
) -> Result<Genotype, SearchError> {
    let derived = derive(arch.shape, &arch.weights())?;
    let method = serde_json::to_value(config.method).ok().and_then(|v| v.as_str().map(str::to_owned));
    let provenance = Provenance {
        method: method.clone(),
        dataset: Some(data.name.clone()),
        seed: Some(config.seed),
        epochs: Some(config.epochs),
        valid_top1,
        tool: Some(concat!("idarts-compile ", env!("CARGO_PKG_VERSION")).into()),
        ..Provenance::default()
    };
    let name = format!("{}_{}_seed{}", method.as_deref().unwrap_or("search").replace('-', "_"), data.name, config.seed);
    let cell = |nodes: &[[Choice; 2]]| cell(nodes, supernet.primitives());
    Ok(Genotype { name, normal: cell(&derived.normal), reduce: cell(&derived.reduce), provenance })
}

fn cell(nodes: &[[Choice; 2]], primitives: &[Primitive]) -> Cell {
    let edge = |choice: Choice| Edge { primitive: primitives[choice.primitive], input: choice.input };
    Cell { nodes: nodes.iter().map(|node| node.map(edge)).collect(), concat: (2..nodes.len() + 2).collect() }
}

impl std::fmt::Display for EpochLine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "loss {:.4}, train top-1 {:.2} %, validation top-1 {:.2} %, {:.0} images/s",
            self.train_loss,
            100.0 * self.train_top1,
            100.0 * self.valid_top1,
            self.images_per_s
        )
    }
}

impl From<DataError> for SearchError {
    fn from(error: DataError) -> Self {
        Self::Train(TrainError::Data(error))
    }
}
