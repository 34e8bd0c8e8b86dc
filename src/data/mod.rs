//! Training data: where it comes from, how it is augmented, and how it arrives in batches.
//!
//! Takes a folder (or a seed) and a recipe; gives batches of normalised floats with their labels. Knows nothing of tensors,
//! devices or networks: those are left to `train`.
//!
//! ```text
//! folder ─► cifar | folders ─┐
//! seed ───► synthetic ───────┴─► Dataset { train, test: ImageSet } ─► views ─► Loader + Augment ─► Batch
//! file ───► Preprocess ─► one image for a trained network
//! ```
//!
//! Everything random is a function of a seed and of the numbers of epoch and image, so results do not depend on the number of
//! threads and a run can go on in the middle of an epoch.

mod augment;
mod batch;
mod cifar;
mod error;
mod folders;
mod frame;
mod image_set;
mod jitter;
mod jpeg;
mod listing;
mod loader;
mod normalise;
mod picture;
mod preprocess;
mod resize;
mod rng;
mod synthetic;
mod views;
mod worker;

use std::path::Path;

pub use augment::Augment;
pub use batch::Batch;
pub use error::DataError;
pub use frame::Frame;
pub use image_set::ImageSet;
pub use loader::{Epoch, Loader};
pub use normalise::Normalise;
pub use picture::Picture;
pub use preprocess::Preprocess;

/// Called with the number of images done and the number of all; from several threads, and about every 256 images.
pub type Progress<'a> = Option<&'a (dyn Fn(usize, usize) + Sync)>;

/// A training set and a test set with the same classes.
#[derive(Clone, Debug)]
pub struct Dataset {
    /// `cifar10`, `cifar100`, `synthetic`, or the name of the folder.
    pub name: String,
    /// Class names, indexed by label.
    pub classes: Vec<String>,
    /// The images to train and search on.
    pub train: ImageSet,
    /// The images that only evaluation sees.
    pub test: ImageSet,
    /// Per-channel mean of the pixels on the scale 0..1: published for CIFAR; measured over all training images where these are in
    /// memory; ImageNet's published ones where images stay in files.
    pub mean: [f32; 3],
    /// Per-channel standard deviation, likewise.
    pub std: [f32; 3],
    /// Height and width a network is best given: the images' own where all are in memory, else 224x224.
    pub image_size: [usize; 2],
}

impl Dataset {
    /// Reads a folder: the CIFAR-10 or CIFAR-100 binary version, or class folders `train/CLASS/` with `test/` or `val/` beside.
    ///
    /// # Errors
    /// Every [`DataError`] about folders, files and images.
    pub fn open(path: &Path) -> Result<Self, DataError> {
        Self::open_with(path, None)
    }

    /// As [`Dataset::open`], reporting progress while many images are decoded.
    ///
    /// # Errors
    /// As [`Dataset::open`].
    pub fn open_with(path: &Path, progress: Progress) -> Result<Self, DataError> {
        let ending = path.extension().unwrap_or_default();
        if ["zip", "gz", "tgz", "tar", "xz", "7z", "zst", "bz2"].iter().any(|known| ending.eq_ignore_ascii_case(known))
            && path.is_file()
        {
            return Err(DataError::Archive { path: path.to_owned() });
        }
        let metadata = std::fs::metadata(path).map_err(|source| DataError::io(path, source))?;
        if !metadata.is_dir() {
            return Err(DataError::NotAFolder { path: path.to_owned() });
        }
        match cifar::open(path)? {
            Some(dataset) => Ok(dataset),
            None => folders::open(path, progress),
        }
    }

    /// The built-in set: ten classes of textured shapes, 32x32, drawn from the seed.
    ///
    /// # Errors
    /// [`DataError::Empty`] if one of the numbers of images is 0.
    pub fn synthetic(seed: u64, train_images: usize, test_images: usize) -> Result<Self, DataError> {
        synthetic::dataset(seed, train_images, test_images)
    }

    /// Mean and standard deviation together.
    pub fn normalise(&self) -> Normalise {
        Normalise { mean: self.mean, std: self.std }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_folder_is_an_error_that_says_what_to_give() {
        let folder = tempfile::tempdir().unwrap();
        for (name, expected) in [
            ("cifar10.zip", "unpack it first"),
            ("cifar-10-binary.tar.GZ", "unpack it first"),
            ("cat.jpg", "this is a file; give the folder"),
        ] {
            let path = folder.path().join(name);
            std::fs::write(&path, "x").unwrap();
            let message = Dataset::open(&path).unwrap_err().to_string();
            assert!(message.contains(name) && message.contains(expected), "{message}");
        }
        let message = Dataset::open(&folder.path().join("nowhere.zip")).unwrap_err().to_string();
        assert!(message.contains("nowhere.zip: no such file or folder"), "{message}");
    }

    #[test]
    fn a_folder_of_pictures_without_train_says_what_was_found() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("cats")).unwrap();
        let message = Dataset::open(folder.path()).unwrap_err().to_string();
        assert!(message.contains("no data set here") && message.contains("found cats/"), "{message}");
    }
}
