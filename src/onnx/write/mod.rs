//! The writer: a verified model as the bytes of an ONNX file.
//!
//! Takes a [`Verified`] model and [`WriteOptions`]; gives bytes that depend on nothing else. Which nodes an op becomes is in
//! `node`, eight bits are in `quantized`, what candle needs is in `candle`, what a name becomes in `names`, constants in
//! `tensor`. Optimising the graph first (folding batch norms, dropping the auxiliary head) is left to the passes; nodes and
//! parameters that no output depends on are not written.
//!
//! What the file looks like: explicit pads, `ceil_mode` and `count_include_pad` written out, every parameter of an operator
//! an initialiser, the shape of every value recorded, no shape arithmetic. The graph is the last field of the file, which
//! protobuf allows, so that a file cut short anywhere is recognised as such.

mod candle;
mod imported;
mod names;
mod node;
mod quantized;
mod tensor;

use std::collections::HashMap;

use prost::Message;

pub use self::candle::Target;
use self::names::Names;
use super::proto::{
    Dimension, DimensionValue, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto,
    TensorProto, TensorShapeProto, TensorType, TypeProto, TypeValue, ValueInfoProto, data_type,
};
use super::{OnnxError, ir_version};
use crate::ir::{Dim, Graph, Model, ParamId, Shape, ValueId, Verified};

/// How a model is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WriteOptions {
    /// Version of the operator set, 13 to 22.
    pub opset: i64,
    /// The number of images, if it shall be fixed; else it is the symbol `batch`.
    pub static_batch: Option<usize>,
    /// Weights and arithmetic in float16; inputs and outputs stay float32.
    pub half: bool,
    /// Whom the file is for.
    pub target: Target,
    /// The version of the program in the file's header.
    pub producer_version: String,
}

impl Default for WriteOptions {
    /// Opset 17, any batch, float32, this crate's version.
    fn default() -> Self {
        Self {
            opset: 17,
            static_batch: None,
            half: false,
            target: Target::Onnx,
            producer_version: env!("CARGO_PKG_VERSION").into(),
        }
    }
}

impl WriteOptions {
    /// Whether the options fit each other, whatever the model.
    ///
    /// # Errors
    /// The first one that does not, as on the command line.
    pub fn check(&self) -> Result<(), OnnxError> {
        let refuse = |option, got: &str, why: &str| Err(OnnxError::Option { option, got: got.into(), why: why.into() });
        let opset = self.opset.to_string();
        if !(13..=22).contains(&self.opset) {
            return refuse("--opset", &opset, "the operator sets written are 13 to 22");
        }
        if self.static_batch == Some(0) {
            return refuse("--static-batch", "0", "a static batch is at least 1");
        }
        match self.target {
            Target::Onnx => Ok(()),
            Target::Candle if self.half => refuse(
                "--fp16",
                "with --target candle",
                "candle's Gemm multiplies float32 only; leave one of the two out",
            ),
            Target::Candle if self.opset > 17 => {
                let why =
                    "--target candle writes ReduceMean with its axes as attribute, which opset 18 ended; give 13 to 17";
                refuse("--opset", &opset, why)
            }
            Target::Candle => Ok(()),
        }
    }
}

/// Writes `model` as an ONNX file. Inputs and outputs keep their names, parameters are initialisers of their names, nodes
/// are called `/` and their path.
///
/// # Errors
/// An option out of range, an op that ONNX does not have, or a name that two things would share.
pub fn write(model: &Verified<Model>, options: &WriteOptions) -> Result<Vec<u8>, OnnxError> {
    options.check()?;
    let graph = &model.graph;
    let roots: Vec<ValueId> = graph.outputs.iter().map(|o| o.value).collect();
    let live = graph.reaching(&roots);

    let mut writer = Writer::new(model, options, &live)?;
    writer.inputs();
    for (node, _) in graph.nodes.iter().zip(&live).filter(|(_, live)| **live) {
        writer.node(node)?;
    }
    writer.outputs();
    Ok(writer.finish())
}

/// A file under construction.
struct Writer<'a> {
    model: &'a Model,
    options: &'a WriteOptions,
    names: Names,
    file: GraphProto,
    /// For each value of the IR that is written, its name in the file.
    values: Vec<Option<String>>,
    /// For each value, the first output that it is, also by way of nodes that change nothing.
    output_names: Vec<Option<&'a str>>,
    /// For values in the file, by name, the name of their ReLU, if some node computes it (or they have no negatives).
    relus: HashMap<String, String>,
    /// For parameters of codes the initialiser of their scales, and the value that they are dequantised to.
    scales: HashMap<ParamId, String>,
    dequantized: HashMap<ParamId, String>,
    /// Parameters that an operator needs and the model leaves out: ones and zeros.
    defaults: Vec<TensorProto>,
    /// Arguments of slices and pads. They come last: when the file is read, all before them are parameters.
    constants: Vec<TensorProto>,
}

impl<'a> Writer<'a> {
    fn new(model: &'a Model, options: &'a WriteOptions, live: &[bool]) -> Result<Self, OnnxError> {
        let graph = &model.graph;
        let mut writer = Self {
            model,
            options,
            names: Names::default(),
            file: GraphProto { name: graph.name.clone(), ..GraphProto::default() },
            values: vec![None; graph.values.len()],
            output_names: output_names(graph),
            relus: HashMap::new(),
            scales: HashMap::new(),
            dequantized: HashMap::new(),
            defaults: Vec::new(),
            constants: Vec::new(),
        };
        let mut used = vec![false; graph.params.len()];
        for (node, _) in graph.nodes.iter().zip(live).filter(|(_, live)| **live) {
            for id in node.op.params() {
                used[id.index()] = true;
            }
        }
        for input in &graph.inputs {
            writer.names.reserve(&graph.value(*input).name, "input")?;
        }
        for output in &graph.outputs {
            writer.names.reserve(&output.name, "output")?;
        }
        for (param, _) in graph.params.iter().zip(&used).filter(|(_, used)| **used) {
            writer.names.reserve(&param.name, "parameter")?;
        }
        // Only now, so that the scales take no parameter's name.
        for id in (0..graph.params.len() as u32).map(ParamId).filter(|id| used[id.index()]) {
            let tensors = writer.param_tensors(id)?;
            writer.file.initializer.extend(tensors);
        }
        Ok(writer)
    }

    fn inputs(&mut self) {
        let graph = &self.model.graph;
        for &input in &graph.inputs {
            let value = graph.value(input);
            let info = self.value_info(&value.name, &value.shape, data_type::FLOAT);
            self.file.input.push(info);
            let name = if self.options.half { self.cast(&value.name, &value.shape) } else { value.name.clone() };
            self.values[input.index()] = Some(name);
        }
    }

    /// Outputs whose value has another name get a node that renames it: a value that is an input or two outputs.
    fn outputs(&mut self) {
        let graph = &self.model.graph;
        for output in &graph.outputs {
            let shape = graph.shape(output.value);
            let made = self.name(output.value);
            if made != output.name {
                let op = if self.options.half { "Cast" } else { "Identity" };
                let mut node = self.node_proto(&output.name, op, vec![made], output.name.clone());
                if self.options.half {
                    node.attribute.push(node::int("to", i64::from(data_type::FLOAT)));
                }
                self.file.node.push(node);
            }
            let info = self.value_info(&output.name, shape, data_type::FLOAT);
            self.file.output.push(info);
        }
    }

    fn finish(mut self) -> Vec<u8> {
        self.file.initializer.append(&mut self.defaults);
        self.file.initializer.append(&mut self.constants);
        let header = ModelProto {
            ir_version: ir_version(self.options.opset),
            producer_name: env!("CARGO_PKG_NAME").into(),
            producer_version: self.options.producer_version.clone(),
            opset_import: vec![OperatorSetIdProto { domain: String::new(), version: self.options.opset }],
            metadata_props: self
                .model
                .metadata
                .iter()
                .map(|(key, value)| StringStringEntryProto { key: key.clone(), value: value.clone() })
                .collect(),
            ..ModelProto::default()
        };
        let body = ModelProto { graph: Some(self.file), ..ModelProto::default() };
        let mut bytes = header.encode_to_vec();
        bytes.extend(body.encode_to_vec());
        bytes
    }

    /// The name in the file of a value that is already written.
    fn name(&self, id: ValueId) -> String {
        self.values[id.index()].clone().expect("a verified graph makes every value before it is read")
    }

    /// Casts input `name` to float16 and gives the name of the result.
    fn cast(&mut self, name: &str, shape: &Shape) -> String {
        let path = format!("{name}/cast");
        let made = self.names.value(&path);
        let mut node = self.node_proto(&path, "Cast", vec![name.into()], made.clone());
        node.attribute.push(node::int("to", i64::from(data_type::FLOAT16)));
        self.file.node.push(node);
        self.intermediate(&made, shape);
        made
    }

    fn node_proto(&mut self, path: &str, op: &str, input: Vec<String>, output: String) -> NodeProto {
        let name = self.names.node(path);
        NodeProto { name, op_type: op.into(), input, output: vec![output], ..NodeProto::default() }
    }

    fn intermediate(&mut self, name: &str, shape: &Shape) {
        let info = self.value_info(name, shape, self.element_type());
        self.file.value_info.push(info);
    }

    fn element_type(&self) -> i32 {
        if self.options.half { data_type::FLOAT16 } else { data_type::FLOAT }
    }

    fn value_info(&self, name: &str, shape: &Shape, elem_type: i32) -> ValueInfoProto {
        let dimension = |dim: &Dim| {
            let value = match (dim, self.options.static_batch) {
                (Dim::Fixed(n), _) => DimensionValue::Value(*n as i64),
                (Dim::Batch, Some(n)) => DimensionValue::Value(n as i64),
                (Dim::Batch, None) => DimensionValue::Param("batch".into()),
            };
            Dimension { value: Some(value) }
        };
        let shape = Some(TensorShapeProto { dim: shape.0.iter().map(dimension).collect() });
        let value = Some(TypeValue::Tensor(TensorType { elem_type, shape }));
        ValueInfoProto { name: name.into(), r#type: Some(TypeProto { value }), doc_string: String::new() }
    }
}

/// For each value the name of the first output that it is.
fn output_names(graph: &Graph) -> Vec<Option<&str>> {
    let mut first = vec![usize::MAX; graph.values.len()];
    for (i, output) in graph.outputs.iter().enumerate().rev() {
        first[output.value.index()] = i;
    }
    for node in graph.nodes.iter().rev().filter(|node| node::is_identity(&node.op)) {
        let read = node.inputs[0].index();
        first[read] = first[read].min(first[node.output.index()]);
    }
    first.into_iter().map(|i| graph.outputs.get(i).map(|o| o.name.as_str())).collect()
}
