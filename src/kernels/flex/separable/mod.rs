//! Separable units on the CPU: ReLU, depthwise convolution, pointwise convolution, in one pass over each image.
//!
//! Takes the input, with the normalisation it is still to get, and several units that read channels of it; gives the outputs
//! of all units one after the other, before their own normalisation, and the moments that this needs. What lies between stays
//! in cache and is computed again on the way back, which reads the gradient as a [`Combination`](super::combine::Combination)
//! of whatever planes it is made of. Images are shared out among the threads; sums over images are taken in order.
mod backward;
mod depthwise;
mod forward;
mod source;

use std::sync::Arc;

use super::{
    super::Window,
    conv::{padded::Padded, positions::Taps, tiles::pack},
};
pub use backward::{Backward, UnitGradients, backward, channels_read};
use depthwise::Depthwise;
pub use forward::forward;

/// Floats between planes of a scratch, so that they do not drive each other out of the cache.
const GAP: usize = 16;

/// One unit: which channels of the input it reads, and its sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unit {
    /// The first channel of the input that it reads.
    pub from: usize,
    /// Channels it reads.
    pub ins: usize,
    /// Channels it makes.
    pub outs: usize,
    /// Window of the depthwise convolution.
    pub window: Window,
}

/// The weights of one unit.
#[derive(Clone, Debug)]
pub struct UnitWeights {
    /// `[ins, 1, kH, kW]`.
    pub depthwise: Vec<f32>,
    /// `[outs, ins, 1, 1]`.
    pub pointwise: Vec<f32>,
}

/// A normalisation that the input is still to get: `x * factor + offset` per channel.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Lines {
    /// Per channel of the input.
    pub factor: Vec<f32>,
    /// Per channel of the input.
    pub offset: Vec<f32>,
}

/// A unit ready to run: geometry and packed weights.
struct Job<'a> {
    unit: Unit,
    depthwise: Arc<Depthwise>,
    weights: &'a UnitWeights,
    /// The pointwise weights as the tiles read them.
    packed: Vec<f32>,
    /// The pointwise convolution: planes of dense pixels, `stride` apart.
    taps: Taps,
    stride: usize,
    /// Its first channel in the output.
    to: usize,
}

impl<'a> Job<'a> {
    /// All of them read their input from one layout, which they are given with.
    fn all(units: &[Unit], weights: &'a [UnitWeights], size: [usize; 2]) -> (Vec<Self>, Padded) {
        assert_eq!(units.len(), weights.len(), "separable: weights for each unit");
        let windows: Vec<Window> = units.iter().map(|unit| unit.window).collect();
        assert!(windows.iter().all(|window| window.stride == windows[0].stride), "separable: one stride for all units");
        let layout = Padded::around(&windows, size);
        let (mut jobs, mut to): (Vec<Self>, usize) = (Vec::with_capacity(units.len()), 0);
        for (unit, weights) in units.iter().zip(weights) {
            let Unit { ins, outs, window, .. } = *unit;
            let taps: usize = window.kernel.iter().product();
            assert_eq!(
                [weights.depthwise.len(), weights.pointwise.len()],
                [ins * taps, outs * ins],
                "separable: weights fit the unit"
            );
            let depthwise = Depthwise::new(&window, size, layout);
            let pixels = depthwise.pixels_out;
            let stride = pixels.next_multiple_of(GAP) + GAP;
            jobs.push(Self {
                unit: *unit,
                weights,
                packed: pack(outs, ins, |out, i| weights.pointwise[out * ins + i]),
                taps: Taps::new((0..ins).map(|i| i * stride).collect()),
                stride,
                to,
                depthwise,
            });
            to += outs;
        }
        (jobs, layout)
    }

    /// Floats of the planes between the two convolutions, with room for the last vector.
    fn between(&self) -> usize {
        self.stride * self.unit.ins + GAP
    }

    /// Multiply-accumulates of an image.
    fn macs(&self) -> usize {
        self.depthwise.pixels_out * (self.weights.depthwise.len() + self.weights.pointwise.len())
    }
}

impl Lines {
    /// Factor and offset of a channel.
    fn at(lines: Option<&Lines>, channel: usize) -> [f32; 2] {
        lines.map_or([1.0, 0.0], |lines| [lines.factor[channel], lines.offset[channel]])
    }
}
