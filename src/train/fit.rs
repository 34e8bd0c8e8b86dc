//! The fit loop: retrains a final network.
//!
//! Takes a lowered network, data and a configuration; gives the trained model with its accuracy, and writes one JSON line an
//! epoch. Reports the last epoch and the best one apart: a best epoch is picked on the test set and is not a result.

use std::collections::HashMap;
use std::path::Path;
use std::time::Instant;

use burn::tensor::Device;
use serde::Serialize;

use super::config::TrainConfig;
use super::evaluate::{Evaluation, Tally, evaluate};
use super::loss::cross_entropy;
use super::module::{GraphModule, Mode, download};
use super::optim::Sgd;
use super::progress::{Event, Observer};
use super::schedule::drop_path;
use super::{Lines, TrainError, augmentation, finite, generator};
use crate::data::{Dataset, Loader};
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
    wall_s: f64,
}

/// Trains `model` as `config` says, on `device` (without autodiff). Appends to `metrics` where it is given. With 0 epochs the
/// starting weights are evaluated.
///
/// # Errors
/// Data that cannot be read, a device that fails, a loss that is no number, a log that cannot be written.
pub fn fit(
    model: Verified<Model>,
    data: &Dataset,
    config: &TrainConfig,
    device: &Device,
    metrics: Option<&Path>,
    observer: Observer,
) -> Result<Trained, TrainError> {
    let start = Instant::now();
    let (compiled, _) = passes::apply(passes::TRAINING, model.clone())?;
    let mut module = GraphModule::new(&compiled, device);
    let mut lines = metrics.map(Lines::create).transpose()?;
    let [train, test] = loaders(data, config, &model)?;
    let mut sgd = Sgd::new(config.weights.momentum, config.weights.weight_decay, config.weights.clip);
    let schedule = config.schedule();
    let (mut last, mut best_top1, mut steps) = (None, 0.0f64, 0);
    for epoch in 0..config.epochs {
        let began = Instant::now();
        observer(Event::EpochStart { epoch, epochs: config.epochs, steps: train.batches() + test.batches() });
        let (lr, drop) = (schedule.rate(epoch), drop_path(config.drop_path, epoch, config.epochs));
        let mut rng = generator(config.seed, "drop-path", epoch);
        let (mut tally, mut norms) = (Tally::default(), 0.0);
        for batch in train.epoch(epoch as u64) {
            let batch = batch?;
            let images = module.images(batch.images, [batch.len, 3, batch.height, batch.width]);
            let mode = Mode::Train { weights: true, drop_path: drop, rng: &mut rng };
            let pass = module.forward(vec![images], mode)?;
            let losses = pass.outputs.iter().map(|o| cross_entropy(o.clone(), &batch.labels, config.label_smoothing));
            let weighted = losses.zip([1.0, config.auxiliary_weight]).map(|(loss, weight)| loss * weight);
            let loss = weighted.reduce(|a, b| a + b).expect("a verified graph has an output");
            let value = finite(download(loss.clone())?, "the training loss")?;
            norms += sgd.step(&mut module, pass.gradients(&mut loss.backward()), lr)?;
            module.update_statistics(&pass);
            tally.add(value, &download(pass.outputs[0].clone())?, &batch.labels);
            observer(Event::Step { loss: Some(value) });
            steps += 1;
        }
        let trained = began.elapsed().as_secs_f64();
        let result = evaluate(&module, &test, &[], observer)?;
        device.memory_cleanup();
        best_top1 = best_top1.max(result.top1);
        last = Some(result);
        let mean = tally.mean();
        let line = EpochLine {
            epoch,
            lr,
            drop_path: drop,
            train_loss: mean.loss,
            train_top1: mean.top1,
            test_loss: result.loss,
            test_top1: result.top1,
            test_top5: result.top5,
            gradient_norm: norms / train.batches() as f64,
            images_per_s: mean.images as f64 / trained,
            wall_s: start.elapsed().as_secs_f64(),
        };
        if let Some(lines) = &mut lines {
            lines.write(&line)?;
        }
        observer(Event::EpochEnd { epoch, line: line.to_string() });
    }
    let last = match last {
        Some(last) => last,
        None => evaluate(&module, &test, &[], observer)?,
    };
    let model = verify(Model { weights: weights_for(&model, &module)?, ..model.into_inner() })?;
    let wall_s = start.elapsed().as_secs_f64();
    Ok(Trained { model, last, best_top1: best_top1.max(last.top1), steps, wall_s })
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
