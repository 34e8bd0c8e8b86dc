//! The official ONNX node cases of our operators, on the CPU reference and on every adapter.
//!
//! Takes the folder `onnx/backend/test/data` of the wheel onnx 1.22.0, unpacked, from the variable IDARTS_ONNX_CASES; without it
//! the test is skipped and says so, or fails if IDARTS_REQUIRE_ALL is set. `conformance/cases.txt` lists the cases. The
//! tolerance is the official one. What the ONNX reader refuses is counted by name and must be what [`REFUSED`] says.

use std::path::{Path, PathBuf};

use idarts_compile::ir::{Model, Tensor, Verified, verify};
use idarts_compile::onnx;
use idarts_compile::onnx::proto::{ModelProto, TensorProto};
use idarts_compile::passes::{RUNTIME, apply};
use idarts_compile::runtime::{AdapterChoice, Gpu, Reference, RuntimeError, Session, Tolerance, adapters, compare};
use prost::Message;

const OFFICIAL: Tolerance = Tolerance { atol: 1e-7, rtol: 1e-3 };

/// Cases that the reader refuses, with a part of its message: the graph IR has neither broadcasting sums nor transposed values
/// nor products of two values.
const REFUSED: [(&str, &str); 5] = [
    ("node/test_add_bcast", "supported are equal shapes"),
    ("node/test_gemm_all_attributes", "transA = 1"),
    ("node/test_gemm_default_matrix_bias", "supported is one number per channel"),
    ("node/test_gemm_transposeA", "transA = 1"),
    ("pytorch-operator/test_operator_addmm", "must be an initialiser"),
];

/// The one case that has no elements, so that there is no buffer to bind: the adapters refuse it, the reference does not.
const EMPTY: (&str, &str) = ("node/test_slice_start_out_of_bounds", "has no elements");

type Run<'a> = dyn Fn(&Case, &Verified<Model>) -> Result<Vec<Tensor>, RuntimeError> + 'a;

struct Case {
    name: String,
    model: Result<Verified<Model>, String>,
    inputs: Vec<Tensor>,
    expected: Vec<Tensor>,
}

#[test]
fn the_official_cases_pass_on_the_reference_and_on_every_adapter() {
    let Some(folder) = std::env::var_os("IDARTS_ONNX_CASES").map(PathBuf::from) else {
        let why = "conformance: IDARTS_ONNX_CASES names no folder with the data of the wheel onnx 1.22.0";
        assert!(std::env::var_os("IDARTS_REQUIRE_ALL").is_none(), "{why}");
        eprintln!("SKIPPED: {why}");
        return;
    };
    let names: Vec<&str> = include_str!("conformance/cases.txt").lines().collect();
    let cases: Vec<Case> = names.iter().map(|name| read(&folder, name)).collect();
    let refused = |case: &Case| case.model.as_ref().err().map(|why| (case.name.clone(), why.clone()));
    let refusals: Vec<(String, String)> = cases.iter().filter_map(refused).collect();
    for (name, why) in &refusals {
        eprintln!("refused: {name}: {why}");
    }
    let mut wrong = Vec::new();
    for (name, why) in &refusals {
        if !REFUSED.iter().any(|(known, part)| known == name && why.contains(part)) {
            wrong.push(format!("{name} is refused: {why}"));
        }
    }
    for (known, _) in REFUSED {
        if !refusals.iter().any(|(name, _)| name == known) {
            wrong.push(format!("{known} is no longer refused; take it out of the list"));
        }
    }
    let readable: Vec<(&Case, &Verified<Model>)> =
        cases.iter().filter_map(|case| Some((case, case.model.as_ref().ok()?))).collect();
    let mut run = |place: &str, run: &Run| {
        let (mut passed, mut empty) = (0, 0);
        for (case, model) in &readable {
            let result = run(case, model).map_err(|e| e.to_string()).and_then(|got| check(case, &got));
            match result {
                Ok(()) => passed += 1,
                Err(why) if case.name == EMPTY.0 && why.contains(EMPTY.1) => empty += 1,
                Err(why) => wrong.push(format!("{place}: {}: {why}", case.name)),
            }
        }
        let refused = refusals.len() + empty;
        eprintln!("{place}: {passed} of {} cases passed, {refused} refused", cases.len());
    };
    run("CPU reference", &|case, model| Reference::new(model).run(&case.inputs));
    for facts in adapters() {
        let choice = AdapterChoice { index: Some(facts.index), ..AdapterChoice::default() };
        let gpu = Gpu::open(&choice).unwrap();
        run(&facts.to_string(), &|case, model| {
            let (model, _) = apply(RUNTIME, model.clone()).unwrap();
            Session::on(&gpu, &model, 1)?.run(&case.inputs)
        });
    }
    assert!(wrong.is_empty(), "{} findings:\n{}", wrong.len(), wrong.join("\n"));
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
    let model = onnx::read(&file.encode_to_vec(), name)
        .map_err(|e| e.to_string())
        .and_then(|model| verify(model).map_err(|e| e.to_string()));
    if let Ok(model) = &model {
        for (input, value) in inputs.iter_mut().zip(&model.graph.inputs) {
            if let (&[n, c, w], 4) = (input.shape.as_slice(), model.graph.shape(*value).rank()) {
                input.shape = vec![n, c, 1, w];
            }
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
