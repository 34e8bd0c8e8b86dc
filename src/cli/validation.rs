//! Validation of a model: the shaders against the CPU reference and against known outputs.
//!
//! Takes a verified model, as it was read from its file, and what to feed it; gives a [`ValidationReport`]. The session runs
//! the model after the passes of the runtime, the reference runs it as it is, so that the passes are validated with the
//! shaders. Reading files and printing are left to the commands.

use anyhow::{Context, Error, Result, bail};
use rayon::prelude::*;
use serde::Serialize;

use super::load::fixed_batch;
use super::progress::Console;
use super::tensors::{append_rows, argmax, random_inputs, slice_rows};
use crate::data::{ImageSet, Preprocess};
use crate::ir::{Graph, Model, Tensor, Verified};
use crate::onnx::ModelInfo;
use crate::passes::{RUNTIME, apply};
use crate::runtime::{
    AdapterChoice, BackendName, Comparison, LayerComparison, Reference, RuntimeError, Session, Tolerance, compare,
    compare_layers,
};

/// How many times the allowed difference the outputs must vary, so that their agreement says something about all layers.
const TELLING: f64 = 10.0;

/// How far a layer may differ, relative to its largest element: a thousand times what rounding does in deep networks.
pub const LAYER_TOLERANCE: f64 = 1e-3;

/// Steps by which a layer that rounds to eight bits may be off: one, with its rounding in float32.
const STEP_TOLERANCE: f64 = 1.001;

/// How far the outputs of a quantised model may differ, relative to the largest one: an element that lies in the middle between
/// two codes becomes either, and what that does reaches the outputs.
pub const QUANTIZED_TOLERANCE: f64 = 5e-2;

/// How a model is validated.
pub struct Request<'a> {
    /// Where it runs.
    pub adapter: &'a AdapterChoice,
    /// Images in a run; chosen if absent.
    pub batch: Option<usize>,
    /// How far results may differ. If absent the usual tolerance, for quantised models one relative to the largest output.
    pub tolerance: Option<Tolerance>,
    /// How many samples the reference, which is slow, runs too; rounded up to whole runs.
    pub reference_samples: usize,
    /// Whether every layer is compared, too. It always is if the outputs do not agree, or tell little (see
    /// [`ValidationReport::output_spread`]).
    pub layers: bool,
    /// What it is fed.
    pub feed: Feed,
}

/// What a model is fed.
pub enum Feed {
    /// Standard normal numbers.
    Random { samples: usize, seed: u64 },
    /// These inputs, in the order of the graph's; the outputs that are known for them.
    Given { inputs: Vec<Tensor>, expected: Option<Vec<Tensor>> },
    /// Images with labels.
    Images(LabelledImages),
}

/// Images as the model wants them, with labels in the order of its classes.
pub struct LabelledImages {
    set: ImageSet,
    preprocess: Preprocess,
    labels: Vec<usize>,
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
    /// `expected` if expected outputs were given, else `reference`.
    pub against: &'static str,
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
    /// The session against the expected outputs.
    pub expected: Option<Comparison>,
    /// Every layer of the first run, the worst first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers: Option<Vec<LayerComparison>>,
}

impl LabelledImages {
    /// `set`, prepared as `info` says; at most `samples` of it, class-balanced.
    ///
    /// # Errors
    /// The set has a class that the model does not know, or fewer images than were asked for.
    pub fn new(set: &ImageSet, info: &ModelInfo, samples: Option<usize>) -> Result<Self> {
        let set = samples.map_or_else(|| Ok(set.clone()), |n| set.subset(n, 0)).context("--samples")?;
        let class = |name: &String| {
            info.classes.iter().position(|known| known == name).with_context(|| {
                let known = info.classes.join(", ");
                format!("--data: the model has no class {name:?}; it was trained on {known}")
            })
        };
        let classes = set.classes().iter().map(class).collect::<Result<Vec<_>>>()?;
        let labels = (0..set.len()).map(|i| classes[set.label(i) as usize]).collect();
        Ok(Self { set, preprocess: preprocess(info), labels })
    }

    fn rows(&self, start: usize, rows: usize) -> Result<Tensor> {
        let [height, width] = self.preprocess.size;
        let end = (start + rows).min(self.set.len());
        let images: Vec<_> =
            (start..end).into_par_iter().map(|i| self.preprocess.apply(&self.set.picture(i)?)).collect();
        let data = images.into_iter().collect::<Result<Vec<_>, _>>()?.concat();
        Ok(slice_rows(&Tensor::new([end - start, 3, height, width], data), 0, rows))
    }
}

impl Feed {
    fn samples(&self) -> usize {
        match self {
            Self::Random { samples, .. } => *samples,
            Self::Given { inputs, .. } => inputs.first().and_then(|t| t.shape.first()).copied().unwrap_or(1),
            Self::Images(images) => images.set.len(),
        }
    }

    /// Images in a run if the user has no wish.
    fn usual_batch(&self) -> usize {
        match self {
            // Several inputs need not have rows that belong together, so they go in one run.
            Self::Given { inputs, .. } if inputs.len() > 1 => self.samples(),
            Self::Random { .. } | Self::Given { .. } => self.samples().min(8),
            Self::Images(_) => self.samples().min(32),
        }
    }

    fn inputs(&self, graph: &Graph, run: usize, rows: usize) -> Result<Vec<Tensor>> {
        match self {
            Self::Random { seed, .. } => Ok(random_inputs(graph, rows, *seed, run as u64)),
            Self::Given { inputs, .. } => match &inputs[..] {
                [input] => Ok(vec![slice_rows(input, run * rows, rows)]),
                several => Ok(several.to_vec()),
            },
            Self::Images(images) => Ok(vec![images.rows(run * rows, rows)?]),
        }
    }
}

/// What an image must become for the model.
pub fn preprocess(info: &ModelInfo) -> Preprocess {
    let cover = info.resize.unwrap_or(info.input_size);
    Preprocess { cover, size: info.input_size, mean: info.mean, std: info.std }
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
    let mut session = Session::new(&optimised, request.adapter, rows)?;
    let adapter = session.facts().adapter.clone();
    console.detail(format_args!("adapter {adapter}"));
    let reference = Reference::new(model);

    let samples = feed.samples();
    let (mut got, mut reference_got, mut reference_samples) = (Vec::new(), Vec::new(), 0);
    let bar = console.bar(samples as u64, "samples");
    if bar.is_hidden() {
        console.message(format_args!("validating {samples} samples on {}, {rows} in a run", adapter.name));
    }
    for run in 0..samples.div_ceil(rows) {
        let keep = rows.min(samples - run * rows);
        let inputs = feed.inputs(&model.graph, run, rows)?;
        append_rows(&mut got, session.run(&inputs)?, rows, keep);
        if reference_samples < request.reference_samples.max(1) {
            append_rows(&mut reference_got, reference.run(&inputs)?, rows, keep);
            reference_samples += keep;
        }
        bar.advance(keep as u64);
    }
    drop(bar);

    let names: Vec<&str> = model.graph.outputs.iter().map(|o| o.name.as_str()).collect();
    let tolerance = request.tolerance.unwrap_or_else(|| usual_tolerance(model, &reference_got));
    let worst = |expected: &[Tensor]| worst(&names, &got, expected, tolerance);
    let by_reference = worst(&reference_got)?;
    let by_expected = match feed {
        Feed::Given { expected: Some(expected), .. } => Some(worst(expected)?),
        Feed::Given { expected: None, .. } | Feed::Random { .. } | Feed::Images(_) => None,
    };
    let outputs_ok = by_reference.ok && by_expected.as_ref().is_none_or(|c| c.ok);
    let output_spread = reference_got.iter().filter_map(spread).max_by(f64::total_cmp);
    let telling = output_spread.is_some_and(|spread| spread > TELLING * allowed(&reference_got, tolerance));
    let layers = match request.layers || !outputs_ok || !telling {
        false => None,
        true => {
            console.detail("comparing every layer");
            let inputs = feed.inputs(&model.graph, 0, rows)?;
            Some(compare_layers(&optimised, &mut session, &inputs, tolerance)?)
        }
    };
    let ok = outputs_ok && layers.iter().flatten().all(layer_ok);
    let accuracy = |outputs: &[Tensor]| match feed {
        Feed::Images(images) => outputs.first().map(|logits| accuracy(logits, &images.labels)),
        Feed::Given { .. } | Feed::Random { .. } => None,
    };
    let headline = by_expected.as_ref().unwrap_or(&by_reference);
    Ok(ValidationReport {
        ok,
        adapter: adapter.name,
        backend: adapter.backend,
        against: if by_expected.is_some() { "expected" } else { "reference" },
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
        expected: by_expected,
        layers,
    })
}

/// Whether a layer agrees. The tolerance of the outputs says nothing here: an absolute one passes any layer of small
/// values, and one that is tight on purpose may fail a layer for its rounding. So its own scale counts. Rounding to eight bits
/// may be off by a step.
pub fn layer_ok(layer: &LayerComparison) -> bool {
    match layer.step {
        Some(step) => layer.comparison.max_abs <= STEP_TOLERANCE * f64::from(step),
        None => layer.comparison.max_rel <= LAYER_TOLERANCE,
    }
}

/// The tolerance where none was asked for.
fn usual_tolerance(model: &Model, outputs: &[Tensor]) -> Tolerance {
    match model.graph.is_quantized() {
        true => Tolerance { atol: QUANTIZED_TOLERANCE * largest(outputs), rtol: 0.0 },
        false => Tolerance::default(),
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
