//! Written, read, written again.

#![cfg(test)]

use super::sample;
use crate::ir::{Builder, Dim, Init, Model, Op, Role, Shape, Window, verify};
use crate::onnx::{OnnxError, WriteOptions, read, write};

fn options(opset: i64) -> WriteOptions {
    WriteOptions { opset, ..WriteOptions::default() }
}

#[test]
fn a_file_read_and_written_again_is_the_same_in_every_opset() {
    for opset in 13..=22 {
        for static_batch in [None, Some(4)] {
            let options = WriteOptions { static_batch, ..options(opset) };
            let first = write(&sample(), &options).unwrap();
            assert_eq!(first, write(&sample(), &options).unwrap(), "writing is reproducible");
            let model = verify(read(&first, "sample.onnx").unwrap()).unwrap();
            assert!(write(&model, &options).unwrap() == first, "opset {opset}, batch {static_batch:?}");
        }
    }
}

#[test]
fn the_model_read_computes_what_was_written() {
    let expected = "\
graph sample {
  input %input: [N, 3, 9, 9]
  %stem/conv: [N, 8, 9, 9] = conv(%input) {@stem.weight, 3x3 pad [1, 1, 1, 1]}
  %stem/bn: [N, 8, 9, 9] = batch_norm(%stem/conv) {@stem.bn.weight, @stem.bn.bias, @stem.bn.running_mean, \
    @stem.bn.running_var, epsilon 0.00001}
  %stem/bn/relu: [N, 8, 9, 9] = relu(%stem/bn)
  %node0/edge0/depthwise: [N, 8, 5, 5] = conv(%stem/bn/relu) {@edge0.depthwise, 3x3 stride 2x2 pad [2, 2, 2, 2] \
    dilation 2x2, groups 8}
  %node0/edge1/pointwise: [N, 8, 5, 5] = conv(%stem/bn/relu) {@edge1.weight, @edge1.bias, 1x1 stride 2x2}
  %node0/edge1/pointwise/relu: [N, 8, 5, 5] = relu(%node0/edge1/pointwise)
  %node0/add: [N, 8, 5, 5] = add(%node0/edge0/depthwise, %node0/edge1/pointwise/relu)
  %node1/max_pool: [N, 8, 5, 5] = max_pool(%stem/bn) {3x3 stride 2x2 pad [1, 0, 1, 2]}
  %node1/avg_pool: [N, 8, 5, 5] = avg_pool(%stem/bn) {3x3 stride 2x2 pad [1, 1, 1, 1]}
  %node1/bn: [N, 8, 5, 5] = batch_norm(%node1/avg_pool) {@node1/bn.scale, @node1/bn.shift, @node1.mean, @node1.var, \
    epsilon 0.001}
  %node2/slice: [N, 8, 4, 4] = slice(%node1/max_pool) {axis 2 from 0 take 4 step 1, axis 3 from 0 take 4 step 1}
  %node2/slice1: [N, 8, 4, 4] = slice(%node1/bn) {axis 2 from 1 take 4 step 1, axis 3 from 1 take 4 step 1}
  %node2/back: [N, 8, 4, 4] = slice(%node2/slice1) {axis 1 from 7 take 8 step -1}
  %node2/pad0: [N, 8, 5, 5] = pad(%node2/slice) {[[0, 0], [0, 0], [0, 1], [1, 0]] with 0}
  %node2/pad1: [N, 8, 5, 5] = pad(%node2/back) {[[0, 0], [0, 0], [0, 1], [1, 0]] with 0}
  %node2/add: [N, 8, 5, 5] = add(%node2/pad0, %node2/pad1)
  %concat: [N, 16, 5, 5] = concat(%node0/add, %node2/add) {axis 1}
  %relu: [N, 16, 5, 5] = relu(%concat)
  %pool: [N, 16, 1, 1] = global_avg_pool(%relu)
  %flatten: [N, 16] = flatten(%pool) {axis 1}
  %classifier: [N, 5] = linear(%flatten) {@classifier.weight, @classifier.bias}
  output logits = %classifier
}";
    let sample = sample();
    let model = read(&write(&sample, &WriteOptions::default()).unwrap(), "sample.onnx").unwrap();
    assert_eq!(model.graph.to_string(), expected.replace("    @", "@").replace("    d", "d").replace("    e", "e"));
    assert_eq!(model.metadata, sample.metadata);
    for (param, tensor) in sample.graph.params.iter().zip(&sample.weights.0) {
        let place = model.graph.params.iter().position(|p| p.name == param.name).expect(&param.name);
        assert_eq!((&model.weights.0[place], model.graph.params[place].role), (tensor, param.role), "{}", param.name);
    }
    let fill = |name: &str| {
        let place = model.graph.params.iter().position(|p| p.name == name).unwrap();
        model.weights.0[place].data.clone()
    };
    assert_eq!((fill("node1/bn.scale"), fill("node1/bn.shift")), (vec![1.0; 8], vec![0.0; 8]));
    assert_eq!(fill("classifier.bias"), vec![0.0; 5]);
}

#[test]
fn a_static_batch_is_read_as_a_fixed_size() {
    let options = WriteOptions { static_batch: Some(4), ..WriteOptions::default() };
    let model = read(&write(&sample(), &options).unwrap(), "sample.onnx").unwrap();
    assert!(model.graph.values.iter().all(|v| v.shape.0[0] == Dim::Fixed(4)));
}

#[test]
fn a_float16_file_is_read_as_rounded_float32() {
    let sample = sample();
    let options = WriteOptions { half: true, ..WriteOptions::default() };
    let model = read(&write(&sample, &options).unwrap(), "sample.onnx").unwrap();
    let plain = read(&write(&sample, &WriteOptions::default()).unwrap(), "sample.onnx").unwrap();
    assert_eq!(model.graph.to_string(), plain.graph.to_string());
    for (half, full) in model.weights.0.iter().zip(&plain.weights.0) {
        for (h, f) in half.data.iter().zip(&full.data) {
            assert!((h - f).abs() <= f.abs() / 2048.0 + 3e-8, "{h} for {f}");
        }
    }
    let mut large = sample.into_inner();
    large.weights.0[0].data[3] = 70_000.0;
    let error = write(&verify(large).unwrap(), &options).unwrap_err().to_string();
    assert!(error.contains("stem.weight") && error.contains("element 3 is 70000"), "{error}");
}

#[test]
fn odd_but_valid_graphs_survive() {
    let mut b = Builder::new("odd");
    let x = b.input("x", Shape::fixed(&[2, 3]));
    // Names that meet once the file's single name space has them all.
    let w = b.param("/a", None, &[3, 3], Role::Weight, Init::Uniform { bound: 1.0 });
    let a = b.node("a", Op::Linear { weight: w, bias: None }, &[x]).unwrap();
    let again = b.node("/a", Op::Linear { weight: w, bias: None }, &[a]).unwrap();
    let unread = b.node("dead", Op::Relu, &[a]).unwrap();
    b.node("dead2", Op::Relu, &[unread]).unwrap();
    let whole = b.node("whole", Op::Slice { ranges: Vec::new() }, &[again]).unwrap();
    b.output("y", whole);
    b.output("twice", again);
    b.output("input_itself", x);
    let model = verify(Model::initial(b.finish(), 1)).unwrap();
    let first = write(&model, &WriteOptions::default()).unwrap();
    let read = verify(read(&first, "odd.onnx").unwrap()).unwrap();
    assert!(write(&read, &WriteOptions::default()).unwrap() == first);
    assert_eq!(read.graph.nodes.iter().map(|n| n.name.as_str()).collect::<Vec<_>>(), ["a", "/a"]);
    assert_eq!(read.graph.outputs.iter().map(|o| o.name.as_str()).collect::<Vec<_>>(), ["y", "twice", "input_itself"]);
    assert_eq!(read.graph.outputs[0].value, read.graph.outputs[1].value);
    assert_eq!(read.graph.outputs[2].value, read.graph.inputs[0]);
}

#[test]
fn what_cannot_be_written_is_refused_by_name() {
    let check = |op: Op, opset: i64, message: &str| {
        let mut b = Builder::new("test");
        let x = b.input("input", Shape::image(4, 8, 8));
        let weights = b.input("weights", Shape::fixed(&[2]));
        let inputs = if matches!(op, Op::WeightedSum { .. }) { vec![weights, x] } else { vec![x] };
        let y = b.node("cell/odd", op, &inputs).unwrap();
        b.output("out", y);
        let model = verify(Model::initial(b.finish(), 1)).unwrap();
        let error = write(&model, &options(opset)).expect_err(message).to_string();
        assert!(error.contains(message), "`{error}` does not say `{message}`");
    };
    check(Op::WeightedSum { indices: vec![1] }, 17, "node `cell/odd` (weighted_sum): ONNX has no such operator");
    let window = Window { dilation: [2, 2], ..Window::same(3, 1, 1) };
    let dilated = Op::AvgPool { window, count_include_pad: false };
    check(dilated, 18, "write it with --opset 19");
    check(Op::Relu, 12, "--opset 12: the operator sets written are 13 to 22");
    check(Op::Relu, 23, "--opset 23");
    let none = WriteOptions { static_batch: Some(0), ..WriteOptions::default() };
    assert!(matches!(write(&sample(), &none), Err(OnnxError::Option { option: "--static-batch", .. })));
}

#[test]
fn a_name_that_an_output_and_a_parameter_share_is_refused() {
    let mut model = sample().into_inner();
    model.graph.outputs[0].name = "stem.weight".into();
    let error = write(&verify(model).unwrap(), &WriteOptions::default()).unwrap_err().to_string();
    assert!(error.contains("stem.weight") && error.contains("rename one"), "{error}");
}
