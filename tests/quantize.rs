//! A quantised network is the same network everywhere: in the CPU reference, in the trainable module in evaluation mode, in
//! the file and through the shaders.
//!
//! A number that lies in the middle between two codes becomes either, depending on the last bit of a sum, and the step that
//! this makes reaches the logits: whole networks agree within [`LOGITS`] of the largest logit, single layers exactly.
#![cfg(feature = "train")]

use burn::tensor::Device;
use idarts_compile::data::{Dataset, Loader};
use idarts_compile::genotype::Genotype;
use idarts_compile::ir::{Grid, Model, Op, Tensor, Verified, verify};
use idarts_compile::lower::{Cells, Network, Stem, lower};
use idarts_compile::onnx::{WriteOptions, read, write};
use idarts_compile::passes::quantize::{measured, quantize};
use idarts_compile::passes::{EXPORT, RUNTIME, apply};
use idarts_compile::runtime::{AdapterChoice, Reference, RuntimeError, Session, Tolerance, compare, compare_layers};
use idarts_compile::train::augmentation;
use idarts_compile::train::calibrate::{Method, calibrate};
use idarts_compile::train::config::Network as Frame;
use idarts_compile::train::module::{GraphModule, Mode, download};
use idarts_compile::train::progress::ignore;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// Relative to the largest logit.
const LOGITS: f64 = 5e-2;

/// The float32 network for export and images for it.
fn network(genotype: &str) -> (Verified<Model>, Dataset, Tensor) {
    let genotype = Genotype::shipped(genotype).unwrap();
    let data = Dataset::synthetic(0, 64, 16).unwrap();
    let image = data.image_size;
    let classes = data.classes.len();
    let network = Network { stem: Stem::Cifar, channels: 6, cells: 5, classes, image, auxiliary: false };
    let model = verify(Model::initial(lower(&network, Cells::Fixed(&genotype)).unwrap(), 3)).unwrap();
    let model = lively(apply(EXPORT, model).unwrap().0);
    let mut pixels = Vec::new();
    for batch in loader(&data, 8).epoch(0).take(1) {
        pixels.extend(batch.unwrap().images);
    }
    (model, data, Tensor::new([8, 3, image[0], image[1]], pixels))
}

/// Larger weights: with the starting ones the signal fades, and the logits are the classifier's bias.
fn lively(model: Verified<Model>) -> Verified<Model> {
    let mut model = model.into_inner();
    for (param, tensor) in model.graph.params.iter().zip(&mut model.weights.0) {
        if param.name.ends_with(".weight") && param.shape.len() == 4 {
            tensor.data.iter_mut().for_each(|w| *w *= 2.5);
        }
    }
    verify(model).unwrap()
}

fn loader(data: &Dataset, batch: usize) -> Loader {
    let recipe = augmentation::evaluation(Frame::Cifar, data.image_size, data.train.common_size());
    Loader::in_order(&data.train, data.normalise(), recipe, batch).unwrap()
}

fn quantized(model: &Verified<Model>, data: &Dataset, method: Method) -> Verified<Model> {
    let values = measured(&model.graph);
    let loader = loader(data, 16);
    let intervals = calibrate(model, &values, &loader, method, &Device::flex(), &mut ignore).unwrap().unwrap();
    quantize(model.clone(), &intervals).unwrap()
}

fn by_module(model: &Verified<Model>, images: &Tensor) -> [Tensor; 2] {
    let module = GraphModule::new(model, &Device::flex());
    let shape = <[usize; 4]>::try_from(images.shape.clone()).unwrap();
    let input = || vec![module.images(images.data.clone(), shape)];
    let passes = [module.forward(input(), Mode::Eval), module.on_device(input(), Mode::Eval)];
    passes.map(|pass| {
        let logits = download(pass.unwrap().outputs[0].clone()).unwrap();
        Tensor::new([shape[0], logits.len() / shape[0]], logits)
    })
}

/// The largest difference, relative to the largest logit.
fn apart(what: &str, got: &Tensor, expected: &Tensor) -> f64 {
    let any = Tolerance { atol: 1e9, rtol: 0.0 };
    let figures = compare(what, got, expected, any).unwrap();
    assert_eq!(figures.non_finite, 0, "{what}");
    figures.max_rel
}

#[test]
fn all_back_ends_compute_the_quantised_network() {
    for genotype in ["PC_DARTS_cifar", "DARTS_V2", "NASNet"] {
        let (model, data, images) = network(genotype);
        let float = Reference::new(&model).run(std::slice::from_ref(&images)).unwrap().swap_remove(0);
        for method in [Method::MinMax, Method::Percentile(99.99)] {
            let model = quantized(&model, &data, method);
            let reference = Reference::new(&model).run(std::slice::from_ref(&images)).unwrap().swap_remove(0);
            let rounding = apart("int8", &reference, &float);
            assert!(rounding > 1e-4 && rounding < 0.5, "{genotype}: rounding changes the logits by {rounding:e}");
            for (what, got) in ["host", "device"].iter().zip(by_module(&model, &images)) {
                let rel = apart(what, &got, &reference);
                println!("{genotype}, {method:?}: {what} {rel:.1e}, rounding itself {rounding:.1e}");
                assert!(rel <= LOGITS, "{genotype}, {method:?}, {what}: {rel:e}");
            }
            let bytes = write(&model, &WriteOptions::default()).unwrap();
            let again = verify(read(&bytes, "int8.onnx").unwrap()).unwrap();
            assert!(write(&again, &WriteOptions::default()).unwrap() == bytes, "{genotype}: read and written again");
            let read = Reference::new(&again).run(std::slice::from_ref(&images)).unwrap().swap_remove(0);
            assert_eq!(read, reference, "{genotype}: the file is the network");
        }
    }
}

#[test]
fn the_shaders_round_as_the_reference_does() {
    let (model, data, images) = network("PC_DARTS_cifar");
    let model = quantized(&model, &data, Method::MinMax);
    let reference = Reference::new(&model).run(std::slice::from_ref(&images)).unwrap().swap_remove(0);
    let (fused, _) = apply(RUNTIME, model).unwrap();
    let mut session = match Session::new(&fused, &AdapterChoice::default(), 8) {
        Ok(session) => session,
        Err(RuntimeError::NoAdapter) => {
            assert!(std::env::var_os("IDARTS_REQUIRE_ALL").is_none(), "no adapter");
            eprintln!("SKIPPED: no adapter; install mesa-vulkan-drivers for a software one");
            return;
        }
        Err(error) => panic!("{error}"),
    };
    let got = session.run(std::slice::from_ref(&images)).unwrap().swap_remove(0);
    let rel = apart("shaders", &got, &reference);
    println!("shaders: {rel:.1e}");
    assert!(rel <= LOGITS, "{rel:e}");
    let any = Tolerance { atol: 1e9, rtol: 0.0 };
    for layer in compare_layers(Reference::new(&fused), &mut session, &[images], any).unwrap() {
        // A layer that rounds may be off by a step; all others read the same numbers.
        match layer.step {
            Some(step) => assert!(layer.comparison.max_abs <= 1.001 * f64::from(step), "{layer:?}"),
            None => assert!(layer.comparison.max_rel <= 1e-5, "{layer:?}"),
        }
    }
}

#[test]
fn a_quantised_network_is_not_trained() {
    let (model, data, images) = network("PC_DARTS_cifar");
    let model = quantized(&model, &data, Method::MinMax);
    let module = GraphModule::new(&model, &Device::flex());
    let shape = <[usize; 4]>::try_from(images.shape.clone()).unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    for host in [true, false] {
        let input = vec![module.images(images.data.clone(), shape)];
        let mode = Mode::Train { weights: true, drop_path: 0.0, rng: &mut rng };
        let pass = if host { module.forward(input, mode) } else { module.on_device(input, mode) };
        let error = pass.map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("input/int8") && error.contains("rounds to eight bits"), "{error}");
    }
}

#[test]
fn the_device_rounds_ties_to_even_and_saturates() {
    use idarts_compile::ir::{Builder, Shape};
    let grid = Grid { scale: 0.5, zero_point: 3 };
    let mut b = Builder::new("round");
    let x = b.input("input", Shape::image(3, 2, 2));
    let y = b.node("int8", Op::QuantizeDequantize(grid), &[x]).unwrap();
    let y = b.node("rows", Op::Flatten { axis: 1 }, &[y]).unwrap();
    b.output("out", y);
    let model = verify(Model::initial(b.finish(), 0)).unwrap();
    let data = vec![0.25, 0.75, 1.25, -0.25, -0.75, -1.25, 62.3, 1e9, -65.4, -1e9, 0.0, 0.26];
    let expected: Vec<f32> = data.iter().map(|x| grid.nearest(*x)).collect();
    assert_eq!(expected, [0.0, 1.0, 1.0, 0.0, -1.0, -1.0, 62.0, 62.0, -65.5, -65.5, 0.0, 0.5]);
    for got in by_module(&model, &Tensor::new([1, 3, 2, 2], data)) {
        assert_eq!(got.data, expected);
    }
}
