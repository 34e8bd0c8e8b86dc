//! Eight bits in the file: QuantizeLinear and DequantizeLinear around values, DequantizeLinear behind parameters.
//!
//! Takes nodes and parameters of a quantised model; adds the nodes, the codes and their scales. The form is the one that
//! onnxruntime recognises and runs on integers: uint8 values with a scale and a zero point, int8 weights with a scale for each
//! output channel, int32 biases whose scales are the products of the two. A code of the IR is written with 128 added: on x86
//! onnxruntime makes int8 values uint8 where one node reads them, and then leaves every node between the two kinds in float.

use super::{Target, Writer, node, tensor};
use crate::ir::{Grid, Node, ParamId, Shape, Width};
use crate::onnx::OnnxError;
use crate::onnx::proto::{TensorProto, data_type};

impl Writer<'_> {
    /// Writes the QuantizeLinear of `node`, which reads `input`; afterwards `input` is what its DequantizeLinear reads.
    pub(super) fn quantize(&mut self, node: &Node, grid: Grid, input: &mut Vec<String>) -> Result<(), OnnxError> {
        self.check_quantized(&node.name, "QuantizeLinear")?;
        let shape = self.model.graph.shape(node.output).clone();
        let arguments = [self.scalar(grid.scale)?, self.zero_point(grid.zero_point)];
        input.extend(arguments.clone());
        let made = self.names.value(&format!("{}/quantized", self.model.graph.value(node.output).name));
        let reads = std::mem::take(input);
        let proto = self.node_proto(&format!("{}/quantize", node.name), "QuantizeLinear", reads, made.clone());
        self.file.node.push(proto);
        let info = self.value_info(&made, &shape, data_type::UINT8);
        self.file.value_info.push(info);
        input.push(made);
        input.extend(arguments);
        Ok(())
    }

    /// The name under which nodes read parameter `id`: for one of codes that of its DequantizeLinear, which is written for
    /// the first reader.
    pub(super) fn param(&mut self, id: ParamId) -> Result<String, OnnxError> {
        let param = self.model.graph.param(id);
        let Some(codes) = &param.codes else { return Ok(param.name.clone()) };
        if let Some(known) = self.dequantized.get(&id) {
            return Ok(known.clone());
        }
        self.check_quantized(&param.name, "DequantizeLinear")?;
        let made = self.names.value(&format!("{}/dequantized", param.name));
        let zeros = self.zeros(codes.width, codes.scales.len());
        let scales = self.scales.get(&id).cloned().unwrap_or_default();
        let path = format!("{}/dequantize", param.name);
        let mut proto =
            self.node_proto(&path, "DequantizeLinear", vec![param.name.clone(), scales, zeros], made.clone());
        proto.attribute.push(node::int("axis", 0));
        self.file.node.push(proto);
        self.intermediate(&made, &Shape::fixed(&param.shape));
        self.dequantized.insert(id, made.clone());
        Ok(made)
    }

    /// The initialisers of parameter `id`: its codes and their scales, or its numbers.
    pub(super) fn param_tensors(&mut self, id: ParamId) -> Result<Vec<TensorProto>, OnnxError> {
        let (param, data) = (self.model.graph.param(id), &self.model.weights.get(id).data);
        let Some(codes) = &param.codes else {
            return Ok(vec![self.float_tensor(&param.name, &param.shape, data)?]);
        };
        let integers = self.code_tensor(&param.name, &param.shape, codes.width, &codes.nearest(data));
        let name = self.names.initializer(&format!("{}.scale", param.name));
        let scales = self.float_tensor(&name, &[codes.scales.len()], &codes.scales)?;
        self.scales.insert(id, name);
        Ok(vec![integers, scales])
    }

    /// The name of the initialiser of `count` zeros of the type of codes.
    fn zeros(&mut self, width: Width, count: usize) -> String {
        let word = match width {
            Width::Int8 => "int8",
            Width::Int32 => "int32",
        };
        let tensor = self.code_tensor("", &[count], width, &vec![0; count]);
        self.shared(&format!("{word}_zeros_{count}"), tensor)
    }

    fn zero_point(&mut self, code: i8) -> String {
        // 128 more, as a byte.
        let byte = (code as u8) ^ 0x80;
        self.shared(&format!("uint8_{byte}"), tensor::tensor("", &[], data_type::UINT8, vec![byte]))
    }

    fn check_quantized(&self, node: &str, op: &str) -> Result<(), OnnxError> {
        let why = match self.options.target {
            Target::Candle => "candle has no quantised operators; leave out --int8, or --target candle",
            Target::Onnx if self.options.half => "a quantised model has no float16 form; write it without --fp16",
            Target::Onnx => return Ok(()),
        };
        Err(OnnxError::Unsupported { node: node.into(), op: op.into(), why: why.into() })
    }
}
