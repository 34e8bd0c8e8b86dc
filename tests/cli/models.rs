//! The commands that take an ONNX model: `validate`, `run`, `bench infer`, and `inspect` of one.
//!
//! The model is a small untrained network, made through the library. What runs on an adapter is skipped where there is none.

use std::collections::HashMap;
use std::fs;

use idarts_compile::data::{Dataset, ImageSet};
use idarts_compile::genotype::Genotype;
use idarts_compile::ir::{Model, Tensor, Verified, cost, verify};
use idarts_compile::lower::{Cells, Network, Stem, lower};
use idarts_compile::onnx::{self, ModelInfo, WriteOptions};
use idarts_compile::passes::{EXPORT, apply};
use idarts_compile::runtime::{Reference, adapters};
use safetensors::tensor::{Dtype, TensorView};

use crate::common;
use crate::program::Folder;

/// A network of three cells with the metadata of the synthetic data set.
fn model(data: &Dataset) -> Verified<Model> {
    let genotype = Genotype::shipped("PC_DARTS_cifar").expect("a shipped name");
    let network = Network { stem: Stem::Cifar, channels: 4, cells: 3, classes: 10, image: [32, 32], auxiliary: false };
    let mut model = Model::initial(lower(&network, Cells::Fixed(&genotype)).expect("it can be lowered"), 1);
    // The images of an untrained network hardly move its logits; those of this one shall.
    let classifier = model.graph.params.iter().position(|p| p.name == "classifier.weight").expect("it has one");
    model.weights.0[classifier].data.iter_mut().for_each(|w| *w *= 300.0);
    let info = ModelInfo {
        classes: data.classes.clone(),
        mean: data.mean,
        std: data.std,
        input_size: [32, 32],
        genotype: Some(genotype.to_yaml()),
        dataset: Some(data.name.clone()),
        ..ModelInfo::default()
    };
    model.metadata = info.to_metadata();
    apply(EXPORT, verify(model).expect("lowered")).expect("the passes keep it right").0
}

fn data() -> Dataset {
    Dataset::synthetic(3, 20, 20).expect("images were asked for")
}

/// A folder with `m.onnx`, and the model in it.
fn folder() -> (Folder, Verified<Model>) {
    let folder = Folder::new();
    let model = model(&data());
    folder.write("m.onnx", onnx::write(&model, &WriteOptions::default()).expect("it can be exported"));
    (folder, model)
}

fn write_images(folder: &Folder, set: &ImageSet, split: &str) {
    for i in 0..set.len() {
        let class = folder.path(split).join(&set.classes()[set.label(i) as usize]);
        fs::create_dir_all(&class).expect("the folder is writable");
        let picture = set.picture(i).expect("in memory");
        let image = image::RgbImage::from_raw(picture.width as u32, picture.height as u32, picture.rgb.into_owned());
        image.expect("the size fits").save(class.join(format!("{i}.png"))).expect("the folder is writable");
    }
}

fn write_tensors(folder: &Folder, name: &str, tensors: &[(&str, &Tensor)]) {
    let bytes: Vec<Vec<u8>> =
        tensors.iter().map(|(_, t)| t.data.iter().flat_map(|x| x.to_le_bytes()).collect()).collect();
    let views = tensors.iter().zip(&bytes).map(|((name, tensor), bytes)| {
        (*name, TensorView::new(Dtype::F32, tensor.shape.clone(), bytes).expect("the bytes fill the shape"))
    });
    let none: Option<HashMap<String, String>> = None;
    folder.write(name, safetensors::serialize(views, none).expect("tensors of one type"));
}

fn no_adapter() -> bool {
    let none = adapters().is_empty();
    if none {
        common::skip("this machine has no wgpu adapter");
    }
    none
}

#[test]
fn inspect_reads_the_graph_and_the_metadata_of_a_model() {
    let (folder, model) = folder();
    let json = folder.run(&["inspect", "m.onnx", "--json"]).json();
    let price = cost(&model.graph, &[model.graph.outputs[0].value]);
    assert_eq!([&json["params"], &json["macs"]], [price.params, price.macs]);
    assert_eq!([&json["cells"], &json["channels"], &json["classes"]], [3, 4, 10]);
    assert_eq!((&json["aux_params"], &json["metadata"]["dataset"]), (&0.into(), &"synthetic".into()));
    let ir = folder.run(&["inspect", "m.onnx", "--ir"]);
    assert!(ir.code == 0 && ir.stdout.contains("cells.2/"), "{ir:?}");
}

#[test]
fn a_damaged_model_is_refused_at_any_length() {
    let (folder, _) = folder();
    let whole = fs::read(folder.path("m.onnx")).expect("it was written");
    for length in [0, 1, 100, whole.len() / 2, whole.len() - 1] {
        folder.write("cut.onnx", &whole[..length]);
        for command in [&["inspect", "cut.onnx"][..], &["validate", "cut.onnx"], &["run", "cut.onnx", "x.png"]] {
            let run = folder.run(command);
            assert!(run.code == 2 && run.stderr.contains("cannot use the model cut.onnx"), "{length}: {run:?}");
        }
    }
}

#[test]
fn bad_input_beside_a_good_model_is_named() {
    let (folder, model) = folder();
    let mut bare = model.clone().into_inner();
    bare.metadata.clear();
    let bare = onnx::write(&verify(bare).expect("only metadata were dropped"), &WriteOptions::default());
    folder.write("bare.onnx", bare.expect("it can be exported"));
    let fixed = WriteOptions { static_batch: Some(2), ..WriteOptions::default() };
    folder.write("fixed.onnx", onnx::write(&model, &fixed).expect("it can be exported"));
    folder.write("half.png", b"\x89PNG\r\n\x1a\n");
    let images = Tensor::new([2, 3, 32, 32], vec![0.5; 2 * 3 * 32 * 32]);
    write_tensors(&folder, "two.safetensors", &[("a", &images), ("b", &images)]);
    write_tensors(&folder, "images.safetensors", &[("images", &images)]);
    write_tensors(&folder, "one.safetensors", &[("logits", &Tensor::new([1, 10], vec![0.0; 10]))]);
    for split in ["train", "test"] {
        let data = Dataset::synthetic(3, 10, 10).expect("images were asked for");
        write_images(&folder, &data.test, &format!("data/{split}"));
        fs::rename(folder.path(&format!("data/{split}/stripes_disc")), folder.path(&format!("data/{split}/dog")))
            .expect("a class of the synthetic set");
    }
    let cases: &[(&[&str], &[&str])] = &[
        (&["run", "bare.onnx", "half.png"], &["bare.onnx: the metadata do not say", "`input_size`"]),
        (&["run", "m.onnx", "half.png", "--device", "cpu"], &["half.png", "cannot be decoded"]),
        (&["run", "m.onnx", "none.png", "--device", "cpu"], &["none.png: no such file"]),
        (&["run", "m.onnx", "none.png", "--device", "cuda"], &["--device", "auto, cpu"]),
        (&["validate", "bare.onnx", "--data", "data"], &["bare.onnx: the metadata do not say"]),
        (&["validate", "m.onnx", "--data", "nowhere"], &["--data", "nowhere: no such file or folder"]),
        (&["validate", "m.onnx", "--data", "data"], &["--data", "no class \"dog\"", "stripes_disc"]),
        (&["validate", "fixed.onnx", "--batch", "3"], &["--batch 3", "static batch of 2"]),
        (&["validate", "m.onnx", "--inputs", "m.onnx"], &["--inputs", "no readable safetensors file"]),
        (&["validate", "m.onnx", "--inputs", "two.safetensors"], &["--inputs", "`input` or `images`", "a, b"]),
        (
            &["validate", "m.onnx", "--inputs", "images.safetensors", "--expect", "one.safetensors"],
            &["--expect", "1 samples", "2"],
        ),
        (&["validate", "m.onnx", "--samples", "0"], &["--samples", "at least 1"]),
    ];
    for (arguments, messages) in cases {
        let run = folder.run(arguments);
        assert_eq!(run.code, 2, "{arguments:?}: {run:?}");
        for message in *messages {
            assert!(run.stderr.contains(message), "{arguments:?} does not say `{message}`: {}", run.stderr);
        }
    }
    if !no_adapter() {
        let run = folder.run(&["validate", "m.onnx", "--adapter", "nonesuch"]);
        assert!(run.code == 2 && run.stderr.contains("no adapter fits `nonesuch`; found: "), "{run:?}");
        let run = folder.run(&["validate", "m.onnx", "--inputs", "one.safetensors"]);
        assert!(run.code == 2 && run.stderr.contains("input `input` must be [N, 3, 32, 32]"), "{run:?}");
    }
}

#[test]
fn validate_agrees_with_the_reference_and_with_right_outputs() {
    if no_adapter() {
        return;
    }
    let (folder, model) = folder();
    let images =
        Tensor::new([3, 3, 32, 32], (0..3 * 3 * 1024).map(|i| ((i * 37 % 101) as f32 - 50.0) / 30.0).collect());
    let logits = Reference::new(&model).run(std::slice::from_ref(&images)).expect("the shapes fit").remove(0);
    write_tensors(&folder, "both.safetensors", &[("images", &images), ("logits", &logits)]);
    write_tensors(&folder, "images.safetensors", &[("input", &images)]);
    write_tensors(&folder, "logits.safetensors", &[("anything", &logits)]);
    let separate = ["--inputs", "images.safetensors", "--expect", "logits.safetensors"];
    let cases: &[(&[&str], &str, u64)] = &[
        (&[], "reference", 8),
        (&["--samples", "5", "--batch", "2", "--seed", "9"], "reference", 5),
        (&["--inputs", "images.safetensors", "--batch", "2"], "reference", 3),
        (&["--inputs", "both.safetensors"], "expected", 3),
        (&separate, "expected", 3),
    ];
    for (arguments, against, samples) in cases {
        let run = folder.run(&[&["validate", "m.onnx", "--json"], *arguments].concat());
        assert_eq!(run.code, 0, "{arguments:?}: {run:?}");
        let json = run.json();
        assert_eq!((&json["ok"], json["against"].as_str()), (&true.into(), Some(*against)));
        assert_eq!((json["samples"].as_u64(), json["argmax_agreement"].as_f64()), (Some(*samples), Some(1.0)));
        assert!(
            json["max_abs"].as_f64().is_some_and(|x| x < 1e-4) && json["cosine"].as_f64().is_some_and(|x| x > 0.9999)
        );
        assert!(json["adapter"].is_string() && json["backend"].is_string());
        assert!(json["output_spread"].as_f64().is_some_and(|x| x > 0.02) && json.get("layers").is_none(), "{json}");
    }
    // The outputs of one sample do not tell whether they depend on anything.
    let json = folder.run(&["validate", "m.onnx", "--samples", "1", "--json"]).json();
    assert!(json["output_spread"].is_null() && json["layers"].as_array().is_some_and(|l| l.len() > 20), "{json}");
    let run = folder.run(&["validate", "m.onnx", "--layers"]);
    assert!(
        run.code == 0 && run.stdout.contains("layers, the worst first") && run.stdout.contains("\nok: "),
        "{run:?}"
    );
}

#[test]
fn validate_ends_with_status_1_and_the_layers_where_outputs_differ() {
    if no_adapter() {
        return;
    }
    let (folder, model) = folder();
    let images = Tensor::new([2, 3, 32, 32], (0..2 * 3 * 1024).map(|i| (i % 7) as f32 / 7.0).collect());
    let mut wrong = Reference::new(&model).run(std::slice::from_ref(&images)).expect("the shapes fit").remove(0);
    wrong.data[3] += 1.0;
    write_tensors(&folder, "wrong.safetensors", &[("images", &images), ("logits", &wrong)]);
    let run = folder.run(&["validate", "m.onnx", "--inputs", "wrong.safetensors", "--json"]);
    assert_eq!(run.code, 1, "{run:?}");
    let json = run.json();
    assert_eq!(
        (&json["ok"], &json["expected"]["beyond"], &json["reference"]["ok"]),
        (&false.into(), &1.into(), &true.into())
    );
    assert!(json["max_abs"].as_f64().is_some_and(|x| (x - 1.0).abs() < 1e-3));
    let layers = json["layers"].as_array().expect("layers are compared where something is wrong");
    assert!(layers.len() > 20 && layers.iter().all(|l| l["name"].is_string() && l["max_abs"].is_number()));
    let rel: Vec<f64> = layers.iter().filter_map(|l| l["max_rel"].as_f64()).collect();
    assert!(rel.is_sorted_by(|a, b| a >= b), "the worst first: {rel:?}");

    let text = folder.run(&["validate", "m.onnx", "--inputs", "wrong.safetensors"]);
    assert!(text.code == 1 && text.stdout.contains("NOT OK: 1 output elements"), "{text:?}");
    let loose = folder.run(&["validate", "m.onnx", "--inputs", "wrong.safetensors", "--atol", "2"]);
    assert_eq!(loose.code, 0, "{loose:?}");
}

#[test]
fn validate_on_data_gives_one_accuracy_on_both() {
    if no_adapter() {
        return;
    }
    let (folder, model) = folder();
    let data = data();
    write_images(&folder, &data.train, "data/train");
    write_images(&folder, &data.test, "data/test");
    let fixed = WriteOptions { static_batch: Some(3), ..WriteOptions::default() };
    folder.write("fixed.onnx", onnx::write(&model, &fixed).expect("it can be exported"));
    for (file, options, samples) in
        [("m.onnx", &[][..], 20), ("fixed.onnx", &[], 20), ("m.onnx", &["--samples", "10"], 10)]
    {
        let json = folder.run(&[&["validate", file, "--data", "data", "--json"], options].concat()).json();
        assert_eq!((&json["ok"], json["samples"].as_u64()), (&true.into(), Some(samples)));
        assert!(json["top1"].as_f64().is_some_and(|x| (0.0..=1.0).contains(&x)));
        assert_eq!(json["top1"], json["reference_top1"]);
    }
    let short =
        folder.run(&["validate", "m.onnx", "--data", "data", "--reference-samples", "1", "--batch", "4", "--json"]);
    assert_eq!(short.json()["reference_samples"], 4);
    let many = folder.run(&["validate", "m.onnx", "--data", "data", "--samples", "21"]);
    assert!(many.code == 2 && many.stderr.contains("--samples") && many.stderr.contains("has 20"), "{many:?}");
}

#[test]
fn run_classifies_alike_on_the_cpu_and_on_an_adapter() {
    let (folder, _) = folder();
    let data = data();
    write_images(&folder, &data.test, "test");
    let mut images: Vec<String> = Vec::new();
    for (i, class) in data.classes.iter().enumerate() {
        images.push(format!("test/{class}/{i}.png"));
    }
    let paths: Vec<&str> = images.iter().map(String::as_str).collect();
    let classify = |options: &[&str]| folder.run(&[&["run", "m.onnx"], &paths[..], options].concat());
    let cpu = classify(&["--device", "cpu", "--top", "2", "--json"]);
    assert_eq!(cpu.code, 0, "{cpu:?}");
    let cpu = cpu.json();
    assert_eq!((cpu["backend"].as_str(), cpu["images"].as_array().map(Vec::len)), (Some("cpu"), Some(10)));
    for (image, path) in cpu["images"].as_array().expect("a list").iter().zip(&paths) {
        assert_eq!(image["image"].as_str(), Some(*path));
        let top = image["top"].as_array().expect("a list");
        assert!(top.len() == 2 && top[0]["probability"].as_f64() >= top[1]["probability"].as_f64());
        let index = top[0]["index"].as_u64().expect("a number") as usize;
        assert_eq!(top[0]["class"].as_str(), Some(data.classes[index].as_str()));
    }
    let text = classify(&["--device", "cpu"]);
    assert!(text.stdout.starts_with(paths[0]) && text.stdout.lines().count() == 10 * 6, "{text:?}");
    if no_adapter() {
        return;
    }
    let gpu = classify(&["--top", "2", "--json"]).json();
    for (a, b) in cpu["images"].as_array().into_iter().flatten().zip(gpu["images"].as_array().into_iter().flatten()) {
        assert_eq!(a["top"][0]["index"], b["top"][0]["index"]);
        let probability = |x: &serde_json::Value| x["top"][0]["probability"].as_f64().expect("a number");
        assert!((probability(a) - probability(b)).abs() < 1e-4);
    }
}

#[test]
fn bench_infer_gives_all_its_figures() {
    if no_adapter() {
        return;
    }
    let (folder, _) = folder();
    let run = folder.run(&["bench", "infer", "m.onnx", "--batch", "2", "--steps", "5", "--json"]);
    assert_eq!(run.code, 0, "{run:?}");
    let json = run.json();
    for key in ["load_ms", "compile_ms", "first_ms", "median_ms", "p95_ms", "buffer_mib", "unshared_mib", "dispatches"]
    {
        assert!(json[key].as_f64().is_some_and(|x| x > 0.0), "{key} of {json}");
    }
    assert_eq!((&json["batch"], &json["steps"]), (&2.into(), &5.into()));
    assert!(json["median_ms"].as_f64() <= json["p95_ms"].as_f64());
    assert!(json["adapter"].is_string() && json["backend"].is_string());
    let layers = json["layers"].as_array().unwrap();
    assert_eq!(Some(layers.len() as u64), json["dispatches"].as_u64());
    for layer in layers {
        assert!(layer["name"].is_string() && layer["kernel"].is_string(), "{layer}");
        assert!(layer["gpu_us"].as_f64().is_some_and(|us| us >= 0.0), "{layer}");
    }
    assert!(layers.iter().any(|layer| layer["gpu_us"].as_f64() > Some(0.0)), "{json}");
}

#[test]
fn plan_writes_what_another_host_needs_without_an_adapter() {
    let (folder, _) = folder();
    let run = folder.run(&["plan", "m.onnx", "--batch", "3", "--out", "plan", "--json"]);
    assert_eq!(run.code, 0, "{run:?}");
    let json = run.json();
    let plan: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.path("plan/plan.json")).unwrap()).unwrap();
    assert_eq!((&json["batch"], &plan["program"]["batch"]), (&3.into(), &3.into()));
    let dispatches: Vec<_> =
        plan["program"]["steps"].as_array().unwrap().iter().flat_map(|s| s["dispatches"].as_array().unwrap()).collect();
    assert_eq!(json["dispatches"].as_u64(), Some(dispatches.len() as u64));
    for dispatch in dispatches {
        let kernel = &plan["kernels"][dispatch["kernel"].as_str().unwrap()];
        assert!(kernel["wgsl"].as_str().is_some_and(|text| text.contains("@compute")), "{dispatch}");
    }
    let weights = std::fs::metadata(folder.path("plan/weights.bin")).unwrap().len() as f64;
    assert_eq!(json["weight_mib"].as_f64(), Some(weights / 1048576.0));
    std::fs::write(folder.path("taken"), "").unwrap();
    let run = folder.run(&["plan", "m.onnx", "--out", "taken"]);
    assert!(run.code == 2 && run.stderr.contains("taken"), "{run:?}");
}

#[test]
fn values_in_float16_are_told_and_refused_where_the_adapter_has_none() {
    let (folder, _) = folder();
    let plan = |more: &[&str]| folder.run(&[&["plan", "m.onnx", "--out", "plan", "--json"], more].concat()).json();
    let (whole, half) = (plan(&[]), plan(&["--fp16"]));
    assert_eq!((&whole["storage"], &half["storage"]), (&"float32".into(), &"float16".into()));
    for key in ["buffer_mib", "weight_mib"] {
        let share = half[key].as_f64().unwrap() / whole[key].as_f64().unwrap();
        assert!((0.5..0.7).contains(&share), "{key}: {share}");
    }
    for facts in adapters() {
        let on = facts.index.to_string();
        let validate = folder.run(&["validate", "m.onnx", "--fp16", "--samples", "4", "--adapter", &on, "--json"]);
        let bench = folder.run(&["bench", "infer", "m.onnx", "--fp16", "--steps", "1", "--adapter", &on, "--json"]);
        for run in [validate, bench] {
            if facts.f16 {
                assert_eq!((run.code, &run.json()["storage"]), (0, &"float16".into()), "{run:?}");
            } else {
                assert!(run.code == 2 && run.stderr.contains("has no 16-bit floats in shaders"), "{run:?}");
            }
        }
    }
}

#[cfg(target_os = "linux")]
#[test]
fn without_any_adapter_nothing_is_validated_and_the_way_out_is_told() {
    let (folder, _) = folder();
    write_images(&folder, &data().test, "test");
    let devices = folder.run_without_drivers(&["devices", "--json"]);
    if devices.json()["adapters"].as_array().is_none_or(|a| !a.is_empty()) {
        return common::skip("the drivers of this machine cannot be hidden by the variables of their loaders");
    }
    assert_eq!(devices.code, 0);
    for arguments in [&["validate", "m.onnx", "--json"][..], &["bench", "infer", "m.onnx", "--json"]] {
        let run = folder.run_without_drivers(arguments);
        assert_eq!((run.code, &run.json()["ok"]), (2, &false.into()), "{run:?}");
        assert!(
            run.stderr.contains("no GPU adapter was found") && run.stderr.contains("mesa-vulkan-drivers"),
            "{run:?}"
        );
    }
    let image = "test/stripes_disc/0.png";
    let run = folder.run_without_drivers(&["run", "m.onnx", image]);
    assert!(run.code == 2 && run.stderr.contains("give --device cpu"), "{run:?}");
    assert_eq!(folder.run_without_drivers(&["run", "m.onnx", image, "--device", "cpu"]).code, 0);
}
