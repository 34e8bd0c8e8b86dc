//! The many ways in which other programs write the same network.

#![cfg(test)]

use super::file::{bytes, file, float, floats, int, ints, longs, node, tensor, text, value, with_input, with_opset};
use crate::ir::{Model, Role, verify};
use crate::onnx::proto::{ModelProto, NodeProto, TensorProto, data_type};
use crate::onnx::read;

fn model(file: &ModelProto) -> Model {
    verify(read(&bytes(file), "test.onnx").unwrap_or_else(|e| panic!("{e}"))).unwrap().into_inner()
}

/// What the node that makes `y` became, as the textual IR has it after the name.
fn line(file: &ModelProto) -> String {
    let text = model(file).graph.to_string();
    let line = text.lines().find(|l| l.starts_with("  %y: ")).unwrap_or_else(|| panic!("no %y in {text}"));
    line["  %y: ".len()..].to_owned()
}

fn contents<'a>(model: &'a Model, name: &str) -> &'a [f32] {
    let place = model.graph.params.iter().position(|p| p.name == name).expect(name);
    &model.weights.0[place].data
}

#[test]
fn windows_are_read_from_all_attributes() {
    let check = |op: &str, attributes, expected: &str| {
        let inputs = if op == "Conv" { "x w" } else { "x" };
        let got = line(&file(vec![node(op, inputs, "y", attributes)], vec![floats("w", &[4, 4, 3, 3])]));
        assert_eq!(got, expected);
    };
    let kernel = || ints("kernel_shape", &[3, 3]);
    let strides = || ints("strides", &[2, 2]);
    check("Conv", vec![], "[N, 4, 4, 4] = conv(%x) {@w, 3x3}");
    check("Conv", vec![kernel(), ints("pads", &[1, 0, 2, 1])], "[N, 4, 7, 5] = conv(%x) {@w, 3x3 pad [1, 0, 2, 1]}");
    check("Conv", vec![ints("dilations", &[1, 2])], "[N, 4, 4, 2] = conv(%x) {@w, 3x3 dilation 1x2}");
    check("Conv", vec![text("auto_pad", "VALID"), strides()], "[N, 4, 2, 2] = conv(%x) {@w, 3x3 stride 2x2}");
    check(
        "Conv",
        vec![text("auto_pad", "SAME_UPPER"), strides()],
        "[N, 4, 3, 3] = conv(%x) {@w, 3x3 stride 2x2 pad [0, 0, 1, 1]}",
    );
    check(
        "Conv",
        vec![text("auto_pad", "SAME_LOWER"), strides()],
        "[N, 4, 3, 3] = conv(%x) {@w, 3x3 stride 2x2 pad [1, 1, 0, 0]}",
    );
    check("MaxPool", vec![kernel(), strides()], "[N, 4, 2, 2] = max_pool(%x) {3x3 stride 2x2}");
    check(
        "MaxPool",
        vec![kernel(), strides(), int("ceil_mode", 1), int("storage_order", 0)],
        "[N, 4, 3, 3] = max_pool(%x) {3x3 stride 2x2 ceil}",
    );
    check("MaxPool", vec![ints("kernel_shape", &[3, 1])], "[N, 4, 4, 6] = max_pool(%x) {3x1}");
    let pads = || ints("pads", &[1, 1, 1, 1]);
    check("AveragePool", vec![kernel(), pads()], "[N, 4, 6, 6] = avg_pool(%x) {3x3 pad [1, 1, 1, 1]}");
    check(
        "AveragePool",
        vec![kernel(), pads(), int("count_include_pad", 1)],
        "[N, 4, 6, 6] = avg_pool(%x) {3x3 pad [1, 1, 1, 1], count_include_pad}",
    );
}

#[test]
fn short_operators_are_read() {
    let check = |nodes: Vec<NodeProto>, constants: Vec<TensorProto>, expected: &str| {
        assert_eq!(line(&file(nodes, constants)), expected);
    };
    check(vec![node("Relu", "x", "y", vec![])], vec![], "[N, 4, 6, 6] = relu(%x)");
    check(vec![node("GlobalAveragePool", "x", "y", vec![])], vec![], "[N, 4, 1, 1] = global_avg_pool(%x)");
    check(vec![node("Add", "x x", "y", vec![])], vec![], "[N, 4, 6, 6] = add(%x, %x)");
    check(
        vec![node("Concat", "x x x", "y", vec![int("axis", -3)])],
        vec![],
        "[N, 12, 6, 6] = concat(%x, %x, %x) {axis 1}",
    );
    check(vec![node("Flatten", "x", "y", vec![])], vec![], "[N, 144] = flatten(%x) {axis 1}");
    check(vec![node("Flatten", "x", "y", vec![int("axis", -3)])], vec![], "[N, 144] = flatten(%x) {axis 1}");
    let c = || ["s", "b", "m", "v"].map(|name| floats(name, &[4])).to_vec();
    let momentum = || vec![float("epsilon", 0.5), float("momentum", 0.1)];
    check(
        vec![node("BatchNormalization", "x s b m v", "y - -", momentum())],
        c(),
        "[N, 4, 6, 6] = batch_norm(%x) {@s, @b, @m, @v, epsilon 0.5}",
    );
    for target in [[0, -1], [-1, 144], [0, 144]] {
        check(vec![node("Reshape", "x t", "y", vec![])], vec![longs("t", &target)], "[N, 144] = flatten(%x) {axis 1}");
    }
    let nodes = vec![node("Reshape", "x t", "r", vec![]), node("Relu", "r", "y", vec![])];
    check(nodes, vec![longs("t", &[0, 4, -1, 6])], "[N, 4, 6, 6] = relu(%x)");
}

#[test]
fn what_changes_nothing_vanishes() {
    let nodes = vec![
        node("Identity", "x", "a", vec![]),
        node("Dropout", "a", "b", vec![float("ratio", 0.3)]),
        node("Cast", "b", "c", vec![int("to", 10)]),
        node("Cast", "c", "d", vec![int("to", 1)]),
        node("Constant", "", "no", vec![tensor("value", truth(false))]),
        node("Dropout", "d - no", "e", vec![]),
        node("Identity", "w", "w1", vec![]),
        node("Conv", "e w1", "y", vec![]),
        // Nothing depends on these, so they may be anything.
        node("Shape", "x", "shape", vec![]),
        node("Gather", "shape zero", "batch", vec![]),
    ];
    assert_eq!(line(&file(nodes, vec![floats("w", &[2, 4, 1, 1])])), "[N, 2, 6, 6] = conv(%x) {@w1, 1x1}");
}

fn truth(value: bool) -> TensorProto {
    TensorProto { data_type: data_type::BOOL, raw_data: Some(vec![value.into()]), ..TensorProto::default() }
}

#[test]
fn slices_are_read_from_attributes_and_from_constants() {
    let attributes = |starts: &[i64], ends: &[i64], axes: &[i64]| {
        vec![ints("starts", starts), ints("ends", ends), ints("axes", axes)]
    };
    let old = |attributes| line(&with_opset(9, file(vec![node("Slice", "x", "y", attributes)], vec![])));
    assert_eq!(
        old(attributes(&[1, -3], &[i64::MAX, -1], &[2, -1])),
        "[N, 4, 5, 2] = slice(%x) {axis 2 from 1 take 5 step 1, axis 3 from 3 take 2 step 1}"
    );
    let whole = vec![ints("starts", &[0, 1]), ints("ends", &[i64::from(i32::MAX), 3])];
    assert_eq!(old(whole), "[N, 2, 6, 6] = slice(%x) {axis 1 from 1 take 2 step 1}");

    let new = |lists: [&[i64]; 4]| {
        let names = ["starts", "ends", "axes", "steps"];
        let constants = names.iter().zip(lists).map(|(name, list)| longs(name, list)).collect();
        line(&file(vec![node("Slice", "x starts ends axes steps", "y", vec![])], constants))
    };
    assert_eq!(new([&[5], &[-100], &[3], &[-2]]), "[N, 4, 6, 3] = slice(%x) {axis 3 from 5 take 3 step -2}");
    assert_eq!(new([&[0], &[2], &[1], &[1]]), "[N, 2, 6, 6] = slice(%x) {axis 1 from 0 take 2 step 1}");

    let narrow = TensorProto {
        data_type: data_type::INT32,
        int32_data: vec![0, 0, 0, 2],
        dims: vec![4],
        ..TensorProto::default()
    };
    let nodes = vec![
        node("Constant", "", "starts", vec![tensor("value", narrow)]),
        node("Constant", "", "ends", vec![ints("value_ints", &[i64::MAX, i64::MAX, 5, 6])]),
        node("Slice", "x starts ends", "y", vec![]),
    ];
    assert_eq!(
        line(&file(nodes, vec![])),
        "[N, 4, 5, 4] = slice(%x) {axis 1 from 0 take 4 step 1, axis 2 from 0 take 5 step 1, axis 3 from 2 take 4 step 1}"
    );
}

#[test]
fn pads_are_read_from_attributes_and_from_constants() {
    let amounts = [0, 0, 1, 2, 0, 0, 3, 4];
    let expected = "[N, 4, 10, 12] = pad(%x) {[[0, 0], [0, 0], [1, 3], [2, 4]] with 0.5}";
    let attributes = vec![ints("pads", &amounts), float("value", 0.5), text("mode", "constant")];
    assert_eq!(line(&with_opset(9, file(vec![node("Pad", "x", "y", attributes)], vec![]))), expected);
    let half = TensorProto { float_data: vec![0.5], raw_data: None, ..floats("half", &[]) };
    let nodes = vec![node("Pad", "x p half", "y", vec![])];
    assert_eq!(line(&file(nodes, vec![longs("p", &amounts), half.clone()])), expected);
    let nodes = vec![node("Pad", "x p half axes", "y", vec![])];
    let constants = vec![longs("p", &[2, 1, 4, 3]), half, longs("axes", &[-1, 2])];
    assert_eq!(line(&with_opset(18, file(nodes, constants))), expected);
    let nodes = vec![node("Pad", "x p", "y", vec![])];
    let expected = "[N, 4, 7, 6] = pad(%x) {[[0, 0], [0, 0], [0, 1], [0, 0]] with 0}";
    assert_eq!(line(&file(nodes, vec![longs("p", &[0, 0, 0, 0, 0, 0, 1, 0])])), expected);
}

#[test]
fn matrix_products_become_linear_layers() {
    // B is [3, 2] with rows (0 1), (2 3), (4 5), or its transpose.
    let check = |nodes: Vec<NodeProto>, constants: Vec<TensorProto>, weight: &[f32], bias: Option<&[f32]>| {
        let model = model(&with_input(&["N", "3"], file(nodes, constants)));
        let text = model.graph.to_string();
        let expected = if bias.is_some() { ": [N, 2] = linear(%x) {@w, @b}" } else { ": [N, 2] = linear(%x) {@w}" };
        assert!(text.contains(expected), "{text}");
        assert_eq!(contents(&model, "w"), weight);
        assert_eq!(bias.map(|_| contents(&model, "b")), bias);
        assert_eq!(model.graph.params[0].shape, [2, 3]);
    };
    let gemm = |inputs: &str, attributes| vec![node("Gemm", inputs, "y", attributes)];
    let w = || floats("w", &[3, 2]);
    let across: [f32; 6] = [0.0, 2.0, 4.0, 1.0, 3.0, 5.0];
    let trans_b = || int("transB", 1);
    check(gemm("x w", vec![]), vec![w()], &across, None);
    check(gemm("x w b", vec![]), vec![w(), floats("b", &[2])], &across, Some(&[0.0, 1.0]));
    let along: Vec<f32> = (0..6).map(|i| i as f32).collect();
    check(gemm("x w b", vec![trans_b()]), vec![floats("w", &[2, 3]), floats("b", &[2])], &along, Some(&[0.0, 1.0]));
    let scaled = vec![trans_b(), float("alpha", 2.0), float("beta", 3.0)];
    let doubled: Vec<f32> = along.iter().map(|x| 2.0 * x).collect();
    check(gemm("x w b", scaled), vec![floats("w", &[2, 3]), floats("b", &[1, 2])], &doubled, Some(&[0.0, 3.0]));
    check(gemm("x w b", vec![float("beta", 0.0)]), vec![w(), floats("b", &[2])], &across, None);
    let one = TensorProto { float_data: vec![7.0], raw_data: None, ..floats("b", &[]) };
    check(gemm("x w b", vec![]), vec![w(), one.clone()], &across, Some(&[7.0, 7.0]));

    let product = |add: &str| vec![node("MatMul", "x w", "p", vec![]), node("Add", add, "y", vec![])];
    check(vec![node("MatMul", "x w", "y", vec![])], vec![w()], &across, None);
    check(product("p b"), vec![w(), floats("b", &[2])], &across, Some(&[0.0, 1.0]));
    check(product("b p"), vec![w(), floats("b", &[1, 2])], &across, Some(&[0.0, 1.0]));
    check(product("p b"), vec![w(), one], &across, Some(&[7.0, 7.0]));
}

#[test]
fn a_constant_added_to_a_convolution_becomes_its_bias() {
    let check = |inputs: &str, added: TensorProto, opset, legacy: bool, expected: &[f32]| {
        let attributes = if legacy { vec![int("axis", 1), int("broadcast", 1)] } else { vec![] };
        let nodes = vec![node("Conv", inputs, "c", vec![]), node("Add", "c b", "y", attributes)];
        let constants = vec![floats("w", &[4, 4, 1, 1]), floats("own", &[4]), added];
        let model = model(&with_opset(opset, file(nodes, constants)));
        assert_eq!(model.graph.nodes.len(), 1);
        assert_eq!(model.graph.value(model.graph.outputs[0].value).name, "c");
        assert_eq!(model.weights.0[1].data, expected);
        assert_eq!(model.graph.params[1].role, Role::Bias);
    };
    check("x w", floats("b", &[4, 1, 1]), 17, false, &[0.0, 1.0, 2.0, 3.0]);
    check("x w", floats("b", &[1, 4, 1, 1]), 17, false, &[0.0, 1.0, 2.0, 3.0]);
    check("x w own", floats("b", &[1, 4, 1, 1]), 17, false, &[0.0, 2.0, 4.0, 6.0]);
    check("x w", floats("b", &[4]), 6, true, &[0.0, 1.0, 2.0, 3.0]);
}

#[test]
fn a_constant_that_several_nodes_read_is_one_parameter() {
    let nodes = vec![
        node("Conv", "x w", "a", vec![]),
        node("Conv", "a w", "b", vec![]),
        node("GlobalAveragePool", "b", "g", vec![]),
        node("Flatten", "g", "f", vec![]),
        node("MatMul", "f m", "p", vec![]),
        node("MatMul", "p m", "q", vec![]),
        node("Gemm", "q m", "y", vec![int("transB", 1)]),
    ];
    // The order of parameters is that of the file, not that of use.
    let model = model(&file(nodes, vec![floats("m", &[4, 4]), floats("unused", &[9]), floats("w", &[4, 4, 1, 1])]));
    let names: Vec<_> = model.graph.params.iter().map(|p| p.name.as_str()).collect();
    assert_eq!(names, ["m", "m_1", "w"]);
    assert!(model.graph.to_string().contains("%y: [N, 4] = linear(%q) {@m_1}"), "{}", model.graph);
}

#[test]
fn names_are_kept_without_the_leading_slash() {
    let named = |name: &str, node: NodeProto| NodeProto { name: name.into(), ..node };
    let nodes = vec![
        named("/block/relu", node("Relu", "x", "/block/relu_output", vec![])),
        named("twice", node("Relu", "/block/relu_output", "a", vec![])),
        named("twice", node("Relu", "a", "b", vec![])),
        node("Relu", "b", "c", vec![]),
        named("last", node("Relu", "c", "y", vec![])),
    ];
    let graph = model(&file(nodes, vec![])).graph;
    let nodes: Vec<_> = graph.nodes.iter().map(|n| n.name.as_str()).collect();
    assert_eq!(nodes, ["block/relu", "twice", "twice_1", "c", "last"]);
    let values: Vec<_> = graph.values.iter().map(|v| v.name.as_str()).collect();
    assert_eq!(values, ["x", "block/relu_output", "a", "b", "c", "last"]);
    assert_eq!(graph.outputs[0].name, "y");
}

#[test]
fn the_first_dimension_is_the_batch_unless_it_is_a_number() {
    for (first, expected) in [("N", "[N, 4, 6, 6]"), ("?", "[N, 4, 6, 6]"), ("5", "[5, 4, 6, 6]")] {
        let file = with_input(&[first, "4", "6", "6"], file(vec![node("Relu", "x", "y", vec![])], vec![]));
        assert_eq!(line(&file), format!("{expected} = relu(%x)"));
    }
}

#[test]
fn all_supported_versions_are_read() {
    for opset in 6..=25 {
        let file = with_opset(opset, file(vec![node("Relu", "x", "y", vec![])], vec![]));
        assert!((3..=13).contains(&file.ir_version));
        assert_eq!(line(&file), "[N, 4, 6, 6] = relu(%x)");
    }
}

#[test]
fn initialisers_may_be_listed_as_inputs_and_be_float16() {
    let half = TensorProto {
        data_type: data_type::FLOAT16,
        dims: vec![1, 4, 1, 1],
        raw_data: Some([0x3c00u16, 0xc000, 0x0001, 0x7bff].iter().flat_map(|h| h.to_le_bytes()).collect()),
        ..floats("w", &[])
    };
    let bias =
        TensorProto { data_type: data_type::FLOAT16, int32_data: vec![0x3800], raw_data: None, ..floats("b", &[1]) };
    let mut file = file(vec![node("Conv", "x w b", "y", vec![])], vec![half, bias]);
    file.graph.as_mut().unwrap().input.push(value("w", &["1", "4", "1", "1"]));
    let model = model(&file);
    assert_eq!(model.graph.inputs.len(), 1);
    assert_eq!(contents(&model, "w"), [1.0, -2.0, 2f32.powi(-24), 65504.0]);
    assert_eq!(contents(&model, "b"), [0.5]);
}

#[test]
fn a_nameless_graph_is_called_like_its_file() {
    let mut file = file(vec![node("Relu", "x", "y", vec![])], vec![]);
    file.graph.as_mut().unwrap().name.clear();
    assert_eq!(model(&file).graph.name, "test.onnx");
}
