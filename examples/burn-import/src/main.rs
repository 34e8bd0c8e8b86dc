//! Runs an ONNX model of idarts-compile as a burn module, and compares its outputs with known ones.
//!
//! Takes a safetensors file with `images` and `logits`; the network was compiled in by `build.rs`. Prints the largest
//! difference; the exit status is 1 if it is above 1e-3, 2 if something cannot be read.

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use burn::tensor::{Device, Tensor, TensorData};
use safetensors::{Dtype, SafeTensors};

/// The module that burn-onnx wrote.
mod network {
    include!(concat!(env!("OUT_DIR"), "/model/network.rs"));
}

const TOLERANCE: f32 = 1e-3;

fn main() -> ExitCode {
    let file = std::env::args().nth(1);
    let file = file.unwrap_or_else(|| concat!(env!("CARGO_MANIFEST_DIR"), "/expected.safetensors").into());
    match compare(&file) {
        // Written so that a NaN does not agree.
        Ok(difference) if difference <= TOLERANCE => ExitCode::SUCCESS,
        Ok(_) => ExitCode::from(1),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// The largest difference from the logits in the file.
fn compare(file: &str) -> Result<f32> {
    let bytes = std::fs::read(file).with_context(|| file.to_owned())?;
    let tensors = SafeTensors::deserialize(&bytes).with_context(|| format!("{file} is not a safetensors file"))?;
    let (shape, images) = floats(&tensors, "images")?;
    let (expected_shape, expected) = floats(&tensors, "logits")?;
    ensure!(shape.len() == 4, "{file}: `images` must be [N, 3, H, W], it is {shape:?}");

    let device = Device::default();
    let model = network::Model::default();
    let logits = model.forward(Tensor::<4>::from_data(TensorData::new(images, shape.clone()), &device));
    let got = logits.into_data();
    let given = got.shape().to_vec();
    ensure!(given == expected_shape, "{file}: logits {expected_shape:?}, the model gives {given:?}");
    let got: Vec<f32> = got.try_to_vec().map_err(|e| anyhow::anyhow!("the output is not float32: {e:?}"))?;

    let differences = got.iter().zip(&expected).map(|(a, b)| (a - b).abs());
    let largest = differences.fold(0.0, |a: f32, b| if b > a || b.is_nan() { b } else { a });
    println!("{} images, largest difference {largest:.3e}", shape[0]);
    Ok(largest)
}

/// A float32 tensor of the file: shape and elements.
fn floats(tensors: &SafeTensors, name: &str) -> Result<(Vec<usize>, Vec<f32>)> {
    let tensor = tensors.tensor(name).with_context(|| format!("tensor `{name}`"))?;
    ensure!(tensor.dtype() == Dtype::F32, "tensor `{name}` must be float32");
    let data = tensor.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    Ok((tensor.shape().to_vec(), data))
}
