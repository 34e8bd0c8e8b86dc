//! Runs a model in candle: MODEL INPUT OUTPUT N C H W.
//!
//! Takes an ONNX file of `build --target candle` and a raw float32 file of images; writes the logits as raw float32. The exit
//! status is 2 if the model does not load or does not run, and the last line of stderr says why. Comparing is left to
//! `check.py`.

use std::collections::HashMap;
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, ensure};
use candle_core::{Device, Tensor};

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
        return Err(anyhow!("usage: run-with-candle MODEL INPUT OUTPUT N C H W"));
    };
    let sizes = sizes.iter().map(|n| n.parse::<usize>()).collect::<Result<Vec<_>, _>>().context("N C H W")?;
    let bytes = std::fs::read(input).with_context(|| input.clone())?;
    let images: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    ensure!(images.len() == sizes.iter().product::<usize>(), "{input} does not hold images {sizes:?}");

    let model = candle_onnx::read_file(model)?;
    let images = Tensor::from_vec(images, sizes, &Device::Cpu)?;
    let results = candle_onnx::simple_eval(&model, HashMap::from([("input".to_owned(), images)]))?;
    // It hands back the outputs of the graph by name.
    let logits = results.get("logits").context("the model has no output `logits`")?;
    let logits: Vec<f32> = logits.flatten_all()?.to_vec1()?;
    let bytes: Vec<u8> = logits.iter().flat_map(|x| x.to_le_bytes()).collect();
    std::fs::write(output, bytes).with_context(|| output.clone())
}
