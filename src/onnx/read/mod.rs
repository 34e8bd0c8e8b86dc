//! The reader: the bytes of an ONNX file as a model.
//!
//! Takes bytes, trusted in nothing; gives a [`Model`] that is still to be verified, or an error that names the node and says
//! what is supported. Unpacking the file is in `file`, constants in `constant`, attributes in `view`, operators in `operator`
//! and the files beside it, arithmetic on shapes in `integers`. Files that ONNX tools made are accepted as well as our own:
//! operator sets 6 to 25, file format 3 to 13.
//!
//! Constants become parameters, named as in the file and in its order; a leading `/` of node and value names is dropped,
//! which the writer puts back. Identity, Dropout and casts between float types vanish; a constant added after a convolution
//! or a matrix product becomes its bias. float16 weights are widened to float32. Of quantised models those in QDQ form are
//! read, with QuantizeLinear and DequantizeLinear around operators on floats. Nodes that no output depends on are not read.
//! What is computed from shapes is known, but for the batch, and is computed here. A graph input of rows `[N, C, W]` that
//! only convolutions and pools read is an image one pixel high, `[N, C, 1, W]`, and so is what they make of it.
//!
//! Work and memory are bounded by the size of the file: sizes are checked before anything is allocated, copies of constants
//! are counted, subgraphs are never entered.

mod arithmetic;
mod constant;
mod external;
mod file;
mod integer_rules;
mod integers;
mod linear;
mod operator;
mod parameter;
mod quantized;
mod shaping;
mod tensor;
mod view;
mod window;

use std::collections::{HashMap, HashSet};

use self::constant::Constants;
pub use self::external::ExternalFiles;
use self::integers::List;
use self::parameter::Parameters;
use self::quantized::Quantized;
pub use self::tensor::read_tensor;
use self::view::View;
use super::OnnxError;
use super::names::Unique;
use super::proto::{DimensionValue, GraphProto, ModelProto, NodeProto, TypeValue, ValueInfoProto, data_type};
use crate::ir::{Builder, Dim, Graph, Model, Op, Shape, ValueId};

/// The most dimensions a value may have.
const MAX_RANK: usize = 8;
/// The most elements a value may have for one image: what 32-bit indices reach.
const MAX_ELEMENTS: usize = i32::MAX as usize;

/// Reads an ONNX file. `name` is what messages call it, and the graph if it has no name of its own.
///
/// The first dimension of an input is [`Dim::Batch`] if the file gives it a name or nothing; all others must be numbers.
///
/// # Errors
/// The file is no whole ONNX model, or uses something outside of the supported operators; the message names the place.
pub fn read(bytes: &[u8], name: &str) -> Result<Model, OnnxError> {
    model(&file::decode(bytes, name)?, bytes.len(), name)
}

/// As [`read`], for a model whose weights may lie in files beside it: `files` gives the contents of one by its location,
/// which is relative to the model's folder and does not lead out of it.
///
/// # Errors
/// As [`read`]; a file that `files` cannot give, or that is too short.
pub fn read_with_files(bytes: &[u8], name: &str, files: ExternalFiles) -> Result<Model, OnnxError> {
    let mut file = file::decode(bytes, name)?;
    external::embed(&mut file, files)?;
    let weights: usize =
        file.graph.iter().flat_map(|g| &g.initializer).filter_map(|t| Some(t.raw_data.as_ref()?.len())).sum();
    model(&file, bytes.len().max(weights), name)
}

/// `size`: the bytes that the model and its weights take in files.
fn model(file: &ModelProto, size: usize, name: &str) -> Result<Model, OnnxError> {
    let opset = file::opset(file, name)?;
    let graph = file.graph.as_ref().ok_or_else(|| file::error(name, "the file has no graph"))?;

    let mut reader = Reader::new(graph, opset, size)?;
    reader.inputs(graph)?;
    if graph.output.is_empty() || reader.values.is_empty() {
        return Err(file::error(name, "the graph must have an input that is no constant, and an output"));
    }
    reader.nodes()?;
    reader.outputs(graph)?;
    reader.finish(name, graph, file)
}

/// A model under construction.
struct Reader<'a> {
    opset: i64,
    nodes: &'a [NodeProto],
    /// Which nodes an output depends on.
    live: Vec<bool>,
    /// What the graph gives, by name in the file.
    outputs: HashSet<&'a str>,
    /// Which nodes read a value, once per reading input, by name in the file.
    readers: HashMap<&'a str, Vec<usize>>,
    constants: Constants<'a>,
    parameters: Parameters,
    builder: Builder,
    /// The values made so far, by name in the file.
    values: HashMap<&'a str, ValueId>,
    /// The values that constants became, by parameter.
    constant_values: HashMap<usize, ValueId>,
    /// The values that were made integers, by name in the file.
    quantized: HashMap<&'a str, Quantized>,
    /// The integers that depend on the batch, by name in the file.
    integers: HashMap<&'a str, List>,
    /// Names of the values in the file, in the order of the values, without the leading `/`; graph outputs have none.
    value_names: Vec<Option<&'a str>>,
    /// Inputs of rows that are read as images, with their shapes in the file.
    rows: Vec<(ValueId, Shape)>,
    node_names: Unique,
    /// Nodes that became part of an earlier one.
    folded: HashSet<usize>,
}

impl<'a> Reader<'a> {
    fn new(graph: &'a GraphProto, opset: i64, file_size: usize) -> Result<Self, OnnxError> {
        let outputs: HashSet<&str> = graph.output.iter().map(|o| o.name.as_str()).collect();
        let live = reaching(&graph.node, outputs.clone());
        let mut readers: HashMap<&str, Vec<usize>> = HashMap::new();
        for (i, node) in graph.node.iter().enumerate().filter(|(i, _)| live[*i]) {
            for input in node.input.iter().filter(|name| !name.is_empty()) {
                readers.entry(input).or_default().push(i);
            }
        }
        Ok(Self {
            opset,
            nodes: &graph.node,
            live,
            outputs,
            readers,
            // Each constant in a few forms: its elements have four bytes in the file.
            constants: Constants::new(graph, file_size)?,
            parameters: Parameters::new(file_size),
            builder: Builder::new(graph.name.clone()),
            values: HashMap::new(),
            constant_values: HashMap::new(),
            quantized: HashMap::new(),
            integers: HashMap::new(),
            value_names: Vec::new(),
            rows: Vec::new(),
            node_names: Unique::default(),
            folded: HashSet::new(),
        })
    }

    fn inputs(&mut self, graph: &'a GraphProto) -> Result<(), OnnxError> {
        // Old files list the initialisers among the inputs.
        for input in graph.input.iter().filter(|i| !self.constants.contains(&i.name)) {
            let mut shape = input_shape(input)?;
            let given = shape.clone();
            let rows = shape.rank() == 3 && self.slides_over(&input.name);
            if rows {
                shape.0.insert(2, Dim::Fixed(1));
            }
            let id = self.builder.input(input.name.clone(), shape);
            self.rows.extend(rows.then_some((id, given)));
            self.value_names.push(Some(&input.name));
            if input.name.is_empty() || self.values.insert(&input.name, id).is_some() {
                return Err(value_error(&input.name, "two inputs have this name, or it is empty"));
            }
        }
        Ok(())
    }

    /// Whether only sliding windows read `input`: then rows `[N, C, W]` are images `[N, C, 1, W]`.
    fn slides_over(&self, input: &str) -> bool {
        let slides = |i: &usize| matches!(self.nodes[*i].op_type.as_str(), "Conv" | "MaxPool" | "AveragePool");
        self.readers.get(input).is_some_and(|readers| readers.iter().all(slides))
    }

    fn nodes(&mut self) -> Result<(), OnnxError> {
        for (i, proto) in self.nodes.iter().enumerate() {
            if !self.live[i] || self.folded.contains(&i) || proto.op_type == "Constant" {
                continue;
            }
            let view = View::new(proto, &mut self.node_names);
            if let Some((output, value)) = self.operator(&view)? {
                self.define(&view, output, value)?;
            }
            for extra in proto.output.iter().skip(1) {
                if self.outputs.contains(extra.as_str()) || self.readers.contains_key(extra.as_str()) {
                    return Err(view.unsupported(format!("only its first output can be used, not `{extra}`")));
                }
            }
        }
        Ok(())
    }

    fn outputs(&mut self, graph: &'a GraphProto) -> Result<(), OnnxError> {
        let mut seen = HashSet::new();
        for output in &graph.output {
            if !seen.insert(&output.name) {
                return Err(value_error(&output.name, "two outputs have this name"));
            }
            let Some(&value) = self.values.get(output.name.as_str()) else {
                let name = output.name.as_str();
                let constant = self.constants.contains(name) || self.integers.contains_key(name);
                let why = match constant {
                    true => "an output that is a constant, or computed from shapes alone, is not supported",
                    false => "no node makes it",
                };
                return Err(value_error(&output.name, why));
            };
            self.builder.output(output.name.clone(), value);
        }
        Ok(())
    }

    fn finish(self, name: &str, graph: &GraphProto, file: &ModelProto) -> Result<Model, OnnxError> {
        let mut ir = self.builder.finish();
        if graph.name.is_empty() {
            ir.name = name.into();
        }
        name_values(&mut ir, &self.value_names);
        let weights = self.parameters.into_weights(&mut ir);
        let metadata = file.metadata_props.iter().map(|entry| (entry.key.clone(), entry.value.clone())).collect();
        Ok(Model { graph: ir, weights, metadata })
    }

    /// Adds `op` to the graph under the name of `view` and gives its value.
    fn emit(&mut self, view: &View<'a>, op: Op, inputs: &[ValueId]) -> Result<ValueId, OnnxError> {
        self.emit_as(view, view.name.clone(), op, inputs)
    }

    /// As [`Self::emit`], under a name of its own.
    fn emit_as(&mut self, view: &View<'a>, name: String, op: Op, inputs: &[ValueId]) -> Result<ValueId, OnnxError> {
        let value = self.builder.node(name, op, inputs)?;
        self.value_names.push(None);
        check_size(self.builder.shape(value)).map_err(|why| view.unsupported(why))?;
        Ok(value)
    }

    /// Records that `value` is called `output` in the file.
    fn define(&mut self, view: &View<'a>, output: &'a str, value: ValueId) -> Result<(), OnnxError> {
        let taken = self.constants.contains(output) || self.integers.contains_key(output);
        if taken || self.values.insert(output, value).is_some() {
            return Err(view.error(format!("its output `{output}` is already made by something else")));
        }
        if !self.outputs.contains(output) {
            self.value_names[value.index()].get_or_insert(view::path(output));
        }
        Ok(())
    }

    /// The value that input `index` of the node names.
    fn variable(&self, view: &View<'a>, index: usize) -> Result<ValueId, OnnxError> {
        let name = view.input(index)?;
        if let Some(value) = self.values.get(name) {
            return Ok(*value);
        }
        if self.constants.contains(name) {
            return Err(view.unsupported(format!("input {index} `{name}` is a constant; it must be computed")));
        }
        if self.integers.contains_key(name) {
            let why = "is computed from shapes; supported is that as the target of a Reshape";
            return Err(view.unsupported(format!("input {index} `{name}` {why}")));
        }
        if self.quantized.contains_key(name) {
            let why = "holds integers; supported is DequantizeLinear behind QuantizeLinear, and operators on floats";
            return Err(view.unsupported(format!("input {index} `{name}` {why}")));
        }
        Err(view.error(format!("input {index} `{name}` is made by no earlier node")))
    }
}

/// The nodes from which a value in `wanted` can be reached, by index.
fn reaching<'a>(nodes: &'a [NodeProto], mut wanted: HashSet<&'a str>) -> Vec<bool> {
    let mut live = vec![false; nodes.len()];
    for (i, node) in nodes.iter().enumerate().rev() {
        if node.output.iter().any(|o| wanted.contains(o.as_str())) {
            live[i] = true;
            wanted.extend(node.input.iter().map(String::as_str));
        }
    }
    live
}

fn input_shape(input: &ValueInfoProto) -> Result<Shape, OnnxError> {
    let fail = |why: String| Err(OnnxError::Value { value: input.name.clone(), why });
    let Some(TypeValue::Tensor(tensor)) = input.r#type.as_ref().and_then(|t| t.value.as_ref()) else {
        return fail("the input is not a tensor, or has no type".into());
    };
    if tensor.elem_type != data_type::FLOAT {
        return fail(format!("the input is {}; supported is float32", data_type::name(tensor.elem_type)));
    }
    let Some(shape) = &tensor.shape else {
        return fail("the input has no shape; export the model with one".into());
    };
    let mut dims = Vec::new();
    for (axis, dim) in shape.dim.iter().take(MAX_RANK + 1).enumerate() {
        dims.push(match &dim.value {
            Some(DimensionValue::Value(n)) => match usize::try_from(*n) {
                Ok(n) if n > 0 => Dim::Fixed(n),
                _ => return fail(format!("dimension {axis} of the input is {n}; it must be at least 1")),
            },
            _ if axis == 0 => Dim::Batch,
            _ => {
                let why = "of the input has no fixed size; only the first (the batch) may vary: export the model for one \
                           image size";
                return fail(format!("dimension {axis} {why}"));
            }
        });
    }
    let shape = Shape(dims);
    match check_size(&shape) {
        Ok(()) => Ok(shape),
        Err(why) => fail(why),
    }
}

/// Keeps shapes small enough for all arithmetic on them.
fn check_size(shape: &Shape) -> Result<(), String> {
    if shape.rank() > MAX_RANK {
        return Err(format!("the value has more than {MAX_RANK} dimensions"));
    }
    let elements = shape.0.iter().try_fold(1usize, |product, dim| match dim {
        Dim::Batch => Some(product),
        Dim::Fixed(n) => product.checked_mul(*n),
    });
    match elements {
        Some(n) if n <= MAX_ELEMENTS => Ok(()),
        _ => Err(format!("a value of shape {shape} is too large; {MAX_ELEMENTS} elements are supported")),
    }
}

/// Gives the values their names from the file; a builder calls them like their nodes.
fn name_values(graph: &mut Graph, names: &[Option<&str>]) {
    let mut taken = Unique::default();
    for (value, name) in graph.values.iter_mut().zip(names) {
        value.name = taken.claim(name.unwrap_or(&value.name));
    }
}

fn value_error(value: &str, why: &str) -> OnnxError {
    OnnxError::Value { value: value.into(), why: why.into() }
}
