//! A labelled set of images.
//!
//! Takes decoded images or paths with their labels; gives [`ImageSet`]. A view of a part shares the images of the whole set and
//! costs one index per image. Which parts there are is left to `views`; order, augmentation and batches to `loader`.

use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::Arc;

use super::{DataError, Picture};

/// Images with class labels, or a part of such a set; cheap to clone.
///
/// Views keep the file order.
#[derive(Clone, Debug)]
pub struct ImageSet {
    store: Arc<Store>,
    view: Arc<[u32]>,
}

/// What all views of one set share.
#[derive(Debug)]
struct Store {
    /// "training" or "test", for messages.
    name: String,
    classes: Arc<[String]>,
    labels: Vec<u32>,
    pixels: Pixels,
}

/// Where the pixels are.
#[derive(Debug)]
pub(super) enum Pixels {
    /// All images one after the other, each `size[0] * size[1] * 3` bytes of interleaved RGB.
    Memory { size: [usize; 2], rgb: Vec<u8> },
    /// One file per image, decoded at each use. `size` is the common height and width, where a sample of the files had one.
    Files { size: Option<[usize; 2]>, paths: Vec<PathBuf> },
}

impl ImageSet {
    /// `labels` index `classes`; there is one for each image of `pixels`.
    pub(super) fn new(name: &str, classes: Arc<[String]>, labels: Vec<u32>, pixels: Pixels) -> Result<Self, DataError> {
        if labels.is_empty() {
            return Err(DataError::Empty { set: name.into() });
        }
        let view = (0..labels.len() as u32).collect();
        Ok(Self { store: Arc::new(Store { name: name.into(), classes, labels, pixels }), view })
    }

    /// Number of images in this view; never 0.
    pub fn len(&self) -> usize {
        self.view.len()
    }

    /// Always false: a set without images is an error where it is made.
    pub fn is_empty(&self) -> bool {
        self.view.is_empty()
    }

    /// Class names, indexed by label.
    pub fn classes(&self) -> &[String] {
        &self.store.classes
    }

    /// "training" or "test".
    pub fn name(&self) -> &str {
        &self.store.name
    }

    /// The label of the image at a position of this view, below `classes().len()`. Panics if `position >= len()`.
    pub fn label(&self, position: usize) -> i64 {
        i64::from(self.store.labels[self.index(position)])
    }

    /// Number of images per class.
    pub fn class_counts(&self) -> Vec<usize> {
        let mut counts = vec![0; self.classes().len()];
        self.view.iter().for_each(|&i| counts[self.store.labels[i as usize] as usize] += 1);
        counts
    }

    /// Height and width, if all images have the same. For images that stay in files this is judged by a sample of them.
    pub fn common_size(&self) -> Option<[usize; 2]> {
        match &self.store.pixels {
            Pixels::Memory { size, .. } => Some(*size),
            Pixels::Files { size, .. } => *size,
        }
    }

    /// Whether the images are held decoded in memory.
    pub fn in_memory(&self) -> bool {
        matches!(self.store.pixels, Pixels::Memory { .. })
    }

    /// The file of the image at a position of this view, if it is read from one at each use. Panics if `position >= len()`.
    pub fn path(&self, position: usize) -> Option<&PathBuf> {
        match &self.store.pixels {
            Pixels::Memory { .. } => None,
            Pixels::Files { paths, .. } => Some(&paths[self.index(position)]),
        }
    }

    /// The image at a position of this view, decoded now if it is in a file. Panics if `position >= len()`.
    ///
    /// # Errors
    /// Those of [`Picture::open`].
    pub fn picture(&self, position: usize) -> Result<Picture<'_>, DataError> {
        match &self.store.pixels {
            Pixels::Memory { size: [height, width], rgb } => {
                let bytes = height * width * 3;
                let start = self.index(position) * bytes;
                Ok(Picture { height: *height, width: *width, rgb: Cow::Borrowed(&rgb[start..start + bytes]) })
            }
            Pixels::Files { paths, .. } => Picture::open(&paths[self.index(position)]),
        }
    }

    /// The index in the whole set of the image at a position of this view: the same for an image in all views.
    pub(super) fn index(&self, position: usize) -> usize {
        self.view[position] as usize
    }

    /// The images at these indices of the whole set, in file order.
    pub(super) fn view_of(&self, mut images: Vec<u32>) -> Result<Self, DataError> {
        if images.is_empty() {
            return Err(DataError::Empty { set: format!("chosen part of the {}", self.name()) });
        }
        images.sort_unstable();
        Ok(Self { store: self.store.clone(), view: images.into() })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A set of 1x1 images; `counts[c]` of class c, mixed as in a CIFAR file; the pixel holds the index.
    pub fn set_of(counts: &[usize]) -> ImageSet {
        let most = counts.iter().copied().max().unwrap_or(0);
        let labels: Vec<u32> = (0..most)
            .flat_map(|i| counts.iter().enumerate().filter(move |(_, c)| i < **c).map(|(class, _)| class as u32))
            .collect();
        let rgb = (0..labels.len()).flat_map(|i| [i as u8, (i >> 8) as u8, 0]).collect();
        let classes = (0..counts.len()).map(|c| format!("class {c}")).collect();
        ImageSet::new("training", classes, labels, Pixels::Memory { size: [1, 1], rgb }).unwrap()
    }

    #[test]
    fn a_view_of_a_view_gives_the_images_of_the_whole_set() {
        let set = set_of(&[50, 50]);
        let view = set.subset(40, 1).unwrap().subset(6, 2).unwrap();
        for position in 0..view.len() {
            let index = view.index(position);
            assert_eq!(usize::from(view.picture(position).unwrap().rgb[0]), index);
            assert_eq!(view.label(position), set.label(index));
        }
    }

    #[test]
    fn a_set_without_images_is_an_error() {
        let none = ImageSet::new("test", Arc::new([]), vec![], Pixels::Files { size: None, paths: vec![] });
        assert!(matches!(none, Err(DataError::Empty { set }) if set == "test"));
    }
}
