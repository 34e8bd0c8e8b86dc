//! The input of separable units as their depthwise convolutions read it: normalised, rectified, with its padding.
//!
//! Units of different kernels share a copy with room for the largest of them.
#![allow(
    clippy::extra_unused_type_parameters,
    reason = "the parameter picks the instructions that a vectorised function is compiled for"
)]
use macerator::Simd;

use super::{
    super::{
        buffer::View,
        conv::padded::{Padded, scratch},
        memory::Floats,
    },
    Job, Lines, Unit,
};

/// A copy of the planes of one image that one or more units read.
pub struct Source {
    planes: Floats,
    padded: Padded,
    /// Image, first channel and number of channels in `planes`.
    holds: Option<[usize; 3]>,
}

#[macerator::with_simd]
fn copy<'a, S: Simd>(source: &mut Source, x: View<'a>, lines: Option<&'a Lines>, image: usize, unit: Unit) {
    source.copy(x, lines, image, unit);
}

impl Source {
    /// Room for what any of the jobs reads.
    pub fn new(padded: Padded, jobs: &[Job]) -> Self {
        let most = jobs.iter().map(|job| job.unit.ins).max().unwrap_or(0);
        Self { planes: scratch(Some(padded), most, 0.0), padded, holds: None }
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
        for (i, to) in self.planes.chunks_exact_mut(self.padded.plane()).take(unit.ins).enumerate() {
            let plane = x.plane(image, unit.from + i);
            let [factor, offset] = Lines::at(lines, unit.from + i);
            self.padded.copy(plane, to, |v: f32| {
                let v = v.mul_add(factor, offset);
                if v <= 0.0 { 0.0 } else { v }
            });
        }
    }

    /// The planes, [`Source::step`] apart.
    pub fn planes(&self) -> &[f32] {
        &self.planes
    }

    pub fn step(&self) -> usize {
        self.padded.plane()
    }
}
