//! Constants of the file: parameters, the defaults that ops leave out, arguments of slices and pads.
//!
//! Takes shapes and elements; gives initialisers with little-endian `raw_data`, float32 or float16.

use super::Writer;
use crate::ir::Width;
use crate::onnx::proto::{TensorProto, data_type};
use crate::onnx::{OnnxError, half};

impl Writer<'_> {
    /// A tensor of floats called `name`.
    pub(super) fn float_tensor(&self, name: &str, shape: &[usize], data: &[f32]) -> Result<TensorProto, OnnxError> {
        let raw = if self.options.half {
            let halves: Vec<u16> = data.iter().map(|x| half::from_f32(*x)).collect();
            if let Some(i) = halves.iter().position(|h| h & 0x7fff == 0x7c00) {
                let why = format!("element {i} is {}, beyond the range of float16; write it without --fp16", data[i]);
                return Err(OnnxError::Tensor { tensor: name.into(), why });
            }
            halves.iter().flat_map(|h| h.to_le_bytes()).collect()
        } else {
            data.iter().flat_map(|x| x.to_le_bytes()).collect()
        };
        Ok(tensor(name, shape, self.element_type(), raw))
    }

    /// Adds an initialiser of `shape` filled with `fill` and gives its name.
    pub(super) fn default(&mut self, name: &str, shape: &[usize], fill: f32) -> Result<String, OnnxError> {
        let name = self.names.initializer(name);
        let data = vec![fill; shape.iter().product()];
        let tensor = self.float_tensor(&name, shape, &data)?;
        self.defaults.push(tensor);
        Ok(name)
    }

    /// The name of the initialiser that lists `data`; equal lists share one.
    pub(super) fn integers(&mut self, data: &[i64]) -> String {
        let words: Vec<String> = data.iter().map(i64::to_string).collect();
        let raw = data.iter().flat_map(|i| i.to_le_bytes()).collect();
        self.shared(&words.join("_"), tensor("", &[data.len()], data_type::INT64, raw))
    }

    /// The name of the initialiser that holds the scalar `x`; equal scalars share one.
    pub(super) fn scalar(&mut self, x: f32) -> Result<String, OnnxError> {
        let tensor = self.float_tensor("", &[], &[x])?;
        Ok(self.shared(&format!("{x:?}"), tensor))
    }

    /// A tensor of codes called `name`.
    pub(super) fn code_tensor(&self, name: &str, shape: &[usize], width: Width, codes: &[i32]) -> TensorProto {
        match width {
            Width::Int8 => tensor(name, shape, data_type::INT8, codes.iter().map(|code| *code as u8).collect()),
            Width::Int32 => {
                tensor(name, shape, data_type::INT32, codes.iter().flat_map(|code| code.to_le_bytes()).collect())
            }
        }
    }

    /// The name of the initialiser with the contents of `tensor`, called after `word` if it is new.
    pub(super) fn shared(&mut self, word: &str, mut tensor: TensorProto) -> String {
        let same = |t: &&TensorProto| {
            (t.data_type, &t.dims, &t.raw_data) == (tensor.data_type, &tensor.dims, &tensor.raw_data)
        };
        if let Some(same) = self.constants.iter().find(same) {
            return same.name.clone();
        }
        tensor.name = self.names.initializer(&format!("/constants/{}", word.replace('-', "m")));
        self.constants.push(tensor);
        self.constants[self.constants.len() - 1].name.clone()
    }
}

/// A tensor of these bytes.
pub(super) fn tensor(name: &str, shape: &[usize], data_type: i32, raw: Vec<u8>) -> TensorProto {
    TensorProto {
        name: name.into(),
        dims: shape.iter().map(|d| *d as i64).collect(),
        data_type,
        raw_data: Some(raw),
        ..TensorProto::default()
    }
}
