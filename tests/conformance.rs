//! The official ONNX node cases of our operators, on the CPU reference and on every adapter.
//!
//! Takes the folder `onnx/backend/test/data` of the wheel onnx 1.22.0, unpacked, from the variable IDARTS_ONNX_CASES; without it
//! the test is skipped and says so, or fails if IDARTS_REQUIRE_ALL is set. `conformance/cases.txt` lists the cases. The
//! tolerance is the official one. Nothing is refused. The wheel's models of known networks, whose weights are constants, are
//! read too; most of them are run.

use std::path::{Path, PathBuf};

use idarts_compile::ir::{Model, Tensor, Verified, verify};
use idarts_compile::onnx;
use idarts_compile::onnx::proto::{ModelProto, TensorProto};
use idarts_compile::passes::{RUNTIME, apply};
use idarts_compile::runtime::{
    AdapterChoice, AdapterFacts, Gpu, Reference, RuntimeError, Session, Tolerance, adapters, compare,
};
use prost::Message;

const OFFICIAL: Tolerance = Tolerance { atol: 1e-7, rtol: 1e-3 };

/// Models of the wheel whose shape is checked everywhere and which are too large to be run in a test of unoptimised code.
const ONLY_READ: [&str; 4] = ["light_vgg19", "light_bvlc_alexnet", "light_zfnet512", "light_inception_v2"];

type Run<'a> = dyn Fn(&Case, &Verified<Model>) -> Result<Vec<Tensor>, RuntimeError> + 'a;

struct Case {
    name: String,
    model: Verified<Model>,
    inputs: Vec<Tensor>,
    expected: Vec<Tensor>,
}

/// The folder of the cases; without it the test is skipped, unless nothing may be.
fn folder(test: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("IDARTS_ONNX_CASES").map(PathBuf::from);
    if folder.is_none() {
        let why = format!("{test}: IDARTS_ONNX_CASES names no folder with the data of the wheel onnx 1.22.0");
        assert!(std::env::var_os("IDARTS_REQUIRE_ALL").is_none(), "{why}");
        eprintln!("SKIPPED: {why}");
    }
    folder
}

#[test]
fn the_official_cases_pass_on_the_reference_and_on_every_adapter() {
    let Some(folder) = folder("conformance") else { return };
    let cases: Vec<Case> = include_str!("conformance/cases.txt").lines().map(|name| read(&folder, name)).collect();
    let mut wrong = Vec::new();
    let mut run = |place: &str, run: &Run| {
        let results = cases.iter().map(|case| {
            let result = run(case, &case.model).map_err(|e| e.to_string()).and_then(|got| check(case, &got));
            result.map_err(|why| format!("{place}: {}: {why}", case.name))
        });
        let (passed, failed): (Vec<_>, Vec<_>) = results.partition(Result::is_ok);
        eprintln!("{place}: {} of {} cases passed", passed.len(), cases.len());
        wrong.extend(failed.into_iter().filter_map(Result::err));
    };
    run("CPU reference", &|case, model| Reference::new(model).run(&case.inputs));
    for facts in adapters() {
        let gpu = open(&facts);
        run(&facts.to_string(), &|case, model| {
            let (model, _) = apply(RUNTIME, model.clone()).unwrap();
            Session::on(&gpu, &model, 1)?.run(&case.inputs)
        });
    }
    assert!(wrong.is_empty(), "{} findings:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn known_networks_load_with_the_right_shapes_and_run() {
    let Some(folder) = folder("known networks") else { return };
    let mut names: Vec<String> = std::fs::read_dir(folder.join("light"))
        .unwrap()
        .filter_map(|entry| Some(entry.unwrap().file_name().to_str()?.strip_suffix(".onnx")?.to_owned()))
        .collect();
    names.sort();
    assert_eq!(names.len(), 9, "{names:?}");
    let adapters = adapters();
    for name in &names {
        let path = folder.join("light").join(name);
        let bytes = std::fs::read(path.with_extension("onnx")).unwrap();
        let model = verify(onnx::read(&bytes, name).unwrap_or_else(|e| panic!("{e}"))).unwrap();
        let output = std::fs::read(path.with_file_name(format!("{name}_output_0.pb"))).unwrap();
        let expected = floats(&TensorProto::decode(output.as_slice()).unwrap());
        let graph = &model.graph;
        assert_eq!(graph.shape(graph.outputs[0].value).with_batch(1), expected.shape, "{name}");
        eprintln!("{name}: {} nodes, output {:?}", graph.nodes.len(), expected.shape);
        let Some(facts) = adapters.first().filter(|_| !ONLY_READ.contains(&name.as_str())) else { continue };
        // The official input of these models: 0 to 1 in equal steps.
        let shape = graph.shape(graph.inputs[0]).with_batch(1);
        let count: usize = shape.iter().product();
        let input = Tensor::new(shape, (0..count).map(|i| (i as f64 / count as f64) as f32).collect());
        let (model, _) = apply(RUNTIME, model).unwrap();
        let got = Session::on(&open(facts), &model, 1).unwrap().run(&[input]).unwrap();
        let case = Case { name: name.clone(), model, inputs: Vec::new(), expected: vec![expected] };
        check(&case, &got).unwrap_or_else(|why| panic!("{name} on {facts}: {why}"));
        eprintln!("{name}: passed on {facts}");
    }
}

fn open(facts: &AdapterFacts) -> Gpu {
    Gpu::open(&AdapterChoice { index: Some(facts.index), ..AdapterChoice::default() }).unwrap()
}

fn check(case: &Case, got: &[Tensor]) -> Result<(), String> {
    if got.len() != case.expected.len() {
        return Err(format!("{} outputs, expected are {}", got.len(), case.expected.len()));
    }
    for (got, expected) in got.iter().zip(&case.expected) {
        // Planes of one row are those that the file has as three dimensions.
        let got = Tensor::new(squeezed(&got.shape, expected.shape.len()), got.data.clone());
        let comparison = compare(&case.name, &got, expected, OFFICIAL).map_err(|e| e.to_string())?;
        if !comparison.ok {
            return Err(format!("{comparison:?}"));
        }
    }
    Ok(())
}

fn squeezed(shape: &[usize], rank: usize) -> Vec<usize> {
    match shape {
        [n, c, 1, w] if rank == 3 => vec![*n, *c, *w],
        other => other.to_vec(),
    }
}

fn read(folder: &Path, name: &str) -> Case {
    let path = folder.join(name);
    let bytes = std::fs::read(path.join("model.onnx")).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut file = ModelProto::decode(bytes.as_slice()).unwrap();
    let graph = file.graph.as_mut().unwrap();
    let tensor = |kind: &str, i: usize| {
        let file = path.join(format!("test_data_set_0/{kind}_{i}.pb"));
        file.is_file().then(|| TensorProto::decode(std::fs::read(file).unwrap().as_slice()).unwrap())
    };
    // Parameters arrive as inputs: the known ones are constants.
    let mut inputs = Vec::new();
    let takes_parameters = ["Conv", "BatchNormalization", "Gemm", "Slice", "Pad", "Reshape"];
    let free: Vec<String> =
        graph.input.iter().map(|i| i.name.clone()).filter(|n| graph.initializer.iter().all(|t| t.name != *n)).collect();
    for (i, input) in free.iter().enumerate() {
        let given = tensor("input", i).unwrap_or_else(|| panic!("{name} has no input {i}"));
        let reader = graph.node.iter().find(|node| node.input.contains(input));
        let parameter = reader
            .is_some_and(|node| takes_parameters.contains(&node.op_type.as_str()) && node.input.first() != Some(input));
        match parameter {
            true => graph.initializer.push(TensorProto { name: input.clone(), ..given }),
            false => inputs.push(floats(&given)),
        }
    }
    let expected = (0..graph.output.len()).map(|i| floats(&tensor("output", i).unwrap())).collect();
    let model = onnx::read(&file.encode_to_vec(), name).unwrap_or_else(|e| panic!("{name}: {e}"));
    let model = verify(model).unwrap_or_else(|e| panic!("{name}: {e}"));
    for (input, value) in inputs.iter_mut().zip(&model.graph.inputs) {
        if let (&[n, c, w], 4) = (input.shape.as_slice(), model.graph.shape(*value).rank()) {
            input.shape = vec![n, c, 1, w];
        }
    }
    Case { name: name.into(), model, inputs, expected }
}

fn floats(tensor: &TensorProto) -> Tensor {
    let shape: Vec<usize> = tensor.dims.iter().map(|n| *n as usize).collect();
    let data = match &tensor.raw_data {
        Some(bytes) => bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
        None => tensor.float_data.clone(),
    };
    Tensor::new(shape, data)
}
