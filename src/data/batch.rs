//! What is in a batch: which images, in which order, with which random choices.
//!
//! Takes an [`ImageSet`], a recipe and a seed; gives any one [`Batch`]. It depends on the seed, the epoch and the images only,
//! not on the threads that work on it. Preparing batches ahead of time is left to `loader`.

use rand::seq::SliceRandom;
use rayon::prelude::*;

use super::normalise::Table;
use super::rng::{Purpose, stream};
use super::{Augment, DataError, ImageSet, Normalise};

/// Images and labels that are processed together.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// `[len, 3, height, width]`, normalised.
    pub images: Vec<f32>,
    /// `len` labels.
    pub labels: Vec<i64>,
    /// The number of images.
    pub len: usize,
    /// Of the images, in pixels.
    pub height: usize,
    /// Of the images, in pixels.
    pub width: usize,
}

/// All that decides what is in a batch.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub set: ImageSet,
    pub augment: Augment,
    pub table: Table,
    pub size: [usize; 2],
    pub batch: usize,
    /// The seed of order and augmentation, and the sub-stream of it.
    pub seed: u64,
    pub sub: u64,
    pub shuffled: bool,
    pub drop_last: bool,
}

impl Plan {
    /// With the sub-stream 0 and the last partial batch.
    pub fn new(
        set: &ImageSet,
        normalise: Normalise,
        augment: Augment,
        batch: usize,
        seed: u64,
        shuffled: bool,
    ) -> Result<Self, DataError> {
        augment.check()?;
        let no_size = || DataError::NoCommonSize { set: set.name().into() };
        let size = augment.output_size(set.common_size()).ok_or_else(no_size)?;
        let table = normalise.table();
        let plan = Plan { set: set.clone(), augment, table, size, batch, seed, sub: 0, shuffled, drop_last: false };
        plan.check()?;
        Ok(plan)
    }

    /// Number of batches in an epoch.
    pub fn batches(&self) -> usize {
        if self.drop_last { self.set.len() / self.batch } else { self.set.len().div_ceil(self.batch) }
    }

    /// Refuses a plan without batches.
    pub fn check(&self) -> Result<(), DataError> {
        match self.batch == 0 || self.batches() == 0 {
            true => Err(DataError::NoBatch { set: self.set.name().into(), batch: self.batch, have: self.set.len() }),
            false => Ok(()),
        }
    }

    /// The positions in the set, in the order of the epoch.
    pub fn order(&self, epoch: u64) -> Vec<u32> {
        let mut order: Vec<u32> = (0..self.set.len() as u32).collect();
        if self.shuffled {
            order.shuffle(&mut stream(Purpose::Order, self.seed, self.sub, epoch, 0));
        }
        order
    }

    /// The images at these positions of the set, as they are in this epoch.
    pub fn batch_of(&self, positions: &[u32], epoch: u64) -> Result<Batch, DataError> {
        let [height, width] = self.size;
        let floats = 3 * height * width;
        let mut images = vec![0.0; positions.len() * floats];
        let fill = |(image, &position): (&mut [f32], &u32)| {
            let position = position as usize;
            let mut rng = stream(Purpose::Augment, self.seed, self.sub, epoch, self.set.index(position) as u64);
            let picture = self.set.picture(position)?;
            let found = [picture.height, picture.width];
            if self.augment.output_size(Some(found)) != Some(self.size) {
                let path = self.set.path(position).cloned().unwrap_or_default();
                return Err(DataError::MixedSizes { path, found, expected: self.size });
            }
            self.augment.apply(&picture, &self.table, &mut rng, image);
            Ok(())
        };
        // Collected before it is searched for faults, so that the first image's is the one reported.
        let results: Vec<_> = images.par_chunks_exact_mut(floats).zip(positions).map(fill).collect();
        results.into_iter().collect::<Result<(), _>>()?;
        let labels = positions.iter().map(|&position| self.set.label(position as usize)).collect();
        Ok(Batch { images, labels, len: positions.len(), height, width })
    }
}

#[cfg(test)]
mod tests {
    use super::super::Dataset;
    use super::super::picture::tests::{png_of, sample};
    use super::*;
    use std::fs;

    #[test]
    fn batches_do_not_depend_on_the_number_of_threads() {
        let data = Dataset::synthetic(1, 50, 1).unwrap();
        let augment = Augment { cutout: Some(8), ..Augment::imagenet_train(24) };
        let plan = Plan::new(&data.train, data.normalise(), augment, 16, 9, true).unwrap();
        let on = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| plan.batch_of(&plan.order(3)[..20], 3).unwrap())
        };
        assert_eq!(on(1), on(4));
    }

    #[test]
    fn an_image_is_augmented_alike_in_any_batch_and_view_and_anew_each_epoch() {
        let data = Dataset::synthetic(1, 40, 1).unwrap();
        let images = |set: &ImageSet, positions: &[u32], epoch| {
            let plan = Plan::new(set, data.normalise(), Augment::cifar_train(), 8, 4, true).unwrap();
            plan.batch_of(positions, epoch).unwrap().images
        };
        let view = data.train.subset(20, 0).unwrap();
        for position in 0..20 {
            let index = view.index(position as usize) as u32;
            let alone = images(&data.train, &[index], 1);
            assert_eq!(images(&view, &[19, position], 1)[3 * 32 * 32..], alone);
            assert_ne!(images(&data.train, &[index], 2), alone);
        }
    }

    #[test]
    fn a_file_that_is_not_of_the_common_size_is_an_error_that_names_it() {
        let folder = tempfile::tempdir().unwrap();
        for set in ["train/a", "test/a"] {
            fs::create_dir_all(folder.path().join(set)).unwrap();
            fs::write(folder.path().join(set).join("1.png"), png_of(&sample(130, 140))).unwrap();
        }
        let data = Dataset::open(folder.path()).unwrap();
        fs::write(folder.path().join("train/a/1.png"), png_of(&sample(130, 141))).unwrap();
        let plan = Plan::new(&data.train, data.normalise(), Augment::cifar_search(), 1, 0, true).unwrap();
        let message = plan.batch_of(&[0], 0).unwrap_err().to_string();
        assert!(message.contains("1.png: 141x130 pixels (width x height) among images of 140x130"), "{message}");
    }
}
