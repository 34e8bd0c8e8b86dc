//! The input of separable units as their depthwise convolutions read it: normalised, rectified, with its padding.
//!
//! Units of different kernels whose padded planes look alike share a copy.
#![allow(
    clippy::extra_unused_type_parameters,
    reason = "the parameter picks the instructions that a vectorised function is compiled for"
)]
use macerator::Simd;

use super::{
    super::{
        buffer::View,
        conv::padded::{Padded, map_row},
        memory::Floats,
        simd::MAX_LANES,
    },
    Job, Lines, Unit,
};

/// Copies of the planes of one image that one or more units read.
pub struct Source {
    planes: Floats,
    padded: Option<Padded>,
    stride: usize,
    /// Image, first channel and number of channels in `planes`.
    holds: Option<[usize; 3]>,
}

/// A source for each layout that the jobs name.
pub fn sources<'a, 'b: 'a>(jobs: impl Iterator<Item = &'a Job<'b>> + Clone) -> Vec<Source> {
    let count = jobs.clone().map(|job| job.source + 1).max().unwrap_or(0);
    let widest = |number: usize| {
        let jobs = jobs.clone().filter(|job| job.source == number);
        jobs.max_by_key(|job| job.unit.ins).expect("a source has a job")
    };
    (0..count).map(|number| Source::new(widest(number))).collect()
}

#[macerator::with_simd]
fn copy<'a, S: Simd>(source: &mut Source, x: View<'a>, lines: Option<&'a Lines>, image: usize, unit: Unit) {
    source.copy(x, lines, image, unit);
}

impl Source {
    fn new(job: &Job) -> Self {
        let padded = job.depthwise.padded();
        let stride = padded.map_or(job.depthwise.pixels_in, |padded| padded.plane());
        Self { planes: Floats::filled(stride * job.unit.ins + MAX_LANES, 0.0), padded, stride, holds: None }
    }

    /// Copies what `unit` reads, unless it is there.
    pub fn fill(&mut self, x: View, lines: Option<&Lines>, image: usize, unit: Unit) {
        let wanted = Some([image, unit.from, unit.ins]);
        if self.holds != wanted {
            self.holds = wanted;
            copy(self, x, lines, image, unit);
        }
    }

    #[inline(always)]
    fn copy(&mut self, x: View, lines: Option<&Lines>, image: usize, unit: Unit) {
        for (i, to) in self.planes.chunks_exact_mut(self.stride).take(unit.ins).enumerate() {
            let plane = x.plane(image, unit.from + i);
            let [factor, offset] = Lines::at(lines, unit.from + i);
            let rectified = |v: f32| {
                let v = v.mul_add(factor, offset);
                if v <= 0.0 { 0.0 } else { v }
            };
            match self.padded {
                Some(padded) => padded.copy(plane, to, rectified),
                None => map_row(plane, to, &rectified),
            }
        }
    }

    /// The planes, [`Source::stride`] apart.
    pub fn planes(&self) -> &[f32] {
        &self.planes
    }

    pub fn stride(&self) -> usize {
        self.stride
    }
}
