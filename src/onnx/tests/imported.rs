//! What models of other programs have and ours do not: read, written again, and read to the same.

#![cfg(test)]

use super::file::{bytes, file, float, floats, int, ints, longs, node, tensor, with_input, with_opset};
use crate::ir::{Model, Tensor, verify};
use crate::onnx::proto::{AttributeProto, ModelProto, NodeProto, TensorProto, data_type};
use crate::onnx::{WriteOptions, read, write};
use crate::runtime::Reference;

/// The nodes of `file` in the textual IR, from the shape on. What is written of it must be read to the same text.
fn lines(file: &ModelProto) -> Vec<String> {
    let model = |bytes: &[u8]| verify(read(bytes, "test.onnx").unwrap_or_else(|e| panic!("{e}"))).unwrap();
    let first = model(&bytes(file));
    let written = write(&first, &WriteOptions::default()).unwrap();
    let again = model(&written);
    assert_eq!(again.graph.to_string(), first.graph.to_string());
    assert_eq!(write(&again, &WriteOptions::default()).unwrap(), written);
    let text = first.graph.to_string();
    let nodes = text.lines().filter(|l| l.starts_with("  %"));
    nodes.map(|l| l.split_once(": ").map_or(l, |(_, rest)| rest).to_owned()).collect()
}

fn one(op: &str, inputs: &str, attributes: Vec<AttributeProto>, constants: Vec<TensorProto>) -> Vec<String> {
    lines(&file(vec![node(op, inputs, "y", attributes)], constants))
}

#[test]
fn sums_and_products_spread_values_and_constants() {
    let channels = || vec![floats("b", &[4, 1, 1])];
    let expected = ["[4, 1, 1] = constant() {@b}", "[N, 4, 6, 6] = broadcast_add(%x, %b/value)"];
    assert_eq!(one("Add", "x b", vec![], channels()), expected);
    let expected = ["[4, 1, 1] = constant() {@b}", "[N, 4, 6, 6] = broadcast_multiply(%b/value, %x)"];
    assert_eq!(one("Mul", "b x", vec![], channels()), expected);
    assert_eq!(one("Mul", "x x", vec![], vec![]), ["[N, 4, 6, 6] = broadcast_multiply(%x, %x)"]);
    // A constant that two nodes read is one value.
    let twice = vec![node("Add", "x b", "a", vec![]), node("Mul", "a b", "y", vec![])];
    assert_eq!(lines(&file(twice, channels())).len(), 3);
    let pooled = vec![node("GlobalAveragePool", "x", "g", vec![]), node("Add", "x g", "y", vec![])];
    assert_eq!(lines(&file(pooled, vec![]))[1], "[N, 4, 6, 6] = broadcast_add(%x, %g)");
    // The convolution's result has another reader, so that the constant cannot go into it.
    let read_twice =
        vec![node("Conv", "x w", "c", vec![]), node("Add", "c b", "d", vec![]), node("Add", "c d", "y", vec![])];
    let got = lines(&file(read_twice, vec![floats("w", &[4, 4, 1, 1]), floats("b", &[1])]));
    assert_eq!(got[2..], ["[N, 4, 6, 6] = broadcast_add(%c, %b/value)", "[N, 4, 6, 6] = add(%c, %d)"]);
    // Before operator set 7.
    let legacy = node("Add", "x b", "y", vec![int("axis", 1), int("broadcast", 1)]);
    let got = lines(&with_opset(6, file(vec![legacy], vec![floats("b", &[4, 6])])));
    assert_eq!(got, ["[4, 6, 1] = constant() {@b}", "[N, 4, 6, 6] = broadcast_add(%x, %b/value)"]);
}

#[test]
fn a_constant_of_other_sizes_is_a_constant() {
    let nodes = || vec![node("Reshape", "w t", "b", vec![]), node("Add", "x b", "y", vec![])];
    let read = |target: &[i64]| lines(&file(nodes(), vec![floats("w", &[2, 2]), longs("t", target)]));
    assert_eq!(read(&[-1, 1, 1]), ["[4, 1, 1] = constant() {@b}", "[N, 4, 6, 6] = broadcast_add(%x, %b/value)"]);
    let odd = bytes(&file(nodes(), vec![floats("w", &[2, 2]), longs("t", &[3, -1])]));
    let error = crate::onnx::read(&odd, "test.onnx").unwrap_err().to_string();
    assert!(error.contains("`w` of sizes [2, 2] has no form of sizes [3, -1]"), "{error}");
}

#[test]
fn copies_of_constants_cannot_outgrow_the_file() {
    // A chain of short nodes, each of which would copy what lies before it; the first is floats of the file or filled ones.
    let refused = |first: Option<NodeProto>, constants: Vec<TensorProto>| {
        let made = |i: usize| if i == 0 { "w".to_owned() } else { format!("c{i}") };
        let step = |i: usize| node("Reshape", &format!("{} t", made(i)), &made(i + 1), vec![]);
        let mut nodes: Vec<NodeProto> = first.into_iter().chain((0..40).map(step)).collect();
        nodes.push(node("Add", "x c40", "y", vec![]));
        crate::onnx::read(&bytes(&file(nodes, constants)), "test.onnx").unwrap_err().to_string()
    };
    let target = || longs("t", &[-1, 1, 1]);
    let error = refused(None, vec![floats("w", &[4096]), target()]);
    assert!(error.contains("all copies of constants with other sizes are too large"), "{error}");
    let filled = node("ConstantOfShape", "s", "w", vec![]);
    let error = refused(Some(filled), vec![longs("s", &[1 << 24]), target()]);
    assert!(error.contains("filled constants of more than 268435456 elements"), "{error}");
}

#[test]
fn sums_of_several_are_sums_of_two() {
    let sum = |inputs: &str| one("Sum", inputs, vec![], vec![]);
    assert_eq!(sum("x x"), ["[N, 4, 6, 6] = add(%x, %x)"]);
    assert_eq!(sum("x x x"), ["[N, 4, 6, 6] = add(%x, %x)", "[N, 4, 6, 6] = add(%y/1, %x)"]);
    let nodes = vec![node("Sum", "x", "s", vec![]), node("Relu", "s", "y", vec![])];
    assert_eq!(lines(&file(nodes, vec![])), ["[N, 4, 6, 6] = relu(%x)"]);
}

#[test]
fn products_of_values_are_no_layers() {
    let product = |sizes: &[&str], node: NodeProto, constants| lines(&with_input(sizes, file(vec![node], constants)));
    let gemm = |inputs: &str, attributes| node("Gemm", inputs, "y", attributes);
    let w = || floats("w", &[3, 5]);
    let got = product(&["4", "3"], gemm("x w b", vec![float("beta", 0.5)]), vec![w(), floats("b", &[4, 5])]);
    assert_eq!(got[2], "[4, 5] = gemm(%x, %w/value, %b/value) {alpha 1 beta 0.5 transpose [false, false]}");
    let got = product(&["3", "4"], gemm("x w", vec![int("transA", 1)]), vec![w()]);
    assert_eq!(got[1], "[4, 5] = gemm(%x, %w/value) {alpha 1 beta 1 transpose [true, false]}");
    let got = product(&["3", "3"], gemm("x x x", vec![int("transB", 1)]), vec![]);
    assert_eq!(got, ["[3, 3] = gemm(%x, %x, %x) {alpha 1 beta 1 transpose [false, true]}"]);
    let got = product(&["3", "3"], node("MatMul", "x x", "y", vec![]), vec![]);
    assert_eq!(got, ["[3, 3] = gemm(%x, %x) {alpha 1 beta 1 transpose [false, false]}"]);
}

#[test]
fn softmax_and_response_normalisation_keep_their_attributes() {
    let rows = |file| with_input(&["N", "9"], file);
    let softmax = || file(vec![node("Softmax", "x", "y", vec![])], vec![]);
    assert_eq!(lines(&rows(softmax())), ["[N, 9] = softmax(%x) {axis 1}"]);
    assert_eq!(lines(&with_opset(9, rows(softmax()))), ["[N, 9] = softmax(%x) {axis 1}"]);
    assert_eq!(one("Softmax", "x", vec![int("axis", -2)], vec![]), ["[N, 4, 6, 6] = softmax(%x) {axis 2}"]);
    let lrn = vec![float("alpha", 0.5), float("beta", 0.25), float("bias", 2.0), int("size", 3)];
    assert_eq!(one("LRN", "x", lrn, vec![]), ["[N, 4, 6, 6] = lrn(%x) {size 3 alpha 0.5 beta 0.25 bias 2}"]);
}

#[test]
fn constants_are_filled_and_reshaped() {
    let value = TensorProto { dims: vec![1], float_data: vec![2.5], data_type: data_type::FLOAT, ..Default::default() };
    let fill = tensor("value", value);
    let nodes = vec![
        node("ConstantOfShape", "t", "b", vec![fill]),
        node("Unsqueeze", "b", "c", vec![ints("axes", &[2, 1])]),
        node("Mul", "x c", "y", vec![]),
    ];
    let file = with_opset(9, file(nodes, vec![longs("t", &[4])]));
    assert_eq!(lines(&file)[0], "[4, 1, 1] = constant() {@c}");
    let model: Model = read(&bytes(&file), "test.onnx").unwrap();
    assert_eq!(model.weights.0, [Tensor::new([4, 1, 1], vec![2.5; 4])]);
}

#[test]
fn a_transpose_of_groups_is_a_channel_shuffle() {
    let shuffle = |split: &[i64], perm: &[i64], join: &[i64]| {
        let nodes = vec![
            node("Reshape", "x a", "s", vec![]),
            node("Transpose", "s", "t", vec![ints("perm", perm)]),
            node("Reshape", "t b", "y", vec![]),
        ];
        file(nodes, vec![longs("a", split), longs("b", join)])
    };
    let expected = ["[N, 4, 6, 6] = channel_shuffle(%x) {groups 2}"];
    for (split, join) in [(&[0, 2, 2, 6, 6], &[0, 4, 6, 6]), (&[-1, 2, 2, 6, 6], &[-1, 4, 6, 6])] {
        let file = shuffle(split, &[0, 2, 1, 3, 4], join);
        assert_eq!(lines(&file), expected);
        let model = verify(read(&bytes(&file), "test.onnx").unwrap()).unwrap();
        let x = Tensor::new([1, 4, 6, 6], (0..144).map(|i| i as f32).collect());
        let y = Reference::new(&model).run(&[x]).unwrap().remove(0);
        assert_eq!([0, 36, 72, 108].map(|i| y.data[i]), [0.0, 72.0, 36.0, 108.0]);
    }
    for (split, perm, join) in [
        (&[0, 2, 2, 6, 6][..], &[0, 1, 2, 3, 4][..], &[0, 4, 6, 6][..]),
        (&[0, 3, 2, 6, 6], &[0, 2, 1, 3, 4], &[0, 4, 6, 6]),
        (&[0, 2, 2, 6, 6], &[0, 2, 1, 3, 4], &[0, 144]),
    ] {
        let error = read(&bytes(&shuffle(split, perm, join)), "test.onnx").unwrap_err().to_string();
        assert!(error.contains("(Reshape): from [N, 4, 6, 6] to"), "{error}");
    }
}
