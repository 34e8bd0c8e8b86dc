//! The fit loop: retrains a final network.
//!
//! Takes a lowered network, data and a configuration; gives the trained model with its accuracy, writes one JSON line and a
//! checkpoint an epoch, and goes on from such a checkpoint bit for bit. Reports the last epoch and the best one apart: a best
//! epoch is picked on the test set and is not a result.

use std::collections::HashMap;
use std::time::Instant;

use burn::tensor::Device;
use serde::{Deserialize, Serialize};

use super::checkpoint::{Origin, Run, pack, unpack};
use super::config::TrainConfig;
use super::evaluate::{Evaluation, Tally, evaluate};
use super::keeper::Keeper;
use super::loss::cross_entropy;
use super::memory::{self, peak_mib};
use super::module::{GraphModule, Mode, download};
use super::optim::Sgd;
use super::progress::{Event, Observer, tell};
use super::schedule::drop_path;
use super::{Lines, TrainError, augmentation, converging, generator};
use crate::data::{Batch, Dataset, Loader};
use crate::ir::{Model, Param, Tensor, Verified, Weights, verify};
use crate::passes;

/// What retraining ends with.
#[derive(Debug)]
pub struct Trained {
    /// The training graph with the weights of the last epoch.
    pub model: Verified<Model>,
    /// On the test images, after the last epoch.
    pub last: Evaluation,
    /// The best top-1 of all epochs on the test images.
    pub best_top1: f64,
    /// Weight updates that were made.
    pub steps: usize,
    /// Seconds.
    pub wall_s: f64,
}

/// One line of `metrics.jsonl`.
#[derive(Debug, Serialize)]
struct EpochLine {
    epoch: usize,
    lr: f64,
    drop_path: f64,
    train_loss: f64,
    train_top1: f64,
    test_loss: f64,
    test_top1: f64,
    test_top5: f64,
    gradient_norm: f64,
    images_per_s: f64,
    /// The most memory that the process has held so far.
    peak_mib: Option<u64>,
    wall_s: f64,
}

/// Where a training run is: all that a checkpoint holds beside weights and momentum.
#[derive(Debug, Default, Serialize, Deserialize)]
struct State {
    epoch: usize,
    /// Steps of this epoch.
    step: usize,
    /// Steps of the whole run.
    steps: usize,
    tally: Tally,
    /// Sum of the gradient norms of this epoch.
    norms: f64,
    /// Seconds of training in this epoch.
    seconds: f64,
    last: Option<Evaluation>,
    best_top1: f64,
    wall_s: f64,
    /// The log so far.
    metrics: String,
}

/// Trains `model` as `config` says, on `device` (without autodiff). With a `run`, its folder gets `metrics.jsonl` and
/// checkpoints, and the training goes on from the newest of them if the run says so; `genotype` is part of what a checkpoint
/// belongs to. With 0 epochs the starting weights are evaluated.
///
/// # Errors
/// Data that cannot be read, a device that fails, a loss that is no number, a log that cannot be written, an end that the
/// observer asked for.
pub fn fit(
    model: Verified<Model>,
    genotype: &str,
    data: &Dataset,
    config: &TrainConfig,
    device: &Device,
    run: Option<&Run>,
    observer: Observer,
) -> Result<Trained, TrainError> {
    let (compiled, _) = passes::apply(passes::TRAINING, model.clone())?;
    let [train, test] = loaders(data, config, &model)?;
    let epochs = config.epochs;
    let mut fit = Fit {
        config,
        module: GraphModule::new(&compiled, device),
        sgd: Sgd::new(config.weights.momentum, config.weights.weight_decay, config.weights.clip),
        train,
        test,
        classes: data.classes.len(),
        keeper: Keeper::without_folder(epochs),
        lines: Lines::begin(None, String::new())?,
    };
    let mut state = State::default();
    if let Some(run) = run {
        let origin = Origin::new("build", config, data, run)?.fact("genotype", genotype.into());
        let (keeper, loaded) = Keeper::open::<State>(run, origin, epochs)?;
        fit.keeper = keeper;
        if let Some(loaded) = loaded {
            unpack(&mut fit.module, &mut fit.sgd, &loaded.tensors)?;
            state = loaded.state;
            fit.keeper.resumed((state.epoch, state.step), state.wall_s);
            loaded.warnings.into_iter().for_each(|warning| tell(observer, Event::Warning(warning)));
            let text = format!("goes on after {} epochs and {} steps", state.epoch, state.step);
            tell(observer, Event::Message(text));
        }
        fit.lines = Lines::begin(Some(run.folder.join("metrics.jsonl")), std::mem::take(&mut state.metrics))?;
    }
    if state.epoch < epochs {
        let line = memory::check(&fit.module, config.batch_size.min(fit.train.images()), false)?;
        line.into_iter().for_each(|line| tell(observer, Event::Message(line)));
    }
    while state.epoch < epochs {
        let epoch = state.epoch;
        let done = fit.epoch(&mut state, observer).map_err(|error| match error {
            TrainError::Diverged { .. } => fit.keeper.diverged(epoch, error),
            other => other,
        })?;
        fit.save(&mut state)?;
        if !done {
            return Err(fit.keeper.interrupted(epoch));
        }
    }
    let last = match state.last {
        Some(last) => last,
        None => evaluate(&fit.module, &fit.test, &[], observer)?.ok_or_else(|| fit.keeper.interrupted(0))?,
    };
    let model = verify(Model { weights: weights_for(&model, &fit.module)?, ..model.into_inner() })?;
    let best_top1 = state.best_top1.max(last.top1);
    Ok(Trained { model, last, best_top1, steps: state.steps, wall_s: fit.keeper.wall_s() })
}

/// What a training run works with.
struct Fit<'a> {
    config: &'a TrainConfig,
    module: GraphModule,
    sgd: Sgd,
    train: Loader,
    test: Loader,
    classes: usize,
    keeper: Keeper,
    lines: Lines,
}

impl Fit<'_> {
    /// The rest of the state's epoch, and its line in the log. `false` if the observer asked for an end.
    fn epoch(&mut self, state: &mut State, observer: Observer) -> Result<bool, TrainError> {
        let config = self.config;
        let (epoch, epochs) = (state.epoch, config.epochs);
        let steps = self.train.batches() + self.test.batches();
        tell(observer, Event::EpochStart { epoch, epochs, steps, done: state.step });
        let (lr, drop_path) = (config.schedule().rate(epoch), drop_path(config.drop_path, epoch, epochs));
        let mut began = Instant::now();
        for batch in self.train.epoch(epoch as u64).skip_to(state.step) {
            let loss = self.step(state, batch?, lr, drop_path)?;
            state.seconds += began.elapsed().as_secs_f64();
            if observer(Event::Step { loss: Some(loss) }).is_break() {
                return Ok(false);
            }
            if self.keeper.is_due() {
                self.save(state)?;
            }
            began = Instant::now();
        }
        let Some(result) = evaluate(&self.module, &self.test, &[], observer)? else { return Ok(false) };
        self.module.device().memory_cleanup();
        state.best_top1 = state.best_top1.max(result.top1);
        state.last = Some(result);
        let mean = state.tally.mean();
        let line = EpochLine {
            epoch,
            lr,
            drop_path,
            train_loss: mean.loss,
            train_top1: mean.top1,
            test_loss: result.loss,
            test_top1: result.top1,
            test_top5: result.top5,
            gradient_norm: state.norms / self.train.batches() as f64,
            images_per_s: mean.images as f64 / state.seconds,
            peak_mib: peak_mib(),
            wall_s: self.keeper.wall_s(),
        };
        self.lines.write(&line)?;
        *state = State {
            epoch: epoch + 1,
            steps: state.steps,
            last: state.last,
            best_top1: state.best_top1,
            ..State::default()
        };
        Ok(observer(Event::EpochEnd { epoch, line: line.to_string() }).is_continue())
    }

    /// One step of the weights; gives the loss.
    fn step(&mut self, state: &mut State, batch: Batch, lr: f64, drop_path: f64) -> Result<f64, TrainError> {
        let config = self.config;
        let images = self.module.images(batch.images, [batch.len, 3, batch.height, batch.width]);
        let mut rng = generator(config.seed, "drop-path", state.steps);
        let pass = self.module.forward(vec![images], Mode::Train { weights: true, drop_path, rng: &mut rng })?;
        let losses = pass.outputs.iter().map(|o| cross_entropy(o.clone(), &batch.labels, config.label_smoothing));
        let weighted = losses.zip([1.0, config.auxiliary_weight]).map(|(loss, weight)| loss * weight);
        let loss = weighted.reduce(|a, b| a + b).expect("a verified graph has an output");
        let value = converging(download(loss.clone())?, self.classes, "the training loss")?;
        state.norms += self.sgd.step(&mut self.module, pass.gradients(&mut loss.backward()), lr)?;
        self.module.update_statistics(&pass);
        state.tally.add(value, &download(pass.outputs[0].clone())?, &batch.labels);
        state.step += 1;
        state.steps += 1;
        Ok(value)
    }

    /// Writes a checkpoint, if the run has a folder.
    fn save(&mut self, state: &mut State) -> Result<(), TrainError> {
        state.wall_s = self.keeper.wall_s();
        state.metrics = self.lines.text().into();
        let (module, sgd) = (&self.module, &self.sgd);
        self.keeper.save((state.epoch, state.step), state.steps, state, || pack(module, sgd))
    }
}

impl std::fmt::Display for EpochLine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let percent = |share: f64| 100.0 * share;
        write!(
            f,
            "loss {:.4}, train top-1 {:.2} %, test top-1 {:.2} %, {:.0} images/s",
            self.train_loss,
            percent(self.train_top1),
            percent(self.test_top1),
            self.images_per_s
        )
    }
}

/// The module's weights for the graph that it was compiled from: the passes keep the names of what they keep.
fn weights_for(model: &Model, module: &GraphModule) -> Result<Weights, TrainError> {
    let names = module.graph().params.iter().map(|param| param.name.as_str());
    let mut trained: HashMap<&str, Tensor> = names.zip(module.weights()?.0).collect();
    let all = model.graph.params.iter().zip(&model.weights.0);
    let tensor =
        |(param, start): (&Param, &Tensor)| trained.remove(param.name.as_str()).unwrap_or_else(|| start.clone());
    Ok(Weights(all.map(tensor).collect()))
}

/// The loaders of training and test images for the network's input size.
fn loaders(data: &Dataset, config: &TrainConfig, model: &Model) -> Result<[Loader; 2], TrainError> {
    let [_, h, w] = model.graph.shape(model.graph.inputs[0]).chw().ok_or_else(|| TrainError::Unsupported {
        node: "input".into(),
        why: "a network that is trained takes images of a known size".into(),
    })?;
    let images = match config.subset {
        Some(n) => data.train.subset(n, config.seed)?,
        None => data.train.clone(),
    };
    let augment = augmentation::training(&config.augmentation, [h, w]);
    let train = Loader::shuffled(&images, data.normalise(), augment, config.batch_size, config.seed)?;
    let whole = augmentation::evaluation(config.network, [h, w], data.test.common_size());
    let test = Loader::in_order(&data.test, data.normalise(), whole, config.batch_size)?;
    Ok([train, test])
}
