//! Export of a built network, and the proof that the file computes what was trained.
//!
//! Takes the trained model; writes the ONNX file, and `samples.safetensors` with images, labels and the trained network's
//! logits; reads the file back and compares it with these logits: through the shaders, or, where the machine has no
//! adapter, through the CPU reference alone, and says so.

use std::path::Path;

use anyhow::{Context, Result, bail};
use burn::tensor::Device;
use serde::Serialize;

use super::build::Plan;
use super::feed::{Feed, Known};
use super::int8::{Int8, Quantized, quantized};
use super::load;
use super::progress::Console;
use super::tensors::random_inputs;
use super::validation::{QUANTIZED_TOLERANCE, Request, is_no_adapter, validate_model};
use crate::data::{Dataset, Loader};
use crate::ir::{Model, Tensor, Verified, fingerprint, verify};
use crate::lower::Network;
use crate::onnx::{self, ModelInfo, Target, WriteOptions};
use crate::passes::{EXPORT, EXPORT_KEEP_BN, MERGE_REDUCE, Pass, apply};
use crate::runtime::{AdapterChoice, Precision, Reference, Storage, Tolerance, compare};
use crate::train::augmentation;
use crate::train::config::TrainConfig;
use crate::train::module::{GraphModule, Mode, download};
use crate::train::weights::write_samples;

/// How far the logits of the file may be from those of the trained network, relative to the largest logit.
const LOGIT_TOLERANCE: f64 = 1e-4;

/// The same where the file's weights are rounded to float16.
const HALF_LOGIT_TOLERANCE: f64 = 2e-2;

/// How a network is exported.
pub struct ExportOptions {
    pub opset: i64,
    pub static_batch: Option<usize>,
    pub keep_bn: bool,
    /// Factorised reductions as lowered.
    pub keep_reduce: bool,
    /// float16 inside of the file.
    pub half: bool,
    /// Whom the file is for.
    pub target: Target,
    /// Eight bits inside of the file.
    pub int8: Option<Int8>,
    pub validate: bool,
    pub adapter: AdapterChoice,
    pub samples: usize,
}

impl ExportOptions {
    /// Whether the options fit each other.
    ///
    /// # Errors
    /// The flags that do not.
    pub fn check(&self) -> Result<()> {
        if self.target == Target::Candle && self.int8.is_some() {
            bail!("--int8 with --target candle: candle has no quantised operators; leave one of the two out");
        }
        Ok(self.write_options().check()?)
    }

    fn write_options(&self) -> WriteOptions {
        WriteOptions {
            opset: self.opset,
            static_batch: self.static_batch,
            half: self.half,
            target: self.target,
            ..WriteOptions::default()
        }
    }

    /// The passes between the training graph and the file.
    fn passes(&self) -> Vec<Pass> {
        let passes = if self.keep_bn { EXPORT_KEEP_BN } else { EXPORT };
        let kept = |pass: &&Pass| !(self.keep_reduce && pass.name == MERGE_REDUCE.name);
        passes.iter().filter(kept).copied().collect()
    }
}

/// Whether a network like `model`, the training graph, has a form in the file that `options` ask for.
///
/// # Errors
/// The first node that has none.
pub fn check_form(model: &Verified<Model>, options: &ExportOptions) -> Result<()> {
    if options.target == Target::Candle {
        let (exported, _) = apply(&options.passes(), model.clone())?;
        onnx::write(&exported, &options.write_options())?;
    }
    Ok(())
}

/// What came of the export.
#[derive(Debug, Serialize)]
pub struct Exported {
    /// Whether the shaders computed what was trained. `false` as well where there is no adapter or nobody asked.
    pub validated: bool,
    /// The largest difference of a logit to the trained network's, of the shaders or, without an adapter, of the reference.
    pub max_abs: Option<f64>,
    /// The same relative to the largest logit.
    pub max_rel: Option<f64>,
    /// The adapter that computed.
    pub adapter: Option<String>,
    /// What quantisation did, where it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub int8: Option<Quantized>,
    /// Whether a comparison was made and failed.
    #[serde(skip)]
    disagrees: bool,
}

impl Exported {
    /// Whether nothing was found to be wrong.
    pub fn agrees(&self) -> bool {
        !self.disagrees
    }

    /// For people.
    pub fn text(&self) -> String {
        let difference = self.max_abs.map_or(String::new(), |d| format!(", largest difference of a logit {d:.1e}"));
        match (&self.adapter, self.validated, self.disagrees) {
            (_, _, true) => format!("NOT the network that was trained{difference}"),
            (Some(adapter), true, false) => format!("validated on {adapter}{difference}"),
            (_, _, false) if self.max_abs.is_some() => format!("compared with the CPU reference alone{difference}"),
            _ => "not validated".into(),
        }
    }
}

/// Exports `model`, the training graph, and validates the file.
///
/// # Errors
/// A file that cannot be written, a device that fails.
pub fn export(
    model: &Verified<Model>,
    plan: &Plan,
    network: &Network,
    device: &Device,
    top1: Option<f64>,
    console: &Console,
) -> Result<Exported> {
    let options = &plan.export;
    let (exported, applied) = apply(&options.passes(), model.clone())?;
    for done in applied {
        console.detail(format_args!("pass {}: {} rewrites, {} nodes", done.pass, done.rewrites, done.nodes));
    }
    let (exported, int8) = match &options.int8 {
        Some(int8) => {
            let (exported, int8) = quantized(exported, int8, plan, network, device, top1, console)?;
            (exported, Some(int8))
        }
        None => (exported, None),
    };
    let metadata = info(plan, network, top1, int8.as_ref())?.to_metadata();
    let exported = verify(Model { metadata, ..exported.into_inner() })?;
    let bytes = onnx::write(&exported, &options.write_options())?;
    save(plan.onnx, &bytes)?;
    console.message(format_args!("{} written, {:.1} MB", plan.onnx.display(), bytes.len() as f64 / 1e6));

    if !options.validate {
        return Ok(Exported { validated: false, max_abs: None, max_rel: None, adapter: None, int8, disagrees: false });
    }
    let (images, labels) = samples(plan, network, &exported)?;
    // What quantisation changes is told by the accuracy; the file must compute the quantised network.
    let logits = trained_logits(if int8.is_some() { &exported } else { model }, &images, device)?;
    if let Some(folder) = plan.folder {
        write_samples(&folder.join("samples.safetensors"), &images, labels.as_deref(), &logits)?;
    }
    Ok(Exported { int8, ..check(plan, images, logits, console)? })
}

/// Reads the file back and compares it with the trained network's logits.
fn check(plan: &Plan, images: Tensor, logits: Tensor, console: &Console) -> Result<Exported> {
    let file = load::model(plan.onnx)?;
    let largest = logits.data.iter().fold(0.0f64, |m, x| m.max(f64::from(x.abs())));
    let share = match (plan.export.half, plan.export.int8) {
        (_, Some(_)) => QUANTIZED_TOLERANCE,
        (true, None) => HALF_LOGIT_TOLERANCE,
        (false, None) => LOGIT_TOLERANCE,
    };
    let tolerance = Tolerance { atol: share * largest, rtol: 0.0 };
    let request = Request {
        adapter: &plan.export.adapter,
        batch: None,
        storage: Storage::Float32,
        tolerance: Some(tolerance),
        reference_samples: 4.min(images.shape[0]),
        layers: false,
        precision: Precision::Single,
        feed: Feed::Given {
            inputs: vec![images.clone()],
            known: Known { outputs: Some(vec![logits.clone()]), ..Known::default() },
        },
    };
    let (compared, ok, adapter) = match validate_model(&file, &request, console) {
        Ok(report) => {
            let adapter = report.adapter.clone();
            let expected = report.expected.context("the comparison with the trained logits is missing")?;
            // Stricter than the logits alone: the reference's layers count where the outputs tell little.
            (expected, report.ok, Some(adapter))
        }
        Err(error) if is_no_adapter(&error) => {
            console.warn(format_args!("{error:#}; the file is compared with the CPU reference alone"));
            let outputs = Reference::new(&file).run(&[images])?;
            let compared = compare("logits", &outputs[0], &logits, tolerance)?;
            let ok = compared.ok;
            (compared, ok, None)
        }
        Err(error) => return Err(error),
    };
    Ok(Exported {
        validated: adapter.is_some() && ok,
        max_abs: Some(compared.max_abs),
        max_rel: Some(compared.max_abs / largest.max(f64::MIN_POSITIVE)),
        adapter,
        int8: None,
        disagrees: !ok,
    })
}

/// What travels in the file: enough to preprocess an image and to rebuild the network.
fn info(plan: &Plan, network: &Network, top1: Option<f64>, int8: Option<&Quantized>) -> Result<ModelInfo> {
    let names = |n: usize| (0..n).map(|i| format!("class_{i}")).collect();
    let resize = plan.data.filter(|d| d.train.common_size() != Some(network.image)).map(|_| {
        let recipe = augmentation::evaluation(plan.config.network, network.image, None);
        match recipe.frame {
            crate::data::Frame::ResizeCentre { cover, .. } => cover,
            _ => network.image,
        }
    });
    Ok(ModelInfo {
        classes: plan.data.map_or_else(|| names(network.classes), |data| data.classes.clone()),
        mean: plan.data.map_or([0.5; 3], |data| data.mean),
        std: plan.data.map_or([0.5; 3], |data| data.std),
        input_size: network.image,
        resize,
        genotype: Some(plan.genotype.to_yaml()),
        dataset: plan.data.map(|data| data.name.clone()),
        top1: int8.map(|int8| int8.top1).or(top1),
        float_top1: int8.map(|int8| int8.float_top1),
        quantization: int8.map(Quantized::how),
        seed: Some(plan.config.seed),
        // How many threads compute it changes nothing of the result.
        config: Some(fingerprint(&serde_yaml::to_string(&TrainConfig { threads: None, ..plan.config.clone() })?)),
        license: None,
        producer: Some(concat!("idarts-compile ", env!("CARGO_PKG_VERSION")).into()),
    })
}

/// Test images as the network wants them, with labels; without data random numbers.
fn samples(plan: &Plan, network: &Network, model: &Model) -> Result<(Tensor, Option<Vec<i64>>)> {
    let wanted = plan.export.samples;
    let Some(data) = plan.data else {
        let count = plan.export.static_batch.unwrap_or(1) * 2;
        let mut inputs = random_inputs(&model.graph, wanted.min(count), plan.config.seed, 0);
        return Ok((inputs.swap_remove(0), None));
    };
    let (images, labels) = test_images(data, plan, network, wanted.min(data.test.len()))?;
    Ok((images, Some(labels)))
}

fn test_images(data: &Dataset, plan: &Plan, network: &Network, count: usize) -> Result<(Tensor, Vec<i64>)> {
    let set = data.test.subset(count, 0)?;
    let recipe = augmentation::evaluation(plan.config.network, network.image, set.common_size());
    let (mut pixels, mut labels) = (Vec::new(), Vec::new());
    for batch in Loader::in_order(&set, data.normalise(), recipe, 64)?.epoch(0) {
        let batch = batch?;
        pixels.extend(batch.images);
        labels.extend(batch.labels);
    }
    let [h, w] = network.image;
    Ok((Tensor::new([labels.len(), 3, h, w], pixels), labels))
}

/// The logits of the trained burn network in evaluation mode.
fn trained_logits(model: &Verified<Model>, images: &Tensor, device: &Device) -> Result<Tensor> {
    let module = GraphModule::new(model, device);
    let &[n, c, h, w] = images.shape.as_slice() else { anyhow::bail!("images must be [N, 3, H, W]") };
    let per_image = c * h * w;
    let mut logits = Vec::new();
    for chunk in images.data.chunks(64 * per_image) {
        let input = module.images(chunk.to_vec(), [chunk.len() / per_image, c, h, w]);
        let pass = module.forward(vec![input], Mode::Eval)?;
        logits.extend(download(pass.outputs[0].clone())?);
    }
    Ok(Tensor::new([n, logits.len() / n.max(1)], logits))
}

fn save(path: &Path, bytes: &[u8]) -> Result<()> {
    let cannot = || format!("--out {}: cannot write the file", path.display());
    if let Some(folder) = path.parent().filter(|f| !f.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).with_context(cannot)?;
    }
    let part = path.with_extension("onnx.part");
    std::fs::write(&part, bytes).with_context(cannot)?;
    std::fs::rename(&part, path).with_context(cannot)
}
