//! The input of separable units as their depthwise convolutions read it: normalised, rectified, with its padding.
//!
//! Units of different kernels share a copy with room for the largest of them.
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
            let planes = (unit.from..unit.from + unit.ins).map(|c| (x.plane(image, c), Lines::at(lines, c)));
            self.padded.lay_rectified(planes, &mut self.planes);
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
