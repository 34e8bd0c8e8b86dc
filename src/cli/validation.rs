//! Validation of a model: the shaders against the CPU reference and against known outputs.
//!
//! Takes a verified model, as it was read from its file, and what to feed it (see `feed`); gives a [`ValidationReport`]. The
//! session runs the model after the passes of the runtime, the reference runs it as it is, so that the passes are validated
//! with the shaders. Reading files and printing are left to the commands.

use std::collections::VecDeque;

use anyhow::{Context, Error, Result, bail};
use serde::Serialize;

use super::feed::{Feed, Known};
use super::load::{self, fixed_batch};
use super::progress::Console;
use super::tensor_file::TensorFile;
use super::tensors::{append_rows, argmax, slice_rows};
use crate::ir::{Model, Tensor, Verified};
use crate::passes::{RUNTIME, apply};
use crate::runtime::{
    AdapterChoice, BackendName, Comparison, LayerComparison, NonFinite, Precision, Reference, RuntimeError, Session,
    Started, Storage, Tolerance, compare, compare_layers, first_non_finite,
};

/// How many times the allowed difference the outputs must vary, so that their agreement says something about all layers.
const TELLING: f64 = 10.0;

/// Runs that are on their way at once: one is computed while the next one's inputs are made.
const IN_FLIGHT: usize = 2;

/// How far a layer may differ, relative to its largest element: a thousand times what rounding does in deep networks.
const LAYER_TOLERANCE: f64 = 1e-3;

/// Steps by which a layer that rounds to eight bits may be off: one, with its rounding in float32.
const STEP_TOLERANCE: f64 = 1.001;

/// How far the outputs of a quantised model may differ, relative to the largest one: an element that lies in the middle between
/// two codes becomes either, and what that does reaches the outputs.
pub const QUANTIZED_TOLERANCE: f64 = 5e-2;

/// How far a layer, or an output relative to the largest one, may differ where values are stored as float16. One rounding is
/// up to 2^-11 = 4.9e-4 of an element; every layer of a deep network adds its own.
const HALF_TOLERANCE: f64 = 2e-2;

/// Four times the distance of the smallest numbers of float16: what a layer may differ by however small its elements are.
pub const HALF_GRAIN: f64 = 4.0 / 16_777_216.0;

/// How a model is validated.
pub struct Request<'a> {
    /// Where it runs.
    pub adapter: &'a AdapterChoice,
    /// Images in a run; chosen if absent.
    pub batch: Option<usize>,
    /// What the session stores values and weights as.
    pub storage: Storage,
    /// How far results may differ. If absent the usual tolerance, for quantised models and for values stored as float16 one
    /// relative to the largest output.
    pub tolerance: Option<Tolerance>,
    /// How the reference rounds.
    pub precision: Precision,
    /// How many samples the reference, which is slow, runs too; rounded up to whole runs.
    pub reference_samples: usize,
    /// Whether every layer is compared, too. It always is if the outputs do not agree, or tell little (see
    /// [`ValidationReport::output_spread`]).
    pub layers: bool,
    /// What it is fed.
    pub feed: Feed,
}

/// How well the shaders agree. The figures at the top are those of the comparison that `against` names, for the output that
/// agrees least.
#[derive(Debug, Serialize)]
pub struct ValidationReport {
    /// Whether every comparison of outputs is within the tolerance, and so is every layer that was compared, by
    /// [`layer_ok`].
    pub ok: bool,
    /// Name of the adapter.
    pub adapter: String,
    pub backend: BackendName,
    /// What the session stored values and weights as; the reference and all that is given are float32.
    pub storage: Storage,
    /// `expected` if expected outputs were given, else `reference`.
    pub against: &'static str,
    /// `float32` if the reference rounds every value as the adapter does, `float64` if it rounds nothing.
    pub reference_precision: &'static str,
    /// Who computed the expected outputs, if that was said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected_by: Option<String>,
    pub max_abs: f64,
    pub max_rel: f64,
    pub cosine: f64,
    pub argmax_agreement: Option<f64>,
    /// The most by which one element of the outputs differs between samples; absent for one sample. Where it is not well
    /// above the tolerance, as in untrained networks, the outputs would be within it whatever the layers before compute:
    /// then the layers are compared.
    pub output_spread: Option<f64>,
    /// Samples that the session ran.
    pub samples: usize,
    /// Samples that the reference ran.
    pub reference_samples: usize,
    /// Images in a run.
    pub batch: usize,
    #[serde(flatten)]
    pub tolerance: Tolerance,
    /// Accuracy of the session on the images, 0 to 1.
    pub top1: Option<f64>,
    /// Accuracy of the reference on those images that it ran, 0 to 1.
    pub reference_top1: Option<f64>,
    /// The session against the reference.
    pub reference: Comparison,
    /// The reference in float32 against the one in float64, if that is asked for: what rounding alone does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rounding: Option<Comparison>,
    /// The session against the expected outputs.
    pub expected: Option<Comparison>,
    /// The first value that is not finite, if an output is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub non_finite: Option<NonFinite>,
    /// Every layer of the first run, the worst first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers: Option<Vec<LayerComparison>>,
    /// Those layers of the first run whose expected values were given, the worst first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected_layers: Option<Vec<LayerComparison>>,
}

/// Whether the machine has no adapter at all, so that nothing could be validated: no fault of the model.
pub fn is_no_adapter(error: &Error) -> bool {
    matches!(error.downcast_ref::<RuntimeError>(), Some(RuntimeError::NoAdapter))
}

/// Images in a run: those that the model's file fixes, else those asked for, else `usual`.
///
/// # Errors
/// The two do not fit.
pub fn rows_of(model: &Model, asked: Option<usize>, usual: usize) -> Result<usize> {
    match (fixed_batch(model), asked) {
        (Some(fixed), Some(asked)) if fixed != asked => {
            bail!("--batch {asked}: the model was exported with a static batch of {fixed}; leave the option out")
        }
        (Some(fixed), _) => Ok(fixed),
        (None, asked) => Ok(asked.unwrap_or(usual)),
    }
}

/// Validates `model`. Without any adapter the error is one for which [`is_no_adapter`] holds.
///
/// # Errors
/// No adapter, one that the model does not fit, inputs that do not fit the model, images that cannot be read.
pub fn validate_model(model: &Verified<Model>, request: &Request, console: &Console) -> Result<ValidationReport> {
    let feed = &request.feed;
    let rows = rows_of(model, request.batch, feed.usual_batch())?;
    let (optimised, applied) = apply(RUNTIME, model.clone())?;
    for done in applied {
        console.detail(format_args!("pass {}: {} rewrites, {} nodes", done.pass, done.rewrites, done.nodes));
    }
    let gpu = load::gpu(request.adapter)?;
    let storage = request.storage;
    let mut session = Session::with_storage(&gpu, &optimised, rows, storage)?;
    let adapter = session.facts().adapter.clone();
    console.detail(format_args!("adapter {adapter}"));
    let reference = Reference::with_precision(model, request.precision);
    let judged = request.precision == Precision::Double;

    let samples = feed.samples();
    let (mut got, mut reference_got, mut rounded_got, mut reference_samples) = (Vec::new(), Vec::new(), Vec::new(), 0);
    let bar = console.bar(samples as u64, "samples");
    if bar.is_hidden() {
        console.message(format_args!("validating {samples} samples on {}, {rows} in a run", adapter.name));
    }
    let mut flying: VecDeque<(Started, usize)> = VecDeque::new();
    let mut land = |session: &mut Session, (run, keep): (Started, usize)| -> Result<()> {
        append_rows(&mut got, session.finish(run)?, rows, keep);
        bar.advance(keep as u64);
        Ok(())
    };
    for run in 0..samples.div_ceil(rows) {
        let keep = rows.min(samples - run * rows);
        let inputs = feed.inputs(&model.graph, run, rows)?;
        flying.push_back((session.start(&inputs)?, keep));
        if reference_samples < request.reference_samples.max(1) {
            append_rows(&mut reference_got, reference.run(&inputs)?, rows, keep);
            if judged {
                append_rows(&mut rounded_got, Reference::new(model).run(&inputs)?, rows, keep);
            }
            reference_samples += keep;
        }
        if flying.len() == IN_FLIGHT
            && let Some(first) = flying.pop_front()
        {
            land(&mut session, first)?;
        }
    }
    flying.into_iter().try_for_each(|run| land(&mut session, run))?;
    drop(bar);

    let names: Vec<&str> = model.graph.outputs.iter().map(|o| o.name.as_str()).collect();
    let tolerance = request.tolerance.unwrap_or_else(|| usual_tolerance(model, storage, &reference_got));
    let worst = |got: &[Tensor], expected: &[Tensor]| worst(&names, got, expected, tolerance);
    let by_reference = worst(&got, &reference_got)?;
    let rounding = judged.then(|| worst(&rounded_got, &reference_got)).transpose()?;
    let nothing = Known::default();
    let known = match feed {
        Feed::Given { known, .. } => known,
        Feed::Random { .. } | Feed::Images(_) => &nothing,
    };
    let by_expected = known.outputs.as_ref().map(|expected| worst(&got, expected)).transpose()?;
    let non_finite = match got.iter().filter_map(first_bad_row).min() {
        Some(row) => first_non_finite(&mut session, &feed.inputs(&model.graph, row / rows, rows)?)?,
        None => None,
    };
    let expected_layers = known.layers.as_ref().map(|file| {
        console.detail("comparing with every layer that was given");
        let session = Session::with_storage(&gpu, model, rows, storage)?;
        given_layers(model, session, &feed.inputs(&model.graph, 0, rows)?, file, tolerance)
    });
    let expected_layers = expected_layers.transpose()?.filter(|layers| !layers.is_empty());
    let outputs_ok = by_reference.ok && by_expected.as_ref().is_none_or(|c| c.ok);
    let output_spread = reference_got.iter().filter_map(spread).max_by(f64::total_cmp);
    let telling = output_spread.is_some_and(|spread| spread > TELLING * allowed(&reference_got, tolerance));
    let layers = match request.layers || !outputs_ok || !telling {
        false => None,
        true => {
            console.detail("comparing every layer");
            let inputs = feed.inputs(&model.graph, 0, rows)?;
            let reference = Reference::with_precision(&optimised, request.precision);
            Some(compare_layers(reference, &mut session, &inputs, tolerance)?)
        }
    };
    let ok = outputs_ok && layers.iter().chain(&expected_layers).flatten().all(|layer| layer_ok(layer, storage));
    let accuracy = |outputs: &[Tensor]| match feed {
        Feed::Images(images) => outputs.first().map(|logits| accuracy(logits, &images.labels)),
        Feed::Given { .. } | Feed::Random { .. } => None,
    };
    let headline = by_expected.as_ref().unwrap_or(&by_reference);
    Ok(ValidationReport {
        ok,
        adapter: adapter.name,
        backend: adapter.backend,
        storage,
        against: if by_expected.is_some() { "expected" } else { "reference" },
        reference_precision: if judged { "float64" } else { "float32" },
        expected_by: known.by.clone(),
        max_abs: headline.max_abs,
        max_rel: headline.max_rel,
        cosine: headline.cosine,
        argmax_agreement: headline.argmax_agreement,
        output_spread,
        samples,
        reference_samples,
        batch: rows,
        tolerance,
        top1: accuracy(&got),
        reference_top1: accuracy(&reference_got),
        reference: by_reference,
        rounding,
        expected: by_expected,
        non_finite,
        layers,
        expected_layers,
    })
}

/// Whether a layer agrees. The tolerance of the outputs says nothing here: an absolute one passes any layer of small values,
/// and one that is tight on purpose may fail a layer for its rounding. So its own scale counts. Rounding to eight bits may be
/// off by a step. Of layers whose elements are all near 1e-7, as untrained deep networks have them, float16 keeps little.
pub fn layer_ok(layer: &LayerComparison, storage: Storage) -> bool {
    let half = storage == Storage::Float16;
    let near = layer.comparison.max_rel <= layer_tolerance(storage) || half && layer.comparison.max_abs <= HALF_GRAIN;
    match layer.step {
        Some(step) => layer.comparison.max_abs <= STEP_TOLERANCE * f64::from(step) || half && near,
        None => near,
    }
}

/// How far a layer that does not round to eight bits may differ, relative to its largest element.
pub fn layer_tolerance(storage: Storage) -> f64 {
    match storage {
        Storage::Float32 => LAYER_TOLERANCE,
        Storage::Float16 => HALF_TOLERANCE,
    }
}

/// The values of `model`'s nodes against those that `file` has under their paths, the worst first. The model runs as it was
/// read: the passes give nodes values that other programs do not have.
fn given_layers(
    model: &Verified<Model>,
    mut session: Session,
    inputs: &[Tensor],
    file: &TensorFile,
    tolerance: Tolerance,
) -> Result<Vec<LayerComparison>> {
    let rows = inputs.first().and_then(|t| t.shape.first()).copied().unwrap_or(1);
    let mut layers = Vec::new();
    let mut outcome = Ok(());
    session.run_all(inputs, &mut |name, got| {
        let (Some(expected), Some(node)) =
            (file.find(&[name, &format!("/{name}")]), model.graph.nodes.iter().find(|node| node.name == name))
        else {
            return;
        };
        let more = expected.shape.len() == got.shape.len() && expected.shape.first() > got.shape.first();
        let expected = if more { slice_rows(&expected, 0, rows) } else { expected };
        match compare(name, &got, &expected, tolerance) {
            Ok(comparison) => {
                layers.push(LayerComparison { name: name.into(), op: node.op.name(), step: None, comparison });
            }
            Err(error) => outcome = Err(error),
        }
    })?;
    outcome.context("--expect")?;
    layers.sort_by(|a, b| b.comparison.max_rel.total_cmp(&a.comparison.max_rel));
    Ok(layers)
}

/// The first row of an output with an element that is not finite.
fn first_bad_row(output: &Tensor) -> Option<usize> {
    let width = (output.data.len() / output.shape.first().copied().unwrap_or(1).max(1)).max(1);
    output.data.iter().position(|x| !x.is_finite()).map(|i| i / width)
}

/// The tolerance where none was asked for.
fn usual_tolerance(model: &Model, storage: Storage, outputs: &[Tensor]) -> Tolerance {
    let of_largest = |share| Tolerance { atol: share * largest(outputs), rtol: 0.0 };
    match (model.graph.is_quantized(), storage) {
        (true, _) => of_largest(QUANTIZED_TOLERANCE),
        (false, Storage::Float16) => of_largest(HALF_TOLERANCE),
        (false, Storage::Float32) => Tolerance::default(),
    }
}

/// The comparison of the output that agrees least. Where `expected` has fewer rows, as many are compared.
fn worst(names: &[&str], got: &[Tensor], expected: &[Tensor], tolerance: Tolerance) -> Result<Comparison> {
    let mut worst: Option<Comparison> = None;
    for ((name, got), expected) in names.iter().zip(got).zip(expected) {
        let rows = expected.shape.first().copied().unwrap_or(1);
        let fewer = got.shape.first().is_some_and(|have| rows < *have);
        let cut = if fewer { slice_rows(got, 0, rows) } else { got.clone() };
        let comparison = compare(name, &cut, expected, tolerance)?;
        let worse = |w: &Comparison| (!comparison.ok, comparison.max_rel) > (!w.ok, w.max_rel);
        if worst.as_ref().is_none_or(worse) {
            worst = Some(comparison);
        }
    }
    worst.context("the model has no outputs")
}

/// The most by which one column differs between rows; `None` if there are no two rows.
fn spread(output: &Tensor) -> Option<f64> {
    let rows = output.shape.first().copied().filter(|rows| *rows > 1)?;
    let width = output.data.len() / rows;
    let column = |i: usize| output.data.iter().skip(i).step_by(width).map(|x| f64::from(*x));
    let range = |i| column(i).fold(f64::NEG_INFINITY, f64::max) - column(i).fold(f64::INFINITY, f64::min);
    (0..width).map(range).max_by(f64::total_cmp)
}

/// The largest difference that the tolerance allows anywhere in the outputs.
fn allowed(outputs: &[Tensor], tolerance: Tolerance) -> f64 {
    tolerance.atol + tolerance.rtol * largest(outputs)
}

fn largest(outputs: &[Tensor]) -> f64 {
    f64::from(outputs.iter().flat_map(|t| &t.data).fold(0f32, |largest, x| largest.max(x.abs())))
}

fn accuracy(logits: &Tensor, labels: &[usize]) -> f64 {
    let rows = logits.shape.first().copied().unwrap_or(0).max(1);
    let width = (logits.data.len() / rows).max(1);
    let right = logits.data.chunks(width).zip(labels).filter(|(row, label)| argmax(row) == **label).count();
    right as f64 / rows as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_spread_of_an_output_is_that_of_its_most_varied_column() {
        let output = |rows, data: &[f32]| Tensor::new([rows, data.len() / rows], data.to_vec());
        assert_eq!(spread(&output(3, &[1.0, 5.0, 1.5, 5.0, 0.5, 5.0])), Some(1.0));
        assert_eq!(spread(&output(2, &[7.0, 7.0])), Some(0.0));
        assert_eq!(spread(&output(1, &[1.0, 2.0])), None);
    }

    #[test]
    fn accuracy_is_the_share_of_rows_whose_largest_element_is_at_the_label() {
        let logits = Tensor::new([3, 2], vec![0.0, 1.0, 2.0, 1.0, 0.5, 0.5]);
        assert_eq!(accuracy(&logits, &[1, 1, 0]), 2.0 / 3.0);
    }
}
