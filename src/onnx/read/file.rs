//! The envelope: protobuf, file version, operator set.
//!
//! Takes bytes; gives the [`ModelProto`] and its opset. A file that is cut short or is no ONNX at all is told as such, with
//! the offset where it stops making sense.

use prost::Message;

use crate::onnx::OnnxError;
use crate::onnx::proto::ModelProto;

/// Unpacks a file.
pub(super) fn decode(bytes: &[u8], name: &str) -> Result<ModelProto, OnnxError> {
    if bytes.is_empty() {
        return Err(error(name, "the file is empty"));
    }
    walk(bytes).map_err(|why| error(name, format!("the file is truncated or not an ONNX model: {why}")))?;
    let model =
        ModelProto::decode(bytes).map_err(|e| error(name, format!("the file is damaged or not an ONNX model: {e}")))?;
    if model.graph.is_none() {
        return Err(error(name, "the file is truncated or not an ONNX model: it has no graph"));
    }
    if !(3..=13).contains(&model.ir_version) {
        let why = format!("file format version {} is not supported, 3 to 13 are", model.ir_version);
        return Err(error(name, why));
    }
    Ok(model)
}

/// The version of the standard operators that the file uses.
pub(super) fn opset(model: &ModelProto, name: &str) -> Result<i64, OnnxError> {
    let standard = model.opset_import.iter().find(|o| is_standard(&o.domain));
    match standard.map(|o| o.version) {
        Some(version @ 6..=25) => Ok(version),
        Some(version) => Err(error(name, format!("operator set {version} is not supported, 6 to 25 are"))),
        None => Err(error(name, "the file is truncated or not an ONNX model: it names no operator set")),
    }
}

/// Whether `domain` is that of the standard operators.
pub(super) fn is_standard(domain: &str) -> bool {
    matches!(domain, "" | "ai.onnx")
}

/// An error about the file as a whole.
pub(super) fn error(file: &str, why: impl Into<String>) -> OnnxError {
    OnnxError::File { file: file.into(), why: why.into() }
}

/// Steps over the outermost fields, as a decoder would, for the sake of a message with an offset.
fn walk(bytes: &[u8]) -> Result<(), String> {
    let mut at = 0;
    while at < bytes.len() {
        let start = at;
        let field = |key: u64| match key >> 3 {
            7 => "the graph".to_owned(),
            number => format!("field {number}"),
        };
        let cut =
            |what: &str| format!("{what} at byte {start} is cut off by the end of the file at byte {}", bytes.len());
        let key = varint(bytes, &mut at).ok_or_else(|| cut("a field"))?;
        let size = match key & 7 {
            0 => varint(bytes, &mut at).map(|_| 0),
            1 => Some(8),
            2 => varint(bytes, &mut at),
            5 => Some(4),
            _ => return Err(format!("byte {start} starts no field")),
        };
        let size = size.ok_or_else(|| cut(&field(key)))?;
        let left = (bytes.len() - at) as u64;
        if key >> 3 == 0 || key >> 3 > 0x1fff_ffff {
            return Err(format!("byte {start} starts no field"));
        }
        if size > left {
            return Err(format!("{} at byte {start} has {size} bytes, of which the file holds {left}", field(key)));
        }
        at += size as usize;
    }
    Ok(())
}

fn varint(bytes: &[u8], at: &mut usize) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = *bytes.get(*at)?;
        *at += 1;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}
