//! `validate`: whether the shaders compute what the model means.
//!
//! Takes an ONNX file and, as the user chooses, inputs with expected outputs, a data set, or nothing (then random inputs);
//! prints the comparison and answers with status 1 if it is not within the tolerance.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;

use super::args::{above_zero, not_negative};
use super::feed::{Feed, Known, LabelledImages};
use super::progress::Console;
use super::tensor_file::TensorFile;
use super::validation::{HALF_GRAIN, Request, ValidationReport, layer_ok, layer_tolerance, validate_model};
use super::{Verdict, load};
use crate::data::Dataset;
use crate::ir::{Graph, Model, Tensor};
use crate::runtime::{AdapterChoice, Comparison, Precision, Storage, Tolerance};

/// Layers that are printed without -v.
const LAYERS_SHOWN: usize = 10;

/// Run an ONNX model through the shaders and compare with the CPU reference, given outputs, accuracy on data
#[derive(Debug, Args)]
pub struct ValidateArgs {
    /// ONNX model
    #[arg(value_name = "MODEL.onnx")]
    model: PathBuf,
    /// File with the inputs (`images`, or the names of the model's inputs): .safetensors, .npz, .npy or .pb, or a folder of
    /// input_0.pb, ... and output_0.pb, ...; random inputs if absent. If it has the outputs too (`logits`, or the names of
    /// the model's outputs), they are expected
    #[arg(long, value_name = "FILE")]
    inputs: Option<PathBuf>,
    /// File with the expected outputs (`logits`, or the names of the model's outputs), of the same kinds. Layers that it has
    /// under the names of their values are compared, too
    #[arg(long, value_name = "FILE", requires = "inputs")]
    expect: Option<PathBuf>,
    /// What to compare with besides: `cpu`, the CPU reference that rounds every value to float32; `f64`, which rounds none
    /// and judges both; or, as a name for the report, the program that wrote the outputs of --expect (`onnxruntime`)
    #[arg(long, value_name = "WHO", default_value = "cpu")]
    reference: String,
    /// Use the test images of this data set, and report the accuracy on them
    #[arg(long, value_name = "DIR", conflicts_with = "inputs")]
    data: Option<PathBuf>,
    /// Adapter to run on: [vulkan:|gl:|metal:|dx12:]NAME or an index as `devices` prints them; the best one if absent
    #[arg(long, value_name = "ADAPTER")]
    adapter: Option<AdapterChoice>,
    /// Images in a run
    #[arg(long, value_name = "N", value_parser = above_zero)]
    batch: Option<usize>,
    /// Samples: random ones (8), or test images, class-balanced (all)
    #[arg(long, value_name = "N", value_parser = above_zero, conflicts_with = "inputs")]
    samples: Option<usize>,
    /// Samples that the CPU reference, which is slow, runs too
    #[arg(long, value_name = "N", value_parser = above_zero, default_value_t = 256)]
    reference_samples: usize,
    /// Seed of random inputs
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Store values and weights as float16 on the adapter, which must have 16-bit floats in shaders; sums stay float32
    #[arg(long)]
    fp16: bool,
    /// Allowed difference relative to the expected value; 1e-3 if absent. If neither this nor --atol is given, a quantised model
    /// may differ by 5 % of its largest output, one in float16 by 2 %
    #[arg(long, value_name = "X", value_parser = not_negative)]
    rtol: Option<f64>,
    /// Allowed absolute difference; 1e-4 if absent
    #[arg(long, value_name = "X", value_parser = not_negative)]
    atol: Option<f64>,
    /// Compare every layer, too (done anyway if the outputs do not agree, or hardly depend on the inputs)
    #[arg(long)]
    layers: bool,
}

pub fn run(args: &ValidateArgs, console: &Console) -> Result<Verdict> {
    let by = Some(&args.reference).filter(|who| !matches!(who.as_str(), "cpu" | "f64"));
    if let (Some(who), None) = (by, &args.inputs) {
        bail!(
            "--reference {who}: give what it computed, with --inputs and --expect; without files it is `cpu` or `f64`"
        );
    }
    let model = load::model(&args.model)?;
    let usual = Tolerance::default();
    let tolerance = (args.rtol.is_some() || args.atol.is_some())
        .then(|| Tolerance { atol: args.atol.unwrap_or(usual.atol), rtol: args.rtol.unwrap_or(usual.rtol) });
    let request = Request {
        adapter: &args.adapter.clone().unwrap_or_default(),
        batch: args.batch,
        storage: if args.fp16 { Storage::Float16 } else { Storage::Float32 },
        tolerance,
        precision: if args.reference == "f64" { Precision::Double } else { Precision::Single },
        reference_samples: args.reference_samples,
        layers: args.layers,
        feed: feed(args, &model, by.cloned(), console)?,
    };
    let report = validate_model(&model, &request, console)?;
    console.result(&report, |r| text(r, console.is_verbose()))?;
    Ok(if report.ok { Verdict::Right } else { Verdict::Wrong })
}

fn feed(args: &ValidateArgs, model: &Model, by: Option<String>, console: &Console) -> Result<Feed> {
    if let Some(path) = &args.inputs {
        return given(path, args.expect.as_deref(), &model.graph, by);
    }
    let Some(folder) = &args.data else {
        return Ok(Feed::Random { samples: args.samples.unwrap_or(8), seed: args.seed });
    };
    let info = load::info(model, &args.model)?;
    let bar = console.bar(0, "images read");
    let data = Dataset::open_with(folder, Some(&|done, all| bar.set(done as u64, all as u64))).context("--data")?;
    Ok(Feed::Images(LabelledImages::new(&data.test, &info, args.samples)?))
}

fn given(inputs: &Path, expect: Option<&Path>, graph: &Graph, by: Option<String>) -> Result<Feed> {
    let file = TensorFile::read(inputs).context("--inputs")?;
    let input_names: Vec<&str> = graph.inputs.iter().map(|v| graph.value(*v).name.as_str()).collect();
    let output_names: Vec<&str> = graph.outputs.iter().map(|o| o.name.as_str()).collect();
    let inputs = tensors(&input_names, ["images", "input"], |names| file.get(names)).context("--inputs")?;
    let usual = ["logits", "output"];
    let (expected, layers) = match expect {
        Some(path) => {
            let file = TensorFile::read(path).context("--expect")?;
            (Some(tensors(&output_names, usual, |names| file.get(names)).context("--expect")?), Some(file))
        }
        // Outputs in the file of the inputs are welcome, not needed.
        None => (tensors(&output_names, usual, |names| file.find(names).context("absent")).ok(), None),
    };
    if let (Some(who), None) = (&by, &expected) {
        bail!("--reference {who}: there are no outputs in --inputs; give the file that has them with --expect");
    }
    let rows = |tensors: &[Tensor]| tensors.first().and_then(|t| t.shape.first().copied());
    if let Some(expected) = &expected
        && rows(expected) != rows(&inputs)
    {
        bail!(
            "--expect: outputs for {} samples, but there are inputs for {}",
            rows(expected).unwrap_or(0),
            rows(&inputs).unwrap_or(0)
        );
    }
    Ok(Feed::Given { inputs, known: Known { outputs: expected, layers, by } })
}

/// A tensor for each name; one may also be called by its kind and number (`input_0`), a single one as is usual.
fn tensors(names: &[&str], [usual, kind]: [&str; 2], get: impl Fn(&[&str]) -> Result<Tensor>) -> Result<Vec<Tensor>> {
    match names {
        [only] => Ok(vec![get(&[only, usual, &format!("{kind}_0")])?]),
        several => several.iter().enumerate().map(|(i, name)| get(&[name, &format!("{kind}_{i}")])).collect(),
    }
}

fn text(r: &ValidationReport, verbose: bool) -> String {
    let half = if r.storage == Storage::Float16 { ", values in float16" } else { "" };
    let mut out = format!("{} ({}), {} samples in runs of {}{half}\n", r.adapter, r.backend, r.samples, r.batch);
    let heads = ["compared with", "samples", "max abs", "max rel", "cosine", "argmax"];
    let _ = writeln!(
        out,
        "  {:<18} {:>8} {:>10} {:>10} {:>12} {:>7}",
        heads[0], heads[1], heads[2], heads[3], heads[4], heads[5]
    );
    let mut row = |what: &str, samples: usize, c: &Comparison| {
        let agreement = c.argmax_agreement.map_or("-".into(), |x| format!("{:.1} %", 100.0 * x));
        let _ = writeln!(
            out,
            "  {what:<18} {samples:>8} {:>10.2e} {:>10.2e} {:>12.9} {agreement:>7}",
            c.max_abs, c.max_rel, c.cosine
        );
    };
    let reference = if r.rounding.is_some() { "float64 reference" } else { "CPU reference" };
    row(reference, r.reference_samples, &r.reference);
    if let Some(rounding) = &r.rounding {
        row("(float32 does)", r.reference_samples, rounding);
    }
    if let Some(expected) = &r.expected {
        row(r.expected_by.as_deref().unwrap_or("expected outputs"), r.samples, expected);
    }
    if let Some(top1) = r.top1 {
        let _ = write!(out, "  top-1 {:.2} % of {} images", 100.0 * top1, r.samples);
        let reference =
            r.reference_top1.map(|x| format!(" (CPU reference: {:.2} % of {})", 100.0 * x, r.reference_samples));
        let _ = writeln!(out, "{}", reference.unwrap_or_default());
    }
    if let Some(first) = &r.non_finite {
        let _ = writeln!(out, "  the first value that is not finite: {first}");
    }
    let given = (&r.expected_layers, " that were given");
    for (layers, which) in
        [(&r.layers, ""), given].into_iter().filter_map(|(layers, which)| Some((layers.as_ref()?, which)))
    {
        let shown = if verbose { layers.len() } else { LAYERS_SHOWN.min(layers.len()) };
        let _ = writeln!(out, "  {shown} of {} layers{which}, the worst first:", layers.len());
        for layer in &layers[..shown] {
            let c = &layer.comparison;
            let mark = if layer_ok(layer, r.storage) { "" } else { "  WRONG" };
            let _ = writeln!(
                out,
                "    {:>9.2e} abs {:>9.2e} rel  {} ({}){mark}",
                c.max_abs, c.max_rel, layer.name, layer.op
            );
        }
    }
    let rule = format!("{:e} + {:e} * |expected|", r.tolerance.atol, r.tolerance.rtol);
    let beyond = r.reference.beyond + r.expected.as_ref().map_or(0, |c| c.beyond);
    let compared: Vec<_> = r.layers.iter().chain(&r.expected_layers).flatten().collect();
    let layers = compared.iter().filter(|layer| !layer_ok(layer, r.storage)).count();
    let near = match r.storage {
        Storage::Float32 => format!("{:e} of its largest element", layer_tolerance(r.storage)),
        Storage::Float16 => format!("{:e} of its largest element or {HALF_GRAIN:.1e}", layer_tolerance(r.storage)),
    };
    let _ = match (beyond, layers) {
        (0, 0) if compared.is_empty() => writeln!(out, "ok: every output is within {rule}"),
        (0, 0) => {
            writeln!(out, "ok: every output is within {rule}, every layer within {near}")
        }
        (0, _) => {
            writeln!(out, "NOT OK: {layers} layers differ, each by more than {near}")
        }
        _ => writeln!(out, "NOT OK: {beyond} output elements are beyond {rule}"),
    };
    out
}
