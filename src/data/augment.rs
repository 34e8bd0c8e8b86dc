//! Augmentation recipes: from a decoded image to a normalised float image of the network's size.
//!
//! Takes a [`Picture`] and a random stream; gives `[3, height, width]` floats. The steps run in this order: frame, flip, colour
//! jitter, normalisation, cutout. They mean what torchvision's and the DARTS code's steps of these names mean. Which images, in
//! which order and on which thread is left to `loader`.

use rand::{Rng, RngExt};

use super::jitter::jitter;
use super::normalise::Table;
use super::{DataError, Frame, Picture};

/// One recipe. The constructors give the published ones (algorithm sections 2 and 4).
#[derive(Clone, Debug, PartialEq)]
pub struct Augment {
    /// How the rectangle of the network's size is taken from the image.
    pub frame: Frame,
    /// Mirror left and right with probability one half.
    pub flip: bool,
    /// Strengths for brightness, contrast, saturation (0 or more) and hue (0 to 0.5).
    pub colour_jitter: Option<[f32; 4]>,
    /// Side of a square set to zero after normalisation, that is to the mean colour. Its centre is uniform over the image; what
    /// lies outside is clipped, so less may be covered.
    pub cutout: Option<usize>,
}

impl Augment {
    /// CIFAR search, for both halves: random crop with 4 pixels of border, flip.
    pub fn cifar_search() -> Self {
        Self { frame: Frame::PadCrop { pad: 4 }, flip: true, colour_jitter: None, cutout: None }
    }

    /// CIFAR retraining: as the search, with cutout 16.
    pub fn cifar_train() -> Self {
        Self { cutout: Some(16), ..Self::cifar_search() }
    }

    /// CIFAR evaluation: normalisation only.
    pub fn cifar_eval() -> Self {
        Self { frame: Frame::Whole, flip: false, colour_jitter: None, cutout: None }
    }

    /// ImageNet search at `size` x `size` (224 published): random resized crop, flip.
    pub fn imagenet_search(size: usize) -> Self {
        let frame = Frame::RandomResized { size: [size; 2], scale: [0.08, 1.0], ratio: [3.0 / 4.0, 4.0 / 3.0] };
        Self { frame, flip: true, colour_jitter: None, cutout: None }
    }

    /// ImageNet retraining at `size` x `size`: as the search, with colour jitter 0.4, 0.4, 0.4, 0.2.
    pub fn imagenet_train(size: usize) -> Self {
        Self { colour_jitter: Some([0.4, 0.4, 0.4, 0.2]), ..Self::imagenet_search(size) }
    }

    /// ImageNet evaluation: the shorter side to 8/7 of `size` (256 for 224), then the middle.
    pub fn imagenet_eval(size: usize) -> Self {
        let frame = Frame::ResizeCentre { cover: [(size * 8 + 3) / 7; 2], size: [size; 2] };
        Self { frame, flip: false, colour_jitter: None, cutout: None }
    }

    /// Evaluation at any size: the image scaled until it just covers `size`, then the middle. An image of `size` stays as it is.
    pub fn resize_eval(size: [usize; 2]) -> Self {
        Self { frame: Frame::ResizeCentre { cover: size, size }, flip: false, colour_jitter: None, cutout: None }
    }

    /// Height and width of the results, given the images' common size if they have one; `None` if the results would differ.
    pub fn output_size(&self, common: Option<[usize; 2]>) -> Option<[usize; 2]> {
        self.frame.output_size(common)
    }

    /// Checks what the types cannot say.
    ///
    /// # Errors
    /// [`DataError::Recipe`], naming the value.
    pub fn check(&self) -> Result<(), DataError> {
        self.frame.check()?;
        match self.colour_jitter {
            Some(strengths) if !strengths.iter().all(|s| (0.0..=100.0).contains(s)) || strengths[3] > 0.5 => {
                let rule = "it must be four values of 0 or more, the last (hue) at most 0.5";
                Err(DataError::Recipe { what: "the colour jitter", found: format!("{strengths:?}"), rule })
            }
            _ => Ok(()),
        }
    }

    /// Applies the recipe. `out` has `3 * height * width` values of [`Self::output_size`] and is overwritten, channel by channel.
    pub(super) fn apply(&self, picture: &Picture, table: &Table, rng: &mut impl Rng, out: &mut [f32]) {
        let ([height, width], mut rgb) = self.frame.cut(picture, rng);
        let mirrored = self.flip && rng.random_bool(0.5);
        if let Some(strengths) = self.colour_jitter {
            // Contrast depends on the mean over the image only, so mirroring may come with the normalisation below.
            jitter(rgb.to_mut(), strengths, rng);
        }
        let rows = rgb.chunks_exact(width * 3);
        for (channel, (plane, table)) in out.chunks_exact_mut(height * width).zip(table).enumerate() {
            for (line, row) in plane.chunks_exact_mut(width).zip(rows.clone()) {
                let values = row[channel..].iter().step_by(3).map(|&v| table[usize::from(v)]);
                if mirrored {
                    line.iter_mut().rev().zip(values).for_each(|(to, value)| *to = value);
                } else {
                    line.iter_mut().zip(values).for_each(|(to, value)| *to = value);
                }
            }
        }
        if let Some(side) = self.cutout {
            let [rows, columns] = [height, width].map(|length| {
                let centre = rng.random_range(0..length);
                centre.saturating_sub(side / 2)..centre.saturating_add(side / 2).min(length)
            });
            for plane in out.chunks_exact_mut(height * width) {
                rows.clone().for_each(|y| plane[y * width..][columns.clone()].fill(0.0));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Normalise;
    use super::super::picture::tests::sample;
    use super::super::rng::{Purpose, stream};
    use super::*;

    /// Values 0..=1 stay as they are, so results can be read as bytes.
    const PLAIN: Normalise = Normalise { mean: [0.0; 3], std: [1.0; 3] };

    fn apply(recipe: &Augment, picture: &Picture, seed: u64) -> Vec<f32> {
        recipe.check().unwrap();
        let [height, width] = recipe.output_size(Some([picture.height, picture.width])).unwrap();
        let mut out = vec![f32::NAN; 3 * height * width];
        recipe.apply(picture, &PLAIN.table(), &mut stream(Purpose::Augment, seed, 0, 0, 0), &mut out);
        out
    }

    /// The image with each channel a plane, scaled to 0..1.
    fn planes(picture: &Picture) -> Vec<f32> {
        (0..3).flat_map(|c| picture.rgb[c..].iter().step_by(3).map(|&v| f32::from(v) / 255.0)).collect()
    }

    #[test]
    fn evaluation_only_normalises() {
        let picture = sample(6, 9);
        assert_eq!(apply(&Augment::cifar_eval(), &picture, 1), planes(&picture));
        assert_eq!(apply(&Augment::resize_eval([6, 9]), &picture, 1), planes(&picture));
    }

    #[test]
    fn a_flip_mirrors_each_row_half_of_the_time() {
        let picture = sample(4, 5);
        let straight = planes(&picture);
        let mirrored: Vec<f32> = straight.chunks(5).flat_map(|row| row.iter().rev().copied()).collect();
        let recipe = Augment { flip: true, ..Augment::cifar_eval() };
        let mut flips = 0;
        for seed in 0..1000 {
            let out = apply(&recipe, &picture, seed);
            flips += usize::from(out == mirrored);
            assert!(out == mirrored || out == straight);
        }
        assert!((430..570).contains(&flips), "{flips} of 1000");
    }

    #[test]
    fn a_padded_crop_is_a_shift_with_black_from_outside_and_every_shift_occurs() {
        let picture = Picture { height: 5, width: 5, rgb: (1..=75).collect() };
        let recipe = Augment { flip: false, ..Augment::cifar_search() };
        let mut seen = std::collections::HashSet::new();
        for seed in 0..4000 {
            let out = apply(&recipe, &picture, seed).iter().map(|v| (v * 255.0).round() as i32).collect::<Vec<_>>();
            let at = |y: i32, x: i32| if (0..5).contains(&y) && (0..5).contains(&x) { (y * 5 + x) * 3 + 1 } else { 0 };
            let shift = (-4..=4)
                .flat_map(|dy| (-4..=4).map(move |dx| (dy, dx)))
                .find(|(dy, dx)| (0..25).all(|i| out[i as usize] == at(i / 5 + dy, i % 5 + dx)));
            seen.insert(shift.expect("a shift of the red channel"));
        }
        assert_eq!(seen.len(), 81);
    }

    #[test]
    fn the_border_is_black_before_normalisation() {
        let picture = Picture { height: 4, width: 4, rgb: vec![255; 48].into() };
        let recipe = Augment { flip: false, ..Augment::cifar_search() };
        let mut out = vec![0.0; 48];
        let table = Normalise::CIFAR10.table();
        recipe.apply(&picture, &table, &mut stream(Purpose::Augment, 3, 0, 0, 0), &mut out);
        assert!(out[..16].contains(&table[0][0]), "{out:?}");
        assert!(out[..16].iter().all(|v| [table[0][0], table[0][255]].contains(v)));
    }

    #[test]
    fn cutout_zeroes_a_square_that_is_clipped_at_the_border() {
        let picture = Picture { height: 32, width: 32, rgb: vec![255; 32 * 32 * 3].into() };
        let recipe = Augment { cutout: Some(16), ..Augment::cifar_eval() };
        let mut areas = vec![];
        for seed in 0..500 {
            let out = apply(&recipe, &picture, seed);
            let zeros: Vec<usize> = (0..1024).filter(|&i| out[i] == 0.0).collect();
            let (rows, columns) = (zeros.iter().map(|i| i / 32), zeros.iter().map(|i| i % 32));
            let span = |values: Vec<usize>| values.iter().max().unwrap() - values.iter().min().unwrap() + 1;
            let (height, width) = (span(rows.collect()), span(columns.collect()));
            assert_eq!(zeros.len(), height * width, "a rectangle");
            assert!((8..=16).contains(&height) && (8..=16).contains(&width));
            assert_eq!(&out[..1024], &out[2048..], "all channels alike");
            areas.push(zeros.len());
        }
        assert!(areas.contains(&256) && areas.iter().any(|&area| area < 128), "whole squares and corners occur");
    }

    #[test]
    fn evaluation_takes_the_middle() {
        // Red grows with x: the middle columns of a wide image have middle values.
        let out = apply(&Augment::resize_eval([20, 20]), &sample(40, 120), 0);
        assert!(out[..400].iter().all(|v| (0.3..0.7).contains(v)) && out.len() == 1200);
    }

    #[test]
    fn a_very_long_image_costs_no_memory_for_what_is_cut_off() {
        let line = Picture { height: 1, width: 60_000, rgb: vec![9; 180_000].into() };
        assert_eq!(apply(&Augment::imagenet_eval(224), &line, 0).len(), 3 * 224 * 224);
    }

    #[test]
    fn the_imagenet_recipes_give_their_size_from_any_image_and_depend_on_the_seed() {
        let picture = sample(50, 70);
        for recipe in [Augment::imagenet_search(48), Augment::imagenet_train(48)] {
            let out = apply(&recipe, &picture, 1);
            assert_eq!(out.len(), 3 * 48 * 48);
            assert!(out.iter().all(|v| (0.0..=1.0).contains(v)));
            assert_eq!(out, apply(&recipe, &picture, 1));
            assert_ne!(out, apply(&recipe, &picture, 2));
        }
        assert_ne!(apply(&Augment::imagenet_search(48), &picture, 1), apply(&Augment::imagenet_train(48), &picture, 1));
    }

    #[test]
    fn impossible_recipes_are_errors_that_name_the_value() {
        let frame = |frame| Augment { frame, ..Augment::cifar_eval() };
        let resized = |scale, ratio| frame(Frame::RandomResized { size: [8, 8], scale, ratio });
        let cases = [
            (Augment::imagenet_eval(0), "crop must be above 0"),
            (frame(Frame::ResizeCentre { cover: [8, 8], size: [8, 9] }), "no larger than the resize"),
            (Augment::imagenet_search(0), "[0, 0]"),
            (resized([0.5, 0.1], [1.0, 1.0]), "[0.5, 0.1]"),
            (resized([0.5, 1.0], [0.0, 1.0]), "[0.0, 1.0]"),
            (Augment { colour_jitter: Some([0.4, 0.4, 0.4, 0.6]), ..Augment::cifar_eval() }, "hue"),
            (Augment { colour_jitter: Some([-0.4, 0.4, 0.4, 0.1]), ..Augment::cifar_eval() }, "-0.4"),
        ];
        for (recipe, expected) in cases {
            let message = recipe.check().unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }
}
