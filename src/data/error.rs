//! What can go wrong with training data: one enum for every file of `data`.
//!
//! Takes nothing; gives [`DataError`]. Every message names the file or folder, says what is wrong with it and what to do.
//! Showing the message is left to the caller.

use std::path::{Path, PathBuf};

/// A fault of the data or of a request for data.
#[allow(missing_docs, reason = "the message of each variant says what it and its fields are")]
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    #[error("{}: no such file or folder", path.display())]
    Missing { path: PathBuf },

    #[error("{}: this is an archive; unpack it first and give the folder", path.display())]
    Archive { path: PathBuf },

    #[error("{}: this is a file; give the folder that holds the data set", path.display())]
    NotAFolder { path: PathBuf },

    #[error(
        "{}: no data set here: neither data_batch_1.bin (CIFAR-10), nor train.bin (CIFAR-100), nor a folder train/ with one \
         folder per class; found {found}", path.display()
    )]
    NoTrainFolder { path: PathBuf, found: String },

    #[error(
        "{}: this is the Python version of CIFAR; get the \"binary version\" (files ending in .bin) from the same page",
        path.display()
    )]
    PythonCifar { path: PathBuf },

    #[error("{}: a train/ folder, but no test/ or val/ folder beside it; found {found}", path.display())]
    NoTestFolder { path: PathBuf, found: String },

    #[error("{}: no class folders in it; images belong into one folder per class; found {found}", path.display())]
    NoClassFolders { path: PathBuf, found: String },

    #[error("{}: this class folder has no .jpg, .jpeg or .png image; found {found}", path.display())]
    ClassWithoutImages { path: PathBuf, found: String },

    #[error(
        "class {class:?} is in {} but not in {}; both must have the same class folders",
        present.display(), absent.display()
    )]
    ClassOnlyIn { class: String, present: PathBuf, absent: PathBuf },

    #[error("{}: cannot be decoded: {reason}; replace or remove the file", path.display())]
    Image { path: PathBuf, reason: String },

    #[error(
        "{}: {}x{} pixels (width x height) among images of {}x{}; this recipe takes images of one size: \
         use a recipe that resizes, such as the ImageNet one",
        path.display(), found[1], found[0], expected[1], expected[0]
    )]
    MixedSizes { path: PathBuf, found: [usize; 2], expected: [usize; 2] },

    #[error("the {set} images are of several sizes; use a recipe that resizes, such as the ImageNet one")]
    NoCommonSize { set: String },

    #[error(
        "{}: {bytes} bytes is no multiple of {record}, the size of one CIFAR record; the file is cut off or not the binary version",
        path.display()
    )]
    CifarFileSize { path: PathBuf, bytes: usize, record: usize },

    #[error("{}: file missing; the CIFAR binary version has it beside {beside}", path.display())]
    CifarFileMissing { path: PathBuf, beside: &'static str },

    #[error("{}: record {record} has label {label}, but there are only {classes} classes", path.display())]
    CifarLabel { path: PathBuf, record: usize, label: u8, classes: usize },

    #[error("{}: {found} class names instead of {expected}", path.display())]
    CifarNames { path: PathBuf, found: usize, expected: usize },

    #[error("the {set} set has no images")]
    Empty { set: String },

    #[error("a subset of {asked} images was asked for, but the {set} set has {have}")]
    SubsetTooLarge { set: String, asked: usize, have: usize },

    #[error("fractions {fractions:?}: each must be above 0, and together they may not exceed 1")]
    Fractions { fractions: Vec<f64> },

    #[error("class {class:?} has {have} images in the {set} set, too few for the {parts} parts that were asked for")]
    ClassTooSmall { set: String, class: String, have: usize, parts: usize },

    #[error("batch size {batch} with {have} images in the {set} set and partial batches dropped leaves no batch")]
    NoBatch { set: String, batch: usize, have: usize },

    #[error("{what} is {found}, but {rule}")]
    Recipe { what: &'static str, found: String, rule: &'static str },

    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },

    #[error("the thread that loads batches could not be started: {source}")]
    Thread { source: std::io::Error },
}

impl DataError {
    pub(super) fn io(path: &Path, source: std::io::Error) -> Self {
        match source.kind() {
            std::io::ErrorKind::NotFound => DataError::Missing { path: path.to_owned() },
            _ => DataError::Io { path: path.to_owned(), source },
        }
    }
}
