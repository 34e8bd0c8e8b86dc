//! CIFAR-10 and CIFAR-100 in their "binary version".
//!
//! Takes a folder with the `.bin` files as unpacked; gives a [`Dataset`] in memory. A CIFAR-10 record is a label and 3072 bytes,
//! a CIFAR-100 record a coarse label, a fine label (the one used) and 3072 bytes; the bytes are three 32x32 planes.
//! Source: <https://www.cs.toronto.edu/~kriz/cifar.html>.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use rayon::prelude::*;

use super::image_set::Pixels;
use super::{DataError, Dataset, ImageSet, Normalise};

const SIDE: usize = 32;
const PLANE: usize = SIDE * SIDE;

/// What tells one CIFAR from the other.
struct Kind {
    name: &'static str,
    train: &'static [&'static str],
    test: &'static str,
    /// The file with the class names; the published names are used where it is missing.
    names_file: &'static str,
    names: &'static str,
    /// Bytes before the pixels; the last of them is the label.
    labels: usize,
    normalise: Normalise,
}

/// Reads the folder if it holds the binary version; `None` if it is something else.
pub(super) fn open(folder: &Path) -> Result<Option<Dataset>, DataError> {
    let Some(kind) = [&CIFAR10, &CIFAR100].into_iter().find(|kind| folder.join(kind.train[0]).is_file()) else {
        return match ["data_batch_1", "train"].iter().all(|file| !folder.join(file).is_file()) {
            true => Ok(None),
            false => Err(DataError::PythonCifar { path: folder.to_owned() }),
        };
    };
    let classes = class_names(kind, folder)?;
    let read = |set: &str, files: &[&'static str]| {
        let mut bytes = vec![];
        for file in files {
            bytes.extend(records(kind, &folder.join(file), classes.len())?);
        }
        let size = kind.labels + 3 * PLANE;
        let labels = bytes.chunks_exact(size).map(|record| u32::from(record[kind.labels - 1])).collect();
        let mut rgb = vec![0; bytes.len() / size * 3 * PLANE];
        let images = rgb.par_chunks_exact_mut(3 * PLANE).zip(bytes.par_chunks_exact(size));
        images.for_each(|(image, record)| interleave(&record[kind.labels..], image));
        ImageSet::new(set, classes.clone(), labels, Pixels::Memory { size: [SIDE; 2], rgb })
    };
    let Normalise { mean, std } = kind.normalise;
    Ok(Some(Dataset {
        name: kind.name.into(),
        classes: classes.to_vec(),
        train: read("training", kind.train)?,
        test: read("test", &[kind.test])?,
        mean,
        std,
        image_size: [SIDE; 2],
    }))
}

/// The bytes of one file, found to be whole records with possible labels.
fn records(kind: &Kind, path: &Path, classes: usize) -> Result<Vec<u8>, DataError> {
    if !path.is_file() {
        return Err(DataError::CifarFileMissing { path: path.to_owned(), beside: kind.train[0] });
    }
    let bytes = fs::read(path).map_err(|source| DataError::io(path, source))?;
    let record = kind.labels + 3 * PLANE;
    if bytes.is_empty() || bytes.len() % record != 0 {
        return Err(DataError::CifarFileSize { path: path.to_owned(), bytes: bytes.len(), record });
    }
    let label = |record: &[u8]| record[kind.labels - 1];
    match bytes.chunks_exact(record).position(|record| usize::from(label(record)) >= classes) {
        None => Ok(bytes),
        Some(at) => {
            let label = label(&bytes[at * record..]);
            Err(DataError::CifarLabel { path: path.to_owned(), record: at, label, classes })
        }
    }
}

fn class_names(kind: &Kind, folder: &Path) -> Result<Arc<[String]>, DataError> {
    let path = folder.join(kind.names_file);
    let text = match path.is_file() {
        true => fs::read_to_string(&path).map_err(|source| DataError::io(&path, source))?,
        false => kind.names.into(),
    };
    let names: Arc<[String]> = text.split_whitespace().map(String::from).collect();
    let expected = kind.names.split_whitespace().count();
    match names.len() == expected {
        true => Ok(names),
        false => Err(DataError::CifarNames { path, found: names.len(), expected }),
    }
}

fn interleave(planes: &[u8], image: &mut [u8]) {
    let (red, rest) = planes.split_at(PLANE);
    let (green, blue) = rest.split_at(PLANE);
    for (i, pixel) in image.chunks_exact_mut(3).enumerate() {
        pixel.copy_from_slice(&[red[i], green[i], blue[i]]);
    }
}

const CIFAR10: Kind = Kind {
    name: "cifar10",
    train: &["data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin"],
    test: "test_batch.bin",
    names_file: "batches.meta.txt",
    names: "airplane automobile bird cat deer dog frog horse ship truck",
    labels: 1,
    normalise: Normalise::CIFAR10,
};

const CIFAR100: Kind = Kind {
    name: "cifar100",
    train: &["train.bin"],
    test: "test.bin",
    names_file: "fine_label_names.txt",
    names: "apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle \
            caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish \
            forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle \
            mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine \
            possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar \
            sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle wardrobe whale willow_tree \
            wolf woman worm",
    labels: 2,
    normalise: Normalise::CIFAR100,
};

#[cfg(test)]
mod tests {
    use super::*;

    /// Records whose pixel bytes are label, label + 1, label + 2 in the three planes.
    fn file(labels: &[u8], coarse: bool) -> Vec<u8> {
        let mut bytes = vec![];
        for &label in labels {
            bytes.extend(coarse.then_some(0));
            bytes.push(label);
            (0..3).for_each(|plane| bytes.extend([label + plane; PLANE]));
        }
        bytes
    }

    fn cifar10(folder: &Path) {
        for (i, name) in CIFAR10.train.iter().enumerate() {
            fs::write(folder.join(name), file(&[i as u8, 9 - i as u8], false)).unwrap();
        }
        fs::write(folder.join("test_batch.bin"), file(&[3], false)).unwrap();
        fs::write(folder.join("batches.meta.txt"), format!("{}\n\n", CIFAR10.names.replace(' ', "\n"))).unwrap();
    }

    #[test]
    fn cifar10_is_read_in_file_order_with_its_names_and_constants() {
        let folder = tempfile::tempdir().unwrap();
        cifar10(folder.path());
        let data = open(folder.path()).unwrap().unwrap();
        assert_eq!((data.name.as_str(), data.classes.len(), data.classes[9].as_str()), ("cifar10", 10, "truck"));
        assert_eq!((data.train.len(), data.test.len(), data.image_size), (10, 1, [32, 32]));
        let labels: Vec<i64> = (0..10).map(|i| data.train.label(i)).collect();
        assert_eq!(labels, [0, 9, 1, 8, 2, 7, 3, 6, 4, 5]);
        assert_eq!(data.train.picture(3).unwrap().rgb[..6], [8, 9, 10, 8, 9, 10]);
        assert_eq!(data.normalise(), Normalise::CIFAR10);
    }

    #[test]
    fn cifar100_uses_the_fine_label_and_knows_its_names_without_the_file() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("train.bin"), file(&[99, 4], true)).unwrap();
        fs::write(folder.path().join("test.bin"), file(&[0], true)).unwrap();
        let data = open(folder.path()).unwrap().unwrap();
        assert_eq!((data.train.label(0), data.train.label(1), data.classes.len()), (99, 4, 100));
        assert_eq!((data.classes[0].as_str(), data.classes[99].as_str()), ("apple", "worm"));
        assert_eq!(data.train.picture(1).unwrap().rgb[..3], [4, 5, 6]);
    }

    #[test]
    fn damaged_folders_are_errors_that_name_the_file() {
        type Damage = fn(&Path);
        let cases: [(Damage, &str); 5] = [
            (
                |f| fs::write(f.join("data_batch_3.bin"), vec![0; 3072]).unwrap(),
                "data_batch_3.bin: 3072 bytes is no multiple of 3073",
            ),
            (|f| fs::write(f.join("data_batch_3.bin"), []).unwrap(), "data_batch_3.bin: 0 bytes"),
            (|f| fs::remove_file(f.join("test_batch.bin")).unwrap(), "test_batch.bin: file missing"),
            (
                |f| fs::write(f.join("data_batch_2.bin"), file(&[1, 10], false)).unwrap(),
                "data_batch_2.bin: record 1 has label 10",
            ),
            (
                |f| fs::write(f.join("batches.meta.txt"), "cat dog").unwrap(),
                "batches.meta.txt: 2 class names instead of 10",
            ),
        ];
        for (damage, expected) in cases {
            let folder = tempfile::tempdir().unwrap();
            cifar10(folder.path());
            damage(folder.path());
            let message = open(folder.path()).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }

    #[test]
    fn the_python_version_is_recognised_and_other_folders_are_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("train")).unwrap();
        assert!(open(folder.path()).unwrap().is_none());
        fs::write(folder.path().join("data_batch_1"), "pickle").unwrap();
        assert!(matches!(open(folder.path()), Err(DataError::PythonCifar { .. })));
    }
}
