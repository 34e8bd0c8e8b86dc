//! Batches of an image set, augmented in parallel and ahead of time.
//!
//! Takes an [`ImageSet`], a recipe, the normalisation and a seed; gives an iterator of batches for each epoch. Images are worked
//! on by rayon, batches are prepared on a thread of their own that stays a few batches ahead. What is in a batch is left to
//! `batch`, moving it to a device to `train`.

use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use super::batch::Plan;
use super::worker::Worker;
use super::{Augment, Batch, DataError, ImageSet, Normalise};

/// Makes the batches of any epoch. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Loader {
    plan: Arc<Plan>,
    ahead: usize,
}

impl Loader {
    /// For training: a new order each epoch, the last partial batch is kept.
    ///
    /// # Errors
    /// [`DataError::NoBatch`] for batch size 0, [`DataError::Recipe`] for an impossible recipe, [`DataError::NoCommonSize`] if the
    /// recipe would give images of several sizes.
    pub fn shuffled(
        set: &ImageSet,
        normalise: Normalise,
        augment: Augment,
        batch: usize,
        seed: u64,
    ) -> Result<Self, DataError> {
        Self::new(set, normalise, augment, batch, seed, true)
    }

    /// For evaluation: file order in every epoch, the last partial batch is kept.
    ///
    /// # Errors
    /// As [`Loader::shuffled`].
    pub fn in_order(set: &ImageSet, normalise: Normalise, augment: Augment, batch: usize) -> Result<Self, DataError> {
        Self::new(set, normalise, augment, batch, 0, false)
    }

    fn new(
        set: &ImageSet,
        normalise: Normalise,
        augment: Augment,
        batch: usize,
        seed: u64,
        shuffled: bool,
    ) -> Result<Self, DataError> {
        let plan = Plan::new(set, normalise, augment, batch, seed, shuffled)?;
        let [height, width] = plan.size;
        // A batch of large images takes hundreds of megabytes: then one in the queue has to do.
        let ahead = if batch.saturating_mul(height * width * 12) > 256 << 20 { 1 } else { 2 };
        Ok(Self { plan: Arc::new(plan), ahead })
    }

    /// Leaves out the last batch of an epoch if it is not full.
    ///
    /// # Errors
    /// [`DataError::NoBatch`] if no batch is left.
    pub fn drop_last(mut self) -> Result<Self, DataError> {
        let plan = Arc::make_mut(&mut self.plan);
        plan.drop_last = true;
        plan.check()?;
        Ok(self)
    }

    /// Uses another random stream of the same seed: for a second loader that must not repeat the choices of the first.
    pub fn stream(mut self, number: u64) -> Self {
        Arc::make_mut(&mut self.plan).sub = number;
        self
    }

    /// How many finished batches may wait in the queue, at least 1. Without this call 2, or 1 for batches above 256 MiB.
    pub fn ahead(mut self, batches: usize) -> Self {
        self.ahead = batches.max(1);
        self
    }

    /// Number of batches in an epoch, at least 1.
    pub fn batches(&self) -> usize {
        self.plan.batches()
    }

    /// Number of images in an epoch.
    pub fn images(&self) -> usize {
        self.plan.set.len().min(self.plan.batches() * self.plan.batch)
    }

    /// Height and width of the images in the batches.
    pub fn size(&self) -> [usize; 2] {
        self.plan.size
    }

    /// The batches of one epoch. Nothing is loaded before the first is asked for.
    pub fn epoch(&self, epoch: u64) -> Epoch {
        Epoch { loader: self.clone(), epoch, next: 0, end: self.batches(), worker: None }
    }
}

/// Iterator over the batches of one epoch. It ends after an error. Dropping it ends its thread.
#[derive(Debug)]
pub struct Epoch {
    loader: Loader,
    epoch: u64,
    next: usize,
    end: usize,
    worker: Option<Worker<Result<Batch, DataError>>>,
}

impl Epoch {
    /// Starts at the given batch instead of the first: it and those after it are the same as without skipping, and the work for
    /// those before it is not done. From the number of batches on, nothing is left.
    pub fn skip_to(self, batch: usize) -> Self {
        Self { next: batch.min(self.end), worker: None, ..self }
    }

    fn start(&self) -> Result<Worker<Result<Batch, DataError>>, DataError> {
        let (plan, epoch, range) = (self.loader.plan.clone(), self.epoch, self.next..self.end);
        let work = move |queue: SyncSender<_>| {
            let order = plan.order(epoch);
            for positions in order.chunks(plan.batch).take(range.end).skip(range.start) {
                let batch = plan.batch_of(positions, epoch);
                let failed = batch.is_err();
                if queue.send(batch).is_err() || failed {
                    return;
                }
            }
        };
        Worker::start(self.loader.ahead, work).map_err(|source| DataError::Thread { source })
    }

    fn receive(&mut self) -> Option<Result<Batch, DataError>> {
        if self.worker.is_none() {
            match self.start() {
                Ok(worker) => self.worker = Some(worker),
                Err(error) => return Some(Err(error)),
            }
        }
        self.worker.as_mut().and_then(Worker::receive)
    }
}

impl Iterator for Epoch {
    type Item = Result<Batch, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        let item = if self.next < self.end { self.receive() } else { None };
        match item {
            Some(Ok(_)) => self.next += 1,
            Some(Err(_)) | None => {
                self.next = self.end;
                self.worker = None;
            }
        }
        item
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        // An error may end the epoch early.
        (usize::from(self.next < self.end), Some(self.end - self.next))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Dataset;
    use super::super::image_set::tests::set_of;
    use super::super::picture::tests::{jpeg_of, png_of, sample};
    use super::*;
    use std::fs;

    const PLAIN: Normalise = Normalise { mean: [0.0; 3], std: [1.0; 3] };

    fn all(epoch: Epoch) -> Vec<Batch> {
        epoch.map(Result::unwrap).collect()
    }

    /// The indices that `set_of` wrote into its pixels.
    fn indices(batches: &[Batch]) -> Vec<usize> {
        let value = |v: f32| (v * 255.0).round() as usize;
        batches.iter().flat_map(|b| b.images.chunks(3).map(move |p| value(p[0]) + 256 * value(p[1]))).collect()
    }

    /// A small set and a recipe that uses every random step.
    fn jittered() -> Loader {
        let data = Dataset::synthetic(1, 50, 1).unwrap();
        let augment = Augment { cutout: Some(8), ..Augment::imagenet_train(24) };
        Loader::shuffled(&data.train, data.normalise(), augment, 16, 9).unwrap()
    }

    #[test]
    fn evaluation_gives_every_image_once_in_file_order_with_a_partial_last_batch() {
        let set = set_of(&[150, 150, 10]);
        let loader = Loader::in_order(&set, PLAIN, Augment::cifar_eval(), 64).unwrap();
        let batches = all(loader.epoch(5));
        assert_eq!((loader.batches(), loader.images()), (5, 310));
        assert_eq!(batches.iter().map(|b| b.len).collect::<Vec<_>>(), [64, 64, 64, 64, 54]);
        assert_eq!(indices(&batches), (0..310).collect::<Vec<_>>());
        let labels: Vec<i64> = batches.iter().flat_map(|b| b.labels.clone()).collect();
        assert_eq!(labels, (0..310).map(|i| set.label(i)).collect::<Vec<_>>());
    }

    #[test]
    fn training_order_is_a_permutation_that_depends_on_seed_epoch_and_stream() {
        let set = set_of(&[150, 150]);
        let order = |seed, epoch, number| {
            let loader = Loader::shuffled(&set, PLAIN, Augment::cifar_eval(), 50, seed).unwrap().stream(number);
            indices(&all(loader.epoch(epoch)))
        };
        let base = order(1, 0, 0);
        let mut sorted = base.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..300).collect::<Vec<_>>());
        assert_eq!(base, order(1, 0, 0));
        for other in [order(2, 0, 0), order(1, 1, 0), order(1, 0, 1)] {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn dropping_the_last_batch_leaves_whole_ones() {
        let set = set_of(&[50, 50]);
        let loader = Loader::shuffled(&set, PLAIN, Augment::cifar_eval(), 32, 0).unwrap().drop_last().unwrap();
        assert_eq!((loader.batches(), loader.images()), (3, 96));
        assert!(all(loader.epoch(0)).iter().all(|batch| batch.len == 32));
        let too_large = Loader::shuffled(&set, PLAIN, Augment::cifar_eval(), 101, 0).unwrap();
        assert_eq!(too_large.batches(), 1);
        assert!(matches!(too_large.drop_last(), Err(DataError::NoBatch { batch: 101, have: 100, .. })));
        let none = Loader::shuffled(&set, PLAIN, Augment::cifar_eval(), 0, 0);
        assert!(matches!(none, Err(DataError::NoBatch { batch: 0, .. })));
    }

    #[test]
    fn skipping_gives_the_rest_of_the_epoch_unchanged() {
        let loader = jittered();
        let whole = all(loader.epoch(2));
        for k in 0..=5 {
            assert_eq!(all(loader.epoch(2).skip_to(k)), whole[k.min(4)..], "from batch {k}");
        }
        let mut begun = loader.epoch(2);
        begun.next().unwrap().unwrap();
        assert_eq!(all(begun.skip_to(2)), whole[2..]);
        assert_ne!(all(loader.epoch(3)), whole);
    }

    #[test]
    fn dropping_an_epoch_early_ends_its_thread() {
        let loader = jittered();
        for taken in 0..3 {
            let mut epoch = loader.epoch(0);
            epoch.by_ref().take(taken).for_each(|batch| assert!(batch.is_ok()));
            drop(epoch);
            assert_eq!(Arc::strong_count(&loader.plan), 1, "no thread holds the plan after {taken} batches");
        }
    }

    #[test]
    fn a_cut_file_arrives_as_an_error_after_the_good_batches_and_ends_the_epoch() {
        let folder = tempfile::tempdir().unwrap();
        let jpeg = jpeg_of(&sample(140, 150));
        for set in ["train/a", "test/a"] {
            fs::create_dir_all(folder.path().join(set)).unwrap();
            for i in 0..9 {
                fs::write(folder.path().join(set).join(format!("{i}.jpg")), &jpeg).unwrap();
            }
        }
        let data = Dataset::open(folder.path()).unwrap();
        for i in [5, 7] {
            fs::write(folder.path().join(format!("test/a/{i}.jpg")), &jpeg[..jpeg.len() / 2]).unwrap();
        }
        let loader = Loader::in_order(&data.test, PLAIN, Augment::imagenet_eval(56), 3).unwrap();
        let mut epoch = loader.epoch(0);
        assert_eq!(epoch.next().unwrap().unwrap().images.len(), 3 * 3 * 56 * 56);
        let message = epoch.next().unwrap().unwrap_err().to_string();
        assert!(message.contains("test/a/5.jpg") && message.contains("truncated"), "{message}");
        assert!(epoch.next().is_none());
    }

    #[test]
    fn images_of_several_sizes_need_a_recipe_that_resizes() {
        let folder = tempfile::tempdir().unwrap();
        for (set, sizes) in [("train/a", [20, 30]), ("test/a", [20, 20])] {
            fs::create_dir_all(folder.path().join(set)).unwrap();
            for (i, side) in sizes.into_iter().enumerate() {
                fs::write(folder.path().join(set).join(format!("{i}.png")), png_of(&sample(side, 20))).unwrap();
            }
        }
        let data = Dataset::open(folder.path()).unwrap();
        let refused = Loader::shuffled(&data.train, PLAIN, Augment::cifar_train(), 2, 0);
        assert!(matches!(refused, Err(DataError::NoCommonSize { .. })));
        let loader = Loader::shuffled(&data.train, PLAIN, Augment::imagenet_train(16), 2, 0).unwrap();
        assert_eq!(all(loader.epoch(0))[0].images.len(), 2 * 3 * 16 * 16);
    }
}
