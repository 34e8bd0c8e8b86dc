//! How the rectangle that a network sees is taken from an image.
//!
//! Takes a [`Picture`] and a random stream; gives 8-bit pixels of the network's size. The rules are those of torchvision's
//! RandomCrop, RandomResizedCrop, Resize and CenterCrop. Colours and normalisation are left to `augment`, filtering to `resize`.

use std::borrow::Cow;

use rand::{Rng, RngExt};

use super::resize::{Rect, resize};
use super::{DataError, Picture};

/// How the network's input is cut out of an image. Sizes are `[height, width]` in pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Frame {
    /// The image as it is.
    Whole,
    /// The image with a black border of `pad` pixels, and of that a random part of the image's size.
    PadCrop {
        /// Width of the border on each side.
        pad: usize,
    },
    /// A random rectangle, scaled to `size`: area a uniform share of the image's, logarithm of width / height uniform. After ten
    /// draws that do not fit, the largest rectangle in the middle whose shape is allowed.
    RandomResized {
        /// The size after scaling.
        size: [usize; 2],
        /// Smallest and largest share of the image's area, in 0..=1.
        scale: [f64; 2],
        /// Smallest and largest width / height.
        ratio: [f64; 2],
    },
    /// The image scaled, shape kept, until it just covers `cover`, and of that the middle of `size`. With a square `cover` this is
    /// the usual "resize the shorter side, then crop".
    ResizeCentre {
        /// What the scaled image covers; at least `size`.
        cover: [usize; 2],
        /// The size of the middle that is kept.
        size: [usize; 2],
    },
}

impl Frame {
    /// Height and width of the results, given the images' common size if they have one; `None` if the results would differ.
    pub(super) fn output_size(&self, common: Option<[usize; 2]>) -> Option<[usize; 2]> {
        match *self {
            Frame::Whole | Frame::PadCrop { .. } => common,
            Frame::RandomResized { size, .. } | Frame::ResizeCentre { size, .. } => Some(size),
        }
    }

    /// Refuses values that no image could be cut by.
    pub(super) fn check(&self) -> Result<(), DataError> {
        let range = |[low, high]: [f64; 2]| 0.0 < low && low <= high && high.is_finite();
        match *self {
            Frame::PadCrop { pad } if pad > 1 << 16 => {
                fault("the border of the random crop", &pad, "at most 65536 pixels are possible")
            }
            Frame::RandomResized { size, .. } if size.contains(&0) => {
                fault("the size of the random resized crop", &size, "it must be above 0")
            }
            Frame::RandomResized { scale, .. } if !range(scale) || scale[1] > 1.0 => {
                fault("the area range", &scale, "it must be low, high with 0 < low <= high <= 1")
            }
            Frame::RandomResized { ratio, .. } if !range(ratio) => {
                fault("the width / height range", &ratio, "it must be low, high with 0 < low <= high")
            }
            Frame::ResizeCentre { cover, size } if (0..2).any(|i| size[i] == 0 || size[i] > cover[i]) => fault(
                "the evaluation resize and crop",
                &[cover, size],
                "the crop must be above 0 and no larger than the resize",
            ),
            Frame::Whole | Frame::PadCrop { .. } | Frame::RandomResized { .. } | Frame::ResizeCentre { .. } => Ok(()),
        }
    }

    /// The size and pixels of the frame; borrowed where it is the whole image.
    pub(super) fn cut<'a>(&self, picture: &'a Picture, rng: &mut impl Rng) -> ([usize; 2], Cow<'a, [u8]>) {
        let own = [picture.height, picture.width];
        match *self {
            Frame::Whole => (own, Cow::Borrowed(&picture.rgb)),
            Frame::PadCrop { pad } => {
                let [top, left] = [rng.random_range(0..=2 * pad), rng.random_range(0..=2 * pad)];
                (own, Cow::Owned(shifted(picture, pad, top, left)))
            }
            Frame::RandomResized { size, scale, ratio } => {
                let rect = random_rect(own, scale, ratio, rng);
                (size, Cow::Owned(resize(picture, rect, size, Rect::whole(size))))
            }
            Frame::ResizeCentre { size, .. } if own == size && self.scaled_size(own) == size => {
                (size, Cow::Borrowed(&picture.rgb))
            }
            Frame::ResizeCentre { size, .. } => {
                let scaled = self.scaled_size(own);
                // Half a pixel goes to the even side, as Python rounds.
                let [top, left] = [0, 1].map(|i| ((scaled[i] - size[i]) as f64 / 2.0).round_ties_even() as usize);
                let middle = Rect { top, left, height: size[0], width: size[1] };
                (size, Cow::Owned(resize(picture, Rect::whole(own), scaled, middle)))
            }
        }
    }

    /// The size after the scaling of [`Frame::ResizeCentre`]; the image's own size for the other frames.
    fn scaled_size(&self, [height, width]: [usize; 2]) -> [usize; 2] {
        let Frame::ResizeCentre { cover, .. } = *self else { return [height, width] };
        if width * cover[0] >= height * cover[1] {
            [cover[0], (width * cover[0] / height).max(cover[1])]
        } else {
            [(height * cover[1] / width).max(cover[0]), cover[1]]
        }
    }
}

fn fault(what: &'static str, found: &dyn std::fmt::Debug, rule: &'static str) -> Result<(), DataError> {
    Err(DataError::Recipe { what, found: format!("{found:?}"), rule })
}

/// The part at `top`, `left` of the image with a black border of `pad` pixels, in the image's own size.
fn shifted(picture: &Picture, pad: usize, top: usize, left: usize) -> Vec<u8> {
    let (height, width) = (picture.height, picture.width);
    let mut out = vec![0; picture.rgb.len()];
    let columns = left.max(pad)..(left + width).min(pad + width);
    for y in top.max(pad)..(top + height).min(pad + height) {
        if !columns.is_empty() {
            let from = &picture.rgb[((y - pad) * width + columns.start - pad) * 3..][..columns.len() * 3];
            out[((y - top) * width + columns.start - left) * 3..][..from.len()].copy_from_slice(from);
        }
    }
    out
}

fn random_rect([height, width]: [usize; 2], scale: [f64; 2], ratio: [f64; 2], rng: &mut impl Rng) -> Rect {
    let area = (height * width) as f64;
    for _ in 0..10 {
        let target = area * rng.random_range(scale[0]..=scale[1]);
        let shape = rng.random_range(ratio[0].ln()..=ratio[1].ln()).exp();
        let [w, h] = [target * shape, target / shape].map(|square| square.sqrt().round_ties_even() as usize);
        if (1..=width).contains(&w) && (1..=height).contains(&h) {
            let (top, left) = (rng.random_range(0..=height - h), rng.random_range(0..=width - w));
            return Rect { top, left, height: h, width: w };
        }
    }
    let own = width as f64 / height as f64;
    let side = |exact: f64, most| (exact.round_ties_even() as usize).clamp(1, most);
    let (h, w) = if own < ratio[0] {
        (side(width as f64 / ratio[0], height), width)
    } else if own > ratio[1] {
        (height, side(height as f64 * ratio[1], width))
    } else {
        (height, width)
    };
    Rect { top: (height - h) / 2, left: (width - w) / 2, height: h, width: w }
}

#[cfg(test)]
mod tests {
    use super::super::Augment;
    use super::super::rng::{Purpose, stream};
    use super::*;

    #[test]
    fn random_rectangles_keep_to_their_area_and_shape() {
        let mut rng = stream(Purpose::Augment, 1, 0, 0, 0);
        let mut areas = vec![];
        for _ in 0..2000 {
            let rect = random_rect([300, 400], [0.08, 1.0], [0.75, 4.0 / 3.0], &mut rng);
            assert!(rect.top + rect.height <= 300 && rect.left + rect.width <= 400);
            let (area, ratio) = ((rect.width * rect.height) as f64 / 120_000.0, rect.width as f64 / rect.height as f64);
            assert!((0.079..=1.0).contains(&area) && (0.74..1.35).contains(&ratio), "{rect:?}");
            areas.push(area);
        }
        let mean = areas.iter().sum::<f64>() / areas.len() as f64;
        // Large rectangles fit less often: a simulation of torchvision's rule gives 0.433.
        assert!((0.42..0.455).contains(&mean), "mean area {mean}");
    }

    #[test]
    fn shapes_that_no_draw_can_fit_fall_back_to_the_middle() {
        let cases = [
            ([10, 1000], Rect { top: 0, left: 493, height: 10, width: 13 }),
            ([1000, 10], Rect { top: 493, left: 0, height: 13, width: 10 }),
        ];
        for (size, expected) in cases {
            let rect = random_rect(size, [0.9, 1.0], [0.75, 4.0 / 3.0], &mut stream(Purpose::Augment, 1, 0, 0, 0));
            assert_eq!(rect, expected, "{size:?}");
        }
    }

    #[test]
    fn evaluation_scales_the_shorter_side() {
        let frame = Augment::imagenet_eval(224).frame;
        let cases =
            [([500, 375], [341, 256]), ([375, 500], [256, 341]), ([256, 256], [256, 256]), ([100, 300], [256, 768])];
        for (from, to) in cases {
            assert_eq!(frame.scaled_size(from), to, "{from:?}");
        }
        let wide = Augment::resize_eval([10, 30]).frame;
        assert_eq!([wide.scaled_size([20, 20]), wide.scaled_size([20, 90])], [[30, 30], [10, 45]]);
    }
}
