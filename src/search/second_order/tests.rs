//! Tests of the second-order gradient against the slope of what it is the gradient of, and of a whole search with it.

use burn::tensor::Device;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::data::Dataset;
use crate::ir::{Role, Weights};
use crate::search::run::search;
use crate::train::checkpoint::Run;
use crate::train::module::download;
use crate::train::progress::ignore;

/// Of the norm of the gradient, where the objective has no kinks: what float32 leaves of a difference of losses.
const SMOOTH: f64 = 5e-3;
/// With ReLU and max pooling, whose kinks the objective and the finite difference of the gradient cross differently.
const KINKED: f64 = 0.05;
const CLASSES: usize = 4;
const LR: f64 = 0.3;

/// A tiny supernet in the middle of a search: the momentum buffers are filled and alpha is far from uniform.
struct Middle {
    config: SearchConfig,
    net: Supernet,
    arch: Arch,
    sgd: Sgd,
    /// Per trainable parameter, computed from two successive steps.
    momentum: Vec<Vec<f32>>,
    train: Batch,
    valid: Batch,
}

impl Middle {
    fn new(settings: &[&str], len: usize) -> Self {
        let mut layers = SearchConfig::layers("cifar10").unwrap();
        for setting in ["method=darts-2nd", "channels=4", "cells=3", "nodes=2"].iter().chain(settings) {
            layers.set(setting).unwrap();
        }
        let config = SearchConfig::resolved(&layers).unwrap().0;
        let mut net = Supernet::new(&config, CLASSES, [8, 8], &Device::flex()).unwrap();
        // The batch norm of the stem shifts all values above zero, so that the first ReLUs have no kinks.
        let mut weights = net.module.weights().unwrap();
        for (param, values) in net.module.graph().params.iter().zip(&mut weights.0) {
            if param.role == Role::Shift {
                values.data.fill(5.0);
            }
        }
        net.module.load(&weights);
        let mut arch = Arch::new(config.shape().unwrap(), config.edge_normalisation, 2);
        arch.values.parts_mut().into_iter().flatten().for_each(|value| *value *= 500.0);
        let mut sgd = Sgd::new(config.weights.momentum, config.weights.weight_decay, None);
        let mut before = trainable(&mut net);
        for seed in 3..6 {
            before = trainable(&mut net);
            let step = net.step(batch(seed, len), &arch, true).unwrap();
            let gradients = step.pass.gradients(&mut step.loss.backward());
            sgd.step(&mut net.module, gradients, LR).unwrap();
        }
        let buffer = |(b, a): (Vec<f32>, Vec<f32>)| b.iter().zip(&a).map(|(b, a)| (b - a) / LR as f32).collect();
        let momentum = before.into_iter().zip(trainable(&mut net)).map(buffer).collect();
        Self { config, net, arch, sgd, momentum, train: batch(1, len), valid: batch(2, len) }
    }

    fn gradient(&mut self, lr: f64) -> ArchPass {
        let unroll = Unroll { lr, ..Unroll::of(&self.config, &self.sgd, lr, &self.train).unwrap() };
        unroll.gradient(&mut self.net, self.valid.clone(), &self.arch).unwrap()
    }

    /// L_valid(w - lr (0.9 buffer + dL_train/dw(w, alpha) + weight_decay w), alpha'), written out: `through` is the alpha
    /// that the weights are trained with, `arch` the one they are judged with.
    fn unrolled_loss(&mut self, through: &Arch, arch: &Arch, lr: f64) -> f64 {
        let step = self.net.step(self.train.clone(), through, true).unwrap();
        let gradients = step.pass.gradients(&mut step.loss.backward());
        let decay = self.config.weights.weight_decay as f32;
        let ids: Vec<usize> = self.net.module.trainable().map(|(id, _)| id.index()).collect();
        let own = self.net.module.weights().unwrap();
        let mut ahead = Weights(own.0.clone());
        for (id, buffer) in ids.into_iter().zip(&self.momentum) {
            let gradient = download(gradients[id].clone().unwrap()).unwrap();
            for ((w, g), b) in ahead.0[id].data.iter_mut().zip(gradient).zip(buffer) {
                *w -= lr as f32 * (0.9 * b + g + decay * *w);
            }
        }
        self.net.module.load(&ahead);
        let logits = self.net.step(self.valid.clone(), arch, false).unwrap().logits;
        self.net.module.load(&own);
        cross_entropy(&logits, &self.valid.labels)
    }
}

/// In float64, because the differences of losses are small.
fn cross_entropy(logits: &[f32], labels: &[i64]) -> f64 {
    let row = |(row, &label): (&[f32], &i64)| {
        row.iter().map(|&x| f64::from(x).exp()).sum::<f64>().ln() - f64::from(row[label as usize])
    };
    logits.chunks(CLASSES).zip(labels).map(row).sum::<f64>() / labels.len() as f64
}

fn trainable(net: &mut Supernet) -> Vec<Vec<f32>> {
    net.module.trainable().map(|(_, t)| download(t.clone()).unwrap()).collect()
}

fn batch(seed: u64, len: usize) -> Batch {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let images = (0..len * 3 * 64).map(|_| rng.random_range(-2.0f32..2.0)).collect();
    let labels = (0..len).map(|_| rng.random_range(0..CLASSES as i64)).collect();
    Batch { images, labels, len, height: 8, width: 8 }
}

/// `arch` moved by `step` along `direction`.
fn moved(arch: &Arch, direction: &ArchValues, step: f64) -> Arch {
    let mut arch = arch.clone();
    for (values, direction) in arch.values.parts_mut().into_iter().zip(direction.parts()) {
        values.iter_mut().zip(direction).for_each(|(x, d)| *x += step as f32 * d);
    }
    arch
}

fn dot(x: &ArchValues, y: &ArchValues) -> f64 {
    let pairs = x.parts().into_iter().flatten().zip(y.parts().into_iter().flatten());
    pairs.map(|(x, y)| f64::from(*x) * f64::from(*y)).sum()
}

fn bits(weights: &Weights) -> Vec<u32> {
    weights.0.iter().flat_map(|t| &t.data).map(|x| x.to_bits()).collect()
}

#[test]
fn the_gradient_is_the_slope_of_the_unrolled_loss() {
    let smooth = "primitives=[none, avg_pool_3x3]";
    let pc_darts = ["partial_channels=2", "edge_normalisation=true"];
    for (settings, len, lr, tolerance) in [
        (&["cells=1", smooth][..], 16, 0.3, SMOOTH),
        (&["cells=1", smooth, pc_darts[0], pc_darts[1]], 16, 0.05, SMOOTH),
        (&["cells=1", pc_darts[0], pc_darts[1]], 64, 0.1, KINKED),
    ] {
        let mut middle = Middle::new(settings, len);
        let arch = middle.arch.clone();
        let second = middle.gradient(lr).gradient;
        let first = middle.gradient(0.0).gradient;
        let norm = second.norm();
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let (mut worst, mut seen) = (0.0f64, 0.0f64);
        for _ in 0..6 {
            let mut direction = ArchValues::zeros(arch.shape);
            direction.parts_mut().into_iter().flatten().for_each(|d| *d = if rng.random() { 1.0 } else { -1.0 });
            let h = 0.01;
            let mut slope = |judged: f64| {
                let [plus, minus] = [h, -h].map(|step| {
                    let through = moved(&arch, &direction, step);
                    middle.unrolled_loss(&through, &moved(&arch, &direction, judged * step), lr)
                });
                (plus - minus) / (2.0 * h)
            };
            let (whole, through) = (slope(1.0), slope(0.0));
            let found = dot(&second, &direction);
            println!(
                "slope {whole:.6}, of it through the weights {through:.6}; gradient {found:.6}, first order {:.6}",
                dot(&first, &direction)
            );
            worst = worst.max((whole - found).abs());
            seen = seen.max(through.abs());
        }
        println!("{settings:?}: worst difference {:.2e} of a norm of {norm:.3e}", worst / norm);
        assert!(worst <= tolerance * norm, "{worst:.3e} is more than {tolerance} of {norm:.3e}");
        // A gradient without the part through the weights would have been noticed.
        assert!(seen > 5.0 * tolerance * norm, "the part through the weights, {seen:.3e}, is too small to be tested");
    }
}

#[test]
fn without_a_learning_rate_the_gradient_is_that_of_first_order() {
    let mut middle = Middle::new(&[], 8);
    let second = middle.gradient(0.0);
    let first = middle.net.first_order(middle.valid.clone(), &middle.arch).unwrap();
    assert_eq!((second.gradient, second.loss, second.logits), (first.gradient, first.loss, first.logits));
}

#[test]
fn weights_and_running_statistics_keep_every_bit() {
    let mut middle = Middle::new(&[], 8);
    let before = middle.net.module.weights().unwrap();
    middle.gradient(LR);
    let after = middle.net.module.weights().unwrap();
    assert!(bits(&before) == bits(&after));
}

#[test]
fn a_pass_that_fails_gives_the_weights_back() {
    let mut middle = Middle::new(&[], 8);
    let before = middle.net.module.weights().unwrap();
    middle.valid.images[5] = f32::NAN;
    let unroll = Unroll::of(&middle.config, &middle.sgd, LR, &middle.train).unwrap();
    assert!(unroll.gradient(&mut middle.net, middle.valid.clone(), &middle.arch).is_err());
    assert!(bits(&before) == bits(&middle.net.module.weights().unwrap()));
}

#[test]
fn a_search_of_second_order_ends_with_a_genotype_of_its_own() {
    let data = Dataset::synthetic(0, 40, 10).unwrap();
    let values = |method: &str| {
        let mut layers = SearchConfig::layers("quick").unwrap();
        for setting in [
            &format!("method={method}"),
            "channels=2",
            "cells=3",
            "nodes=2",
            "epochs=2",
            "batch_size=10",
            "subset=null",
        ] {
            layers.set(setting).unwrap();
        }
        let config = SearchConfig::resolved(&layers).unwrap().0;
        let out = tempfile::tempdir().unwrap();
        let found = search(&config, &data, &Device::flex(), &Run::new(out.path(), "cpu"), &mut ignore).unwrap();
        found.genotype.check().unwrap();
        assert_eq!(found.genotype.provenance.method.as_deref(), Some(method));
        std::fs::read_to_string(out.path().join("arch.jsonl")).unwrap()
    };
    assert_ne!(values("darts-2nd"), values("darts"));
}
