//! A file of one tensor, as ONNX's test data are.
//!
//! Takes the bytes of a `TensorProto`; gives its name and its elements as float32.

use prost::Message;

use super::constant::{dims, elements, fail};
use crate::ir::Tensor;
use crate::onnx::proto::{TensorProto, data_type};
use crate::onnx::{OnnxError, half};

/// Reads a tensor of floats; `file` is what messages call it. The name may be empty.
///
/// # Errors
/// The bytes are no `TensorProto`, or one of another type, or its contents are not those of its shape.
pub fn read_tensor(bytes: &[u8], file: &str) -> Result<(String, Tensor), OnnxError> {
    let tensor = TensorProto::decode(bytes).map_err(|e| fail(file, format!("it is no tensor of ONNX: {e}")))?;
    if tensor.data_location == 1 || !tensor.external_data.is_empty() {
        return Err(fail(file, "its contents are in another file, which is not opened"));
    }
    let (shape, count) = dims(file, &tensor)?;
    let data = match tensor.data_type {
        data_type::FLOAT => elements(file, &tensor, count, &tensor.float_data, f32::from_le_bytes)?,
        data_type::DOUBLE => {
            let wide = elements(file, &tensor, count, &tensor.double_data, f64::from_le_bytes)?;
            wide.into_iter().map(|x| x as f32).collect()
        }
        data_type::FLOAT16 => {
            let bits: Vec<u16> = tensor.int32_data.iter().map(|i| *i as u16).collect();
            let bits = elements(file, &tensor, count, &bits, u16::from_le_bytes)?;
            bits.into_iter().map(half::to_f32).collect()
        }
        other => return Err(fail(file, format!("its type is {}, which is no float", data_type::name(other)))),
    };
    Ok((tensor.name, Tensor { shape, data }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_of_floats_are_read_and_others_refused() {
        let tensor =
            |kind| TensorProto { dims: vec![1, 2], data_type: kind, name: "t".into(), ..TensorProto::default() };
        let raw = |kind, raw: Vec<u8>| TensorProto { raw_data: Some(raw), ..tensor(kind) };
        let wide: Vec<u8> = [1.5f64, -2.0].iter().flat_map(|x| x.to_le_bytes()).collect();
        for file in [
            TensorProto { float_data: vec![1.5, -2.0], ..tensor(data_type::FLOAT) },
            TensorProto { double_data: vec![1.5, -2.0], ..tensor(data_type::DOUBLE) },
            raw(data_type::DOUBLE, wide),
            raw(data_type::FLOAT16, vec![0, 0x3e, 0, 0xc0]),
        ] {
            let got = read_tensor(&file.encode_to_vec(), "t.pb").unwrap();
            assert_eq!(got, ("t".to_owned(), Tensor::new([1, 2], vec![1.5, -2.0])));
        }
        for (file, why) in [
            (tensor(data_type::INT64), "its type is int64, which is no float"),
            (tensor(data_type::FLOAT), "shape [1, 2] has 2 elements, the file holds 0"),
            (TensorProto { data_location: 1, ..tensor(data_type::FLOAT) }, "in another file"),
        ] {
            let error = read_tensor(&file.encode_to_vec(), "t.pb").unwrap_err().to_string();
            assert!(error.contains("t.pb") && error.contains(why), "{error}");
        }
        assert!(read_tensor(b"\xff\xff", "t.pb").unwrap_err().to_string().contains("no tensor of ONNX"));
    }
}
