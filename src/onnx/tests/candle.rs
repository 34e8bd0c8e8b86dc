//! Files for candle: what is written in another way, that it computes the same, and what is refused.

#![cfg(test)]

use super::{conv, sample, weight};
use crate::ir::{Builder, Grid, Model, Op, Shape, Tensor, Verified, Window, verify};
use crate::onnx::proto::{ModelProto, NodeProto};
use crate::onnx::{OnnxError, Target, WriteOptions, read, write};
use crate::runtime::Reference;
use prost::Message;

fn options() -> WriteOptions {
    WriteOptions { target: Target::Candle, ..WriteOptions::default() }
}

/// A network of one op over images of 4 channels, 7 by 7.
fn network(op: Op) -> Verified<Model> {
    let mut b = Builder::new("test");
    let x = b.input("input", Shape::image(4, 7, 7));
    let first = weight(&mut b, "stem.weight", &[4, 4, 1, 1]);
    let stem = b.node("stem", conv(first, None, Window::same(1, 1, 1), 1, true, false), &[x]).unwrap();
    let y = b.node("cell/odd", op, &[stem]).unwrap();
    b.output("out", y);
    verify(Model::initial(b.finish(), 3)).unwrap()
}

fn nodes(bytes: &[u8]) -> Vec<NodeProto> {
    ModelProto::decode(bytes).unwrap().graph.unwrap().node
}

fn average(window: Window, count_include_pad: bool) -> Op {
    Op::AvgPool { window, count_include_pad }
}

/// The largest difference between what the two files compute, by the reference.
fn apart(model: &Verified<Model>) -> f32 {
    let run = |options: &WriteOptions| {
        let read = verify(read(&write(model, options).unwrap(), "test.onnx").unwrap()).unwrap();
        let shape = [2, 4, 7, 7];
        let pixel = |i: usize| ((i * 7919 + 3) % 257) as f32 / 64.0 - 2.0;
        let x = Tensor::new(shape, (0..shape.iter().product()).map(pixel).collect());
        Reference::new(&read).run(&[x]).unwrap().remove(0)
    };
    let (plain, candle) = (run(&WriteOptions::default()), run(&options()));
    assert_eq!(plain.shape, candle.shape);
    assert!(plain.data.iter().any(|x| *x != plain.data[0]), "the values tell nothing");
    plain.data.iter().zip(&candle.data).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn pools_are_written_without_padding_and_compute_the_same() {
    let same = |stride| Window::same(3, stride, 1);
    let uneven = Window { padding: [1, 0, 1, 1], ..Window::same(3, 2, 1) };
    let cases: [(Op, &[&str], f32); 11] = [
        (Op::MaxPool(same(1)), &["Pad", "MaxPool"], 0.0),
        (Op::MaxPool(same(2)), &["Pad", "MaxPool"], 0.0),
        (Op::MaxPool(uneven), &["Pad", "MaxPool"], 0.0),
        (Op::MaxPool(Window::same(5, 2, 1)), &["Pad", "MaxPool"], 0.0),
        (Op::MaxPool(Window::valid(2, 2)), &["MaxPool"], 0.0),
        (average(same(1), false), &["Conv", "Mul"], 1e-6),
        (average(same(2), false), &["Conv", "Mul"], 1e-6),
        (average(uneven, true), &["Conv", "Mul"], 1e-6),
        (average(Window::same(5, 1, 1), false), &["Conv", "Mul"], 1e-6),
        (average(Window::valid(2, 2), false), &["AveragePool"], 0.0),
        (Op::GlobalAvgPool, &["ReduceMean"], 1e-6),
    ];
    for (op, expected, tolerance) in cases {
        let text = format!("{op:?}");
        let model = network(op);
        let written = nodes(&write(&model, &options()).unwrap());
        let ops: Vec<&str> = written.iter().skip(2).map(|n| n.op_type.as_str()).collect();
        assert_eq!(ops, expected, "{text}");
        let axes = written.iter().flat_map(|n| &n.attribute).filter(|a| a.name == "axes");
        let pools = written.iter().filter(|n| n.op_type.ends_with("Pool"));
        assert!(pools.flat_map(|n| &n.attribute).all(|a| a.name != "pads" || a.ints == [0; 4]), "{text}");
        assert!(axes.into_iter().all(|a| a.ints == [2, 3]), "{text}");
        assert!(written.iter().filter(|n| n.op_type == "Pad").all(|n| n.input.len() == 2), "{text}");
        assert!(apart(&model) <= tolerance, "{text}: {:e}", apart(&model));
    }
}

#[test]
fn a_file_for_candle_is_read_and_written_again_with_the_same_nodes() {
    for op in [Op::MaxPool(Window::same(3, 2, 1)), Op::GlobalAvgPool, average(Window::same(3, 1, 1), false)] {
        let first = write(&network(op), &options()).unwrap();
        let model = verify(read(&first, "test.onnx").unwrap()).unwrap();
        let second = write(&model, &options()).unwrap();
        let kinds = |bytes: &[u8]| nodes(bytes).into_iter().map(|n| n.op_type).collect::<Vec<_>>();
        assert_eq!(kinds(&first), kinds(&second));
    }
}

#[test]
fn every_value_has_its_shape() {
    let file = write(&network(Op::MaxPool(Window::same(3, 2, 1))), &options()).unwrap();
    let graph = ModelProto::decode(file.as_slice()).unwrap().graph.unwrap();
    let text = format!("{:?}", graph.value_info.iter().find(|i| i.name == "/cell/odd/mirror").unwrap());
    assert!(text.contains("Param(\"batch\")") && text.contains("Value(4)") && text.matches("Value(9)").count() == 2);
}

#[test]
fn what_candle_cannot_compute_is_refused_by_node() {
    let check = |op: Op, message: &str| {
        let error = write(&network(op), &options()).expect_err(message).to_string();
        assert!(error.contains(message), "`{error}` does not say `{message}`");
        assert!(error.contains("node `cell/odd`") && error.contains("--target candle"), "{error}");
    };
    let wide = Window::new([2, 2], [2, 2], [1, 1], [1, 1]);
    check(Op::MaxPool(wide), "windows must be wider than twice the padding");
    check(Op::MaxPool(Window { ceil: true, ..Window::valid(3, 2) }), "neither ceil_mode nor dilation");
    check(Op::MaxPool(Window::same(3, 1, 2)), "neither ceil_mode nor dilation");
    check(average(Window { ceil: true, ..Window::valid(3, 2) }, false), "has no ceil_mode");
    check(
        average(Window::new([3, 3], [1, 2], [1, 1], [1, 1]), false),
        "stride 1x2, dilation 1x1: candle's convolution",
    );
    let pads = vec![[0, 0], [0, 0], [1, 1], [1, 1]];
    check(Op::Pad { pads, value: 0.0 }, "pads by reflection only; leave out --keep-reduce");
    let grid = Grid { scale: 0.5, zero_point: 0 };
    check(Op::QuantizeDequantize(grid), "leave out --int8");

    let mut b = Builder::new("test");
    let x = b.input("input", Shape::image(4, 7, 7));
    let w = weight(&mut b, "w", &[4, 4, 1, 7]);
    let window = Window::new([1, 7], [1, 2], [0, 3], [1, 1]);
    let y = b.node("cell/odd", conv(w, None, window, 1, false, false), &[x]).unwrap();
    b.output("out", y);
    let model = verify(Model::initial(b.finish(), 3)).unwrap();
    let error = write(&model, &options()).unwrap_err().to_string();
    assert!(error.contains("stride 1x2") && error.contains("without conv_7x1_1x7"), "{error}");
    let error = write(&sample(), &options()).unwrap_err().to_string();
    assert!(error.contains("node `node1/max_pool`") || error.contains("(pad)"), "{error}");
}

#[test]
fn options_that_candle_does_not_go_with_are_named() {
    let check = |options: WriteOptions, message: &str| {
        let error = write(&network(Op::Relu), &options).expect_err(message);
        assert!(matches!(error, OnnxError::Option { .. }));
        assert!(error.to_string().contains(message), "`{error}` does not say `{message}`");
    };
    check(
        WriteOptions { half: true, ..options() },
        "--fp16 with --target candle: candle's Gemm multiplies float32 only",
    );
    for opset in 18..=22 {
        check(WriteOptions { opset, ..options() }, &format!("--opset {opset}: --target candle writes ReduceMean"));
    }
    for opset in 13..=17 {
        let fixed = WriteOptions { opset, static_batch: Some(2), ..options() };
        assert!(write(&network(Op::GlobalAvgPool), &fixed).is_ok());
    }
}
