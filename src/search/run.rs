//! The bilevel loop: from a configuration and data to a genotype.
//!
//! Takes a [`SearchConfig`], a data set and a device; gives a [`Found`] genotype, and writes `metrics.jsonl`, `arch.jsonl`,
//! `weights.safetensors` and checkpoints into the run's folder. Within a step the architecture moves first, on images of its
//! own, then alpha is backtracked, then the weights move. The methods differ only in what the configuration says. All that a
//! step depends on is in the state, the weights and the momentum, or follows from the seed and the numbers of epoch and step:
//! so a run that goes on from a checkpoint does what it would have done.

use std::time::Instant;

use burn::tensor::Device;
use serde::{Deserialize, Serialize};

use super::SearchError;
use super::adam::ArchAdam;
use super::arch::{Arch, ArchValues};
use super::backtrack::Backtracked;
use super::batches::{ArchBatches, Loaders};
use super::config::SearchConfig;
use super::record::{ArchLine, EpochLine, collapse, genotype, parameter_free};
use super::second_order::Unroll;
use super::stats::{MoveStats, stats};
use super::supernet::{ArchPass, Supernet};
use crate::data::{Batch, Dataset};
use crate::genotype::Genotype;
use crate::train::checkpoint::{Origin, Run, pack, unpack};
use crate::train::evaluate::{Evaluation, Tally, evaluate};
use crate::train::keeper::Keeper;
use crate::train::memory::{self, peak_mib};
use crate::train::optim::Sgd;
use crate::train::progress::{Event, Observer, tell};
use crate::train::{Lines, TrainError, weights};

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

/// Where a search is: all that a checkpoint holds beside weights and momentum.
#[derive(Debug, Serialize, Deserialize)]
struct State {
    epoch: usize,
    /// Weight steps of the whole run.
    steps: usize,
    sums: Sums,
    values: ArchValues,
    adam: ArchAdam,
    last: Evaluation,
    best_top1: f64,
    /// Skip connections and parameter-free edges of the normal cell when it was last judged, so that a warning is not
    /// repeated while nothing changes.
    warned: [usize; 2],
    wall_s: f64,
    /// The logs so far.
    metrics: String,
    history: String,
}

/// What is summed up over an epoch.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Sums {
    /// Weight steps of the epoch.
    step: usize,
    /// Architecture steps of the epoch.
    arch_steps: usize,
    tally: Tally,
    arch_tally: Tally,
    norms: f64,
    /// Of the normal and of the reduction cell.
    moves: Vec<MoveStats>,
    /// Seconds of training.
    seconds: f64,
}

/// Searches as `config` says, on `device` (without autodiff).
///
/// # Errors
/// Data that cannot be read, a device that fails, values that are no finite numbers, logs that cannot be written, no
/// checkpoint to go on from, an end that the observer asked for.
pub fn search(
    config: &SearchConfig,
    data: &Dataset,
    device: &Device,
    run: &Run,
    observer: Observer,
) -> Result<Found, SearchError> {
    let (mut job, mut state) = Job::open(config, data, device, run, observer)?;
    while state.epoch < config.epochs {
        let epoch = state.epoch;
        let done = job.epoch(&mut state, observer).map_err(|error| job.annotated(epoch, error))?;
        job.save(&mut state)?;
        if !done {
            return Err(job.keeper.interrupted(epoch).into());
        }
    }
    let path = run.folder.join("weights.safetensors");
    let module = &job.supernet.module;
    weights::write(&path, module.graph(), &module.weights()?).map_err(TrainError::from)?;
    let genotype = job.genotype(state.last.top1)?;
    let (last, best_top1, steps) = (state.last, state.best_top1, state.steps);
    Ok(Found { genotype, last, best_top1, steps, wall_s: job.keeper.wall_s() })
}

/// What a search works with.
struct Job<'a> {
    config: &'a SearchConfig,
    data: &'a Dataset,
    loaders: Loaders,
    supernet: Supernet,
    sgd: Sgd,
    arch: Arch,
    adam: ArchAdam,
    keeper: Keeper,
    metrics: Lines,
    history: Lines,
}

impl<'a> Job<'a> {
    /// At the start of the run, or where its last checkpoint is.
    fn open(
        config: &'a SearchConfig,
        data: &'a Dataset,
        device: &Device,
        run: &Run,
        observer: Observer,
    ) -> Result<(Self, State), SearchError> {
        let shape = config.shape()?;
        let loaders = Loaders::new(config, data)?;
        let mut supernet = Supernet::new(config, data.classes.len(), loaders.train.size(), device)?;
        let mut sgd = Sgd::new(config.weights.momentum, config.weights.weight_decay, config.weights.clip);
        let mut arch = Arch::new(shape, config.edge_normalisation, config.seed);
        let mut adam = ArchAdam::new(shape, config.arch.adam());
        let origin = Origin::new("search", config, data, run)?;
        let (mut keeper, loaded) = Keeper::open::<State>(run, origin, config.epochs)?;
        let mut state = State {
            epoch: 0,
            steps: 0,
            sums: Sums::default(),
            values: arch.values.clone(),
            adam: adam.clone(),
            last: Evaluation::default(),
            best_top1: 0.0,
            warned: [0; 2],
            wall_s: 0.0,
            metrics: String::new(),
            history: String::new(),
        };
        if let Some(loaded) = loaded {
            unpack(&mut supernet.module, &mut sgd, &loaded.tensors)?;
            state = loaded.state;
            state.values.check(shape)?;
            arch.values = state.values.clone();
            // The constants are the configuration's: they may have been changed.
            adam = ArchAdam { constants: adam.constants, ..state.adam.clone() };
            keeper.resumed((state.epoch, state.sums.step), state.wall_s);
            loaded.warnings.into_iter().for_each(|warning| tell(observer, Event::Warning(warning)));
            let text = format!("goes on after {} epochs and {} steps", state.epoch, state.sums.step);
            tell(observer, Event::Message(text));
        }
        if state.epoch < config.epochs {
            let batch = config.batch_size.min(loaders.train.images().max(loaders.arch.images()));
            let line = memory::check(&supernet.module, batch, true)?;
            line.into_iter().for_each(|line| tell(observer, Event::Message(line)));
        }
        let log = |name: &str, text: &mut String| Lines::begin(Some(run.folder.join(name)), std::mem::take(text));
        let metrics = log("metrics.jsonl", &mut state.metrics)?;
        let history = log("arch.jsonl", &mut state.history)?;
        Ok((Self { config, data, loaders, supernet, sgd, arch, adam, keeper, metrics, history }, state))
    }

    /// The rest of the state's epoch, and its lines in the logs. `false` if the observer asked for an end.
    fn epoch(&mut self, state: &mut State, observer: Observer) -> Result<bool, SearchError> {
        let (config, epoch, epochs) = (self.config, state.epoch, self.config.epochs);
        let batches = self.loaders.train.batches();
        let (steps, done) = (batches + self.loaders.valid.batches(), state.sums.step);
        tell(observer, Event::EpochStart { epoch, epochs, steps, done });
        let lr = config.schedule().rate(epoch);
        let shape = self.arch.shape;
        let zeta = config.zeta(epoch, shape.edges());
        state.sums.moves.resize(2, MoveStats::new(shape));
        let mut arch_batches = ArchBatches::new(&self.loaders.arch, epoch, state.sums.arch_steps);
        let mut began = Instant::now();
        for (i, batch) in self.loaders.train.epoch(epoch as u64).skip_to(done).enumerate() {
            let batch = batch?;
            if epoch >= config.arch.frozen_until {
                let due = config.backtracking.due(done + i, batches);
                let zeta = if due { zeta } else { 0 };
                self.move_architecture(arch_batches.next()?, &batch, lr, zeta, &mut state.sums)?;
            }
            let loss = self.move_weights(batch, lr, &mut state.sums)?;
            state.steps += 1;
            state.sums.seconds += began.elapsed().as_secs_f64();
            if observer(Event::Step { loss: Some(loss) }).is_break() {
                return Ok(false);
            }
            if self.keeper.is_due() {
                self.save(state)?;
            }
            began = Instant::now();
        }
        let inputs = self.supernet.inputs(&self.arch);
        let module = &self.supernet.module;
        let Some(last) = evaluate(module, &self.loaders.valid, &inputs, observer)? else { return Ok(false) };
        module.device().memory_cleanup();
        state.last = last;
        state.best_top1 = state.best_top1.max(last.top1);
        let line = self.write_logs(state, lr, zeta, observer)?;
        state.epoch += 1;
        state.sums = Sums::default();
        Ok(observer(Event::EpochEnd { epoch, line }).is_continue())
    }

    /// One step of alpha and beta on `batch`, of second order where the method looks ahead by the step of the weights with
    /// rate `lr` on `next`; and, where `zeta` is above 0, the backtracking of both cell types behind it.
    fn move_architecture(
        &mut self,
        batch: Batch,
        next: &Batch,
        lr: f64,
        zeta: usize,
        sums: &mut Sums,
    ) -> Result<(), SearchError> {
        let labels = batch.labels.clone();
        let ArchPass { mut gradient, loss, logits } = match Unroll::of(self.config, &self.sgd, lr, next) {
            Some(unroll) => unroll.gradient(&mut self.supernet, batch, &self.arch)?,
            None => self.supernet.first_order(batch, &self.arch)?,
        };
        sums.arch_tally.add(loss, &logits, &labels);
        sums.arch_steps += 1;
        if let Some(limit) = self.config.arch.clip {
            gradient.clip(limit);
        }
        let before = self.arch.values.clone();
        self.adam.step(&mut self.arch.values, &gradient);
        if zeta > 0 {
            let (rule, lr, shape) = (&self.config.backtracking, self.config.arch.lr, self.arch.shape);
            let ArchValues { normal, reduce } = &mut self.arch.values;
            let done: [Backtracked; 2] = [
                rule.apply(shape, zeta, lr, &before.normal, normal, &gradient.normal.beta),
                rule.apply(shape, zeta, lr, &before.reduce, reduce, &gradient.reduce.beta),
            ];
            done.iter().zip(&mut sums.moves).for_each(|(done, stats)| stats.add(done));
        }
        self.arch.values.check(self.arch.shape)
    }

    /// One step of the weights on `batch`; gives the loss.
    fn move_weights(&mut self, batch: Batch, lr: f64, sums: &mut Sums) -> Result<f64, SearchError> {
        let labels = batch.labels.clone();
        let step = self.supernet.step(batch, &self.arch, true)?;
        let gradients = step.pass.gradients(&mut step.loss.backward());
        sums.norms += self.sgd.step(&mut self.supernet.module, gradients, lr)?;
        self.supernet.module.update_statistics(&step.pass);
        sums.tally.add(step.loss_value, &step.logits, &labels);
        sums.step += 1;
        Ok(step.loss_value)
    }

    /// Appends the epoch to both logs, warns where the architecture collapses, and gives the line for people.
    fn write_logs(
        &mut self,
        state: &mut State,
        lr: f64,
        zeta: usize,
        observer: Observer,
    ) -> Result<String, SearchError> {
        let (epoch, sums, last) = (state.epoch, &state.sums, state.last);
        let (mean, arch) = (sums.tally.mean(), Some(sums.arch_tally.mean()).filter(|mean| mean.images > 0));
        let line = EpochLine {
            epoch,
            lr,
            train_loss: mean.loss,
            train_top1: mean.top1,
            arch_loss: arch.map(|mean| mean.loss),
            arch_top1: arch.map(|mean| mean.top1),
            valid_loss: last.loss,
            valid_top1: last.top1,
            gradient_norm: sums.norms / sums.step.max(1) as f64,
            images_per_s: (mean.images + arch.map_or(0, |mean| mean.images)) as f64 / sums.seconds,
            peak_mib: peak_mib(),
            wall_s: self.keeper.wall_s(),
        };
        self.metrics.write(&line)?;
        let genotype = self.genotype(last.top1)?;
        let [normal_free, reduce_free] = [&genotype.normal, &genotype.reduce].map(parameter_free);
        let soft = self.arch.weights();
        let [normal, reduce] = [&soft.normal, &soft.reduce].map(|cell| stats(self.arch.shape, cell));
        self.history.write(&ArchLine {
            epoch,
            values: &self.arch.values,
            zeta,
            normal: &normal,
            reduce: &reduce,
            backtracking: &sums.moves,
            skips: [normal_free[0], reduce_free[0]],
            parameter_free: [normal_free[1], reduce_free[1]],
            genotype: genotype.to_python(),
        })?;
        // Before alpha moves, the genotype is that of the random start and says nothing.
        if epoch >= self.config.arch.frozen_until && normal_free != state.warned {
            state.warned = normal_free;
            if let Some(warning) = collapse(normal_free, &genotype.normal) {
                tell(observer, Event::Warning(format!("epoch {}: {warning}", epoch + 1)));
            }
        }
        Ok(line.to_string())
    }

    fn genotype(&self, valid_top1: f64) -> Result<Genotype, SearchError> {
        genotype(&self.arch, self.supernet.primitives(), self.config, self.data, Some(valid_top1))
    }

    fn save(&mut self, state: &mut State) -> Result<(), SearchError> {
        state.values = self.arch.values.clone();
        state.adam = self.adam.clone();
        state.wall_s = self.keeper.wall_s();
        state.metrics = self.metrics.text().into();
        state.history = self.history.text().into();
        let (module, sgd) = (&self.supernet.module, &self.sgd);
        self.keeper.save((state.epoch, state.sums.step), state.steps, state, || pack(module, sgd))?;
        Ok(())
    }

    /// Says with an error that the numbers left all bounds where the run can go on.
    fn annotated(&self, epoch: usize, error: SearchError) -> SearchError {
        match error {
            SearchError::Train(error @ TrainError::Diverged { .. }) => self.keeper.diverged(epoch, error).into(),
            SearchError::NotFinite { .. } => {
                self.keeper.diverged(epoch, TrainError::Diverged { what: error.to_string() }).into()
            }
            other => other,
        }
    }
}
