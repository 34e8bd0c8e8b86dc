//! Runs a model as a burn module: MODEL INPUT OUTPUT N C H W.
//!
//! Takes the path of a model that was compiled in (its name decides which) and a raw float32 file of images; writes the logits
//! as raw float32. The exit status is 2 if the model was not translated or does not run, and the last line of stderr says why.
//! Comparing is left to `check.py`.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, ensure};
use burn::tensor::{Device, Tensor, TensorData};

/// What `build.rs` wrote.
mod models {
    use burn::tensor::Tensor;

    include!(concat!(env!("OUT_DIR"), "/models.rs"));
}

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
        return Err(anyhow!("usage: run-with-burn MODEL INPUT OUTPUT N C H W"));
    };
    let sizes = sizes.iter().map(|n| n.parse::<usize>()).collect::<Result<Vec<_>, _>>().context("N C H W")?;
    let bytes = std::fs::read(input).with_context(|| input.clone())?;
    let images: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    ensure!(sizes.len() == 4 && images.len() == sizes.iter().product::<usize>(), "{input} does not hold images {sizes:?}");

    let name = Path::new(model).file_stem().and_then(|stem| stem.to_str()).context("the model has no name")?;
    let images = Tensor::<4>::from_data(TensorData::new(images, sizes), &Device::default());
    let logits = models::logits(name, images).map_err(|why| anyhow!("{why}"))?;
    let logits: Vec<f32> = logits.into_data().try_to_vec().map_err(|e| anyhow!("the output is not float32: {e:?}"))?;
    let bytes: Vec<u8> = logits.iter().flat_map(|x| x.to_le_bytes()).collect();
    std::fs::write(output, bytes).with_context(|| output.clone())
}
