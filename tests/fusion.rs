//! Passes on = passes off, and the CPU's own walk = burn's tape: outputs and gradients of whole networks, forward and backward,
//! on images whose sizes are no multiple of a vector. Both graphs also agree in the reference interpreter.
#![cfg(feature = "train")]

use std::collections::BTreeMap;

use burn::tensor::Device;
use idarts_compile::genotype::Genotype;
use idarts_compile::ir::{Model, Tensor, Verified, verify};
use idarts_compile::lower::{Cells, Network, SearchSpace, Stem, lower};
use idarts_compile::passes::{TRAINING, apply};
use idarts_compile::runtime::Reference;
use idarts_compile::train::loss::cross_entropy;
use idarts_compile::train::module::{GraphModule, Mode, Value, download, upload};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Relative to the norm of a tensor. Gradients run through eight cells of batch norms, which double rounding errors again and
/// again; a mistake is orders of magnitude larger.
const TOLERANCE: f64 = 1e-4;
/// Of outputs, absolute.
const OUTPUT: f64 = 1e-5;

const CLASSES: usize = 5;
const BATCH: usize = 3;

/// Outputs, and gradients by name.
type Facts = (Vec<f64>, BTreeMap<String, Vec<f64>>);

#[test]
fn the_cifar_supernet_is_the_same_with_and_without_passes() {
    check_supernet(Stem::Cifar, 4, [12, 12], SearchSpace::pc_darts(4));
}

#[test]
fn the_imagenet_supernet_is_the_same_with_and_without_passes() {
    check_supernet(Stem::ImageNet, 4, [40, 40], SearchSpace::pc_darts(2));
}

#[test]
fn the_supernet_of_darts_is_the_same_with_and_without_passes() {
    check_supernet(Stem::Cifar, 3, [9, 9], SearchSpace::darts());
}

#[test]
fn a_final_network_with_drop_path_is_the_same_with_and_without_passes() {
    let genotype = Genotype::shipped("PC_DARTS_cifar").expect("shipped");
    let network =
        Network { stem: Stem::Cifar, channels: 6, cells: 3, classes: CLASSES, image: [13, 13], auxiliary: false };
    let model = verify(Model::initial(lower(&network, Cells::Fixed(&genotype)).unwrap(), 1)).unwrap();
    check(model, [13, 13], 0.3);
}

fn check_supernet(stem: Stem, cells: usize, image: [usize; 2], space: SearchSpace) {
    let network = Network { stem, channels: 8, cells, classes: CLASSES, image, auxiliary: false };
    let model = verify(Model::initial(lower(&network, Cells::Search(&space)).unwrap(), 1)).unwrap();
    check(model, image, 0.0);
}

fn check(model: Verified<Model>, image: [usize; 2], drop_path: f64) {
    let (compiled, _) = apply(TRAINING, model.clone()).unwrap();
    let names = |model: &Model| -> Vec<String> { model.graph.params.iter().map(|p| p.name.clone()).collect() };
    assert_eq!(names(&model), names(&compiled), "the passes keep every parameter");
    let device = Device::flex();
    // Without weights and architecture inputs there is nothing to take gradients of.
    let supernet = model.graph.inputs.len() > 1;
    for weights in [true, false].into_iter().filter(|weights| *weights || supernet) {
        let [plain, fused] = [&model, &compiled].map(|model| GraphModule::new(model, &device));
        let want = facts(&plain, image, drop_path, weights, true);
        for (what, module, on_device) in [
            ("plain graph on the CPU", &plain, false),
            ("compiled graph on burn", &fused, true),
            ("compiled", &fused, false),
        ] {
            compare(what, &facts(module, image, drop_path, weights, on_device), &want);
        }
        assert_eq!(want.1.keys().any(|name| name.ends_with("weight")), weights, "only what is wanted has a gradient");
    }
    let interpreted = [&model, &compiled].map(|model| interpret(model, image));
    for (got, want) in interpreted[1].iter().zip(&interpreted[0]) {
        let (got, want) = (f64::from(*got), f64::from(*want));
        assert!((got - want).abs() <= OUTPUT * want.abs().max(1.0), "interpreted: {got} for {want}");
    }
    for module in [&model, &compiled].map(|model| GraphModule::new(model, &device)) {
        let logits = |on_device| download(run(&module, image, Mode::Eval, true, on_device).outputs[0].clone()).unwrap();
        let [got, want] = [logits(false), logits(true)];
        assert!(got.iter().zip(&want).all(|(a, b)| (a - b).abs() <= 1e-5), "evaluation: {got:?} for {want:?}");
    }
}

/// The logits of the reference interpreter, for random images and architecture weights.
fn interpret(model: &Verified<Model>, [h, w]: [usize; 2]) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    let shapes = model.graph.inputs.iter().enumerate().map(|(i, id)| match i {
        0 => vec![BATCH, 3, h, w],
        _ => model.graph.shape(*id).with_batch(BATCH),
    });
    let random = |shape: Vec<usize>| {
        let values = (0..shape.iter().product()).map(|_| rng.random_range(0.05f32..0.5)).collect();
        Tensor::new(shape, values)
    };
    let inputs: Vec<Tensor> = shapes.map(random).collect();
    Reference::new(model).run(&inputs).unwrap().swap_remove(0).data
}

fn facts(module: &GraphModule, image: [usize; 2], drop_path: f64, weights: bool, on_device: bool) -> Facts {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let pass = run(module, image, Mode::Train { weights, drop_path, rng: &mut rng }, weights, on_device);
    let labels: Vec<i64> = (0..BATCH as i64).collect();
    let mut gradients = cross_entropy(pass.outputs[0].clone(), &labels, 0.1).backward();
    let wide = |values: Vec<f32>| values.into_iter().map(f64::from).collect::<Vec<f64>>();
    let mut named = BTreeMap::new();
    for (i, g) in pass.input_gradients(&mut gradients).into_iter().enumerate() {
        named.extend(g.map(|g| (format!("input {i}"), wide(download(g).unwrap()))));
    }
    for (param, g) in module.graph().params.iter().zip(pass.gradients(&mut gradients)) {
        named.extend(g.map(|g| (param.name.clone(), wide(download(g).unwrap()))));
    }
    (wide(download(pass.outputs[0].clone()).unwrap()), named)
}

/// One pass over random images and architecture weights, which want gradients unless the parameters do.
fn run(
    module: &GraphModule,
    [h, w]: [usize; 2],
    mode: Mode,
    weights: bool,
    on_device: bool,
) -> idarts_compile::train::module::Pass {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let images = (0..BATCH * 3 * h * w).map(|_| rng.random_range(-2.0f32..2.0)).collect();
    let mut inputs = vec![module.images(images, [BATCH, 3, h, w])];
    for id in &module.graph().inputs[1..] {
        let values: Vec<f32> =
            (0..module.graph().shape(*id).elements()).map(|_| rng.random_range(0.05f32..0.5)).collect();
        let values = upload(&values, module.device());
        inputs.push(Value::Flat(if weights { values } else { values.autodiff().require_grad() }));
    }
    match on_device {
        true => module.on_device(inputs, mode).unwrap(),
        false => module.forward(inputs, mode).unwrap(),
    }
}

fn compare(what: &str, got: &Facts, want: &Facts) {
    for (a, b) in got.0.iter().zip(&want.0) {
        assert!((a - b).abs() <= OUTPUT * b.abs().max(1.0), "{what}: output {a} for {b}");
    }
    assert_eq!(got.1.keys().collect::<Vec<_>>(), want.1.keys().collect::<Vec<_>>(), "{what}: the same gradients");
    let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|x| x * x).sum::<f64>().sqrt();
    let whole = want.1.values().map(|v| norm(&mut v.iter().copied())).fold(0.0, f64::max);
    for (name, want) in &want.1 {
        let got = &got.1[name];
        let size = norm(&mut want.iter().copied()).max(1e-3 * whole);
        let difference = norm(&mut got.iter().zip(want).map(|(a, b)| a - b)) / size;
        assert!(difference <= TOLERANCE, "{what}: {name}: {difference:.2e} of {size:.2e}");
    }
}
