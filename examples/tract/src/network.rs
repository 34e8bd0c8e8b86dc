//! The network in tract, and what its metadata says.
//!
//! Takes the path of a model; gives logits for images. A model of any batch size is optimised with the size as a symbol,
//! once; the batch of one with a fixed size is filled up with zeros.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tract_onnx::prelude::*;
use tract_onnx::tract_core::internal::DimLike;

use crate::picture::Recipe;

/// A model, ready to run.
pub struct Network {
    plan: Arc<TypedRunnableModel>,
    /// Channels, height and width of an image.
    image: [usize; 3],
    /// The number of images of one run, if the model fixes it.
    fixed: Option<usize>,
    /// The metadata of the file, by key.
    metadata: HashMap<String, String>,
}

impl Network {
    /// Reads an ONNX file.
    pub fn load(path: &str) -> Result<Self> {
        let model = tract_onnx::onnx().model_for_path(path).with_context(|| format!("cannot load {path}"))?;
        let mut metadata = HashMap::new();
        for (key, value) in &model.properties {
            if let Some(key) = key.strip_prefix("onnx.metadata_props.") {
                metadata.extend(value.to_plain_array_view::<String>()?.first().map(|v| (key.to_owned(), v.clone())));
            }
        }
        // Every value in the file has its shape, with `batch` as a symbol. To fix it by `with_input_fact`, those would have
        // to be ignored (`Onnx::with_ignore_value_info`); the symbol serves any number of images.
        let model = model.into_optimized().with_context(|| format!("cannot optimise {path}"))?;
        let dims: Vec<Option<usize>> = model.input_fact(0)?.shape.iter().map(|d| d.to_usize().ok()).collect();
        let &[fixed, Some(c), Some(h), Some(w)] = dims.as_slice() else {
            bail!("{path}: the input must be [batch, channels, height, width] with known sizes, it is {dims:?}")
        };
        Ok(Self { plan: model.into_runnable()?, image: [c, h, w], fixed, metadata })
    }

    /// Channels, height and width of the images it reads.
    pub fn image(&self) -> [usize; 3] {
        self.image
    }

    /// The logits of images that lie one after the other in `images`, in runs of `batch`.
    pub fn logits(&self, images: &[f32], batch: usize) -> Result<Vec<f32>> {
        let size = self.image.iter().product::<usize>();
        let batch = self.fixed.unwrap_or(batch);
        let mut out = Vec::new();
        for part in images.chunks(batch * size) {
            let count = part.len() / size;
            let mut part = part.to_vec();
            part.resize(self.fixed.unwrap_or(count) * size, 0.0);
            out.extend(self.run(part, count)?);
        }
        Ok(out)
    }

    fn run(&self, images: Vec<f32>, count: usize) -> Result<Vec<f32>> {
        let [c, h, w] = self.image;
        let batch = images.len() / (c * h * w);
        let input = Tensor::from_shape(&[batch, c, h, w], &images)?;
        let output = self.plan.run(tvec![input.into()])?.remove(0).into_tensor();
        ensure!(output.rank() == 2, "the output must be [batch, classes], it is {:?}", output.shape());
        let classes = output.shape()[1];
        Ok(output.to_plain_array_view::<f32>()?.iter().take(count * classes).copied().collect())
    }

    /// The names of the classes.
    pub fn classes(&self) -> Result<Vec<String>> {
        Ok(serde_json::from_value(self.metadata("classes")?)?)
    }

    /// How an image becomes its input.
    pub fn recipe(&self) -> Result<Recipe> {
        let size: [u32; 2] = serde_json::from_value(self.metadata("input_size")?)?;
        let cover = self.metadata("resize").ok().map(serde_json::from_value).transpose()?.unwrap_or(size);
        let mean = serde_json::from_value(self.metadata("mean")?)?;
        let std = serde_json::from_value(self.metadata("std")?)?;
        Ok(Recipe { cover, size, mean, std })
    }

    fn metadata(&self, key: &str) -> Result<Value> {
        let text = self.metadata.get(key);
        let text = text.with_context(|| format!("the model has no metadata `{key}`: is it of idarts-compile?"))?;
        serde_json::from_str(text).with_context(|| format!("metadata `{key}`"))
    }
}
