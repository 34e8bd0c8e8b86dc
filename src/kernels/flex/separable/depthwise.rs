//! A depthwise convolution of all channels of an image, forward and backward, on slices that stay in cache.
//!
//! Takes planes with their padding around them; gives dense planes. Rows shorter than a vector are computed as one long row,
//! what lies between them is left out. The loops are those of [`super::super::conv`].
#![allow(
    clippy::extra_unused_type_parameters,
    reason = "the parameter picks the instructions that a vectorised function is compiled for"
)]
use std::sync::Arc;

use macerator::{Simd, Vector, WithSimd};

use super::super::{
    super::Window,
    conv::{
        columns::{self, Columns},
        geometry::{Backward, Class, Flat, Forward},
        padded::{Padded, lay_all, scratch},
        positions::{Positions, Taps},
        sums, tiles,
    },
    kept::Kept,
    memory::Floats,
    simd::{self, MAX_LANES, lanes_for, update, with_lanes},
};

/// The geometry of a depthwise convolution of planes of one size.
pub struct Depthwise {
    forth: Forward,
    back: Arc<Backward>,
    /// Floats of the vectors of either way.
    lanes: [usize; 2],
    kernel_width: usize,
    pub pixels_in: usize,
    pub pixels_out: usize,
    /// A convolution of the single pixels of the output.
    pub pixels: Positions,
    /// Where rows of the output's gradient are whole vectors: how one is written with its padding at once.
    direct: Option<Direct>,
}

/// The output's gradient with its padding around it, as a convolution of single pixels writes it.
struct Direct {
    /// From dense planes to padded ones.
    pixels: Positions,
    /// Where the first pixel of a padded plane lies.
    start: usize,
    /// What [`Forward`] has for the gradient of the weights, for such planes.
    positions: Positions,
    columns: Option<Columns>,
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
#[derive(Default)]
pub struct Scratch {
    /// The output's gradient with its padding.
    g: Floats,
    /// The same as it is, where it is not written with its padding.
    dense_g: Floats,
    /// Planes as long rows.
    long: Floats,
    /// The output's gradient as long rows, zero between the rows.
    long_g: Floats,
    /// The gradient of the input.
    dense: Floats,
    spread: Floats,
}

impl Depthwise {
    /// For planes of `size` that are read from a layout with room for the window.
    pub fn new(window: &Window, size: [usize; 2], layout: Padded) -> Arc<Self> {
        static KEPT: Kept<(Window, [usize; 2], Padded), Depthwise> = Kept::new();
        KEPT.get((*window, size, layout), |_| Self::made(window, size, layout))
    }

    fn made(window: &Window, size: [usize; 2], layout: Padded) -> Self {
        let [oh, ow] = window.output_size(size);
        let lanes = [ow, size[1].div_ceil(window.stride[1])].map(lanes_for);
        let forth = Forward::laid(window, size, 1, layout, layout.plane(), lanes[0]);
        let back = Backward::new(window, size, 1, oh * ow, lanes[1]);
        let whole = simd::lanes();
        let direct = back.padded.filter(|_| ow.is_multiple_of(whole)).map(|padded| {
            let (start, row) = (padded.first(), padded.row());
            let columns = forth.columns.map(|columns| Columns { target_row: row, ..columns });
            let rows = |from: usize| (0..oh).map(move |y| [y * from, start + y * row]);
            let positions = Positions::new(lanes[0], ow, rows(window.stride[0] * layout.row()));
            Direct { pixels: Positions::new(whole, ow, rows(ow)), start, positions, columns }
        });
        Self {
            forth,
            back,
            lanes,
            kernel_width: window.kernel[1],
            pixels_in: size[0] * size[1],
            pixels_out: oh * ow,
            pixels: Positions::new(whole, oh * ow, [[0, 0]]),
            direct,
        }
    }

    /// Room for the way forward.
    pub fn scratch(&self, channels: usize) -> Scratch {
        let long = channels * self.forth.flat.as_ref().map_or(0, long_step) + MAX_LANES;
        Scratch { long: Floats::new(long), ..Scratch::default() }
    }

    /// Room for both ways; planes of the output's gradient lie `step` apart where they are dense.
    pub fn scratch_back(&self, channels: usize, step: usize) -> Scratch {
        let long = |flat: Option<&Flat>| channels * flat.map_or(0, long_step) + MAX_LANES;
        let [forth, back] = [self.forth.flat.as_ref(), self.back_flat().map(|(_, flat)| flat)].map(long);
        Scratch {
            g: scratch(self.back.padded, channels, 0.0),
            dense_g: Floats::new(if self.direct.is_none() { channels * step + MAX_LANES } else { 0 }),
            long: Floats::new(forth.max(back)),
            long_g: Floats::filled(forth, 0.0),
            dense: Floats::new(channels * self.pixels_in),
            spread: Floats::new(channels * self.back.largest_scatter()),
        }
    }

    /// Planes of `out` from padded planes and the weights of all channels.
    pub fn forward(&self, source: &[f32], steps: Steps, weights: &[f32], scratch: &mut Scratch, out: &mut [f32]) {
        let Forward { taps, positions, columns, flat, .. } = &self.forth;
        let Steps { source: from, target: to } = steps;
        let lanes = self.lanes[0];
        match (columns, flat) {
            (Some(columns), _) => with_lanes(lanes, Work::Columns(columns, [source, weights], [from, to], out)),
            (None, Some(flat)) => {
                let long = &mut scratch.long;
                let steps = [from, long_step(flat)];
                with_lanes(lanes, Work::Tiles(taps, &flat.positions, [source, weights], steps, long));
                let channels = weights.len() / taps.offsets().len();
                compact(flat, long, out, to, channels);
            }
            (None, None) => with_lanes(lanes, Work::Tiles(taps, positions, [source, weights], [from, to], out)),
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

    /// The planes of the output's gradient: how a convolution of single pixels writes them, to where, and how far apart.
    /// [`Depthwise::weights`] and [`Depthwise::backward`] read them there.
    pub fn gradient<'a>(&'a self, scratch: &'a mut Scratch, step: usize) -> (&'a Positions, &'a mut [f32], usize) {
        match (&self.direct, self.back.padded) {
            (Some(direct), Some(padded)) => (&direct.pixels, &mut scratch.g, padded.plane()),
            _ => (&self.pixels, &mut scratch.dense_g, step),
        }
    }

    /// Writes planes of `dx`, one after the other, or adds to them, from those of [`Depthwise::gradient`], `step` apart where
    /// they are dense; the weights come from [`Depthwise::turned`].
    pub fn backward(&self, step: usize, turned: &[Vec<f32>], scratch: &mut Scratch, dx: &mut [f32], adds: bool) {
        let channels = dx.len() / self.pixels_in;
        let Scratch { g, dense_g, long, dense, spread, .. } = scratch;
        let (source, source_step): (&[f32], usize) = match &self.back.padded {
            Some(padded) => {
                if self.direct.is_none() {
                    lay_all(padded, dense_g, step, g, channels);
                }
                (g, padded.plane())
            }
            None => (dense_g, step),
        };
        let lanes = self.lanes[1];
        if adds
            && let [Class { columns: Some(columns), .. }] = self.back.classes.as_slice()
            && self.back.complete
            && columns.adds(lanes)
        {
            let steps = [source_step, self.pixels_in];
            return with_lanes(lanes, Work::AddColumns(columns, [source, &turned[0]], steps, dx));
        }
        let to = if adds { &mut dense[..dx.len()] } else { &mut *dx };
        if let Some((class, flat)) = self.back_flat() {
            let steps = [source_step, long_step(flat)];
            with_lanes(lanes, Work::Tiles(&class.taps, &flat.positions, [source, &turned[0]], steps, long));
            compact(flat, long, to, self.pixels_in, channels);
        } else {
            if !self.back.complete {
                to.fill(0.0);
            }
            for (weights, class) in turned.iter().zip(&self.back.classes) {
                self.class(class, [source, weights], source_step, spread, to);
            }
        }
        if adds {
            add(&dense[..dx.len()], dx);
        }
    }

    /// The pixels of one class, of planes of the input's gradient.
    fn class(&self, class: &Class, reads: [&[f32]; 2], step: usize, spread: &mut [f32], dense: &mut [f32]) {
        let lanes = self.lanes[1];
        match (class.scatter, &class.columns) {
            (None, Some(columns)) => with_lanes(lanes, Work::Columns(columns, reads, [step, self.pixels_in], dense)),
            (None, None) => {
                let steps = [step, self.pixels_in];
                with_lanes(lanes, Work::Tiles(&class.taps, &class.positions, reads, steps, dense));
            }
            (Some(scatter), _) => {
                let pixels = scatter.rows * scatter.columns;
                let channels = dense.len() / self.pixels_in;
                let spread = &mut spread[..channels * pixels];
                with_lanes(lanes, Work::Tiles(&class.taps, &class.positions, reads, [step, pixels], spread));
                for (spread, dense) in spread.chunks_exact(pixels).zip(dense.chunks_exact_mut(self.pixels_in)) {
                    scatter.spread(spread, dense);
                }
            }
        }
    }

    /// Adds the gradient of all channels' weights to `sums`, from padded planes and those of [`Depthwise::gradient`].
    pub fn weights(&self, source: &[f32], steps: Steps, scratch: &mut Scratch, sums: &mut [f32]) {
        let Forward { taps, positions, columns, flat, .. } = &self.forth;
        let of_channel = taps.offsets().len();
        let lanes = self.lanes[0];
        if let (Some(direct), Some(padded)) = (&self.direct, self.back.padded) {
            let steps = [steps.source, padded.plane()];
            let Direct { start, positions, columns, .. } = direct;
            return match columns {
                Some(columns) => {
                    let reads = [source, &scratch.g[*start..]];
                    with_lanes(lanes, Work::ColumnWeights(columns, reads, steps, sums));
                }
                None => with_lanes(lanes, Work::TileWeights(taps, positions, [source, &scratch.g], steps, sums)),
            };
        }
        let (g, step_of_g) = (&*scratch.dense_g, steps.target);
        let steps = [steps.source, step_of_g];
        match (columns, flat) {
            (Some(columns), _) => with_lanes(lanes, Work::ColumnWeights(columns, [source, g], steps, sums)),
            (None, Some(flat)) => {
                let (long, steps) = (&mut *scratch.long_g, [steps[0], long_step(flat)]);
                spread(flat, g, step_of_g, long, sums.len() / of_channel);
                with_lanes(lanes, Work::TileWeights(taps, &flat.positions, [source, long], steps, sums));
            }
            (None, None) => with_lanes(lanes, Work::TileWeights(taps, positions, [source, g], steps, sums)),
        }
    }

    fn back_flat(&self) -> Option<(&Class, &Flat)> {
        match self.back.classes.as_slice() {
            [class] if self.back.complete => class.flat.as_ref().map(|flat| (class, flat)),
            _ => None,
        }
    }
}

/// A loop over all channels of an image, and what it reads (source and weights, or source and gradient), how far its planes lie
/// apart (those of the source, those of the output or the gradient), and what it writes or adds to.
enum Work<'a> {
    Columns(&'a Columns, [&'a [f32]; 2], [usize; 2], &'a mut [f32]),
    AddColumns(&'a Columns, [&'a [f32]; 2], [usize; 2], &'a mut [f32]),
    Tiles(&'a Taps, &'a Positions, [&'a [f32]; 2], [usize; 2], &'a mut [f32]),
    ColumnWeights(&'a Columns, [&'a [f32]; 2], [usize; 2], &'a mut [f32]),
    TileWeights(&'a Taps, &'a Positions, [&'a [f32]; 2], [usize; 2], &'a mut [f32]),
}

impl WithSimd for Work<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self) {
        match self {
            Self::Columns(columns, [source, weights], [from, to], out) => {
                columns::outputs_each::<S, false>(columns, source, from, weights, out, to);
            }
            Self::AddColumns(columns, [source, weights], [from, to], out) => {
                columns::outputs_each::<S, true>(columns, source, from, weights, out, to);
            }
            Self::Tiles(taps, positions, [source, weights], [from, to], out) => {
                tiles::outputs_each::<S>(source, from, taps, positions, weights, out, to);
            }
            Self::ColumnWeights(columns, [source, g], [from, to], sums) => {
                columns::weights_each::<S>(columns, source, from, g, to, sums);
            }
            Self::TileWeights(taps, positions, [source, g], [from, to], sums) => {
                sums::weights_each::<S>(source, from, taps, positions, g, to, sums);
            }
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
