//! Gradients of images as sums of planes, and how they pass through a normalisation.
use burn::backend::flex::FlexTensor;

use super::value::Norm;
use crate::kernels::cpu::{
    combine::{Combination, Source},
    products::{Factor, products, tensor_and_products},
};

/// The gradient of one value, as far as its readers have given it.
pub struct Gradient {
    /// The sum of what they gave.
    pub sum: Combination,
    /// For each channel of a normalised value, the sum of the gradient over the batch and that of its product with the value
    /// before its normalisation, less the mean.
    totals: Vec<[f64; 2]>,
    /// For each source of `sum`, whether it is part of `totals`.
    counted: Vec<bool>,
}

/// What a normalisation's gradient comes to.
pub struct ThroughNorm {
    /// Of the value before it.
    pub sum: Combination,
    /// Of its scale.
    pub scale: Vec<f32>,
    /// Of its shift.
    pub shift: Vec<f32>,
}

impl Gradient {
    /// Nothing yet.
    pub fn zeros(size: [usize; 3], channels: usize) -> Self {
        Self { sum: Combination::zeros(size, channels), totals: vec![[0.0; 2]; channels], counted: Vec::new() }
    }

    /// Adds channels of a source: (channel, channel of the source, factor).
    pub fn add(&mut self, source: Source, terms: impl IntoIterator<Item = (usize, usize, f32)>) {
        self.sum.add(source, terms.into_iter().map(|(to, from, factor)| (to, from, factor, 0.0)));
        self.counted.push(false);
    }

    /// As [`Gradient::add`], with what the source adds to the totals of each channel.
    pub fn add_counted(
        &mut self,
        source: Source,
        terms: impl IntoIterator<Item = (usize, usize, f32)>,
        totals: impl IntoIterator<Item = (usize, [f64; 2])>,
    ) {
        self.add(source, terms);
        *self.counted.last_mut().expect("just added") = true;
        for (channel, total) in totals {
            self.totals[channel].iter_mut().zip(total).for_each(|(sum, more)| *sum += more);
        }
    }

    /// Adds a gradient of some channels, from `start` on.
    pub fn add_all(&mut self, other: &Combination, start: usize) {
        // What is counted must not get more of what is not.
        match self.counted.contains(&true) {
            true => self.sum.add_all(other, start),
            false => self.sum.merge(other, start),
        }
        self.counted.resize(self.sum.sources.len(), false);
    }

    /// The gradient of `z` where this is that of its normalised value.
    pub fn through(mut self, z: &FlexTensor, norm: &Norm) -> ThroughNorm {
        if self.counted.len() > 1 && self.counted.iter().all(|counted| !counted) {
            // One product instead of one for each source.
            let factor = |channel| vec![Factor { source: 0, channel, center: norm.mean[channel] }];
            let factors: Vec<Vec<Factor>> = (0..self.sum.channels.len()).map(factor).collect();
            let (sum, products) = tensor_and_products(&self.sum, std::slice::from_ref(z), &factors);
            for (channel, totals) in self.totals.iter_mut().enumerate() {
                totals.iter_mut().enumerate().for_each(|(i, total)| *total += products.total(channel, i, None));
            }
            self.sum = Combination::whole(sum);
            self.counted = vec![true];
        }
        self.count(z, norm);
        let [n, h, w] = self.sum.size;
        let count = (n * h * w) as f64;
        let channels = self.sum.channels.len();
        let (mut scale, mut shift) = (Vec::with_capacity(channels), Vec::with_capacity(channels));
        let mut lines = Vec::with_capacity(channels);
        for (channel, &[sum, product]) in self.totals.iter().enumerate() {
            let inverse = f64::from(norm.inverse[channel]);
            let factor = f64::from(norm.scale[channel]) * inverse;
            scale.push((product * inverse) as f32);
            shift.push(sum as f32);
            let slope = -factor * inverse * inverse * product / count;
            let offset = -factor * sum / count - slope * f64::from(norm.mean[channel]);
            lines.push((channel, channel, slope as f32, offset as f32));
            self.sum.channels[channel].iter_mut().for_each(|term| term.factor *= factor as f32);
        }
        self.sum.add(Source::new(z.clone()), lines);
        ThroughNorm { sum: self.sum, scale, shift }
    }

    /// Adds to the totals what is missing there.
    fn count(&mut self, z: &FlexTensor, norm: &Norm) {
        for (number, source) in self.sum.sources.iter().enumerate().filter(|(number, _)| !self.counted[*number]) {
            let [_, channels, ..] = source.tensor().layout().shape().dims::<4>();
            let mut factors = vec![Vec::new(); channels];
            let mut used = Vec::new();
            for (channel, terms) in self.sum.channels.iter().enumerate() {
                for term in terms.iter().filter(|term| term.source == number) {
                    used.push((channel, term.channel, factors[term.channel].len(), f64::from(term.factor)));
                    factors[term.channel].push(Factor { source: 0, channel, center: norm.mean[channel] });
                }
            }
            let products = products(source.tensor(), std::slice::from_ref(z), &factors);
            for (channel, of_source, which, factor) in used {
                let total = |which| factor * products.total(of_source, which, source.per_image());
                self.totals[channel][0] += total(0);
                self.totals[channel][1] += total(which + 1);
            }
        }
    }
}
