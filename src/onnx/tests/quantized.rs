//! Eight bits in files: written and read again, read as others write them, refused.

#![cfg(test)]

use super::file::{bytes, file, int, node};
use super::sample;
use crate::ir::{Codes, Grid, Model, Op, ValueId, Verified, Width, verify};
use crate::onnx::proto::{ModelProto, NodeProto, TensorProto, data_type};
use crate::onnx::{WriteOptions, read, write};

/// The sample with codes for the weights of its convolutions and one bias, and two rounded values, one of them the output.
fn quantized() -> Verified<Model> {
    let mut model = sample().into_inner();
    for (name, width) in [
        ("stem.weight", Width::Int8),
        ("edge0.depthwise", Width::Int8),
        ("edge1.weight", Width::Int8),
        ("edge1.bias", Width::Int32),
    ] {
        let place = model.graph.params.iter().position(|p| p.name == name).unwrap();
        let scales = (0..model.graph.params[place].shape[0]).map(|c| 0.001 * (c + 3) as f32).collect();
        let codes = Codes { scales, width };
        let data = &mut model.weights.0[place].data;
        *data = codes.numbers(&codes.nearest(data));
        model.graph.params[place].codes = Some(codes);
    }
    for (name, grid) in [
        ("stem/bn", Grid { scale: 0.02, zero_point: -5 }),
        ("concat", Grid { scale: 0.02, zero_point: -128 }),
        ("classifier", Grid { scale: 0.1, zero_point: 0 }),
    ] {
        let place = model.graph.nodes.iter().position(|n| n.name == name).unwrap();
        let input = model.graph.nodes[place].output;
        let output = ValueId(model.graph.values.len() as u32);
        let value = crate::ir::Value { name: format!("{name}/int8"), ..model.graph.value(input).clone() };
        model.graph.replace_uses(input, output);
        let op = Op::QuantizeDequantize(grid);
        model
            .graph
            .nodes
            .insert(place + 1, crate::ir::Node { name: value.name.clone(), op, inputs: vec![input], output });
        model.graph.values.push(value);
    }
    verify(model).unwrap()
}

#[test]
fn a_quantised_file_read_and_written_again_is_the_same_in_every_opset() {
    for opset in 13..=22 {
        for static_batch in [None, Some(4)] {
            let options = WriteOptions { opset, static_batch, ..WriteOptions::default() };
            let first = write(&quantized(), &options).unwrap();
            let model = verify(read(&first, "quantized.onnx").unwrap()).unwrap();
            assert!(write(&model, &options).unwrap() == first, "opset {opset}, batch {static_batch:?}");
        }
    }
}

#[test]
fn what_is_read_is_what_was_written() {
    let given = quantized();
    let bytes = write(&given, &WriteOptions::default()).unwrap();
    let model = read(&bytes, "quantized.onnx").unwrap();
    let text = model.graph.to_string();
    for line in [
        "  %stem/conv: [N, 8, 9, 9] = conv(%input) {@stem.weight quantized, 3x3 pad [1, 1, 1, 1]}",
        "  %stem/bn/int8: [N, 8, 9, 9] = quantize_dequantize(%stem/bn) {scale 0.02, zero -5}",
        "  %classifier/int8: [N, 5] = quantize_dequantize(%classifier) {scale 0.1, zero 0}",
        "{@edge1.weight quantized, @edge1.bias quantized, 1x1 stride 2x2}",
    ] {
        assert!(text.contains(line), "`{line}` is not in {text}");
    }
    for (param, tensor) in given.graph.params.iter().zip(&given.weights.0) {
        let place = model.graph.params.iter().position(|p| p.name == param.name).expect(&param.name);
        let read = &model.graph.params[place];
        assert_eq!(
            (&model.weights.0[place], read.role, &read.codes),
            (tensor, param.role, &param.codes),
            "{}",
            param.name
        );
    }
    let plain = write(&sample(), &WriteOptions::default()).unwrap();
    assert!(read(&plain, "plain.onnx").unwrap().graph.params.iter().all(|p| p.codes.is_none()));
}

#[test]
fn float16_and_eight_bits_exclude_each_other() {
    let options = WriteOptions { half: true, ..WriteOptions::default() };
    let error = write(&quantized(), &options).unwrap_err().to_string();
    assert!(error.contains("stem.weight") && error.contains("write it without --fp16"), "{error}");
}

fn codes(name: &str, dims: &[i64], kind: i32, values: &[i32]) -> TensorProto {
    TensorProto {
        name: name.into(),
        dims: dims.to_vec(),
        data_type: kind,
        int32_data: values.to_vec(),
        ..TensorProto::default()
    }
}

fn scale(name: &str, dims: &[i64], values: &[f32]) -> TensorProto {
    let float_data = values.to_vec();
    TensorProto {
        name: name.into(),
        dims: dims.to_vec(),
        data_type: data_type::FLOAT,
        float_data,
        ..TensorProto::default()
    }
}

fn model(file: &ModelProto) -> Model {
    verify(read(&bytes(file), "test.onnx").unwrap_or_else(|e| panic!("{e}"))).unwrap().into_inner()
}

/// The node that makes `y` in a file that rounds `x` with the given zero point.
fn pair(zero: Option<TensorProto>) -> Vec<NodeProto> {
    let z = if zero.is_some() { " z" } else { "" };
    vec![
        node("QuantizeLinear", &format!("x s{z}"), "q", vec![]),
        node("DequantizeLinear", &format!("q s{z}"), "y", vec![]),
    ]
}

#[test]
fn pairs_are_read_with_every_kind_of_zero_point() {
    let check = |zero: Option<TensorProto>, expected: i8| {
        let constants = [scale("s", &[], &[0.5])].into_iter().chain(zero.clone()).collect();
        let model = model(&file(pair(zero), constants));
        assert_eq!(model.graph.nodes[0].op, Op::QuantizeDequantize(Grid { scale: 0.5, zero_point: expected }));
    };
    check(Some(codes("z", &[], data_type::INT8, &[-7])), -7);
    check(Some(codes("z", &[1], data_type::INT8, &[127])), 127);
    check(Some(codes("z", &[], data_type::UINT8, &[121])), -7);
    check(Some(codes("z", &[], data_type::UINT8, &[255])), 127);
    check(None, -128);
}

#[test]
fn constants_of_integers_are_read_in_all_forms() {
    // Four filters of four channels: element i has the code i - 8.
    let weight = |kind: i32, shift: i32| {
        let values: Vec<i32> = (0..16).map(|i| i - 8 + shift).collect();
        codes("w", &[4, 4, 1, 1], kind, &values)
    };
    let check = |weight: TensorProto, axis: Option<i64>, scales: &[f32], zero: Option<TensorProto>, kept: bool| {
        let z = if zero.is_some() { " z" } else { "" };
        let attributes = axis.map(|axis| int("axis", axis)).into_iter().collect();
        let nodes =
            vec![node("DequantizeLinear", &format!("w s{z}"), "f", attributes), node("Conv", "x f", "y", vec![])];
        let dims: &[i64] = if scales.len() == 1 { &[] } else { &[4] };
        let model = model(&file(nodes, [weight, scale("s", dims, scales)].into_iter().chain(zero).collect()));
        assert_eq!((model.graph.params[0].name.as_str(), model.graph.params[0].codes.is_some()), ("w", kept));
        let index = |i: usize| match (scales.len(), axis) {
            (1, _) => 0,
            (_, Some(0 | -4)) => i / 4,
            _ => i % 4,
        };
        let expected: Vec<f32> = (0..16).map(|i| (i as i32 - 8) as f32 * scales[index(i)]).collect();
        assert_eq!(model.weights.0[0].data, expected);
    };
    let four = [0.5, 0.25, 2.0, 1.0];
    check(weight(data_type::INT8, 0), Some(0), &four, None, true);
    check(weight(data_type::INT8, 0), Some(-4), &four, Some(codes("z", &[4], data_type::INT8, &[0; 4])), true);
    check(weight(data_type::INT8, 0), None, &[0.5], None, true);
    check(weight(data_type::UINT8, 128), Some(0), &four, Some(codes("z", &[4], data_type::UINT8, &[128; 4])), true);
    check(weight(data_type::INT8, 3), None, &[0.5], Some(codes("z", &[], data_type::INT8, &[3])), true);
    // Scales along another axis are multiplied out: the default axis is 1.
    check(weight(data_type::INT8, 0), None, &four, None, false);
}

#[test]
fn what_is_not_in_qdq_form_is_refused() {
    let check = |nodes: Vec<NodeProto>, constants: Vec<TensorProto>, message: &str| {
        let error = read(&bytes(&file(nodes, constants)), "bad.onnx").expect_err(message).to_string();
        assert!(error.contains(message), "`{error}` does not say `{message}`");
    };
    let s = || scale("s", &[], &[0.5]);
    let z = |name: &str, code: i32| codes(name, &[], data_type::INT8, &[code]);
    let quantize = || node("QuantizeLinear", "x s z", "q", vec![]);
    check(vec![quantize(), node("Relu", "q", "y", vec![])], vec![s(), z("z", 0)], "input 0 `q` holds integers");
    check(
        vec![quantize(), node("DequantizeLinear", "q s o", "y", vec![])],
        vec![s(), z("z", 0), z("o", 1)],
        "is not that of the QuantizeLinear before it",
    );
    check(
        vec![quantize(), node("DequantizeLinear", "q t z", "y", vec![])],
        vec![s(), scale("t", &[], &[0.25]), z("z", 0)],
        "is not that of the QuantizeLinear before it",
    );
    check(vec![node("DequantizeLinear", "x s", "y", vec![])], vec![s()], "is neither a constant nor made by");
    check(pair(None), vec![scale("s", &[], &[0.0])], "the scale 0 is no normal number above 0");
    check(pair(None), vec![scale("s", &[4], &[1.0; 4])], "4 scales for a computed value");
    let wide = codes("z", &[], data_type::INT32, &[0]);
    check(pair(Some(wide.clone())), vec![s(), wide], "to int32; supported are int8 and uint8");
    let blocked = node("DequantizeLinear", "w s", "f", vec![int("block_size", 2)]);
    let w = || codes("w", &[4, 4, 1, 1], data_type::INT8, &[1; 16]);
    let conv = || node("Conv", "x f", "y", vec![]);
    check(vec![blocked, conv()], vec![w(), s()], "attribute `block_size` is not known");
    let dequantize = |s: &str, to: &str| node("DequantizeLinear", &format!("w {s}"), to, vec![int("axis", 0)]);
    check(
        vec![dequantize("s", "f"), conv()],
        vec![w(), scale("s", &[3], &[1.0; 3])],
        "supported is one, or one for each",
    );
    let twice = vec![
        dequantize("s", "f"),
        dequantize("t", "g"),
        node("Conv", "x f", "c", vec![]),
        node("Conv", "c g", "y", vec![]),
    ];
    check(twice, vec![w(), s(), scale("t", &[], &[2.0])], "made numbers by two scales");
    check(vec![node("Conv", "x w", "y", vec![])], vec![w()], "its type is int8; supported are float32 and float16");
    let text = codes("w", &[4, 4, 1, 1], data_type::BOOL, &[1; 16]);
    check(vec![dequantize("s", "f"), conv()], vec![text, s()], "its type is bool");
}
