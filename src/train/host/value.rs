//! What lies between nodes: tensors, normalised tensors, weights.
use std::sync::Arc;

use burn::backend::flex::FlexTensor;

use crate::kernels::cpu::{
    combine::{Combination, Source},
    separable::Lines,
};

/// A value of the graph.
#[derive(Clone)]
pub enum Value {
    /// An image, or `[N, C]` as an image of one pixel.
    Dense(FlexTensor),
    /// An image that is normalised as it is read.
    Normal(Normal),
    /// The channels of images one after the other.
    Joined(Vec<FlexTensor>),
    /// Architecture weights.
    Flat(Arc<Vec<f32>>),
}

/// An image before its normalisation, and that.
#[derive(Clone)]
pub struct Normal {
    /// `[N, C, H, W]`.
    pub z: FlexTensor,
    /// What is done to it.
    pub norm: Arc<Norm>,
}

/// A normalisation by the statistics of the batch: `(z - mean) * inverse * scale + shift`, per channel.
#[derive(Debug, Clone, Default)]
pub struct Norm {
    /// Mean of the batch.
    pub mean: Vec<f32>,
    /// One over the standard deviation.
    pub inverse: Vec<f32>,
    /// One where the layer has none.
    pub scale: Vec<f32>,
    /// Zero where the layer has none.
    pub shift: Vec<f32>,
    /// The same as one factor and offset.
    pub lines: Lines,
}

impl Norm {
    /// Adds a channel.
    pub fn push(&mut self, mean: f32, inverse: f32, scale: f32, shift: f32) {
        // One factor and offset, rounded as PyTorch rounds them: where two outputs almost tie, a max pool behind must choose
        // the same one.
        let factor = scale * inverse;
        self.lines.factor.push(factor);
        self.lines.offset.push(shift - mean * factor);
        self.mean.push(mean);
        self.inverse.push(inverse);
        self.scale.push(scale);
        self.shift.push(shift);
    }

    /// Channels `start..start + len`.
    pub fn part(&self, start: usize, len: usize) -> Self {
        let mut part = Self::default();
        for c in start..start + len {
            part.push(self.mean[c], self.inverse[c], self.scale[c], self.shift[c]);
        }
        part
    }
}

impl Normal {
    /// The image written out.
    pub fn tensor(&self) -> FlexTensor {
        let [n, c, h, w] = self.z.layout().shape().dims();
        let mut all = Combination::zeros([n, h, w], c);
        let Lines { factor, offset } = &self.norm.lines;
        all.add(Source::new(self.z.clone()), (0..c).map(|i| (i, i, factor[i], offset[i])));
        all.tensor()
    }
}

/// Images, channels, height and width.
pub fn dims(tensor: &FlexTensor) -> [usize; 4] {
    tensor.layout().shape().dims()
}
