//! Files as other programs write them, put together by hand.

#![cfg(test)]

use prost::Message;

use crate::onnx::proto::{
    AttributeProto, Dimension, DimensionValue, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto,
    TensorShapeProto, TensorType, TypeProto, TypeValue, ValueInfoProto, attribute_type, data_type,
};

/// A file with input `x` of shape `[N, 4, 6, 6]` and output `y`, opset 17.
pub(super) fn file(node: Vec<NodeProto>, initializer: Vec<TensorProto>) -> ModelProto {
    ModelProto {
        ir_version: 8,
        opset_import: vec![OperatorSetIdProto { domain: String::new(), version: 17 }],
        graph: Some(GraphProto {
            node,
            name: "test".into(),
            initializer,
            input: vec![value("x", &["N", "4", "6", "6"])],
            output: vec![value("y", &[])],
            ..GraphProto::default()
        }),
        ..ModelProto::default()
    }
}

/// The same with another operator set, and a format version that goes with it.
pub(super) fn with_opset(opset: i64, mut file: ModelProto) -> ModelProto {
    file.opset_import[0].version = opset;
    file.ir_version = crate::onnx::ir_version(opset);
    file
}

/// The same with an input of another shape.
pub(super) fn with_input(dims: &[&str], mut file: ModelProto) -> ModelProto {
    file.graph.as_mut().unwrap().input = vec![value("x", dims)];
    file
}

/// Name and type of a float value; a dimension is a number, a name, or `?` for nothing.
pub(super) fn value(name: &str, dims: &[&str]) -> ValueInfoProto {
    let dim = |text: &&str| match text.parse() {
        Ok(n) => Dimension { value: Some(DimensionValue::Value(n)) },
        Err(_) if *text == "?" => Dimension { value: None },
        Err(_) => Dimension { value: Some(DimensionValue::Param(text.to_string())) },
    };
    let shape = Some(TensorShapeProto { dim: dims.iter().map(dim).collect() });
    let tensor = TensorType { elem_type: data_type::FLOAT, shape };
    let r#type = Some(TypeProto { value: Some(TypeValue::Tensor(tensor)) });
    ValueInfoProto { name: name.into(), r#type, doc_string: String::new() }
}

/// A nameless node; names are separated by spaces, `-` is an input left out.
pub(super) fn node(op: &str, input: &str, output: &str, attribute: Vec<AttributeProto>) -> NodeProto {
    let names = |text: &str| text.split_whitespace().map(|n| if n == "-" { "" } else { n }.to_owned()).collect();
    let (input, output) = (names(input), names(output));
    NodeProto { op_type: op.into(), input, output, attribute, ..NodeProto::default() }
}

/// An integer attribute.
pub(super) fn int(name: &str, i: i64) -> AttributeProto {
    AttributeProto { name: name.into(), r#type: attribute_type::INT, i: Some(i), ..AttributeProto::default() }
}

/// A list of integers.
pub(super) fn ints(name: &str, ints: &[i64]) -> AttributeProto {
    AttributeProto { name: name.into(), r#type: attribute_type::INTS, ints: ints.to_vec(), ..AttributeProto::default() }
}

/// A float attribute.
pub(super) fn float(name: &str, f: f32) -> AttributeProto {
    AttributeProto { name: name.into(), r#type: attribute_type::FLOAT, f: Some(f), ..AttributeProto::default() }
}

/// A text attribute.
pub(super) fn text(name: &str, s: &str) -> AttributeProto {
    let s = Some(s.as_bytes().to_vec());
    AttributeProto { name: name.into(), r#type: attribute_type::STRING, s, ..AttributeProto::default() }
}

/// A tensor attribute.
pub(super) fn tensor(name: &str, t: TensorProto) -> AttributeProto {
    AttributeProto { name: name.into(), r#type: attribute_type::TENSOR, t: Some(t), ..AttributeProto::default() }
}

/// A float tensor with elements 0, 1, 2, ... as `raw_data`.
pub(super) fn floats(name: &str, dims: &[i64]) -> TensorProto {
    let count = dims.iter().product::<i64>();
    TensorProto {
        name: name.into(),
        dims: dims.to_vec(),
        data_type: data_type::FLOAT,
        raw_data: Some((0..count).flat_map(|i| (i as f32).to_le_bytes()).collect()),
        ..TensorProto::default()
    }
}

/// A list of int64, in its typed field.
pub(super) fn longs(name: &str, data: &[i64]) -> TensorProto {
    TensorProto {
        name: name.into(),
        dims: vec![data.len() as i64],
        data_type: data_type::INT64,
        int64_data: data.to_vec(),
        ..TensorProto::default()
    }
}

/// The bytes of a file.
pub(super) fn bytes(file: &ModelProto) -> Vec<u8> {
    file.encode_to_vec()
}
