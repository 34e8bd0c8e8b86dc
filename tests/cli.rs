//! The program as a user meets it: exit status, messages, JSON, files.
//!
//! Runs the built binary in folders of its own. `program` starts it, `models` holds what needs an ONNX model; here is what
//! needs none: usage, genotypes, `inspect`, `convert`, `devices`.

mod common;
#[cfg(feature = "train")]
#[path = "cli/export.rs"]
mod export;
#[path = "cli/models.rs"]
mod models;
#[path = "cli/program.rs"]
mod program;

use std::fs;
use std::process::Stdio;

use idarts_compile::genotype::Genotype;
use program::Folder;

/// A genotype whose cells have one node; `%` is put in for a primitive, an input and the key of the second cell.
const TINY: &str = "version: 1
name: tiny
normal:
  nodes:
    - [{op: %OP, input: 1}, {op: skip_connect, input: %INPUT}]
  concat: [2]
%REDUCE:
  nodes:
    - [{op: max_pool_3x3, input: 0}, {op: max_pool_3x3, input: 1}]
  concat: [2]
";

#[test]
fn bad_usage_and_bad_input_end_with_status_2_and_say_what_to_do() {
    let folder = Folder::new();
    let tiny = |file: &str, op: &str, input: &str, reduce: &str| {
        folder.write(file, TINY.replace("%OP", op).replace("%INPUT", input).replace("%REDUCE", reduce));
    };
    tiny("good.yaml", "sep_conv_3x3", "0", "reduce");
    tiny("primitive.yaml", "sep_conv_3", "0", "reduce");
    tiny("edge.yaml", "sep_conv_3x3", "2", "reduce");
    tiny("key.yaml", "sep_conv_3x3", "0", "reduces");
    folder.write("half.yaml", "version: 1\nname: half\nnormal:\n  nodes: []\n  concat: []\n");
    folder.write(
        "two.py",
        "A = Genotype(normal=[], normal_concat=[], reduce=[], reduce_concat=[])\nB = A\nC = Genotype()\n",
    );
    folder.write("text.onnx", "this is no model");
    assert_eq!(folder.run(&["inspect", "good.yaml", "--cells", "3"]).code, 0);

    let cases: &[(&[&str], &[&str])] = &[
        (&[], &["Usage"]),
        (&["frobnicate"], &["unrecognized subcommand 'frobnicate'", "Usage"]),
        (&["inspct", "x"], &["a similar subcommand exists: 'inspect'"]),
        (&["devices", "--threads", "0"], &["--threads", "at least 1"]),
        (&["devices", "-q", "-v"], &["cannot be used with"]),
        (&["inspect"], &["GENOTYPE|MODEL.onnx"]),
        (
            &["inspect", "primitive.yaml"],
            &["primitive.yaml:5:", "unknown primitive `sep_conv_3`", "did you mean `sep_conv_3x3`"],
        ),
        (&["inspect", "edge.yaml"], &["edge.yaml:5:", "normal.nodes[0][1].input", "state 2 is out of range", "0..=1"]),
        (&["inspect", "key.yaml"], &["key.yaml:", "unknown key `reduces`", "did you mean `reduce`"]),
        (&["inspect", "half.yaml"], &["half.yaml:1:1", "the key `reduce` is missing"]),
        (&["inspect", "nowhere.yaml"], &["cannot read genotype nowhere.yaml", "PC_DARTS_cifar"]),
        (&["inspect", "two.py"], &["several genotypes", "A, C"]),
        (&["inspect", "two.py:D"], &["two.py", "no genotype named `D`"]),
        (&["inspect", "nowhere.py:D"], &["cannot read the genotypes in nowhere.py"]),
        (&["inspect", "nowhere.onnx"], &["cannot read the model nowhere.onnx", "because: "]),
        (&["inspect", "text.onnx"], &["cannot use the model text.onnx"]),
        (&["inspect", "DARTS_V1", "--channels", "3"], &["channels: 3 channels; an even number"]),
        (&["inspect", "DARTS_V1", "--classes", "1"], &["classes: 1 classes; at least 2"]),
        (&["inspect", "DARTS_V1", "--cells", "many"], &["--cells", "whole number above 0"]),
        (&["inspect", "DARTS_V1", "--network", "mnist"], &["--network", "cifar, imagenet"]),
        (&["inspect", "DARTS_V1", "--passes", "export"], &["--ir"]),
        (&["convert", "good.yaml"], &["<OUT>"]),
        (&["convert", "good.yaml", "out.txt"], &["OUT out.txt", "name it .yaml or .py"]),
        (&["convert", "good.yaml", "no/such/folder/out.py"], &["cannot write genotype", "the folder exists"]),
        (&["bench"], &["infer"]),
        (&["validate", "m.onnx", "--expect", "f"], &["--inputs"]),
        (&["validate", "m.onnx", "--inputs", "f", "--data", "d"], &["cannot be used with"]),
        (&["validate", "m.onnx", "--rtol=-1"], &["--rtol", "0 or more"]),
        (&["validate", "m.onnx", "--adapter", "vulkan:"], &["--adapter", "the name is empty"]),
        (&["run", "m.onnx"], &["<IMAGE>"]),
        (&["run", "m.onnx", "i.png", "--device", "cpu", "--adapter", "x"], &["cannot be used with"]),
    ];
    for (arguments, messages) in cases {
        let run = folder.run(arguments);
        assert_eq!(run.code, 2, "{arguments:?}: {run:?}");
        for message in *messages {
            assert!(run.stderr.contains(message), "{arguments:?} does not say `{message}`: {}", run.stderr);
        }
        assert_eq!(run.stdout, "", "{arguments:?}");
    }
    assert!(!folder.path("out.txt").exists());
}

#[test]
fn an_error_is_json_too_where_json_was_asked_for() {
    let run = Folder::new().run(&["inspect", "nowhere.onnx", "--json"]);
    assert_eq!(run.code, 2);
    assert_eq!(run.json()["ok"], false);
    assert!(run.json()["error"].as_str().is_some_and(|text| text.starts_with("cannot read the model nowhere.onnx: ")));
    assert!(run.stderr.starts_with("error: cannot read the model nowhere.onnx\n  because: "), "{}", run.stderr);
}

#[test]
fn help_and_version_are_no_errors() {
    let folder = Folder::new();
    let help = folder.run(&["--help"]);
    assert_eq!(help.code, 0);
    for command in ["validate", "run", "inspect", "bench", "convert", "devices"] {
        assert!(help.stdout.contains(&format!("\n  {command} ")), "{command} is not in {}", help.stdout);
        let run = folder.run(&[command, "--help"]);
        assert!(run.code == 0 && run.stdout.contains("--json"), "{command}: {run:?}");
    }
    let version = folder.run(&["--version"]);
    assert_eq!((version.code, version.stdout.trim()), (0, concat!("idarts-compile ", env!("CARGO_PKG_VERSION"))));
}

#[test]
fn inspect_shows_every_genotype_that_comes_with_the_program() {
    let folder = Folder::new();
    for name in Genotype::shipped_names() {
        for network in ["cifar", "imagenet"] {
            let arguments =
                ["inspect", name, "--network", network, "--channels", "4", "--cells", "3", "--classes", "7"];
            let text = folder.run(&arguments);
            assert_eq!((text.code, text.stderr.as_str()), (0, ""), "{name} {network}");
            assert!(text.stdout.starts_with(name) && text.stdout.contains("parameters"), "{}", text.stdout);

            let json = folder.run(&[&arguments[..], &["--json"]].concat()).json();
            assert_eq!([&json["channels"], &json["cells"], &json["classes"]], [4, 3, 7]);
            for key in ["params", "aux_params", "macs", "mult_adds", "value_bytes", "planned_bytes"] {
                assert!(json[key].as_u64().is_some_and(|n| n > 0), "{key} of {json}");
            }
            assert!(json["planned_bytes"].as_u64() < json["value_bytes"].as_u64());
            let ops = json["ops"].as_object().expect("a histogram");
            assert_eq!(ops.values().filter_map(|n| n.as_u64()).sum::<u64>(), json["nodes"].as_u64().expect("a number"));
        }
    }
}

#[test]
fn inspect_prints_the_ir_after_the_passes_asked_for() {
    let folder = Folder::new();
    let arguments = ["inspect", "DARTS_V2", "--channels", "4", "--cells", "3", "--ir", "--passes"];
    for (passes, batch_norms, aux, fused) in
        [("none", true, true, false), ("export", false, false, false), ("runtime", false, false, true)]
    {
        let run = folder.run(&[&arguments[..], &[passes]].concat());
        assert!(
            run.code == 0 && run.stdout.starts_with("graph DARTS_V2 {\n") && run.stdout.ends_with("}\n"),
            "{run:?}"
        );
        let has = |part: &str| run.stdout.contains(part);
        assert_eq!((has("batch_norm("), has("aux_logits"), has("relu_in")), (batch_norms, aux, fused), "{passes}");
        let json = folder.run(&[&arguments[..], &[passes, "--json"]].concat()).json();
        assert_eq!(json["ir"].as_str(), Some(run.stdout.trim_end()));
    }
}

#[test]
fn quiet_says_nothing_and_verbose_names_the_passes() {
    let folder = Folder::new();
    // One cell leaves feature maps that the auxiliary head does not fit.
    let arguments = ["inspect", "DARTS_V1", "--channels", "4", "--cells", "1"];
    let say = |option: &[&str]| folder.run(&[&arguments[..], option].concat());
    assert!(say(&[]).stderr.starts_with("warning: counted without auxiliary head"));
    assert_eq!(say(&["-q"]).stderr, "");
    assert_eq!(say(&["-q"]).stdout, say(&[]).stdout);
    assert!(say(&["-v"]).stderr.contains("\npass fold-batch-norm: "));
}

#[test]
fn convert_keeps_the_genotype_both_ways() {
    let folder = Folder::new();
    for name in Genotype::shipped_names() {
        let there = folder.run(&["convert", name, "a.py", "--json"]);
        assert_eq!((there.code, there.json()["genotype"].as_str()), (0, Some("a.py")));
        assert_eq!(folder.run(&["convert", "a.py", "b.yaml"]).code, 0);
        assert_eq!(folder.run(&["convert", "b.yaml", "c.py"]).code, 0);
        let shipped = Genotype::shipped(name).expect("a shipped name");
        let back = Genotype::read(folder.path("b.yaml")).expect("what was written can be read");
        assert_eq!((&back.name, &back.normal, &back.reduce), (&shipped.name, &shipped.normal, &shipped.reduce));
        assert_eq!(Genotype::read(folder.path("c.py")).expect("can be read").normal, shipped.normal);
    }
}

#[test]
fn one_of_several_genotypes_in_a_python_file_is_named_behind_a_colon() {
    let folder = Folder::new();
    let both = ["DARTS_V1", "DARTS_V2"].map(|name| Genotype::shipped(name).expect("a shipped name").to_python());
    folder.write("genotypes.py", both.join("\nother = 1\n") + "\nDARTS = DARTS_V2\n");
    for (name, shipped) in [("DARTS_V1", "DARTS_V1"), ("DARTS", "DARTS_V2")] {
        let run = folder.run(&["convert", &format!("genotypes.py:{name}"), "one.yaml"]);
        assert_eq!(run.code, 0, "{run:?}");
        let read = Genotype::read(folder.path("one.yaml")).expect("what was written can be read");
        assert_eq!(Some(read.normal), Genotype::shipped(shipped).map(|g| g.normal));
    }
}

#[test]
fn devices_lists_what_there_is() {
    let folder = Folder::new();
    let text = folder.run(&["devices", "--threads", "3"]);
    assert!(text.code == 0 && text.stdout.contains("wgpu adapters"), "{text:?}");
    let json = folder.run(&["devices", "--threads", "3", "--json"]).json();
    assert_eq!(json["training"][0]["device"].as_str(), cfg!(feature = "train").then_some("cpu"));
    let adapters = idarts_compile::runtime::adapters();
    let names: Vec<_> = adapters.iter().map(|a| a.name.as_str()).collect();
    let listed = json["adapters"].as_array().expect("a list");
    assert_eq!(listed.iter().filter_map(|a| a["name"].as_str()).collect::<Vec<_>>(), names);
    assert!(listed.iter().all(|a| a["limits"]["max_buffer_bytes"].as_u64().is_some_and(|n| n > 0)));
}

#[test]
fn a_reader_that_closes_the_pipe_early_is_no_error() {
    let folder = Folder::new();
    let mut child = folder
        .command(&["inspect", "DARTS_V1", "--ir"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("the program ends");
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(0), ""));
}

#[test]
fn a_file_that_exists_comes_before_a_genotype_of_that_name() {
    let folder = Folder::new();
    fs::write(folder.path("DARTS_V1"), "version: 2\n").expect("the folder is writable");
    let run = folder.run(&["inspect", "DARTS_V1"]);
    assert!(run.code == 2 && run.stderr.contains("version"), "{run:?}");
}
