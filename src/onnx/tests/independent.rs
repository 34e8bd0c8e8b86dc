//! Files written here, parsed by a protobuf library and a schema that are not ours.

#![cfg(test)]

use std::collections::{HashMap, HashSet};

use onnx_protobuf::attribute_proto::AttributeType;
use onnx_protobuf::tensor_shape_proto::dimension::Value;
use onnx_protobuf::{AttributeProto, GraphProto, Message, ModelProto, NodeProto, ValueInfoProto};

use super::sample;
use crate::ir::Verified;
use crate::onnx::{WriteOptions, write};

fn parse(options: &WriteOptions) -> ModelProto {
    ModelProto::parse_from_bytes(&write(&sample(), options).unwrap()).unwrap()
}

fn node<'a>(graph: &'a GraphProto, name: &str) -> &'a NodeProto {
    graph.node.iter().find(|n| n.name == name).unwrap_or_else(|| panic!("no node {name}"))
}

fn attribute<'a>(node: &'a NodeProto, name: &str) -> &'a AttributeProto {
    node.attribute.iter().find(|a| a.name == name).unwrap_or_else(|| panic!("{} has no {name}", node.name))
}

fn dims(info: &ValueInfoProto) -> String {
    let tensor = info.type_.tensor_type();
    assert_eq!(tensor.elem_type, 1, "{}", info.name);
    let dims = tensor.shape.dim.iter().map(|d| match d.value.as_ref().expect("every dimension is written") {
        Value::DimValue(n) => n.to_string(),
        Value::DimParam(name) => name.clone(),
        _ => panic!("{}: a new kind of dimension", info.name),
    });
    dims.collect::<Vec<_>>().join(" ")
}

#[test]
fn the_header_names_versions_and_metadata() {
    let ir_versions = [7, 7, 8, 8, 8, 8, 9, 9, 10, 10];
    for (opset, ir_version) in (13..=22).zip(ir_versions) {
        let model = parse(&WriteOptions { opset, producer_version: "9.8.7".into(), ..WriteOptions::default() });
        assert_eq!((model.ir_version, model.producer_version.as_str()), (ir_version, "9.8.7"));
        assert_eq!(model.producer_name, "idarts-compile");
        assert_eq!(model.opset_import.len(), 1);
        assert_eq!((model.opset_import[0].domain.as_str(), model.opset_import[0].version), ("", opset));
        let metadata: Vec<_> = model.metadata_props.iter().map(|p| (p.key.clone(), p.value.clone())).collect();
        assert_eq!(metadata, sample().metadata);
        assert_eq!(model.graph.name, "sample");
    }
}

#[test]
fn every_value_is_made_once_before_it_is_read_and_has_a_shape() {
    for opset in 13..=22 {
        let graph = parse(&WriteOptions { opset, ..WriteOptions::default() }).graph.unwrap();
        let mut known: HashSet<&str> = graph.initializer.iter().map(|t| t.name.as_str()).collect();
        assert_eq!(known.len(), graph.initializer.len());
        assert!(graph.input.iter().all(|i| known.insert(&i.name)));
        let mut shaped: HashMap<&str, String> =
            graph.value_info.iter().chain(&graph.output).map(|i| (i.name.as_str(), dims(i))).collect();
        let mut names = HashSet::new();
        let mut read = HashSet::new();
        for node in &graph.node {
            assert!(node.name.starts_with('/') && names.insert(&node.name), "{}", node.name);
            assert!(node.domain.is_empty());
            for input in &node.input {
                assert!(known.contains(input.as_str()), "{} reads {input} too early", node.name);
                read.insert(input.as_str());
            }
            let [output] = node.output.as_slice() else { panic!("{} has several outputs", node.name) };
            assert!(known.insert(output), "{output} is made twice");
            assert!(shaped.remove(output.as_str()).is_some(), "{output} has no shape");
        }
        assert!(shaped.is_empty(), "shapes of values that do not exist: {shaped:?}");
        for initializer in &graph.initializer {
            assert!(read.contains(initializer.name.as_str()), "{} is not read", initializer.name);
        }
    }
}

#[test]
fn parameters_are_raw_little_endian_initialisers_of_their_names() {
    let graph = parse(&WriteOptions::default()).graph.unwrap();
    let sample = sample();
    for (i, (param, tensor)) in sample.graph.params.iter().zip(&sample.weights.0).enumerate() {
        let written = &graph.initializer[i];
        assert_eq!((written.name.as_str(), written.data_type), (param.name.as_str(), 1));
        assert_eq!(written.dims, param.shape.iter().map(|d| *d as i64).collect::<Vec<_>>());
        let bytes: Vec<u8> = tensor.data.iter().flat_map(|x| x.to_le_bytes()).collect();
        assert_eq!(written.raw_data, bytes);
        assert!(written.float_data.is_empty());
    }
    let added: Vec<_> = graph.initializer[sample.graph.params.len()..]
        .iter()
        .map(|t| (t.name.as_str(), t.data_type, t.dims.as_slice(), t.raw_data.len()))
        .collect();
    let expected = [
        ("node1/bn.scale", 1, &[8][..], 32),
        ("node1/bn.shift", 1, &[8], 32),
        ("classifier.bias", 1, &[5], 20),
        ("/constants/0_0", 7, &[2], 16),
        ("/constants/4_4", 7, &[2], 16),
        ("/constants/2_3", 7, &[2], 16),
        ("/constants/1_1", 7, &[2], 16),
        ("/constants/5_5", 7, &[2], 16),
        ("/constants/7", 7, &[1], 8),
        ("/constants/m2147483648", 7, &[1], 8),
        ("/constants/1", 7, &[1], 8),
        ("/constants/m1", 7, &[1], 8),
        ("/constants/0_0_0_1_0_0_1_0", 7, &[8], 64),
        ("/constants/0.0", 1, &[], 4),
    ];
    assert_eq!(added, expected);
}

#[test]
fn each_operator_is_written_by_the_page() {
    let graph = parse(&WriteOptions::default()).graph.unwrap();
    let check = |name: &str, op: &str, inputs: &str, output: &str, attributes: &[(&str, AttributeType, &str)]| {
        let node = node(&graph, name);
        assert_eq!((node.op_type.as_str(), node.input.join(" ").as_str()), (op, inputs), "{name}");
        assert_eq!(node.output, [output], "{name}");
        assert_eq!(node.attribute.len(), attributes.len(), "{name}");
        for (word, kind, expected) in attributes {
            let a = attribute(node, word);
            assert_eq!(a.type_.enum_value(), Ok(*kind), "{name} {word}");
            let text = match kind {
                AttributeType::INT => a.i.to_string(),
                AttributeType::FLOAT => a.f.to_string(),
                AttributeType::INTS => format!("{:?}", a.ints),
                _ => String::from_utf8(a.s.clone()).unwrap(),
            };
            assert_eq!(text, *expected, "{name} {word}");
        }
    };
    use AttributeType::{FLOAT, INT, INTS, STRING};
    let sliding =
        |kernel, pads, strides| [("kernel_shape", INTS, kernel), ("pads", INTS, pads), ("strides", INTS, strides)];
    let with = |more: &[_], window: [_; 3]| [more, &window].concat();

    let window = sliding("[3, 3]", "[1, 1, 1, 1]", "[1, 1]");
    let attributes = with(&[("dilations", INTS, "[1, 1]"), ("group", INT, "1")], window);
    check("/stem/conv", "Conv", "input stem.weight", "/stem/conv", &attributes);
    let bn = "/stem/conv stem.bn.weight stem.bn.bias stem.bn.running_mean stem.bn.running_var";
    check("/stem/bn", "BatchNormalization", bn, "/stem/bn", &[("epsilon", FLOAT, "0.00001")]);
    check("/stem/bn/relu", "Relu", "/stem/bn", "/stem/bn/relu", &[]);
    let window = sliding("[3, 3]", "[2, 2, 2, 2]", "[2, 2]");
    let attributes = with(&[("dilations", INTS, "[2, 2]"), ("group", INT, "8")], window);
    let depthwise = "/node0/edge0/depthwise";
    check(depthwise, "Conv", "/stem/bn/relu edge0.depthwise", depthwise, &attributes);
    let pointwise = "/node0/edge1/pointwise";
    let attributes =
        with(&[("dilations", INTS, "[1, 1]"), ("group", INT, "1")], sliding("[1, 1]", "[0, 0, 0, 0]", "[2, 2]"));
    check(pointwise, "Conv", "/stem/bn/relu edge1.weight edge1.bias", pointwise, &attributes);
    check("/node0/edge1/pointwise/relu", "Relu", pointwise, "/node0/edge1/pointwise/relu", &[]);
    let add = "/node0/edge0/depthwise /node0/edge1/pointwise/relu";
    check("/node0/add", "Add", add, "/node0/add", &[]);
    let window = sliding("[3, 3]", "[1, 0, 1, 2]", "[2, 2]");
    let attributes = with(&[("ceil_mode", INT, "0"), ("dilations", INTS, "[1, 1]")], window);
    check("/node1/max_pool", "MaxPool", "/stem/bn", "/node1/max_pool", &attributes);
    let window = sliding("[3, 3]", "[1, 1, 1, 1]", "[2, 2]");
    let attributes = with(&[("ceil_mode", INT, "0"), ("count_include_pad", INT, "0")], window);
    check("/node1/avg_pool", "AveragePool", "/stem/bn", "/node1/avg_pool", &attributes);
    let bn = "/node1/avg_pool node1/bn.scale node1/bn.shift node1.mean node1.var";
    check("/node1/bn", "BatchNormalization", bn, "/node1/bn", &[("epsilon", FLOAT, "0.001")]);
    let slice = "/node1/max_pool /constants/0_0 /constants/4_4 /constants/2_3 /constants/1_1";
    check("/node2/slice", "Slice", slice, "/node2/slice", &[]);
    let slice = "/node1/bn /constants/1_1 /constants/5_5 /constants/2_3 /constants/1_1";
    check("/node2/slice1", "Slice", slice, "/node2/slice1", &[]);
    let back = "/node2/slice1 /constants/7 /constants/m2147483648 /constants/1 /constants/m1";
    check("/node2/back", "Slice", back, "/node2/back", &[]);
    let pad = "/node2/back /constants/0_0_0_1_0_0_1_0 /constants/0.0";
    check("/node2/pad1", "Pad", pad, "/node2/pad1", &[("mode", STRING, "constant")]);
    check("/concat", "Concat", "/node0/add /node2/add", "/concat", &[("axis", INT, "1")]);
    check("/relu", "Relu", "/concat", "/relu", &[]);
    check("/pool", "GlobalAveragePool", "/relu", "/pool", &[]);
    check("/flatten", "Flatten", "/pool", "/flatten", &[("axis", INT, "1")]);
    let gemm = [("alpha", FLOAT, "1"), ("beta", FLOAT, "1"), ("transA", INT, "0"), ("transB", INT, "1")];
    check("/classifier", "Gemm", "/flatten classifier.weight classifier.bias", "logits", &gemm);
    assert_eq!(graph.node.len(), 21);
}

#[test]
fn the_batch_is_a_symbol_or_a_number() {
    for (static_batch, word) in [(None, "batch"), (Some(3), "3")] {
        let graph = parse(&WriteOptions { static_batch, ..WriteOptions::default() }).graph.unwrap();
        let [input] = graph.input.as_slice() else { panic!("{:?}", graph.input) };
        let [output] = graph.output.as_slice() else { panic!("{:?}", graph.output) };
        assert_eq!((input.name.as_str(), dims(input)), ("input", format!("{word} 3 9 9")));
        assert_eq!((output.name.as_str(), dims(output)), ("logits", format!("{word} 5")));
        let concat = graph.value_info.iter().find(|i| i.name == "/concat").unwrap();
        assert_eq!(dims(concat), format!("{word} 16 5 5"));
    }
}

#[test]
fn float16_is_inside_only() {
    let graph = parse(&WriteOptions { half: true, ..WriteOptions::default() }).graph.unwrap();
    dims(&graph.input[0]);
    dims(&graph.output[0]);
    assert!(graph.value_info.iter().all(|i| i.type_.tensor_type().elem_type == 10));
    assert!(graph.initializer.iter().all(|t| matches!(t.data_type, 7 | 10)));
    let casts: Vec<_> = graph
        .node
        .iter()
        .filter(|n| n.op_type == "Cast")
        .map(|n| (n.input[0].as_str(), n.output[0].as_str(), attribute(n, "to").i))
        .collect();
    assert_eq!(casts, [("input", "/input/cast", 10), ("/classifier", "logits", 1)]);
    let stem = graph.initializer.iter().find(|t| t.name == "classifier.bias").unwrap();
    assert_eq!(stem.raw_data, [0; 10]);
    assert_eq!(node(&graph, "/stem/conv").input[0], "/input/cast");
}

#[test]
fn only_what_outputs_depend_on_is_written() {
    let mut model = Verified::into_inner(sample());
    let flat = model.graph.values.iter().position(|v| v.name == "flatten").unwrap();
    model.graph.outputs[0].value = crate::ir::ValueId(flat as u32);
    let model = crate::ir::verify(model).unwrap();
    let bytes = write(&model, &WriteOptions::default()).unwrap();
    let graph = ModelProto::parse_from_bytes(&bytes).unwrap().graph.unwrap();
    assert!(graph.node.iter().all(|n| n.op_type != "Gemm"));
    assert!(graph.initializer.iter().all(|t| !t.name.starts_with("classifier")));
    assert_eq!(node(&graph, "/flatten").output, ["logits"]);
}
