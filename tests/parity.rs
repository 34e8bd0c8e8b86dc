//! The numbers of the PyTorch reference: logits, losses and gradients of the static networks and the supernet, and what one
//! step of the search leaves behind, on the device that IDARTS_TEST_DEVICE names (default: cpu). `--nocapture` shows the
//! worst deviation of each group.
#![cfg(feature = "train")]

mod common;
#[path = "parity/fixture.rs"]
mod fixture;

use idarts_compile::genotype::Genotype;
use idarts_compile::lower::{Cells, Network, Stem, lower};
use idarts_compile::search::adam::{AdamConstants, ArchAdam};
use idarts_compile::search::arch::Arch;
use idarts_compile::search::supernet::Supernet;
use idarts_compile::train::loss::cross_entropy;
use idarts_compile::train::module::{GraphModule, Mode, download};
use idarts_compile::train::optim::Sgd;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use fixture::{ARCH, Fixture, RELATIVE, Worst};

#[test]
fn parity_of_the_static_cifar_network() {
    check_static("static_cifar.safetensors", Stem::Cifar, 5, 10, "PC_DARTS_cifar");
}

#[test]
fn parity_of_the_static_imagenet_network() {
    check_static("static_imagenet.safetensors", Stem::ImageNet, 4, 20, "PC_DARTS_image");
}

#[test]
fn parity_of_the_supernet() {
    check_supernet("supernet.safetensors");
}

#[test]
fn parity_of_the_imagenet_supernet() {
    check_supernet("supernet_imagenet.safetensors");
}

fn check_static(file: &str, stem: Stem, cells: usize, classes: usize, genotype: &str) {
    let (Some(fixture), Some(device)) = (Fixture::open(file), common::device("cpu")) else { return };
    let images = &fixture.tensors["images"];
    let network =
        Network { stem, channels: 8, cells, classes, image: [images.shape[2], images.shape[3]], auxiliary: true };
    let genotype = Genotype::shipped(genotype).expect("shipped");
    let model = fixture.model(lower(&network, Cells::Fixed(&genotype)).unwrap());
    let mut module = GraphModule::new(&model, &device);
    let labels = fixture.labels("labels");

    let pass = module.forward(vec![fixture.images(&module, "images")], Mode::Eval).unwrap();
    fixture.close("eval/logits", download(pass.outputs[0].clone()).unwrap());

    fixture.train_gradients(&model.graph, &model.weights, 1.0, |weights| {
        module.load(weights);
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        let mode = Mode::Train { weights: true, drop_path: 0.0, rng: &mut rng };
        let pass = module.forward(vec![fixture.images(&module, "images")], mode).unwrap();
        fixture.close("train/logits", download(pass.outputs[0].clone()).unwrap());
        fixture.close("train/aux_logits", download(pass.outputs[1].clone()).unwrap());
        let loss = |i: usize| cross_entropy(pass.outputs[i].clone(), &labels, 0.0);
        let loss = loss(0) + loss(1) * 0.4;
        fixture.close("train/loss", download(loss.clone()).unwrap());
        ((), pass.gradients(&mut loss.backward()))
    });
}

/// A step of the search as the program makes it: the architecture on one batch, then the weights on another.
fn check_supernet(file: &str) {
    let (Some(fixture), Some(device)) = (Fixture::open(file), common::device("cpu")) else { return };
    let config = fixture.search_config();
    let [n, channels, height, width] = fixture.tensors["valid/images"].shape[..] else {
        panic!("images are [N, C, H, W]")
    };
    assert_eq!((n, channels), (fixture.labels["valid/labels"].len(), 3));
    let classes = fixture.tensors["weight/classifier.weight"].shape[0];
    let mut net = Supernet::new(&config, classes, [height, width], &device).unwrap();
    fixture.load(&mut net, &config, classes, [height, width]);
    let mut arch = Arch::new(config.shape().unwrap(), config.edge_normalisation, 0);
    arch.values = fixture.arch("weight/");

    let mut pass = net.first_order(fixture.batch("valid"), &arch).unwrap();
    fixture.close("valid/logits", pass.logits);
    fixture.close("valid/loss", vec![pass.loss as f32]);
    let mut worst = Worst::default();
    for (name, found) in ARCH.iter().zip(pass.gradient.parts()) {
        worst.see(name, fixture.relative(&format!("valid/grad/{name}"), found));
    }
    println!("valid/grad/: {}, relative to the norm", worst);
    if !fixture.tensors.contains_key("train/images") {
        return;
    }

    if let Some(limit) = config.arch.clip {
        pass.gradient.clip(limit);
    }
    let [arch_lr, weights_lr] = fixture.learning_rates(&config);
    println!("learning rates that the file was made with: {arch_lr} and {weights_lr}");
    let constants = AdamConstants { lr: arch_lr, ..config.arch.adam() };
    let near_zero = fixture.undecided(&arch, &pass.gradient, constants.weight_decay);
    ArchAdam::new(arch.shape, constants).step(&mut arch.values, &pass.gradient);
    fixture.arch_after(&arch, &near_zero, arch_lr);

    let factor = fixture.clipped(config.weights.clip);
    let (graph, weights) = (net.module.graph().clone(), net.module.weights().unwrap());
    let (step, gradients) = fixture.train_gradients(&graph, &weights, factor, |weights| {
        net.module.load(weights);
        let step = net.step(fixture.batch("train"), &arch, true).unwrap();
        fixture.close("train/logits", step.logits.clone());
        fixture.close("train/loss", vec![step.loss_value as f32]);
        let gradients = step.pass.gradients(&mut step.loss.backward());
        (step, gradients)
    });
    net.module.load(&weights);
    let settings = &config.weights;
    let mut sgd = Sgd::new(settings.momentum, settings.weight_decay, settings.clip);
    let norm = sgd.step(&mut net.module, gradients, weights_lr).unwrap();
    if let Some(expected) = fixture.tensors.get("train/grad_norm") {
        let difference = (norm / f64::from(expected.data[0]) - 1.0).abs();
        println!("train/grad_norm: {norm:.6}, relative difference {difference:.2e}");
        assert!(difference <= RELATIVE, "train/grad_norm: {norm} instead of {}", expected.data[0]);
    }
    net.module.update_statistics(&step.pass);
    fixture.weights_after(&net.module);
}
