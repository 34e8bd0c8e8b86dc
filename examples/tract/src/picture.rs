//! Image files as the network reads them.
//!
//! Takes a file and the model's recipe; gives normalised floats. The scaling is that of the `image` crate, which may differ
//! by a grey level from the one the network was evaluated with.

use std::path::Path;

use anyhow::{Context, Result};
use image::imageops::{FilterType, crop_imm, resize};

/// How an image becomes the input of a network. Sizes are height and width.
pub struct Recipe {
    /// The size that the scaled image just covers.
    pub cover: [u32; 2],
    /// The size of the middle that is cut out.
    pub size: [u32; 2],
    /// Subtracted, per channel, of pixels in 0 to 1.
    pub mean: [f32; 3],
    /// Divides, per channel.
    pub std: [f32; 3],
}

impl Recipe {
    /// The floats `[3, height, width]` of an image file.
    pub fn load(&self, path: &Path) -> Result<Vec<f32>> {
        let picture = image::open(path).with_context(|| path.display().to_string())?.to_rgb8();
        let ([cover_h, cover_w], [h, w]) = (self.cover, self.size);
        let (own_w, own_h) = picture.dimensions();
        let scaled = |long: u32, side: u32, short: u32| (u64::from(long) * u64::from(side) / u64::from(short)) as u32;
        let wide = u64::from(own_w) * u64::from(cover_h) >= u64::from(own_h) * u64::from(cover_w);
        let (width, height) = if wide {
            (scaled(own_w, cover_h, own_h).max(cover_w), cover_h)
        } else {
            (cover_w, scaled(own_h, cover_w, own_w).max(cover_h))
        };
        let picture = resize(&picture, width, height, FilterType::Triangle);
        let middle = |whole: u32, part: u32| (f64::from(whole - part) / 2.0).round_ties_even() as u32;
        let picture = crop_imm(&picture, middle(width, w), middle(height, h), w, h).to_image();
        let channel = |c: usize| {
            picture.pixels().map(move |p| (f32::from(p.0[c]) / 255.0 - self.mean[c]) / self.std[c]).collect::<Vec<_>>()
        };
        Ok((0..3).flat_map(channel).collect())
    }
}
