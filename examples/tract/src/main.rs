//! Runs an ONNX classifier of idarts-compile in tract: against known outputs, or on image files.
//!
//! Takes the arguments of the README; prints the largest difference, or the class of each image. The network itself is in
//! `network`, images in `picture`.

mod network;
mod picture;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use safetensors::{Dtype, SafeTensors};

use network::Network;

const USAGE: &str = "usage: classify-with-tract MODEL.onnx [--expect FILE.safetensors] [--images PATH] [--tolerance X]";

/// Images in one run of the network.
const BATCH: usize = 32;

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Does what the command line says; false if outputs differ.
fn run() -> Result<bool> {
    let mut arguments = std::env::args().skip(1);
    let model = arguments.next().context(USAGE)?;
    let (mut expect, mut images, mut tolerance) = (None, None, 1e-3);
    while let Some(flag) = arguments.next() {
        let value = arguments.next().with_context(|| format!("{flag} needs a value\n{USAGE}"))?;
        match flag.as_str() {
            "--expect" => expect = Some(value),
            "--images" => images = Some(value),
            "--tolerance" => tolerance = value.parse().with_context(|| format!("--tolerance {value}: not a number"))?,
            _ => bail!("{flag} is not known\n{USAGE}"),
        }
    }
    ensure!(expect.is_some() || images.is_some(), USAGE);

    let network = Network::load(&model)?;
    let mut agrees = true;
    if let Some(file) = expect {
        agrees = compare(&network, &file, tolerance)?;
    }
    if let Some(path) = images {
        classify(&network, Path::new(&path))?;
    }
    Ok(agrees)
}

/// Prints how far the outputs are from those in the file; true if they agree.
fn compare(network: &Network, file: &str, tolerance: f32) -> Result<bool> {
    let bytes = std::fs::read(file).with_context(|| file.to_owned())?;
    let tensors = SafeTensors::deserialize(&bytes).with_context(|| format!("{file} is not a safetensors file"))?;
    let (shape, images) = floats(&tensors, "images")?;
    let (_, expected) = floats(&tensors, "logits")?;
    let &[count, ..] = shape.as_slice() else { bail!("{file}: `images` has no dimensions") };
    ensure!(
        count > 0 && shape[1..] == network.image(),
        "{file}: images {shape:?}, the model reads {:?}",
        network.image()
    );
    let got = network.logits(&images, BATCH)?;
    ensure!(got.len() == expected.len(), "{file}: {} logits, the model gives {}", expected.len(), got.len());

    let difference = got
        .iter()
        .zip(&expected)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, |a: f32, b| if b > a || b.is_nan() { b } else { a });
    let classes = got.len() / count;
    let rows = || got.chunks(classes).map(|row| best(row).0);
    let same = rows().zip(expected.chunks(classes)).filter(|(class, row)| *class == best(row).0).count();
    println!("{count} images, largest difference {difference:.3e}, same class for {same}");
    if let Ok(labels) = tensors.tensor("labels") {
        ensure!(labels.dtype() == Dtype::I64, "{file}: `labels` must be int64");
        let labels = labels.data().as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b));
        let right = rows().zip(labels).filter(|(class, label)| *class as i64 == *label).count();
        println!("accuracy {:.2} %", 100.0 * right as f64 / count as f64);
    }
    // Written so that a NaN does not agree.
    Ok(difference <= tolerance)
}

/// Prints the class of each image, and the accuracy where the folder of an image names its class.
fn classify(network: &Network, path: &Path) -> Result<()> {
    let mut files = Vec::new();
    collect(path, &mut files)?;
    ensure!(!files.is_empty(), "{}: no .jpg or .png files", path.display());
    let names = network.classes()?;
    let recipe = network.recipe()?;
    let (mut right, mut labelled) = (0, 0);
    for part in files.chunks(BATCH) {
        let mut images = Vec::new();
        for file in part {
            images.extend(recipe.load(file)?);
        }
        let logits = network.logits(&images, BATCH)?;
        for (file, row) in part.iter().zip(logits.chunks(logits.len() / part.len())) {
            let (class, share) = best(row);
            let name = names.get(class).map_or("?", String::as_str);
            println!("{}\t{name}\t{share:.3}", file.display());
            let folder = file.parent().and_then(Path::file_name).and_then(|f| f.to_str()).unwrap_or_default();
            if names.iter().any(|n| n == folder) {
                labelled += 1;
                right += usize::from(folder == name);
            }
        }
    }
    if labelled > 0 {
        println!("accuracy {:.2} % ({right} of {labelled})", 100.0 * right as f64 / labelled as f64);
    }
    Ok(())
}

/// The largest logit's class and its share by softmax.
fn best(row: &[f32]) -> (usize, f32) {
    let (class, top) =
        row.iter().enumerate().fold((0, f32::NEG_INFINITY), |a, (i, x)| if *x > a.1 { (i, *x) } else { a });
    (class, 1.0 / row.iter().map(|x| (x - top).exp()).sum::<f32>())
}

/// A float32 tensor of the file: shape and elements.
fn floats(tensors: &SafeTensors, name: &str) -> Result<(Vec<usize>, Vec<f32>)> {
    let tensor = tensors.tensor(name).with_context(|| format!("tensor `{name}`"))?;
    ensure!(tensor.dtype() == Dtype::F32, "tensor `{name}` must be float32");
    let data = tensor.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    Ok((tensor.shape().to_vec(), data))
}

/// The image files at or below `path`, sorted.
fn collect(path: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    if !path.is_dir() {
        files.push(path.to_owned());
        return Ok(());
    }
    let entries = std::fs::read_dir(path).with_context(|| path.display().to_string())?;
    let mut paths = entries.map(|e| Ok(e?.path())).collect::<Result<Vec<_>>>()?;
    paths.sort();
    for path in paths {
        let ending = path.extension().and_then(|e| e.to_str()).map(str::to_lowercase);
        if path.is_dir() || matches!(ending.as_deref(), Some("jpg" | "jpeg" | "png")) {
            collect(&path, files)?;
        }
    }
    Ok(())
}
