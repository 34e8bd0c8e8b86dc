//! Runs a model in rten: MODEL INPUT OUTPUT N C H W.
//!
//! Takes an ONNX file and a raw float32 file of images; writes the logits as raw float32. The exit status is 2 if the model
//! does not load or does not run, and the last line of stderr says why. Comparing is left to `check.py`.

use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, ensure};
use rten::Model;
use rten_tensor::NdTensor;
use rten_tensor::prelude::*;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, input, output, sizes @ ..] = arguments.as_slice() else {
        return Err(anyhow!("usage: run-with-rten MODEL INPUT OUTPUT N C H W"));
    };
    let sizes = sizes.iter().map(|n| n.parse::<usize>()).collect::<Result<Vec<_>, _>>().context("N C H W")?;
    let sizes = <[usize; 4]>::try_from(sizes).map_err(|_| anyhow!("the images have four sizes, N C H W"))?;
    let bytes = std::fs::read(input).with_context(|| input.clone())?;
    let images: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    ensure!(images.len() == sizes.iter().product::<usize>(), "{input} does not hold images {sizes:?}");

    let model = Model::load_file(model).map_err(|e| anyhow!("{e}"))?;
    let images = NdTensor::from_data(sizes, images);
    let logits = model.run_one(images.view().into(), None).map_err(|e| anyhow!("{e}"))?;
    let logits: NdTensor<f32, 2> = logits.try_into().map_err(|e| anyhow!("the output is no float32 matrix: {e}"))?;
    let bytes: Vec<u8> = logits.iter().flat_map(|x| x.to_le_bytes()).collect();
    std::fs::write(output, bytes).with_context(|| output.clone())
}
