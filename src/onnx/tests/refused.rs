//! Files that are not read, and what the message says.

#![cfg(test)]

use super::file::{bytes, file, float, floats, int, ints, longs, node, tensor, text, value, with_input, with_opset};
use super::sample;
use crate::onnx::proto::{ModelProto, NodeProto, SparseTensorProto, StringStringEntryProto, TensorProto, data_type};
use crate::onnx::{WriteOptions, read, write};

fn check(file: &ModelProto, message: &str) {
    check_bytes(&bytes(file), message);
}

fn check_bytes(bytes: &[u8], message: &str) {
    let error = read(bytes, "bad.onnx").expect_err(message).to_string();
    assert!(error.contains(message), "`{error}` does not say `{message}`");
}

fn check_node(node: NodeProto, constants: Vec<TensorProto>, message: &str) {
    check(&file(vec![node], constants), message);
}

#[test]
fn a_file_that_is_no_model_is_told_as_such() {
    check_bytes(b"", "bad.onnx: the file is empty");
    check_bytes(b"<html><body>Not found</body></html>", "truncated or not an ONNX model");
    check_bytes(b"version https://git-lfs.github.com/spec/v1\n", "truncated or not an ONNX model");
    check_bytes(&[0; 100], "byte 0 starts no field");
    check_bytes(&[0x08, 0x08], "it has no graph");
    check_bytes(&[0xff; 40], "truncated or not an ONNX model");
    let mut unnamed = file(vec![node("Relu", "x", "y", vec![])], vec![]);
    unnamed.opset_import.clear();
    check(&unnamed, "it names no operator set");
    unnamed.ir_version = 2;
    check(&unnamed, "file format version 2 is not supported, 3 to 13 are");
    let relu = || file(vec![node("Relu", "x", "y", vec![])], vec![]);
    check(&with_opset(5, relu()), "operator set 5 is not supported, 6 to 25 are");
    check(&with_opset(26, relu()), "operator set 26 is not supported");
    let mut no_text = bytes(&relu());
    let place = no_text.windows(4).position(|w| w == b"Relu").unwrap();
    no_text[place] = 0xff;
    check_bytes(&no_text, "damaged or not an ONNX model");
}

#[test]
fn a_file_of_ours_cut_short_anywhere_is_recognised() {
    let whole = write(&sample(), &WriteOptions::default()).unwrap();
    for end in 1..whole.len() {
        let error = read(&whole[..end], "cut.onnx").expect_err("cut").to_string();
        assert!(error.starts_with("cut.onnx: the file is truncated or not an ONNX model"), "at {end}: {error}");
    }
    check_bytes(&whole[..whole.len() - 1], "the graph at byte");
}

#[test]
fn unknown_operators_are_named_with_what_is_supported() {
    let odd = NodeProto { name: "/layer/odd".into(), ..node("ConvTranspose", "x w", "y", vec![]) };
    check_node(odd, vec![], "node `layer/odd` (ConvTranspose): this operator is not supported; supported are Add, Av");
    let foreign = NodeProto { domain: "com.microsoft".into(), ..node("Relu", "x", "y", vec![]) };
    check_node(foreign, vec![], "operators of `com.microsoft` are not supported");
    check_node(node("Relu", "x", "y", vec![int("alpha", 1)]), vec![], "attribute `alpha` is not known");
    check_node(node("Relu", "x x", "y", vec![]), vec![], "it has 2 inputs; the operator takes at most 1");
    check_node(node("Relu", "", "y", vec![]), vec![], "it has no input 0");
    check_node(node("Cast", "x", "y", vec![int("to", 7)]), vec![], "a cast to int64 is not supported");
    check_node(node("Cast", "x", "y", vec![int("to", i64::MAX)]), vec![], "a cast to 9223372036854775807");
}

#[test]
fn networks_in_training_mode_are_refused() {
    let training = TensorProto { data_type: data_type::BOOL, int32_data: vec![1], ..TensorProto::default() };
    let nodes = vec![node("Constant", "", "t", vec![tensor("value", training)]), node("Dropout", "x - t", "y", vec![])];
    check(&file(nodes, vec![]), "export the model in evaluation mode");
    let c = || ["s", "b", "m", "v"].map(|name| floats(name, &[4])).to_vec();
    let bn = |attributes| node("BatchNormalization", "x s b m v", "y", attributes);
    check_node(bn(vec![int("training_mode", 1)]), c(), "export the model in evaluation mode");
    check_node(bn(vec![int("spatial", 0)]), c(), "spatial = 0");
    check_node(bn(vec![float("epsilon", f32::NAN)]), c(), "attribute `epsilon` is NaN");
    let mut wrong = c();
    wrong[2] = floats("m", &[5]);
    check_node(bn(vec![]), wrong, "parameter `m` is [5] and must be [4]");
    let second = vec![node("Dropout", "x", "a mask", vec![]), node("Relu", "mask", "y", vec![])];
    check(&file(second, vec![]), "only its first output can be used, not `mask`");
}

#[test]
fn windows_that_do_not_fit_are_refused() {
    let pool = |attributes| node("MaxPool", "x", "y", attributes);
    let kernel = |k: &[i64]| ints("kernel_shape", k);
    check_node(pool(vec![]), vec![], "attribute `kernel_shape` is missing");
    check_node(pool(vec![kernel(&[3])]), vec![], "attribute `kernel_shape` has 1 numbers");
    check_node(pool(vec![kernel(&[0, 3])]), vec![], "attribute `kernel_shape` holds 0");
    check_node(pool(vec![kernel(&[i64::MAX, 3])]), vec![], "holds 9223372036854775807; supported are 1 to 32767");
    check_node(pool(vec![kernel(&[7, 7])]), vec![], "does not fit");
    check_node(pool(vec![kernel(&[3, 3]), ints("pads", &[-1, 0, 0, 0])]), vec![], "attribute `pads` holds -1");
    check_node(pool(vec![kernel(&[3, 3]), text("auto_pad", "SAME")]), vec![], "auto_pad `SAME` is not");
    check_node(pool(vec![int("kernel_shape", 3)]), vec![], "attribute `kernel_shape` has type 2, not 7");
    let conv = |attributes| node("Conv", "x w", "y", attributes);
    let w = |dims: &[i64]| vec![floats("w", dims)];
    check_node(conv(vec![]), w(&[4, 3, 3, 3]), "parameter `w` is [4, 3, 3, 3] and must be [4, 4, 3, 3]");
    check_node(conv(vec![kernel(&[1, 1])]), w(&[4, 4, 3, 3]), "and must be [4, 4, 1, 1]");
    check_node(conv(vec![]), w(&[4, 4, 3]), "the weight must have 4 dimensions");
    check_node(conv(vec![int("group", 0)]), w(&[4, 4, 1, 1]), "groups");
    check_node(conv(vec![int("group", -1)]), w(&[4, 4, 1, 1]), "attribute `group` is negative");
    check_node(conv(vec![]), w(&[0, 4, 1, 1]), "shape [0, 4, 1, 1] has no elements");
    let flat = with_input(&["N", "4", "6"], file(vec![conv(vec![])], w(&[4, 4, 1, 1])));
    check(&flat, "its input is [N, 4, 6]; supported are images [N, C, H, W]");
    let biased = vec![floats("w", &[4, 4, 1, 1]), floats("b", &[3])];
    check_node(node("Conv", "x w b", "y", vec![]), biased, "bias `b` is [3]; supported is one number per channel, [4]");
}

#[test]
fn operators_outside_of_the_supported_forms_are_refused() {
    check_node(
        node("Add", "x b", "y", vec![]),
        vec![floats("b", &[5])],
        "broadcast_add on [N, 4, 6, 6], [5]: the two shapes",
    );
    check_node(node("Mul", "x b", "y", vec![]), vec![floats("b", &[5])], "the two shapes do not fit each other");
    let axis = |axis| node("Add", "x b", "y", vec![int("axis", axis), int("broadcast", 1)]);
    check_node(axis(4), vec![floats("b", &[4])], "axis 4 is outside of the 4 dimensions");
    check_node(axis(3), vec![floats("b", &[4, 6])], "`b` does not fit behind axis 3");
    check_node(node("Add", "x x", "y", vec![int("axis", 1)]), vec![], "`axis` is supported for a constant only");
    check(&with_opset(12, file(vec![node("Softmax", "x", "y", vec![])], vec![])), "over axis 1 and those behind it");
    check_node(node("Softmax", "x", "y", vec![int("axis", 0)]), vec![], "axis 0 does not exist or has no known size");
    check_node(node("LRN", "x", "y", vec![int("size", 0)]), vec![], "attribute `size` is missing, below 1");
    check_node(
        node("Unsqueeze", "x a", "y", vec![]),
        vec![longs("a", &[0])],
        "on a computed value it is not supported",
    );
    let nine = vec![floats("b", &[4]), longs("a", &[0, 1, 2, 3, 4, 5, 6, 7])];
    check_node(node("Unsqueeze", "b a", "y", vec![]), nine, "it makes 9 dimensions");
    let filled = |target: &[i64]| {
        (vec![node("ConstantOfShape", "t", "b", vec![]), node("Add", "x b", "y", vec![])], vec![longs("t", target)])
    };
    for (target, message) in [
        (&[1 << 14, 1 << 14, 2][..], "filled constants of more than 268435456 elements"),
        (&[-1], "is negative or too large"),
        (&[0], "has no elements"),
    ] {
        let (nodes, constants) = filled(target);
        check(&file(nodes, constants), message);
    }
    check_node(node("Concat", "x w", "y", vec![int("axis", 1)]), vec![floats("w", &[1])], "input 1 `w` is a constant");
    check_node(node("Concat", "x x", "y", vec![]), vec![], "attribute `axis` is missing");
    check_node(node("Concat", "x x", "y", vec![int("axis", 4)]), vec![], "axis 4 is outside of the 4 dimensions");
    check_node(node("Concat", "", "y", vec![int("axis", 0)]), vec![], "axis 0 is outside of the 0 dimensions");
    check_node(node("Concat", "x x", "y", vec![int("axis", i64::MIN)]), vec![], "is outside of");
    check_node(node("Flatten", "x", "y", vec![int("axis", 2)]), vec![], "rows of a symbolic batch must be images");
    check_node(node("Flatten", "x", "y", vec![int("axis", 0)]), vec![], "batch dimension must stay among the rows");
    let reshape = |target: &[i64]| (node("Reshape", "x t", "y", vec![]), vec![longs("t", target)]);
    for target in [&[1, -1][..], &[-1, -1], &[0, 100], &[-1, 4, 36], &[0, 4, 6, 7], &[i64::MIN, 144], &[]] {
        let (node, constants) = reshape(target);
        check_node(node, constants, "is not supported; supported is flattening all but the first dimension");
    }
    check_node(node("Reshape", "x x", "y", vec![]), vec![], "`x` must be an initialiser or come from a Constant node");
    let pad = |p: &[i64]| (node("Pad", "x p", "y", vec![]), vec![longs("p", p)]);
    for (amounts, message) in [
        (&[0, 0, 0, -1, 0, 0, 0, 0][..], "a pad of -1 is not supported"),
        (&[0, 0, 0, 0], "4 pads for 4 axes"),
        (&[1, 0, 0, 0, 0, 0, 0, 0], "the batch dimension cannot be padded"),
        (&[0, 0, 0, 0, 0, 0, 0, 1 << 30], "is too large"),
        (&[0, 0, 0, 0, 0, 0, 0, i64::MAX], "a pad of 9223372036854775807"),
    ] {
        let (node, constants) = pad(amounts);
        check_node(node, constants, message);
    }
    let (mut reflect, constants) = pad(&[0; 8]);
    reflect.attribute.push(text("mode", "reflect"));
    check_node(reflect, constants, "mode `reflect` is supported in front of a max pool");
    let slice = |lists: [&[i64]; 4]| {
        let names = ["s", "e", "a", "t"];
        (node("Slice", "x s e a t", "y", vec![]), names.iter().zip(lists).map(|(n, l)| longs(n, l)).collect::<Vec<_>>())
    };
    for (lists, message) in [
        ([&[0][..], &[1], &[0], &[1]], "the batch cannot be cut"),
        ([&[0], &[1], &[2], &[0]], "a step is 0"),
        ([&[0], &[1, 2], &[2], &[1]], "are not of one length"),
        ([&[0], &[1], &[9], &[1]], "axis 9 is outside"),
        ([&[0, 0], &[1, 1], &[2, -2], &[1, 1]], "axis 2 is cut twice"),
    ] {
        let (node, constants) = slice(lists);
        check_node(node, constants, message);
    }
}

#[test]
fn matrix_products_outside_of_the_supported_forms_are_refused() {
    let matrix = |node, constants| with_input(&["N", "3"], file(vec![node], constants));
    let w = || floats("w", &[3, 2]);
    let gemm = |inputs, attributes| node("Gemm", inputs, "y", attributes);
    check(
        &matrix(gemm("x w", vec![int("transA", 1)]), vec![w()]),
        "gemm on [N, 3], [3, 2]: the matrices do not fit each other",
    );
    check(&matrix(gemm("w x", vec![]), vec![w()]), "gemm on [3, 2], [N, 3]: the matrices do not fit each other");
    check(&matrix(gemm("x x", vec![]), vec![]), "the matrices do not fit each other");
    check(&matrix(gemm("x w x", vec![]), vec![w()]), "the third input does not spread over [N, 2]");
    check(
        &matrix(gemm("x w b", vec![]), vec![w(), floats("b", &[5, 2])]),
        "the third input does not spread over [N, 2]",
    );
    check(&matrix(gemm("x w", vec![]), vec![floats("w", &[4, 2])]), "must be [2, 3]");
    check(&matrix(gemm("x w", vec![float("alpha", f32::INFINITY)]), vec![w()]), "attribute `alpha` is inf");
    check(&matrix(node("MatMul", "x w", "y", vec![]), vec![floats("w", &[3])]), "`w` must be a constant matrix");
    check_node(node("MatMul", "x w", "y", vec![]), vec![floats("w", &[6, 2])], "the input must be [N, I]");
}

#[test]
fn constants_that_cannot_be_used_are_named() {
    let conv = |w: TensorProto| file(vec![node("Conv", "x w", "y", vec![])], vec![w]);
    let w = || floats("w", &[4, 4, 1, 1]);
    let short = TensorProto { raw_data: Some(vec![0; 63]), ..w() };
    check(&conv(short), "tensor `w`: shape [4, 4, 1, 1] has 16 elements of 4 bytes, the file holds 63");
    let none = TensorProto { raw_data: None, ..w() };
    check(&conv(none), "tensor `w`: shape [4, 4, 1, 1] has 16 elements, the file holds 0");
    let double = TensorProto { data_type: 11, ..w() };
    check(&conv(double), "tensor `w`: its type is float64; supported are float32 and float16");
    check(&conv(TensorProto { data_type: 99, ..w() }), "its type is type number 99");
    let huge = TensorProto { dims: vec![i64::MAX, 4, 1, 1], ..w() };
    check(&conv(huge), "tensor `w`: shape [9223372036854775807, 4, 1, 1] is negative or too large");
    check(&conv(TensorProto { dims: vec![-4, 4, 1, 1], ..w() }), "is negative or too large");
    check(&conv(TensorProto { dims: vec![1; 9], ..w() }), "it has 9 dimensions; at most 8");
    let entry = StringStringEntryProto { key: "location".into(), value: "weights.bin".into() };
    let external = TensorProto { data_location: 1, external_data: vec![entry], raw_data: None, ..w() };
    check(&conv(external), "tensor `w`: its contents are in another file");
    check(&file(vec![node("Conv", "x w", "y", vec![])], vec![w(), w()]), "two constants have this name");
    let mut sparse = conv(w());
    sparse.graph.as_mut().unwrap().sparse_initializer = vec![SparseTensorProto { values: Some(floats("sp", &[1])) }];
    check(&sparse, "tensor `sp`: sparse tensors are not supported");
    let target = TensorProto { dims: vec![1_000_000], ..longs("t", &[]) };
    check_node(node("Reshape", "x t", "y", vec![]), vec![target], "it has 1000000 numbers");
    check_node(node("Reshape", "x t", "y", vec![]), vec![floats("t", &[2])], "supported here are int64 and int32");
    let odd = node("Constant", "", "w", vec![text("value_string", "a")]);
    check(&file(vec![odd, node("Conv", "x w", "y", vec![])], vec![]), "supported are the attributes value");
}

#[test]
fn a_small_file_cannot_ask_for_much_memory() {
    let mut nodes = vec![node("Flatten", "x", "v0", vec![])];
    for i in 0..2000 {
        // Each wants a copy of its own of the same matrix.
        let scale = vec![float("alpha", 1.0 + i as f32), int("transB", 0)];
        nodes.push(node("Gemm", &format!("v{i} w"), &format!("v{}", i + 1), scale));
    }
    nodes.push(node("Relu", "v2000", "y", vec![]));
    check(&file(nodes, vec![floats("w", &[144, 144])]), "take far more memory than the file");
    let grows: Vec<_> = (0..40)
        .map(|i| node("Concat", &format!("v{i} v{i}"), &format!("v{}", i + 1), vec![int("axis", 1)]))
        .chain([node("Relu", "v40", "y", vec![])])
        .collect();
    let first = std::iter::once(node("Relu", "x", "v0", vec![]));
    check(&file(first.chain(grows).collect(), vec![]), "is too large; 2147483647 elements are supported");
}

#[test]
fn graphs_that_do_not_hold_together_are_refused() {
    check_node(node("Relu", "z", "y", vec![]), vec![], "input 0 `z` is made by no earlier node");
    check_node(node("Relu", "y", "y", vec![]), vec![], "input 0 `y` is made by no earlier node");
    check_node(node("Relu", "x", "z", vec![]), vec![], "value `y`: no node makes it");
    check(&file(vec![node("Relu", "x", "y", vec![]), node("Relu", "x", "y", vec![])], vec![]), "is already made");
    check(&file(vec![], vec![floats("y", &[1])]), "value `y`: an output that is a constant");
    let twice = |mut file: ModelProto| {
        file.graph.as_mut().unwrap().input.push(value("x", &["N"]));
        file
    };
    check(&twice(file(vec![node("Relu", "x", "y", vec![])], vec![])), "two inputs have this name");
    let mut outputs = file(vec![node("Relu", "x", "y", vec![])], vec![]);
    outputs.graph.as_mut().unwrap().output.push(value("y", &[]));
    check(&outputs, "value `y`: two outputs have this name");
    outputs.graph.as_mut().unwrap().output.clear();
    check(&outputs, "bad.onnx: the graph must have an input that is no constant, and an output");
    let input = |dims: &[&str]| with_input(dims, file(vec![node("Relu", "x", "y", vec![])], vec![]));
    check(&input(&["N", "4", "height", "6"]), "dimension 2 of the input has no fixed size");
    check(&input(&["0", "4", "6", "6"]), "dimension 0 of the input is 0");
    check(&input(&["N", "-1", "6", "6"]), "dimension 1 of the input is -1");
    check(&input(&["N", "100000", "100000", "100000"]), "is too large");
    check(&input(&["1"; 9]), "more than 8 dimensions");
    let mut untyped = input(&[]);
    untyped.graph.as_mut().unwrap().input[0].r#type = None;
    check(&untyped, "the input is not a tensor, or has no type");
    let mut integer = input(&["N"]);
    let r#type = integer.graph.as_mut().unwrap().input[0].r#type.as_mut().unwrap();
    let Some(crate::onnx::proto::TypeValue::Tensor(tensor)) = &mut r#type.value else { panic!() };
    tensor.elem_type = data_type::INT64;
    check(&integer, "the input is int64; supported is float32");
}
