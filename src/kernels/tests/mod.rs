//! Every operation on the CPU against three judges: its definition in f64, burn's own operations, and the portable bodies.
//!
//! Gradients are compared with central differences of the f64 definition, at a sample of positions, and in full with burn's.
mod conv;
mod fused;
mod others;
mod reference;

use burn::tensor::{Device, Tensor, TensorData};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use reference::Image;

/// How far f32 may be off, relative to the largest value of the tensor.
const TOLERANCE: f64 = 1e-5;

type Ours<'a> = &'a dyn Fn(&[Tensor<4>]) -> Tensor<4>;

/// Runs `ours` with and without autodiff on random inputs of the given shapes; compares outputs and gradients with
/// `reference` and, if given, with burn's own operations.
fn check(what: &str, inputs: &[[usize; 4]], ours: Ours, reference: &dyn Fn(&[Image]) -> Image, stock: Option<Ours>) {
    let images: Vec<Image> = inputs.iter().enumerate().map(|(i, &dims)| random(dims, i as u64)).collect();
    let want = reference(&images);

    let plain: Vec<_> = images.iter().map(|image| tensor(image, &Device::flex())).collect();
    assert_close(&format!("{what}: output, no autodiff"), &values(ours(&plain)), &want.data);

    let weights = random(want.dims, 99);
    let (output, grads) = output_and_grads(ours, &images, &weights);
    assert_close(&format!("{what}: output"), &output, &want.data);

    let loss = |images: &[Image]| -> f64 {
        reference(images).data.iter().zip(&weights.data).map(|(y, weight)| y * weight).sum()
    };
    for (i, grad) in grads.iter().enumerate() {
        let scale = grad.iter().fold(0.0, |a: f64, v| a.max(v.abs()));
        for at in sample(grad.len()) {
            let want = central_difference(&loss, &images, i, at);
            let error = (grad[at] - want).abs();
            assert!(
                error <= 4.0 * TOLERANCE * scale.max(want.abs()) + 1e-7,
                "{what}: gradient of input {i} at {at}: {} for {want}",
                grad[at]
            );
        }
    }

    if let Some(stock) = stock {
        let (output_of_burn, grads_of_burn) = output_and_grads(stock, &images, &weights);
        assert_close(&format!("{what}: output of burn"), &output, &output_of_burn);
        for (i, (ours, burns)) in grads.iter().zip(&grads_of_burn).enumerate() {
            assert_close(&format!("{what}: gradient of input {i} by burn"), ours, burns);
        }
    }
}

fn output_and_grads(op: Ours, images: &[Image], weights: &Image) -> (Vec<f64>, Vec<Vec<f64>>) {
    let device = Device::flex().autodiff();
    let inputs: Vec<_> = images.iter().map(|image| tensor(image, &device).require_grad()).collect();
    let output = op(&inputs);
    let loss = (output.clone() * tensor(weights, &device)).sum();
    let grads = loss.backward();
    let grad = |input: &Tensor<4>| values(input.grad(&grads).expect("every input is tracked"));
    (values(output), inputs.iter().map(grad).collect())
}

fn central_difference(loss: &dyn Fn(&[Image]) -> f64, images: &[Image], input: usize, at: usize) -> f64 {
    let step = 1e-4;
    let moved = |by: f64| {
        let mut images = images.to_vec();
        images[input].data[at] += by;
        loss(&images)
    };
    (moved(step) - moved(-step)) / (2.0 * step)
}

fn assert_close(what: &str, got: &[f64], want: &[f64]) {
    assert_eq!(got.len(), want.len(), "{what}: number of values");
    let scale = want.iter().fold(1e-3, |a: f64, v| a.max(v.abs()));
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        assert!((got - want).abs() <= TOLERANCE * scale, "{what}: {got} for {want} at {i}");
    }
}

fn random(dims: [usize; 4], seed: u64) -> Image {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    // Exactly representable in f32, so that the reference sees the same numbers.
    Image::of(dims, |_| f64::from(rng.random_range(-1.0f32..1.0)))
}

/// A few positions of `len`, always the first and the last: the corners are where padding goes wrong.
fn sample(len: usize) -> Vec<usize> {
    let mut positions = vec![0, len - 1];
    positions.extend((1..12).map(|i| i * 7919 % len));
    positions
}

fn tensor(image: &Image, device: &Device) -> Tensor<4> {
    let data: Vec<f32> = image.data.iter().map(|&v| v as f32).collect();
    Tensor::from_data(TensorData::new(data, image.dims), device)
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f64> {
    let data = tensor.into_data().try_into_vec::<f32>().expect("the kernels work in f32");
    data.into_iter().map(f64::from).collect()
}

fn vector(tensor: &Tensor<4>) -> Tensor<1> {
    let count: usize = tensor.dims().iter().product();
    tensor.clone().reshape([count])
}
