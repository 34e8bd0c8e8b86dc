//! What `build` writes: the same bytes every time, in the form that was asked for, with where it comes from.

use crate::program::Folder;

const SMALL: [&str; 9] =
    ["build", "PC_DARTS_cifar", "--cells", "3", "--channels", "4", "--epochs", "0", "--no-validate"];

#[test]
fn a_file_is_reproducible_and_tells_what_it_comes_from() {
    let folder = Folder::new();
    let build = |out: &str, more: &[&str]| {
        let run = folder.run(&[&SMALL[..], &["--out", out], more].concat());
        assert_eq!(run.code, 0, "{run:?}");
        std::fs::read(folder.path(out)).expect("it was written")
    };
    let first = build("a.onnx", &[]);
    assert!(first == build("b.onnx", &["--threads", "1"]), "the same inputs give the same bytes");
    assert!(first != build("c.onnx", &["--seed", "5"]));
    let metadata = |file: &str| folder.run(&["inspect", file, "--json"]).json()["metadata"].clone();
    let (a, c) = (metadata("a.onnx"), metadata("c.onnx"));
    assert!(a["config"].as_str().is_some_and(|hash| hash.len() == 16) && a["config"] != c["config"], "{a}");
    assert_eq!(c["seed"], "5");
    assert!(a["producer"].as_str().is_some_and(|p| p.starts_with("idarts-compile ")), "{a}");
}

#[test]
fn factorised_reductions_and_the_type_of_numbers_are_options() {
    let folder = Folder::new();
    let ops = |more: &[&str]| {
        let run = folder.run(&[&SMALL[..], &["--out", "m.onnx"], more].concat());
        assert_eq!(run.code, 0, "{run:?}");
        let size = std::fs::metadata(folder.path("m.onnx")).expect("it was written").len();
        (folder.run(&["inspect", "m.onnx", "--json"]).json()["ops"].clone(), size)
    };
    let ((merged, whole), (plain, _), (same, half)) = (ops(&[]), ops(&["--keep-reduce"]), ops(&["--fp16"]));
    assert!(merged["slice"].is_null() && plain["slice"].as_u64().is_some_and(|n| n > 0), "{merged} {plain}");
    assert!(plain["conv"].as_u64() > merged["conv"].as_u64(), "{merged} {plain}");
    assert_eq!(same, merged);
    // Half the weights; names and shapes stay.
    assert!(half < whole, "{half} of {whole}");
}
