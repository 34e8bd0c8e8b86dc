//! The GPU training path computes what the CPU does: a step of a tiny supernet and one of a tiny final network.
//!
//! Takes the device that IDARTS_TEST_DEVICE names (default: the one this build is for); compares logits, gradients and
//! what a step leaves behind with the CPU's. The CPU itself is held to PyTorch in `parity`.
#![cfg(any(feature = "cuda", feature = "vulkan", feature = "metal"))]

mod common;

use burn::tensor::Device;
use idarts_compile::data::Batch;
use idarts_compile::genotype::Genotype;
use idarts_compile::ir::{Graph, Model, verify};
use idarts_compile::lower::{Cells, Network, Stem, lower};
use idarts_compile::passes::{TRAINING, apply};
use idarts_compile::search::arch::Arch;
use idarts_compile::search::config::SearchConfig;
use idarts_compile::search::supernet::Supernet;
use idarts_compile::train::loss::cross_entropy;
use idarts_compile::train::module::{GraphModule, Mode, download};
use idarts_compile::train::optim::Sgd;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Absolute, for logits and losses.
const ABSOLUTE: f64 = 1e-4;
/// Relative to the norm of the tensor, for gradients.
const RELATIVE: f64 = 1e-3;
/// Absolute, for parameters and running statistics after a step.
const AFTER_STEP: f64 = 1e-5;

const DEFAULT: &str = match (cfg!(feature = "cuda"), cfg!(feature = "metal")) {
    (true, _) => "cuda",
    (false, true) => "metal",
    (false, false) => "vulkan",
};

const CLASSES: usize = 5;

/// What is compared, in order: a name, how it is measured, and the values.
type Facts = Vec<(String, Measure, Vec<f32>)>;

#[derive(Clone, Copy)]
enum Measure {
    Absolute(f64),
    Relative(f64),
}

#[test]
fn gpu_parity_of_the_supernet() {
    let Some(gpu) = common::device(DEFAULT) else { return };
    // A normal cell and both reductions, every primitive, partial channels and edge normalisation.
    let mut layers = SearchConfig::layers("cifar10").unwrap();
    for assignment in ["channels=8", "cells=3", "partial_channels=4", "nodes=2"] {
        layers.set(assignment).unwrap();
    }
    let (config, _) = SearchConfig::resolved(&layers).unwrap();
    let mut arch = Arch::new(config.shape().unwrap(), config.edge_normalisation, 1);
    // Far from the uniform start, where many a mistake cancels.
    arch.values.parts_mut().into_iter().flatten().for_each(|value| *value *= 500.0);
    compare(&gpu, |device| {
        let net = Supernet::new(&config, CLASSES, [16, 16], device).unwrap();
        let mut facts = Facts::new();
        let step = net.step(batch(), &arch, false).unwrap();
        facts.push(("logits of the architecture step".into(), Measure::Absolute(ABSOLUTE), step.logits.clone()));
        let gradient = step.architecture_gradient(&arch).unwrap();
        for (part, values) in
            ["normal alpha", "normal beta", "reduce alpha", "reduce beta"].iter().zip(gradient.parts())
        {
            facts.push((format!("gradient of {part}"), Measure::Relative(RELATIVE), values.clone()));
        }
        let step = net.step(batch(), &arch, true).unwrap();
        facts.push(("logits of the weight step".into(), Measure::Absolute(ABSOLUTE), step.logits.clone()));
        let gradients = step.pass.gradients(&mut step.loss.backward());
        facts.extend(named(net.module.graph(), gradients.into_iter().map(|g| g.map(|g| download(g).unwrap()))));
        facts
    });
}

#[test]
fn gpu_parity_of_a_step_of_a_final_network() {
    let Some(gpu) = common::device(DEFAULT) else { return };
    let network =
        Network { stem: Stem::Cifar, channels: 4, cells: 3, classes: CLASSES, image: [16, 16], auxiliary: false };
    let genotype = Genotype::shipped("PC_DARTS_cifar").expect("shipped");
    let graph = lower(&network, Cells::Fixed(&genotype)).unwrap();
    let (model, _) = apply(TRAINING, verify(Model::initial(graph, 1)).unwrap()).unwrap();
    compare(&gpu, |device| {
        let mut module = GraphModule::new(&model, device);
        let Batch { images, labels, len, height, width } = batch();
        let images = module.images(images, [len, 3, height, width]);
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        let mode = Mode::Train { weights: true, drop_path: 0.3, rng: &mut rng };
        let pass = module.forward(vec![images.clone()], mode).unwrap();
        let mut facts = vec![(
            "training logits".to_owned(),
            Measure::Absolute(ABSOLUTE),
            download(pass.outputs[0].clone()).unwrap(),
        )];
        let loss = cross_entropy(pass.outputs[0].clone(), &labels, 0.1);
        let gradients = pass.gradients(&mut loss.backward());
        let values = gradients.iter().cloned().map(|g| g.map(|g| download(g).unwrap()));
        facts.extend(named(module.graph(), values));
        module.update_statistics(&pass);
        Sgd::new(0.9, 3e-4, Some(5.0)).step(&mut module, gradients, 0.025).unwrap();
        let weights = module.weights().unwrap();
        for (param, tensor) in module.graph().params.iter().zip(weights.0) {
            facts.push((format!("{} after the step", param.name), Measure::Absolute(AFTER_STEP), tensor.data));
        }
        let pass = module.forward(vec![images], Mode::Eval).unwrap();
        let logits = download(pass.outputs[0].clone()).unwrap();
        facts.push(("evaluation logits after the step".into(), Measure::Absolute(ABSOLUTE), logits));
        facts
    });
}

fn batch() -> Batch {
    let (len, height, width) = (2, 16, 16);
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let images = (0..len * 3 * height * width).map(|_| rng.random_range(-2.0f32..2.0)).collect();
    Batch { images, labels: vec![1, 4], len, height, width }
}

/// The gradients that there are, under the names of their parameters.
fn named(graph: &Graph, gradients: impl Iterator<Item = Option<Vec<f32>>>) -> Facts {
    let all = graph.params.iter().zip(gradients);
    all.filter_map(|(p, g)| Some((format!("gradient of {}", p.name), Measure::Relative(RELATIVE), g?))).collect()
}

/// Fails on every fact in which the GPU differs from the CPU by more than its tolerance.
fn compare(gpu: &Device, facts_on: impl Fn(&Device) -> Facts) {
    let (wanted, got) = (facts_on(&Device::flex()), facts_on(gpu));
    assert!(wanted.iter().any(|(name, ..)| name.starts_with("gradient of ")), "no gradients to compare");
    let names = |facts: &Facts| facts.iter().map(|(name, ..)| name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&wanted), names(&got));
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
    let (mut wrong, mut worst) = (Vec::new(), (0.0, String::new()));
    for ((name, measure, wanted), (.., got)) in wanted.into_iter().zip(got) {
        assert_eq!(wanted.len(), got.len(), "{name}");
        let pairs = || wanted.iter().zip(&got).map(|(&a, &b)| f64::from(a) - f64::from(b));
        let (difference, tolerance) = match measure {
            Measure::Absolute(tolerance) => {
                // A difference that is no number must not pass for none.
                let largest = |w: f64, d: f64| if w.is_nan() || d.abs() <= w { w } else { d.abs() };
                (pairs().fold(0.0, largest), tolerance)
            }
            Measure::Relative(tolerance) => {
                let size = norm(&mut wanted.iter().map(|&x| f64::from(x)));
                (norm(&mut pairs()) / size.max(1e-12), tolerance)
            }
        };
        if difference / tolerance > worst.0 {
            worst = (difference / tolerance, format!("{name}: {difference:.2e}"));
        }
        if difference.is_nan() || difference > tolerance {
            wrong.push(format!("{name}: {difference:.3e} > {tolerance:.0e}"));
        }
    }
    println!("nearest to its tolerance: {} ({:.0} % of it)", worst.1, 100.0 * worst.0);
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}
