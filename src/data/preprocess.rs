//! One image file, made ready for a trained network.
//!
//! Takes a file and what the network was trained with; gives normalised floats. The image is scaled, shape kept, until it just
//! covers `cover`, and the middle of `size` is taken: what the evaluation recipes do, so that an image of the test set gives the
//! same floats here as there. Reading these values from a model's metadata is left to the caller.

use std::path::Path;

use super::rng::{Purpose, stream};
use super::{Augment, DataError, Frame, Normalise, Picture};

/// How an image becomes the input of a network. Sizes are `[height, width]` in pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Preprocess {
    /// The size the scaled image covers; at least `size`. With equal sides: the length of its shorter side.
    pub cover: [usize; 2],
    /// The size of the network's input.
    pub size: [usize; 2],
    /// Mean of each channel on the scale 0..1, which is subtracted.
    pub mean: [f32; 3],
    /// Standard deviation of each channel on the same scale, which divides.
    pub std: [f32; 3],
}

impl Preprocess {
    /// What a network needs that was evaluated with this recipe on images of this size. Recipes that crop at random have no such
    /// thing; for them the image is scaled to cover `size`.
    pub fn of(evaluation: &Augment, size: [usize; 2], normalise: Normalise) -> Self {
        let Normalise { mean, std } = normalise;
        match evaluation.frame {
            Frame::ResizeCentre { cover, size } => Self { cover, size, mean, std },
            Frame::Whole | Frame::PadCrop { .. } => Self { cover: size, size, mean, std },
            Frame::RandomResized { size, .. } => Self { cover: size, size, mean, std },
        }
    }

    /// Decodes and prepares a JPEG or PNG file; returns `[3, height, width]` of `size`.
    ///
    /// # Errors
    /// Those of [`Picture::open`], and [`DataError::Recipe`] if `size` is 0 or above `cover`.
    pub fn load(&self, path: &Path) -> Result<Vec<f32>, DataError> {
        self.apply(&Picture::open(path)?)
    }

    /// As [`Preprocess::load`], for an image that is decoded already.
    ///
    /// # Errors
    /// [`DataError::Recipe`] if `size` is 0 or above `cover`.
    pub fn apply(&self, picture: &Picture) -> Result<Vec<f32>, DataError> {
        let frame = Frame::ResizeCentre { cover: self.cover, size: self.size };
        let recipe = Augment { frame, ..Augment::cifar_eval() };
        recipe.check()?;
        let table = Normalise { mean: self.mean, std: self.std }.table();
        let mut out = vec![0.0; 3 * self.size[0] * self.size[1]];
        // The recipe draws nothing; any stream will do.
        recipe.apply(picture, &table, &mut stream(Purpose::Augment, 0, 0, 0, 0), &mut out);
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::super::picture::tests::{jpeg_of, png_of, sample};
    use super::super::{Dataset, Loader};
    use super::*;
    use std::fs;

    #[test]
    fn an_image_of_the_test_set_gives_the_floats_of_evaluation() {
        for (size, recipe) in [([32, 40], Augment::cifar_eval()), ([150, 200], Augment::imagenet_eval(56))] {
            let folder = tempfile::tempdir().unwrap();
            for set in ["train", "test"] {
                fs::create_dir_all(folder.path().join(set).join("a")).unwrap();
                fs::write(folder.path().join(set).join("a/1.jpg"), jpeg_of(&sample(size[0], size[1]))).unwrap();
            }
            let data = Dataset::open(folder.path()).unwrap();
            let loader = Loader::in_order(&data.test, data.normalise(), recipe.clone(), 8).unwrap();
            let batch = loader.epoch(0).next().unwrap().unwrap();
            let preprocess = Preprocess::of(&recipe, loader.size(), data.normalise());
            assert_eq!(preprocess.load(&folder.path().join("test/a/1.jpg")).unwrap(), batch.images);
        }
    }

    #[test]
    fn any_image_becomes_the_size_of_the_network() {
        let preprocess = Preprocess::of(&Augment::cifar_eval(), [32, 32], Normalise::CIFAR10);
        for (height, width) in [(1, 1), (32, 500), (300, 20)] {
            assert_eq!(preprocess.apply(&sample(height, width)).unwrap().len(), 3 * 32 * 32);
        }
    }

    #[test]
    fn a_cut_file_and_impossible_sizes_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("half.png");
        let bytes = png_of(&sample(40, 40));
        fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        let good = Preprocess::of(&Augment::imagenet_eval(224), [0, 0], Normalise::IMAGENET);
        assert_eq!(good.cover, [256, 256]);
        assert!(matches!(good.load(&path), Err(DataError::Image { path: named, .. }) if named == path));
        let bad = Preprocess { cover: [16, 16], ..good };
        assert!(matches!(bad.apply(&sample(4, 4)), Err(DataError::Recipe { .. })));
    }
}
