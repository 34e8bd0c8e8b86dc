//! What a model is fed to be validated: random numbers, given tensors, or images of a data set.
//!
//! Takes data sets, tensors and the model's metadata; gives the inputs of single runs, and what is known about the results.

use anyhow::{Context, Result};
use rayon::prelude::*;

use super::tensor_file::TensorFile;
use super::tensors::{random_inputs, slice_rows};
use crate::data::{ImageSet, Preprocess};
use crate::ir::{Graph, Tensor};
use crate::onnx::ModelInfo;

/// What a model is fed.
pub enum Feed {
    /// Standard normal numbers.
    Random { samples: usize, seed: u64 },
    /// These inputs, in the order of the graph's; what is known about the values for them.
    Given { inputs: Vec<Tensor>, known: Known },
    /// Images with labels.
    Images(LabelledImages),
}

/// Values that something else computed.
#[derive(Debug, Default)]
pub struct Known {
    /// The outputs, in order.
    pub outputs: Option<Vec<Tensor>>,
    /// Any values, by the paths of their nodes.
    pub layers: Option<TensorFile>,
    /// Who computed them.
    pub by: Option<String>,
}

/// Images as the model wants them, with labels in the order of its classes.
pub struct LabelledImages {
    set: ImageSet,
    preprocess: Preprocess,
    /// The place of each image's class among those of the model.
    pub labels: Vec<usize>,
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
    /// How many samples there are.
    pub fn samples(&self) -> usize {
        match self {
            Self::Random { samples, .. } => *samples,
            Self::Given { inputs, .. } => inputs.first().and_then(|t| t.shape.first()).copied().unwrap_or(1),
            Self::Images(images) => images.set.len(),
        }
    }

    /// Images in a run if the user has no wish.
    pub fn usual_batch(&self) -> usize {
        match self {
            // Several inputs need not have rows that belong together, so they go in one run.
            Self::Given { inputs, .. } if inputs.len() > 1 => self.samples(),
            Self::Random { .. } | Self::Given { .. } => self.samples().min(8),
            Self::Images(_) => self.samples().min(32),
        }
    }

    /// The inputs of run number `run` of `rows` images.
    pub fn inputs(&self, graph: &Graph, run: usize, rows: usize) -> Result<Vec<Tensor>> {
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
