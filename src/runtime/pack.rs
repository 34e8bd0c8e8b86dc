//! Packs parameters the way the kernels read them.
//!
//! Takes parameter tensors; gives one array of floats and the places in it, in bytes of what they are stored as. The layouts
//! are those in the headers of the WGSL files: where a kernel makes four output channels at a time, their weights are four
//! neighbours.

use super::program::{BINDING_ALIGN, Source};
use super::storage::Storage;
use crate::ir::Tensor;

/// The packed parameters of a program under construction.
#[derive(Debug, Default)]
pub struct Pack {
    /// Everything packed so far.
    pub floats: Vec<f32>,
    storage: Storage,
}

impl Pack {
    /// Nothing yet, to be stored as `storage`.
    pub fn new(storage: Storage) -> Self {
        Self { floats: Vec::new(), storage }
    }

    /// For `conv`: `[M, C / groups, kH, kW]` filters and bias. Gives the place and `bias_at`, in vec4.
    pub fn conv(&mut self, weight: &Tensor, bias: Option<&Tensor>, groups: usize) -> (Source, usize) {
        let per_group = weight.shape[0] / groups;
        let taps: usize = weight.shape[1..].iter().product();
        let blocks = per_group.div_ceil(4);
        let filter = |i: usize| {
            let (group, in_group) = (i / (blocks * 4), i % (blocks * 4));
            (in_group < per_group).then_some(group * per_group + in_group)
        };
        let start = self.begin();
        for block in 0..groups * blocks {
            self.interleave(weight, taps, [0, 1, 2, 3].map(|lane| filter(block * 4 + lane)));
        }
        let bias_at = (self.floats.len() - start) / 4;
        self.floats.extend((0..groups * blocks * 4).map(|i| filter(i).map_or(0.0, |f| at(bias, f))));
        (self.end(start), bias_at)
    }

    /// For `depthwise`: `[M, 1, kH, kW]` filters and bias. Gives the place and `bias_at`, in floats.
    pub fn depthwise(&mut self, weight: &Tensor, bias: Option<&Tensor>) -> (Source, usize) {
        let start = self.begin();
        self.floats.extend_from_slice(&weight.data);
        self.floats.extend((0..weight.shape[0]).map(|f| at(bias, f)));
        (self.end(start), weight.data.len())
    }

    /// For `pointwise` with blocks of `N` output channels: `[M, K, 1, 1]` filters and bias. Gives the place and `bias_at`, in
    /// vec4.
    pub fn pointwise<const N: usize>(&mut self, weight: &Tensor, bias: Option<&Tensor>) -> (Source, usize) {
        let (m, k) = (weight.shape[0], weight.shape[1]);
        let blocks = m.div_ceil(N);
        let start = self.begin();
        for block in 0..blocks {
            let filters: [_; N] = std::array::from_fn(|lane| Some(block * N + lane).filter(|f| *f < m));
            self.interleave(weight, k, filters);
        }
        let bias_at = (self.floats.len() - start) / 4;
        self.floats.extend((0..blocks * N).map(|f| if f < m { at(bias, f) } else { 0.0 }));
        (self.end(start), bias_at)
    }

    /// For the kernels of separable units with blocks of `block` output channels: `[K, 1, kH, kW]` taps if there are any,
    /// `[M, K, 1, 1]` filters and bias. Gives the place and the numbers in a line, a multiple of `multiple`.
    pub fn separable(
        &mut self,
        taps: Option<&Tensor>,
        weight: &Tensor,
        bias: Option<&Tensor>,
        [block, multiple]: [usize; 2],
    ) -> (Source, usize) {
        let (m, k) = (weight.shape[0], weight.shape[1]);
        let kernel = taps.map_or(0, |taps| taps.data.len() / k);
        let line = (block + kernel).next_multiple_of(multiple);
        let start = self.begin();
        for first in (0..m).step_by(block) {
            let channels = first..first + block;
            self.line(line, channels.clone().map(|f| if f < m { at(bias, f) } else { 0.0 }));
            for c in 0..k {
                let filters = channels.clone().map(|f| if f < m { weight.data[f * k + c] } else { 0.0 });
                let taps = taps.map_or(&[][..], |taps| &taps.data[c * kernel..][..kernel]);
                self.line(line, filters.chain(taps.iter().copied()));
            }
        }
        (self.end(start), line)
    }

    /// For `linear`: `[O, I]` matrix and bias. Gives the place and `bias_at`, in vec4.
    pub fn linear(&mut self, weight: &Tensor, bias: Option<&Tensor>) -> (Source, usize) {
        let (outputs, inputs) = (weight.shape[0], weight.shape[1]);
        let padded = outputs.next_multiple_of(4);
        let start = self.begin();
        for i in 0..inputs {
            self.floats.extend((0..padded).map(|o| if o < outputs { weight.data[o * inputs + i] } else { 0.0 }));
        }
        self.floats.extend((0..padded).map(|o| if o < outputs { at(bias, o) } else { 0.0 }));
        (self.end(start), inputs * padded / 4)
    }

    /// For `constant`: the numbers as they are.
    pub fn plain(&mut self, numbers: &Tensor) -> Source {
        let start = self.begin();
        self.floats.extend_from_slice(&numbers.data);
        self.end(start)
    }

    /// For `batch_norm`: factor and shift of every channel, made in float64.
    pub fn batch_norm(
        &mut self,
        scale: Option<&Tensor>,
        shift: Option<&Tensor>,
        mean: &Tensor,
        var: &Tensor,
        epsilon: f32,
    ) -> Source {
        let start = self.begin();
        for c in 0..mean.data.len() {
            let scale = scale.map_or(1.0, |s| f64::from(s.data[c]));
            let factor = scale / (f64::from(var.data[c]) + f64::from(epsilon)).sqrt();
            let shift = f64::from(at(shift, c)) - f64::from(mean.data[c]) * factor;
            self.floats.extend([factor as f32, shift as f32]);
        }
        self.end(start)
    }

    /// The weights of `filters`, element by element side by side; zeros for `None`.
    fn interleave<const N: usize>(&mut self, weight: &Tensor, taps: usize, filters: [Option<usize>; N]) {
        for tap in 0..taps {
            self.floats.extend(filters.map(|f| f.map_or(0.0, |f| weight.data[f * taps + tap])));
        }
    }

    /// `numbers` and zeros behind them, `len` in all.
    fn line(&mut self, len: usize, numbers: impl Iterator<Item = f32>) {
        self.floats.extend(numbers.chain(std::iter::repeat(0.0)).take(len));
    }

    fn begin(&mut self) -> usize {
        self.floats.resize(self.floats.len().next_multiple_of(BINDING_ALIGN / self.storage.bytes()), 0.0);
        self.floats.len()
    }

    fn end(&mut self, start: usize) -> Source {
        self.floats.resize(self.floats.len().next_multiple_of(4), 0.0);
        let bytes = self.storage.bytes();
        Source::Weights { offset: start * bytes, bytes: (self.floats.len() - start) * bytes }
    }
}

fn at(tensor: Option<&Tensor>, i: usize) -> f32 {
    tensor.map_or(0.0, |t| t.data[i])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(shape: &[usize]) -> Tensor {
        Tensor::new(shape, (1..=shape.iter().product::<usize>()).map(|i| i as f32).collect())
    }

    #[test]
    fn convolution_weights_lie_in_fours_and_groups_are_padded() {
        // Two groups of three filters with two taps: one block of four lanes a group.
        let mut pack = Pack::default();
        let (place, bias_at) = pack.conv(&count(&[6, 1, 1, 2]), Some(&count(&[6])), 2);
        assert_eq!((place, bias_at), (Source::Weights { offset: 0, bytes: 96 }, 4));
        let filters = [1., 3., 5., 0., 2., 4., 6., 0., 7., 9., 11., 0., 8., 10., 12., 0.];
        assert_eq!(pack.floats[..16], filters);
        assert_eq!(pack.floats[16..24], [1., 2., 3., 0., 4., 5., 6., 0.]);
    }

    #[test]
    fn every_place_is_aligned() {
        let mut pack = Pack::default();
        pack.depthwise(&count(&[3, 1, 1, 1]), None);
        let (place, bias_at) = pack.linear(&count(&[5, 2]), Some(&count(&[5])));
        assert_eq!((place, bias_at), (Source::Weights { offset: 256, bytes: 96 }, 4));
        assert_eq!(pack.floats[64..72], [1., 3., 5., 7., 9., 0., 0., 0.]);
    }

    #[test]
    fn batch_norm_becomes_factor_and_shift() {
        let mut pack = Pack::default();
        let one = |x: f32| Tensor::new([1], vec![x]);
        pack.batch_norm(Some(&one(6.0)), Some(&one(1.0)), &one(2.0), &one(8.0), 1.0);
        assert_eq!(pack.floats[..2], [2.0, -3.0]);
    }
}
