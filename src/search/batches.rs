//! Which images a search reads, and in which order.
//!
//! Takes the configuration and a data set; gives loaders for the weights, for alpha and beta, and for the validation. Every
//! order is fixed by the seed, the epoch and the number of batches that were taken, so that a run can go on anywhere.

use super::SearchError;
use super::config::SearchConfig;
use crate::data::{Batch, DataError, Dataset, Epoch, ImageSet, Loader};
use crate::train::{TrainError, augmentation};

/// The three ways the images are read.
pub struct Loaders {
    /// The weights' images.
    pub train: Loader,
    /// Those of alpha and beta.
    pub arch: Loader,
    /// The architecture's images without augmentation.
    pub valid: Loader,
}

impl Loaders {
    /// Splits the training images as the configuration says.
    ///
    /// # Errors
    /// Images that cannot be split or read.
    pub fn new(config: &SearchConfig, data: &Dataset) -> Result<Self, SearchError> {
        let images = match config.subset {
            Some(n) => data.train.subset(n, config.seed)?,
            None => data.train.clone(),
        };
        let [weights, arch] = images.split_fractions([config.split.weights, config.split.arch], config.seed)?;
        let size = config.image_size.map_or(data.image_size, |size| [size; 2]);
        let augment = augmentation::training(&config.augmentation, size);
        let shuffled = |set: &ImageSet, stream: u64| -> Result<Loader, DataError> {
            Ok(Loader::shuffled(set, data.normalise(), augment.clone(), config.batch_size, config.seed)?.stream(stream))
        };
        let whole = augmentation::evaluation(config.network, size, arch.common_size());
        let valid = Loader::in_order(&arch, data.normalise(), whole, config.batch_size)?;
        Ok(Self { train: shuffled(&weights, 0)?, arch: shuffled(&arch, 1)?, valid })
    }
}

/// The architecture's batches of one epoch, started over when they end before the weights' batches do.
pub struct ArchBatches {
    loader: Loader,
    epoch: usize,
    round: u64,
    batches: Epoch,
}

impl ArchBatches {
    /// Those of `epoch` behind the first `taken`.
    pub fn new(loader: &Loader, epoch: usize, taken: usize) -> Self {
        let (round, within) = (taken / loader.batches(), taken % loader.batches());
        let mut all = Self { loader: loader.clone(), epoch, round: round as u64, batches: loader.epoch(0) };
        all.batches = all.round().skip_to(within);
        all
    }

    /// The next one.
    ///
    /// # Errors
    /// An image that cannot be read.
    pub fn next(&mut self) -> Result<Batch, SearchError> {
        loop {
            if let Some(batch) = self.batches.next() {
                return Ok(batch?);
            }
            self.round += 1;
            self.batches = self.round();
        }
    }

    /// Each round has an order of its own; rounds beyond the first are far from the epochs' own numbers.
    fn round(&self) -> Epoch {
        self.loader.epoch(self.epoch as u64 + (self.round << 32))
    }
}

impl From<DataError> for SearchError {
    fn from(error: DataError) -> Self {
        Self::Train(TrainError::Data(error))
    }
}
