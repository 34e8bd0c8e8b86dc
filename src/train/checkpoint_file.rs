//! The file of one checkpoint: a safetensors file with the tensors, the state and the origin, and a checksum over all of it.
//!
//! Takes and gives whole files; that a crash leaves the old one or the new one is `tensor_file`'s part.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use safetensors::SafeTensors;
use safetensors::tensor::Dtype;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::checkpoint::{CheckpointError, Origin};
use super::tensor_file::{self, Part};
use crate::ir::Tensor;

/// Tensors by name.
pub type Tensors = BTreeMap<String, Tensor>;

/// What a file holds.
#[derive(Debug)]
pub struct Contents {
    pub origin: Origin,
    pub tensors: Tensors,
    pub finished: bool,
    state: Vec<u8>,
}

const FORMAT: &str = "idarts-compile checkpoint 1";
const STATE: &str = "state";
const ORIGIN: &str = "origin";

/// Writes the file as a whole.
///
/// # Errors
/// When it cannot be written.
pub fn write(
    path: &Path,
    finished: bool,
    origin: &Origin,
    state: &impl Serialize,
    tensors: &Tensors,
) -> Result<(), CheckpointError> {
    let io = |source| CheckpointError::Io { path: path.into(), source };
    let mut parts: Vec<Part> = tensors.iter().map(|(name, t)| Part::floats(name, &t.shape, &t.data)).collect();
    let cbor = [(STATE, cbor(state)), (ORIGIN, cbor(origin))];
    for (name, bytes) in cbor {
        let bytes = bytes.map_err(|e| io(std::io::Error::other(e)))?;
        parts.push(Part { name: name.into(), dtype: Dtype::U8, shape: vec![bytes.len()], bytes });
    }
    parts.sort_by(|a, b| a.name.cmp(&b.name));
    let sum = checksum(parts.iter().map(|p| (p.name.as_str(), p.shape.as_slice(), p.bytes.as_slice())));
    let metadata = [("format", FORMAT.to_owned()), ("crc32", sum), ("finished", finished.to_string())];
    let metadata = metadata.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    tensor_file::write(path, &parts, Some(metadata)).map_err(io)
}

/// Reads and checks a file.
///
/// # Errors
/// It cannot be read, is damaged, or is no checkpoint of this version.
pub fn read(path: &Path) -> Result<Contents, CheckpointError> {
    let bytes = fs::read(path).map_err(|source| CheckpointError::Io { path: path.into(), source })?;
    let damaged = |why: String| CheckpointError::Damaged { path: path.into(), why };
    let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|e| damaged(format!("not a whole file: {e}")))?;
    let file = SafeTensors::deserialize(&bytes).map_err(|e| damaged(format!("not a whole file: {e}")))?;
    let metadata = header.metadata().clone().unwrap_or_default();
    match metadata.get("format").map(String::as_str) {
        Some(FORMAT) => {}
        Some(other) => return Err(foreign(path, format!("its format is `{other}`, this program reads `{FORMAT}`"))),
        None => return Err(foreign(path, "it is a safetensors file, but no checkpoint".into())),
    }
    let mut views = file.tensors();
    views.sort_by(|(a, _), (b, _)| a.cmp(b));
    let sum = checksum(views.iter().map(|(name, view)| (name.as_str(), view.shape(), view.data())));
    if metadata.get("crc32") != Some(&sum) {
        return Err(damaged("its checksum does not fit its contents".into()));
    }
    let bytes_of = |name: &str| match file.tensor(name) {
        Ok(view) => Ok(view.data().to_vec()),
        Err(_) => Err(damaged(format!("it has no part `{name}`"))),
    };
    let origin = ciborium::from_reader(bytes_of(ORIGIN)?.as_slice())
        .map_err(|e| foreign(path, format!("its origin cannot be read: {e}")))?;
    let floats = views.iter().filter(|(_, view)| view.dtype() == Dtype::F32).map(|(name, view)| {
        let data = view.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        (name.clone(), Tensor::new(view.shape().to_vec(), data))
    });
    let finished = metadata.get("finished").is_some_and(|text| text == "true");
    Ok(Contents { origin, tensors: floats.collect(), finished, state: bytes_of(STATE)? })
}

impl Contents {
    /// The state of a stage.
    ///
    /// # Errors
    /// It is that of another stage, or of another version of the program.
    pub fn state<S: DeserializeOwned>(&self, path: &Path) -> Result<S, CheckpointError> {
        ciborium::from_reader(self.state.as_slice())
            .map_err(|e| foreign(path, format!("its state cannot be read: {e}")))
    }
}

fn foreign(path: &Path, why: String) -> CheckpointError {
    CheckpointError::Foreign { path: path.into(), why }
}

fn cbor(value: &impl Serialize) -> Result<Vec<u8>, ciborium::ser::Error<std::io::Error>> {
    let mut bytes = Vec::new();
    ciborium::into_writer(value, &mut bytes).map(|()| bytes)
}

/// Over names, shapes and contents, in order of the names.
fn checksum<'a>(parts: impl Iterator<Item = (&'a str, &'a [usize], &'a [u8])>) -> String {
    let mut hasher = crc32fast::Hasher::new();
    for (name, shape, data) in parts {
        hasher.update(name.as_bytes());
        shape.iter().for_each(|&dim| hasher.update(&(dim as u64).to_le_bytes()));
        hasher.update(data);
    }
    format!("{:08x}", hasher.finalize())
}
