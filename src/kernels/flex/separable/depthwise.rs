//! One plane of a depthwise convolution, forward and backward, on slices that stay in cache.
//!
//! Takes planes with their padding around them; gives dense planes. Rows shorter than a vector are computed as one long row,
//! what lies between them is left out. The loops are those of [`super::super::conv`].
use super::super::{
    super::Window,
    conv::{
        self, columns,
        geometry::{Backward, Class, Forward},
        padded::{Padded, scratch},
        tiles,
    },
    memory::Floats,
    simd::MAX_LANES,
};

/// The geometry of a depthwise convolution of planes of one size.
pub struct Depthwise {
    pub forth: Forward,
    pub back: Backward,
    kernel_width: usize,
    pub pixels_in: usize,
    pub pixels_out: usize,
}

/// Room for one thread.
pub struct Scratch {
    /// A plane of the output's gradient with its padding.
    pub g: Floats,
    /// A plane as one long row.
    long: Floats,
    /// The output's gradient as one long row, zero between the rows.
    long_g: Floats,
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

    /// The layout that [`Depthwise::forward`] reads; none for the plane as it is.
    pub fn padded(&self) -> Option<Padded> {
        self.forth.padded
    }

    pub fn scratch(&self) -> Scratch {
        let flat = self.forth.flat.as_ref().map_or(0, |flat| flat.len());
        let flat_back = self.back.classes.first().and_then(|class| class.flat.as_ref()).map_or(0, |flat| flat.len());
        Scratch {
            g: scratch(self.back.padded, 1, 0.0),
            long: Floats::filled(flat.max(flat_back) + MAX_LANES, 0.0),
            long_g: Floats::filled(flat + MAX_LANES, 0.0),
            spread: Floats::filled(self.back.largest_scatter(), 0.0),
        }
    }

    /// `out` from the padded plane and the weights of one channel.
    pub fn forward(&self, source: &[f32], weights: &[f32], scratch: &mut Scratch, out: &mut [f32]) {
        match &self.forth.flat {
            None => conv::outputs(&self.forth, source, weights, None, out, self.pixels_out),
            Some(flat) => {
                let long = &mut scratch.long[..flat.len()];
                tiles::outputs(source, &self.forth.taps, &flat.positions, weights, None, long, flat.len());
                flat.compact(long, out);
            }
        }
    }

    /// The weights in the order in which [`Depthwise::backward`] reads them, class by class.
    pub fn turned(&self, weights: &[f32]) -> Vec<Vec<f32>> {
        let of_class =
            |class: &Class| class.kernel.iter().map(|[ky, kx]| weights[ky * self.kernel_width + kx]).collect();
        self.back.classes.iter().map(of_class).collect()
    }

    /// `dx` from the output's gradient, which lies padded in `scratch.g`; the weights come from [`Depthwise::turned`].
    pub fn backward(&self, turned: &[Vec<f32>], scratch: &mut Scratch, dx: &mut [f32]) {
        if let [Class { flat: Some(flat), taps, .. }] = self.back.classes.as_slice()
            && self.back.complete
        {
            let long = &mut scratch.long[..flat.len()];
            tiles::outputs(&scratch.g, taps, &flat.positions, &turned[0], None, long, flat.len());
            flat.compact(long, dx);
            return;
        }
        let weights = turned.iter().map(Vec::as_slice);
        conv::inputs(&self.back, &scratch.g, weights, &mut scratch.spread, dx, self.pixels_in);
    }

    /// Adds the gradient of one channel's weights to `sums`, from the padded plane and the output's gradient `g`.
    pub fn weights(&self, source: &[f32], g: &[f32], scratch: &mut Scratch, sums: &mut [f32]) {
        let Forward { taps, positions, columns, flat, .. } = &self.forth;
        match (columns, flat) {
            (Some(columns), _) => columns::weights(columns, source, g, sums),
            (None, Some(flat)) => {
                let long = &mut scratch.long_g[..flat.len()];
                flat.spread(g, long);
                tiles::weights(source, taps, &flat.positions, long, flat.len(), sums);
            }
            (None, None) => tiles::weights(source, taps, positions, g, self.pixels_out, sums),
        }
    }
}
