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

#[test]
fn a_quantised_file_tells_what_it_cost_and_can_be_used_as_any_other() {
    let folder = Folder::new();
    let small = ["build", "PC_DARTS_cifar", "--preset", "quick", "--cells", "3", "--channels", "4", "--epochs", "0"];
    let build = |out: &str, more: &[&str]| {
        let run = folder.run(&[&small[..], &["--out", out, "--no-validate", "--json"], more].concat());
        assert_eq!(run.code, 0, "{run:?}");
        (run.json(), std::fs::read(folder.path(out)).expect("it was written"))
    };
    let int8 = ["--int8", "--calibration", "32"];
    let (report, bytes) = build("q.onnx", &int8);
    assert!(bytes == build("again.onnx", &int8).1, "calibration is reproducible");
    let told = &report["int8"];
    assert_eq!(
        (&told["calibration"], &told["method"], &told["percentile"]),
        (&32.into(), &"percentile".into(), &99.99.into())
    );
    assert!(told["top1"].is_f64() && told["float_top1"] == report["top1"], "{report}");
    let (plain, float) = build("f.onnx", &[]);
    assert!(plain["int8"].is_null() && bytes != float, "{plain}");
    let (min_max, other) = build("m.onnx", &[&int8[..], &["--calibration-method", "min-max"]].concat());
    assert!(min_max["int8"]["method"] == "min-max" && min_max["int8"]["percentile"].is_null() && other != bytes);

    let seen = folder.run(&["inspect", "q.onnx", "--json"]).json();
    assert!(seen["ops"]["quantize_dequantize"].as_u64().is_some_and(|n| n > 10), "{seen}");
    assert_eq!(seen["metadata"]["quantization"], "int8, 32 training images, percentile 99.99");
    assert_eq!(seen["metadata"]["top1"].as_str(), Some(told["top1"].to_string().as_str()));
    assert_eq!(seen["metadata"]["float_top1"].as_str(), Some(told["float_top1"].to_string().as_str()));
}

#[test]
fn what_quantisation_lacks_is_named() {
    let folder = Folder::new();
    let check = |more: &[&str], message: &str| {
        let run = folder.run(&[&SMALL[..], more].concat());
        assert!(run.code == 2 && run.stderr.contains(message), "{run:?}");
    };
    check(&["--int8"], "--int8: --data DIR is missing");
    check(&["--int8", "--fp16"], "cannot be used with");
    check(&["--calibration", "8"], "--int8");
    check(&["--percentile", "99"], "--int8");
    check(&["--int8", "--percentile", "40"], "above 50");
    check(&["--int8", "--calibration-method", "min-max", "--percentile", "99"], "give one of the two");
    check(&["--preset", "quick", "--int8", "--calibration", "1000000"], "--calibration");
}

#[test]
fn a_file_for_candle_has_its_operators_and_is_refused_where_there_are_none() {
    let folder = Folder::new();
    let build = |more: &[&str]| folder.run(&[&SMALL[..], &["--out", "c.onnx", "--target", "candle"], more].concat());
    let run = build(&[]);
    assert_eq!(run.code, 0, "{run:?}");
    let ops = folder.run(&["inspect", "c.onnx", "--json"]).json()["ops"].clone();
    assert!(ops["max_pool"].as_u64().is_some_and(|n| n > 0) && ops["global_avg_pool"] == 1, "{ops}");
    let seen = folder.run(&["validate", "c.onnx", "--reference", "f64"]);
    assert!(seen.code == 0 || seen.stderr.contains("adapter"), "{seen:?}");
    assert_eq!(build(&["--keep-bn", "--keep-reduce", "--static-batch", "2", "--opset", "13"]).code, 0);
    let check = |more: &[&str], message: &str| {
        let run = build(more);
        assert!(run.code == 2 && run.stderr.contains(message), "{run:?}");
    };
    check(&["--fp16"], "--fp16 with --target candle");
    check(&["--int8", "--preset", "quick"], "--int8 with --target candle");
    check(&["--opset", "18"], "--opset 18: --target candle");
    let run =
        folder.run(&["build", "AmoebaNet", "--cells", "3", "--channels", "4", "--epochs", "0", "--target", "candle"]);
    assert!(run.code == 2 && run.stderr.contains("build a genotype without conv_7x1_1x7"), "{run:?}");
}
