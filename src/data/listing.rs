//! Finds the image files of class folders.
//!
//! Takes a folder with `train/` and `test/` or `val/` in it; gives the paths and labels of both, in sorted order. Reads no image.
//! Hidden files and folders are skipped, folders inside a class are searched, links are followed.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::DataError;

/// The images of one set, class by class.
#[derive(Debug)]
pub(super) struct Listing {
    /// Sorted names of the class folders.
    pub classes: Vec<String>,
    pub paths: Vec<PathBuf>,
    /// For each path the position of its class.
    pub labels: Vec<u32>,
}

/// The training set and the test set. Beside `train/` the first of `test/` and `val/` that has class folders is the test set:
/// an ImageNet `test/` has none.
pub(super) fn find(folder: &Path) -> Result<[Listing; 2], DataError> {
    let train = folder.join("train");
    if !train.is_dir() {
        return Err(DataError::NoTrainFolder { path: folder.to_owned(), found: what_is_in(folder)? });
    }
    let beside: Vec<PathBuf> =
        ["test", "val"].iter().map(|name| folder.join(name)).filter(|path| path.is_dir()).collect();
    let mut test = match beside.first() {
        Some(first) => first,
        None => return Err(DataError::NoTestFolder { path: folder.to_owned(), found: what_is_in(folder)? }),
    };
    for candidate in beside.iter().rev() {
        if !class_folders(candidate)?.is_empty() {
            test = candidate;
        }
    }
    let (train_classes, test_classes) = (class_folders(&train)?, class_folders(test)?);
    for (path, classes) in [(&train, &train_classes), (test, &test_classes)] {
        if classes.is_empty() {
            return Err(DataError::NoClassFolders { path: path.clone(), found: what_is_in(path)? });
        }
    }
    for (present, classes, absent, others) in
        [(&train, &train_classes, test, &test_classes), (test, &test_classes, &train, &train_classes)]
    {
        if let Some(class) = classes.iter().find(|class| !others.contains(class)) {
            let class = class.to_string_lossy().into_owned();
            return Err(DataError::ClassOnlyIn { class, present: present.clone(), absent: absent.clone() });
        }
    }
    Ok([list(&train, &train_classes)?, list(test, &test_classes)?])
}

/// Sorted names of the folders in a folder, hidden ones left out.
fn class_folders(folder: &Path) -> Result<Vec<std::ffi::OsString>, DataError> {
    let mut names: Vec<_> =
        entries(folder)?.into_iter().filter(|path| path.is_dir()).map(|path| name_of(&path).into()).collect();
    names.sort();
    Ok(names)
}

fn list(folder: &Path, classes: &[std::ffi::OsString]) -> Result<Listing, DataError> {
    let found = classes.par_iter().map(|class| images_of_class(&folder.join(class))).collect::<Vec<_>>();
    let mut listing = Listing { classes: vec![], paths: vec![], labels: vec![] };
    for (label, (class, images)) in classes.iter().zip(found).enumerate() {
        let images = images?;
        listing.classes.push(class.to_string_lossy().into_owned());
        listing.labels.extend(std::iter::repeat_n(label as u32, images.len()));
        listing.paths.extend(images);
    }
    Ok(listing)
}

fn images_of_class(folder: &Path) -> Result<Vec<PathBuf>, DataError> {
    let mut images = vec![];
    collect(folder, &mut vec![], &mut images)?;
    if images.is_empty() {
        return Err(DataError::ClassWithoutImages { path: folder.to_owned(), found: what_is_in(folder)? });
    }
    images.sort();
    Ok(images)
}

/// Adds the images in a folder and below it. `above` holds the real paths of the folders on the way, so that a link to one of
/// them does not lead in circles.
fn collect(folder: &Path, above: &mut Vec<PathBuf>, images: &mut Vec<PathBuf>) -> Result<(), DataError> {
    let real = fs::canonicalize(folder).map_err(|source| DataError::io(folder, source))?;
    if above.contains(&real) {
        return Ok(());
    }
    above.push(real);
    for path in entries(folder)? {
        if has_image_ending(&path) && !path.is_dir() {
            images.push(path);
        } else if path.is_dir() {
            collect(&path, above, images)?;
        }
    }
    above.pop();
    Ok(())
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>, DataError> {
    let fault = |source| DataError::io(folder, source);
    let mut paths = vec![];
    for entry in fs::read_dir(folder).map_err(fault)? {
        let path = entry.map_err(fault)?.path();
        if !name_of(&path).as_encoded_bytes().starts_with(b".") {
            paths.push(path);
        }
    }
    Ok(paths)
}

fn name_of(path: &Path) -> &OsStr {
    path.file_name().unwrap_or_default()
}

fn has_image_ending(path: &Path) -> bool {
    let ending = path.extension().unwrap_or_default();
    ["jpg", "jpeg", "png"].iter().any(|known| ending.eq_ignore_ascii_case(known))
}

/// The first few names in a folder, for a message.
fn what_is_in(folder: &Path) -> Result<String, DataError> {
    let mut names: Vec<String> = entries(folder)?
        .iter()
        .map(|path| format!("{}{}", name_of(path).to_string_lossy(), if path.is_dir() { "/" } else { "" }))
        .collect();
    names.sort();
    Ok(match names.len() {
        0 => "nothing".into(),
        1..=6 => names.join(", "),
        n => format!("{}, and {} more", names[..5].join(", "), n - 5),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder_with(files: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for file in files {
            let path = folder.path().join(file);
            match file.ends_with('/') {
                true => fs::create_dir_all(path).unwrap(),
                false => {
                    fs::create_dir_all(path.parent().unwrap()).unwrap();
                    fs::write(path, "").unwrap();
                }
            }
        }
        folder
    }

    #[test]
    fn finds_images_sorted_and_recursively_and_skips_the_rest() {
        let folder = folder_with(&[
            "train/b/2.jpg",
            "train/b/10.JPG",
            "train/b/.hidden.jpg",
            "train/b/notes.txt",
            "train/a/deep/er/x.Png",
            "train/a/y.jpeg",
            "train/.cache/z.jpg",
            "train/readme.md",
            "val/a/1.png",
            "val/b/1.png",
            ".DS_Store",
        ]);
        let [train, test] = find(folder.path()).unwrap();
        let names: Vec<_> =
            train.paths.iter().map(|p| p.strip_prefix(folder.path()).unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["train/a/deep/er/x.Png", "train/a/y.jpeg", "train/b/10.JPG", "train/b/2.jpg"]);
        assert_eq!(
            (train.labels, train.classes, test.labels),
            (vec![0, 0, 1, 1], vec!["a".into(), "b".into()], vec![0, 1])
        );
    }

    #[test]
    fn test_comes_before_val_unless_it_has_no_class_folders() {
        let both = folder_with(&["train/a/1.png", "test/a/t.png", "val/a/v.png"]);
        assert!(find(both.path()).unwrap()[1].paths[0].ends_with("test/a/t.png"));
        let flat = folder_with(&["train/a/1.png", "test/t.png", "val/a/v.png"]);
        assert!(find(flat.path()).unwrap()[1].paths[0].ends_with("val/a/v.png"));
    }

    #[cfg(unix)]
    #[test]
    fn a_link_in_a_circle_ends() {
        let folder = folder_with(&["train/a/1.png", "test/a/1.png"]);
        std::os::unix::fs::symlink(folder.path().join("train/a"), folder.path().join("train/a/again")).unwrap();
        assert_eq!(find(folder.path()).unwrap()[0].paths.len(), 1);
    }

    #[test]
    fn wrong_folders_are_errors_that_say_what_was_found() {
        let cases: &[(&[&str], &str)] = &[
            (&["cifar-10/x", "b.txt"], "found b.txt, cifar-10/"),
            (&[], "found nothing"),
            (&["train/a/1.png", "tset/a/1.png"], "no test/ or val/ folder beside it; found train/, tset/"),
            (&["train/1.png", "test/a/1.png"], "train: no class folders"),
            (&["train/a/1.png", "val/1.png"], "val: no class folders"),
            (
                &["train/a/1.png", "train/b/1.gif", "test/a/1.png", "test/b/1.png"],
                "train/b: this class folder has no .jpg",
            ),
            (
                &["train/a/1.png", "test/a/"],
                "test/a: this class folder has no .jpg, .jpeg or .png image; found nothing",
            ),
            (&["train/a/1.png", "train/b/1.png", "test/a/1.png"], "class \"b\" is in"),
            (&["train/a/1.png", "test/a/1.png", "test/c/1.png"], "class \"c\" is in"),
        ];
        for (files, expected) in cases {
            let message = find(folder_with(files).path()).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }
}
