//! Class folders: `train/CLASS/image.jpg` with `test/` or `val/` beside it.
//!
//! Takes such a folder; gives a [`Dataset`]. Labels are the positions of the class folders in sorted order. Small images of one
//! size are decoded into memory here, in parallel; others stay files that `loader` decodes batch by batch. Finding the files is
//! left to `listing`.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use rayon::prelude::*;

use super::image_set::Pixels;
use super::listing::{self, Listing};
use super::{DataError, Dataset, ImageSet, Normalise, Picture, Progress};

/// Images up to this many pixels are kept decoded (128x128: Tiny ImageNet and STL-10 are, ImageNet is not) ...
const SMALL: usize = 128 * 128;
/// ... as long as all of them together take no more than this many bytes.
const MEMORY: usize = 2 << 30;
/// The network's image size for files that are not kept decoded.
const LARGE_SIDE: usize = 224;

/// Reads the folder. Progress counts decoded images.
pub(super) fn open(folder: &Path, progress: Progress) -> Result<Dataset, DataError> {
    let [train, test] = listing::find(folder)?;
    let classes: Arc<[String]> = train.classes.clone().into();
    let common = probe(&[&train, &test])?;
    let total = train.paths.len() + test.paths.len();
    let name = folder.file_name().map_or_else(|| "images".into(), |name| name.to_string_lossy().into_owned());

    if let Some(size) = common.filter(|[h, w]| h * w <= SMALL && h * w * 3 * total <= MEMORY) {
        let done = AtomicUsize::new(0);
        let report = || {
            let done = done.fetch_add(1, Ordering::Relaxed) + 1;
            if let Some(progress) = progress.filter(|_| done.is_multiple_of(256) || done == total) {
                progress(done, total);
            }
        };
        let decoded =
            decode_all(&train.paths, size, &report).and_then(|a| Ok((a, decode_all(&test.paths, size, &report)?)));
        match decoded {
            Ok((train_rgb, test_rgb)) => {
                let Normalise { mean, std } = Normalise::measure(&train_rgb);
                let set = |name, list: Listing, rgb| {
                    ImageSet::new(name, classes.clone(), list.labels, Pixels::Memory { size, rgb })
                };
                let (train, test) = (set("training", train, train_rgb)?, set("test", test, test_rgb)?);
                return Ok(Dataset { name, classes: classes.to_vec(), train, test, mean, std, image_size: size });
            }
            // The sample was of one size, but not every image is: they are treated as images of several sizes.
            Err(DataError::MixedSizes { .. }) => return lazy(name, classes, [train, test], None),
            Err(error) => return Err(error),
        }
    }
    lazy(name, classes, [train, test], common)
}

/// Images that stay files, with ImageNet's constants: measuring would decode everything once.
fn lazy(
    name: String,
    classes: Arc<[String]>,
    [train, test]: [Listing; 2],
    size: Option<[usize; 2]>,
) -> Result<Dataset, DataError> {
    let set = |name, list: Listing| {
        ImageSet::new(name, classes.clone(), list.labels, Pixels::Files { size, paths: list.paths })
    };
    let Normalise { mean, std } = Normalise::IMAGENET;
    let (train, test) = (set("training", train)?, set("test", test)?);
    Ok(Dataset { name, classes: classes.to_vec(), train, test, mean, std, image_size: [LARGE_SIDE; 2] })
}

/// The common size of a sample of the images, read from their headers: about 256 files of each set, spread evenly.
fn probe(sets: &[&Listing]) -> Result<Option<[usize; 2]>, DataError> {
    let sample: Vec<&PathBuf> =
        sets.iter().flat_map(|set| set.paths.iter().step_by(set.paths.len().div_ceil(256).max(1))).collect();
    // Collected before it is searched for faults, so that the first file's is the one reported.
    let sizes: Vec<_> = sample.into_par_iter().map(|path| Picture::size_of(path)).collect();
    let mut sizes = sizes.into_iter().collect::<Result<Vec<_>, _>>()?;
    sizes.dedup();
    Ok(if sizes.len() == 1 { sizes.pop() } else { None })
}

/// Decodes files of one size into one buffer. Of several faults the one of the first file is reported, on any number of threads.
fn decode_all(paths: &[PathBuf], size: [usize; 2], report: &(impl Fn() + Sync)) -> Result<Vec<u8>, DataError> {
    let bytes = size[0] * size[1] * 3;
    let mut rgb = vec![0; paths.len() * bytes];
    let first_fault = AtomicUsize::new(usize::MAX);
    let fault = Mutex::new(None);
    rgb.par_chunks_exact_mut(bytes).zip(paths).enumerate().for_each(|(i, (image, path))| {
        if i > first_fault.load(Ordering::Relaxed) {
            return;
        }
        match decode_into(image, path, size) {
            Ok(()) => report(),
            Err(error) => {
                let mut fault = fault.lock().expect("no thread panics while it holds the lock");
                if i < first_fault.load(Ordering::Relaxed) {
                    first_fault.store(i, Ordering::Relaxed);
                    *fault = Some(error);
                }
            }
        }
    });
    match fault.into_inner().expect("no thread panics while it holds the lock") {
        None => Ok(rgb),
        Some(error) => Err(error),
    }
}

fn decode_into(image: &mut [u8], path: &Path, expected: [usize; 2]) -> Result<(), DataError> {
    let picture = Picture::open(path)?;
    let found = [picture.height, picture.width];
    if found != expected {
        return Err(DataError::MixedSizes { path: path.to_owned(), found, expected });
    }
    image.copy_from_slice(&picture.rgb);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::picture::tests::{jpeg_of, png_of, sample};
    use super::*;
    use std::fs;

    fn put(path: PathBuf, bytes: &[u8]) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    /// Two classes, three training images and one test image each, all of one size.
    fn folder_of(size: [usize; 2]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for class in ["cat", "ant"] {
            for i in 0..3 {
                put(folder.path().join(format!("train/{class}/{i}.png")), &png_of(&sample(size[0], size[1])));
            }
            put(folder.path().join(format!("test/{class}/0.JPEG")), &jpeg_of(&sample(size[0], size[1])));
        }
        folder
    }

    #[test]
    fn small_images_of_one_size_are_decoded_into_memory_with_measured_constants() {
        let folder = folder_of([20, 30]);
        let calls = Mutex::new(vec![]);
        let data = open(folder.path(), Some(&|done, total| calls.lock().unwrap().push((done, total)))).unwrap();
        assert_eq!(data.classes, ["ant", "cat"]);
        assert_eq!((data.train.len(), data.test.len(), data.image_size), (6, 2, [20, 30]));
        assert!(data.train.in_memory() && data.test.in_memory());
        assert_eq!((0..6).map(|i| data.train.label(i)).collect::<Vec<_>>(), [0, 0, 0, 1, 1, 1]);
        assert_eq!(data.train.picture(5).unwrap(), sample(20, 30));
        assert_eq!(data.normalise(), Normalise::measure(&sample(20, 30).rgb));
        assert_eq!(*calls.lock().unwrap(), [(8, 8)]);
    }

    #[test]
    fn large_images_stay_files_with_the_constants_of_imagenet() {
        let folder = folder_of([130, 140]);
        let data = open(folder.path(), None).unwrap();
        assert!(!data.train.in_memory());
        assert_eq!((data.train.common_size(), data.image_size), (Some([130, 140]), [224, 224]));
        assert_eq!(data.normalise(), Normalise::IMAGENET);
        assert_eq!(data.train.picture(0).unwrap(), sample(130, 140));
        assert!(data.train.path(5).unwrap().ends_with("train/cat/2.png"));
    }

    #[test]
    fn images_of_several_sizes_stay_files_and_have_no_common_size() {
        let folder = folder_of([20, 30]);
        put(folder.path().join("train/cat/9.png"), &png_of(&sample(21, 30)));
        let data = open(folder.path(), None).unwrap();
        assert_eq!((data.train.in_memory(), data.train.common_size()), (false, None));
    }

    #[test]
    fn a_size_that_the_sample_missed_is_found_while_decoding() {
        let folder = folder_of([4, 4]);
        for i in 0..600 {
            put(folder.path().join(format!("train/ant/x{i:03}.png")), &png_of(&sample(4, 4)));
        }
        // Of 607 images every third is looked at: not the second.
        put(folder.path().join("train/ant/00.png"), &png_of(&sample(5, 5)));
        let data = open(folder.path(), None).unwrap();
        assert_eq!((data.train.in_memory(), data.train.common_size()), (false, None));
    }

    #[test]
    fn of_several_damaged_images_the_first_is_named() {
        let folder = folder_of([20, 30]);
        let jpeg = jpeg_of(&sample(20, 30));
        for name in ["train/cat/0.png", "train/ant/2.png", "test/ant/0.JPEG"] {
            put(folder.path().join(name), &jpeg[..jpeg.len() - 20]);
        }
        for _ in 0..10 {
            let message = open(folder.path(), None).unwrap_err().to_string();
            assert!(message.contains("train/ant/2.png") && message.contains("truncated JPEG"), "{message}");
        }
    }
}
