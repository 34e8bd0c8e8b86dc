//! Which ONNX nodes each op becomes.
//!
//! Takes one node of the IR at a time, in order; adds its nodes, value types and initialisers to the writer. The ReLUs that
//! a convolution carries become nodes of their own; one per value, however many convolutions read it.

use super::Writer;
use super::candle::Target;
use super::imported::translate;
use crate::ir::{Imported, Node, Op, Range, Shape, ValueId, Window};
use crate::onnx::OnnxError;
use crate::onnx::proto::{AttributeProto, attribute_type};

/// An operator with its attributes.
pub(super) type Translation = (&'static str, Vec<AttributeProto>);

impl Writer<'_> {
    /// Writes `node` and records the name of its value.
    pub(super) fn node(&mut self, node: &Node) -> Result<(), OnnxError> {
        let mut input = Vec::new();
        for &value in &node.inputs {
            let relu = matches!(node.op, Op::Conv { relu_in: true, .. });
            input.push(if relu { self.relu_of(value) } else { self.name(value) });
        }
        let candle = match self.options.target {
            Target::Onnx => None,
            Target::Candle => self.for_candle(node, &input)?,
        };
        let made = if let Some(made) = candle {
            made
        } else if is_identity(&node.op) {
            self.name(node.inputs[0])
        } else if let Op::Imported(Imported::Constant(value)) = node.op {
            self.param(value)?
        } else if let Op::ChannelShuffle { groups } = node.op {
            self.channel_shuffle(node, groups)
        } else {
            let (op, attributes) = self.translate(node, &mut input)?;
            self.operator(node, op, input, attributes)
        };
        self.values[node.output.index()] = Some(made);
        Ok(())
    }

    fn operator(&mut self, node: &Node, op: &str, input: Vec<String>, attributes: Vec<AttributeProto>) -> String {
        let shape = self.model.graph.shape(node.output).clone();
        let path = &self.model.graph.value(node.output).name;
        let relu_out = matches!(node.op, Op::Conv { relu_out: true, .. });
        let made = if relu_out { self.names.value(path) } else { self.result_name(node.output, path) };
        self.push(&node.name, op, input, &made, attributes, &shape);
        if op == "Relu" {
            self.relus.entry(self.name(node.inputs[0])).or_insert_with(|| made.clone());
            self.relus.insert(made.clone(), made.clone());
        }
        if !relu_out {
            return made;
        }
        let positive = self.result_name(node.output, &format!("{path}/relu"));
        self.push(&format!("{}/relu", node.name), "Relu", vec![made], &positive, Vec::new(), &shape);
        self.relus.insert(positive.clone(), positive.clone());
        positive
    }

    /// The operator and its attributes; appends to `input` what it reads beyond the values.
    fn translate(&mut self, node: &Node, input: &mut Vec<String>) -> Result<Translation, OnnxError> {
        let graph = &self.model.graph;
        Ok(match &node.op {
            Op::Conv { weight, bias, window, groups, relu_in: _, relu_out: _ } => {
                for id in std::iter::once(weight).chain(bias) {
                    input.push(self.param(*id)?);
                }
                let mut attributes = vec![ints("dilations", window.dilation), int("group", *groups as i64)];
                attributes.extend(sliding(window));
                ("Conv", attributes)
            }
            Op::BatchNorm { scale, shift, mean, var, epsilon } => {
                let shape = graph.param(*mean).shape.clone();
                for (id, word, fill) in [(scale, "scale", 1.0), (shift, "shift", 0.0)] {
                    input.push(match id {
                        Some(id) => self.param(*id)?,
                        None => self.default(&format!("{}.{word}", node.name), &shape, fill)?,
                    });
                }
                for id in [mean, var] {
                    input.push(self.param(*id)?);
                }
                ("BatchNormalization", vec![float("epsilon", *epsilon)])
            }
            Op::Relu => ("Relu", Vec::new()),
            Op::MaxPool(window) => {
                let mut attributes = vec![int("ceil_mode", window.ceil.into()), ints("dilations", window.dilation)];
                attributes.extend(sliding(window));
                ("MaxPool", attributes)
            }
            Op::AvgPool { window, count_include_pad } => {
                let mut attributes =
                    vec![int("ceil_mode", window.ceil.into()), int("count_include_pad", (*count_include_pad).into())];
                if self.options.opset >= 19 {
                    attributes.push(ints("dilations", window.dilation));
                } else if window.dilation != [1, 1] {
                    let why = "average pooling with dilation exists from opset 19 on; write it with --opset 19".into();
                    return Err(OnnxError::Unsupported { node: node.name.clone(), op: "AveragePool".into(), why });
                }
                attributes.extend(sliding(window));
                ("AveragePool", attributes)
            }
            Op::GlobalAvgPool => ("GlobalAveragePool", Vec::new()),
            Op::Flatten { axis } => ("Flatten", vec![int("axis", *axis as i64)]),
            Op::Linear { weight, bias } => {
                input.push(self.param(*weight)?);
                input.push(match bias {
                    Some(bias) => self.param(*bias)?,
                    None => {
                        let outer = graph.param(*weight).shape[0];
                        self.default(&format!("{}.bias", node.name), &[outer], 0.0)?
                    }
                });
                let attributes = vec![float("alpha", 1.0), float("beta", 1.0), int("transA", 0), int("transB", 1)];
                ("Gemm", attributes)
            }
            Op::Add => ("Add", Vec::new()),
            Op::Concat { axis } => ("Concat", vec![int("axis", *axis as i64)]),
            Op::Slice { ranges } => {
                let list = |of: fn(&Range) -> i64| ranges.iter().map(of).collect::<Vec<_>>();
                for data in
                    [list(|r| bounds(r).0), list(|r| bounds(r).1), list(|r| r.axis as i64), list(|r| r.step as i64)]
                {
                    input.push(self.integers(&data));
                }
                ("Slice", Vec::new())
            }
            Op::Pad { pads, value } => {
                let data: Vec<i64> = (0..2).flat_map(|end| pads.iter().map(move |p| p[end] as i64)).collect();
                input.push(self.integers(&data));
                input.push(self.scalar(*value)?);
                ("Pad", vec![text("mode", "constant")])
            }
            Op::QuantizeDequantize(grid) => {
                self.quantize(node, *grid, input)?;
                ("DequantizeLinear", Vec::new())
            }
            Op::DropPath => ("Identity", Vec::new()),
            Op::Imported(op) => translate(op),
            Op::Separable { .. } | Op::Mix { .. } => {
                let why =
                    "ONNX has no such operator: it is made for training only (a bug in the compiler, please report it)";
                let (node, op) = (node.name.clone(), node.op.name().into());
                return Err(OnnxError::Unsupported { node, op, why: why.into() });
            }
            Op::ChannelShuffle { .. } => {
                let why = "it is written as three nodes and not as one (a bug in the compiler, please report it)";
                let (node, op) = (node.name.clone(), node.op.name().into());
                return Err(OnnxError::Unsupported { node, op, why: why.into() });
            }
            Op::WeightedSum { .. } => {
                let why = "ONNX has no such operator: it occurs in supernets only; derive a genotype and export that";
                let (node, op) = (node.name.clone(), node.op.name().into());
                return Err(OnnxError::Unsupported { node, op, why: why.into() });
            }
        })
    }

    /// The name of the ReLU of `value`, which is written if no node computed it yet.
    fn relu_of(&mut self, value: ValueId) -> String {
        let name = self.name(value);
        if let Some(relu) = self.relus.get(&name) {
            return relu.clone();
        }
        let path = format!("{}/relu", self.model.graph.value(value).name);
        let made = self.names.value(&path);
        let shape = self.model.graph.shape(value).clone();
        self.push(&path, "Relu", vec![name.clone()], &made, Vec::new(), &shape);
        self.relus.insert(name, made.clone());
        self.relus.insert(made.clone(), made.clone());
        made
    }

    /// The name under which `value` is written: that of the output it is, else one from its path.
    pub(super) fn result_name(&mut self, value: ValueId, path: &str) -> String {
        match self.output_names[value.index()] {
            // In float16 the output itself is the result of a cast.
            Some(output) if !self.options.half => output.into(),
            _ => self.names.value(path),
        }
    }

    pub(super) fn push(
        &mut self,
        path: &str,
        op: &str,
        input: Vec<String>,
        made: &str,
        attribute: Vec<AttributeProto>,
        shape: &Shape,
    ) {
        let mut node = self.node_proto(path, op, input, made.into());
        node.attribute = attribute;
        self.file.node.push(node);
        if !self.model.graph.outputs.iter().any(|o| o.name == made) {
            self.intermediate(made, shape);
        }
    }
}

/// Whether `op` gives its input unchanged and is not written. Only training drops; a slice may cut no axis.
pub(super) fn is_identity(op: &Op) -> bool {
    matches!(op, Op::DropPath) || matches!(op, Op::Slice { ranges } if ranges.is_empty())
}

/// An integer attribute.
pub(super) fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto { name: name.into(), r#type: attribute_type::INT, i: Some(value), ..AttributeProto::default() }
}

/// An attribute that is a list of integers.
pub(super) fn ints<const N: usize>(name: &str, values: [usize; N]) -> AttributeProto {
    let ints = values.iter().map(|v| *v as i64).collect();
    AttributeProto { name: name.into(), r#type: attribute_type::INTS, ints, ..AttributeProto::default() }
}

/// A float attribute.
pub(super) fn float(name: &str, value: f32) -> AttributeProto {
    AttributeProto { name: name.into(), r#type: attribute_type::FLOAT, f: Some(value), ..AttributeProto::default() }
}

/// A text attribute.
pub(super) fn text(name: &str, value: &str) -> AttributeProto {
    let s = Some(value.as_bytes().to_vec());
    AttributeProto { name: name.into(), r#type: attribute_type::STRING, s, ..AttributeProto::default() }
}

/// The attributes that convolution and pooling share.
pub(super) fn sliding(window: &Window) -> [AttributeProto; 3] {
    [ints("kernel_shape", window.kernel), ints("pads", window.padding), ints("strides", window.stride)]
}

/// Start and end (exclusive) of a slice along one axis.
fn bounds(range: &Range) -> (i64, i64) {
    if range.len == 0 {
        return (0, 0);
    }
    let (start, step) = (range.start as i64, range.step as i64);
    let last = start + (range.len as i64 - 1) * step;
    if step > 0 {
        (start, last + 1)
    } else if last > 0 {
        (start, last - 1)
    } else {
        // Before the first element there is no index: -1 would be the last one. Whatever is out of range is clamped.
        (start, i64::from(i32::MIN))
    }
}
