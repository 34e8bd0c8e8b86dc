//! A depthwise convolution of all channels of an image, forward and backward, on slices that stay in cache.
//!
//! Takes planes with their padding around them; gives dense planes. Rows shorter than a vector are computed as one long row,
//! what lies between them is left out. The loops are those of [`super::super::conv`].
#![allow(
    clippy::extra_unused_type_parameters,
    reason = "the parameter picks the instructions that a vectorised function is compiled for"
)]
use macerator::{Simd, Vector};

use super::super::{
    super::Window,
    conv::{
        self, columns,
        geometry::{Backward, Class, Flat, Forward},
        padded::{Padded, lay_all, scratch},
        tiles,
    },
    memory::Floats,
    simd::{MAX_LANES, update},
};

/// The geometry of a depthwise convolution of planes of one size.
pub struct Depthwise {
    pub forth: Forward,
    pub back: Backward,
    kernel_width: usize,
    pub pixels_in: usize,
    pub pixels_out: usize,
}

/// Planes that one after the other lie a step apart.
#[derive(Clone, Copy)]
pub struct Steps {
    /// Of the source.
    pub source: usize,
    /// Of what is written, or of the gradient that is read.
    pub target: usize,
}

/// Room for one thread.
pub struct Scratch {
    /// The output's gradient with its padding.
    g: Floats,
    /// Planes as long rows.
    long: Floats,
    /// The output's gradient as long rows, zero between the rows.
    long_g: Floats,
    /// The gradient of the input.
    dense: Floats,
    spread: Floats,
}

impl Depthwise {
    pub fn new(window: &Window, size: [usize; 2], lanes: usize) -> Self {
        let [oh, ow] = window.output_size(size);
        let pixels_in = size[0] * size[1];
        Self {
            forth: Forward::new(window, size, 1, pixels_in, lanes),
            back: Backward::new(window, size, 1, oh * ow, lanes),
            kernel_width: window.kernel[1],
            pixels_in,
            pixels_out: oh * ow,
        }
    }

    /// The layout that [`Depthwise::forward`] reads; none for the planes as they are.
    pub fn padded(&self) -> Option<Padded> {
        self.forth.padded
    }

    pub fn scratch(&self, channels: usize) -> Scratch {
        let long = |flat: Option<&Flat>| channels * flat.map_or(0, long_step) + MAX_LANES;
        let [forth, back] = [self.forth.flat.as_ref(), self.back_flat().map(|(_, flat)| flat)].map(long);
        Scratch {
            g: scratch(self.back.padded, channels, 0.0),
            long: Floats::filled(forth.max(back), 0.0),
            long_g: Floats::filled(forth, 0.0),
            dense: Floats::filled(channels * self.pixels_in, 0.0),
            spread: Floats::filled(self.back.largest_scatter(), 0.0),
        }
    }

    /// Planes of `out` from padded planes and the weights of all channels.
    pub fn forward(&self, source: &[f32], steps: Steps, weights: &[f32], scratch: &mut Scratch, out: &mut [f32]) {
        let Forward { taps, positions, columns, flat, .. } = &self.forth;
        match (columns, flat) {
            (Some(columns), _) => columns::outputs_each(columns, source, steps.source, weights, out, steps.target),
            (None, Some(flat)) => {
                let long = &mut scratch.long;
                tiles::outputs_each(source, steps.source, taps, &flat.positions, weights, long, long_step(flat));
                let channels = weights.len() / taps.offsets().len();
                compact(flat, long, out, steps.target, channels);
            }
            (None, None) => {
                tiles::outputs_each(source, steps.source, taps, positions, weights, out, steps.target);
            }
        }
    }

    /// The weights of all channels in the order in which [`Depthwise::backward`] reads them, class by class.
    pub fn turned(&self, weights: &[f32], channels: usize) -> Vec<Vec<f32>> {
        let taps = weights.len() / channels;
        let of_class = |class: &Class| {
            let of_channel = |w: &[f32]| -> Vec<f32> {
                class.kernel.iter().map(|[ky, kx]| w[ky * self.kernel_width + kx]).collect()
            };
            weights.chunks_exact(taps).flat_map(of_channel).collect()
        };
        self.back.classes.iter().map(of_class).collect()
    }

    /// Adds to planes of `dx`, one after the other, from planes of the output's gradient, `step` apart; the weights come from
    /// [`Depthwise::turned`].
    pub fn backward(&self, g: &[f32], step: usize, turned: &[Vec<f32>], scratch: &mut Scratch, dx: &mut [f32]) {
        let channels = dx.len() / self.pixels_in;
        let (source, source_step): (&[f32], usize) = match &self.back.padded {
            Some(padded) => {
                lay_all(padded, g, step, &mut scratch.g, channels);
                (&scratch.g, padded.plane())
            }
            None => (g, step),
        };
        if let Some((class, flat)) = self.back_flat() {
            let long = &mut scratch.long;
            let taps = &class.taps;
            tiles::outputs_each(source, source_step, taps, &flat.positions, &turned[0], long, long_step(flat));
            compact(flat, long, &mut scratch.dense, self.pixels_in, channels);
        } else if let [Class { columns: Some(columns), .. }] = self.back.classes.as_slice()
            && self.back.complete
        {
            columns::outputs_each(columns, source, source_step, &turned[0], &mut scratch.dense, self.pixels_in);
        } else {
            for (channel, dense) in scratch.dense.chunks_exact_mut(self.pixels_in).take(channels).enumerate() {
                let weights = turned.iter().zip(&self.back.classes).map(|(weights, class)| {
                    let taps = class.taps.offsets().len();
                    &weights[channel * taps..(channel + 1) * taps]
                });
                let source = &source[channel * source_step..];
                conv::inputs(&self.back, source, weights, &mut scratch.spread, dense, self.pixels_in);
            }
        }
        add(&scratch.dense[..dx.len()], dx);
    }

    /// Adds the gradient of all channels' weights to `sums`, from padded planes and the output's gradient `g`.
    pub fn weights(&self, source: &[f32], steps: Steps, g: &[f32], scratch: &mut Scratch, sums: &mut [f32]) {
        let Forward { taps, positions, columns, flat, .. } = &self.forth;
        let of_channel = taps.offsets().len();
        match (columns, flat) {
            (Some(columns), _) => {
                for (channel, sums) in sums.chunks_exact_mut(of_channel).enumerate() {
                    let g = &g[channel * steps.target..];
                    columns::weights(columns, &source[channel * steps.source..], &g[..self.pixels_out], sums);
                }
            }
            (None, Some(flat)) => {
                let (long, step) = (&mut scratch.long_g, long_step(flat));
                spread(flat, g, steps.target, long, sums.len() / of_channel);
                tiles::weights_each(source, steps.source, taps, &flat.positions, long, step, sums);
            }
            (None, None) => tiles::weights_each(source, steps.source, taps, positions, g, steps.target, sums),
        }
    }

    fn back_flat(&self) -> Option<(&Class, &Flat)> {
        match self.back.classes.as_slice() {
            [class] if self.back.complete => class.flat.as_ref().map(|flat| (class, flat)),
            _ => None,
        }
    }
}

/// From one long row to the next.
fn long_step(flat: &Flat) -> usize {
    flat.len().next_multiple_of(MAX_LANES)
}

#[macerator::with_simd]
fn compact<S: Simd>(flat: &Flat, long: &[f32], planes: &mut [f32], step: usize, channels: usize) {
    let pixels = flat.rows * flat.width;
    for (long, plane) in long.chunks(long_step(flat)).zip(planes.chunks_mut(step)).take(channels) {
        flat.compact(&long[..flat.len()], &mut plane[..pixels]);
    }
}

#[macerator::with_simd]
fn spread<S: Simd>(flat: &Flat, planes: &[f32], step: usize, long: &mut [f32], channels: usize) {
    let pixels = flat.rows * flat.width;
    for (long, plane) in long.chunks_mut(long_step(flat)).zip(planes.chunks(step)).take(channels) {
        flat.spread(&plane[..pixels], &mut long[..flat.len()]);
    }
}

#[macerator::with_simd]
fn add<S: Simd>(more: &[f32], sum: &mut [f32]) {
    update([more], sum, |[more]: [Vector<S, f32>; 1], sum| sum + more);
}
