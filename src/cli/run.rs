//! `run`: classifies images.
//!
//! Takes an ONNX model with metadata and image files; prints the most probable classes. The images are prepared as the
//! metadata say. It runs on a GPU adapter or, only if asked to, on the CPU reference: never silently on something else.

use std::fmt::Write;
use std::path::PathBuf;

use anyhow::{Context, Error, Result, bail};
use clap::{Args, ValueEnum};
use serde::Serialize;

use super::args::above_zero;
use super::feed::preprocess;
use super::progress::Console;
use super::tensors::{append_rows, slice_rows};
use super::validation::{is_no_adapter, rows_of};
use super::{Verdict, load};
use crate::ir::{Model, Tensor, Verified};
use crate::passes::{RUNTIME, apply};
use crate::runtime::{AdapterChoice, NonFinite, Reference, Session, first_non_finite};

/// Images in a run.
const BATCH: usize = 16;

/// Classify images with an ONNX model, prepared as its metadata say
#[derive(Debug, Args)]
pub struct RunArgs {
    /// ONNX model that this program exported
    #[arg(value_name = "MODEL.onnx")]
    model: PathBuf,
    /// JPEG or PNG files
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<PathBuf>,
    /// Classes to print for each image
    #[arg(long, value_name = "N", value_parser = above_zero, default_value_t = 5)]
    top: usize,
    /// Adapter to run on: [vulkan:|gl:|metal:|dx12:]NAME or an index as `devices` prints them; the best one if absent
    #[arg(long, value_name = "ADAPTER")]
    adapter: Option<AdapterChoice>,
    /// Where to run
    #[arg(long, value_enum, default_value_t = Device::Auto, conflicts_with = "adapter")]
    device: Device,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Device {
    /// On a GPU adapter, a software one included
    Auto,
    /// On the CPU reference, which is exact and slow
    Cpu,
}

#[derive(Serialize)]
struct Classified {
    adapter: String,
    backend: String,
    images: Vec<ClassifiedImage>,
}

#[derive(Serialize)]
struct ClassifiedImage {
    image: String,
    top: Vec<Guess>,
}

#[derive(Serialize)]
struct Guess {
    class: String,
    index: usize,
    probability: f64,
}

/// What runs the model.
enum Engine<'a> {
    Gpu(Box<Session>),
    Cpu(Reference<'a>),
}

pub fn run(args: &RunArgs, console: &Console) -> Result<Verdict> {
    let model = load::model(&args.model)?;
    let info = load::info(&model, &args.model)?;
    let prepare = preprocess(&info);
    let rows = rows_of(&model, None, args.images.len().min(BATCH))?;
    let mut engine = engine(args, &model, rows)?;

    let [height, width] = prepare.size;
    let mut outputs = Vec::new();
    let bar = console.bar(args.images.len() as u64, "images");
    for paths in args.images.chunks(rows) {
        let images = paths.iter().map(|path| prepare.load(path)).collect::<Result<Vec<_>, _>>()?;
        let images = Tensor::new([paths.len(), 3, height, width], images.concat());
        let images = slice_rows(&images, 0, rows);
        let run = engine.run(&images)?;
        if run.iter().flat_map(|t| &t.data).any(|x| !x.is_finite()) {
            let (file, first) = (args.model.display(), engine.first_non_finite(&images)?);
            let first = first.map_or_else(String::new, |first| format!("; the first such value is {first}"));
            bail!("{file}: its output is not finite{first}. The weights are damaged or too large: see `inspect`");
        }
        append_rows(&mut outputs, run, rows, paths.len());
        bar.advance(paths.len() as u64);
    }
    drop(bar);

    let logits = outputs.first().context("the model has no outputs")?;
    let classes = logits.data.len() / args.images.len();
    if classes != info.classes.len() {
        let names = info.classes.len();
        bail!("{}: the model gives {classes} numbers, but its metadata name {names} classes", args.model.display());
    }
    let images = args.images.iter().zip(logits.data.chunks(classes));
    let (adapter, backend) = engine.names();
    let classified = Classified {
        adapter,
        backend,
        images: images
            .map(|(path, row)| ClassifiedImage {
                image: path.display().to_string(),
                top: guesses(row, &info.classes, args.top),
            })
            .collect(),
    };
    console.result(&classified, text)?;
    Ok(Verdict::Right)
}

impl Engine<'_> {
    fn run(&mut self, images: &Tensor) -> Result<Vec<Tensor>> {
        let inputs = std::slice::from_ref(images);
        Ok(match self {
            Self::Gpu(session) => session.run(inputs)?,
            Self::Cpu(reference) => reference.run(inputs)?,
        })
    }

    fn first_non_finite(&mut self, images: &Tensor) -> Result<Option<NonFinite>> {
        let inputs = std::slice::from_ref(images);
        Ok(match self {
            Self::Gpu(session) => first_non_finite(session, inputs)?,
            Self::Cpu(reference) => {
                let mut first = None;
                reference.run_all(inputs, &mut |node, value| {
                    first = first.take().or_else(|| NonFinite::of(&node.name, node.op.name(), value));
                })?;
                first
            }
        })
    }

    fn names(&self) -> (String, String) {
        match self {
            Self::Gpu(session) => (session.facts().adapter.name.clone(), session.facts().adapter.backend.to_string()),
            Self::Cpu(_) => ("CPU reference".into(), "cpu".into()),
        }
    }
}

fn engine<'a>(args: &RunArgs, model: &'a Verified<Model>, rows: usize) -> Result<Engine<'a>> {
    if args.device == Device::Cpu {
        return Ok(Engine::Cpu(Reference::new(model)));
    }
    let (optimised, _) = apply(RUNTIME, model.clone())?;
    let gpu = load::gpu(&args.adapter.clone().unwrap_or_default());
    let session = gpu.and_then(|gpu| Session::on(&gpu, &optimised, rows)).map_err(Error::from);
    session.map(|session| Engine::Gpu(Box::new(session))).map_err(|error| match is_no_adapter(&error) {
        true => error.context("cannot run on a GPU; to run on the CPU reference, give --device cpu"),
        false => error,
    })
}

/// The `top` most probable classes of one row of logits.
fn guesses(row: &[f32], classes: &[String], top: usize) -> Vec<Guess> {
    let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exponentials: Vec<f64> = row.iter().map(|x| f64::from(x - largest).exp()).collect();
    let sum: f64 = exponentials.iter().sum();
    let mut guesses: Vec<Guess> = classes
        .iter()
        .zip(exponentials)
        .enumerate()
        .map(|(index, (class, e))| Guess { class: class.clone(), index, probability: e / sum })
        .collect();
    guesses.sort_by(|a, b| b.probability.total_cmp(&a.probability));
    guesses.truncate(top);
    guesses
}

fn text(classified: &Classified) -> String {
    let mut out = String::new();
    for image in &classified.images {
        let _ = writeln!(out, "{}", image.image);
        for Guess { class, probability, .. } in &image.top {
            let _ = writeln!(out, "  {:6.2} %  {class}", 100.0 * probability);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_probable_classes_come_first_and_ties_keep_their_order() {
        let classes: Vec<String> = ["a", "b", "c"].map(String::from).into();
        let top = guesses(&[0.0, 3f32.ln(), 0.0], &classes, 2);
        assert_eq!(top.iter().map(|g| (g.class.as_str(), g.index)).collect::<Vec<_>>(), [("b", 1), ("a", 0)]);
        assert!((top[0].probability - 0.6).abs() < 1e-6);
        assert_eq!(guesses(&[1000.0, 0.0, -1000.0], &classes, 9).len(), 3);
    }
}
