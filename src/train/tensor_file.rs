//! Safetensors files, written as a whole or not at all.
//!
//! Takes named arrays of bytes and string metadata; a file is written beside its place and moved there when it is on the
//! disk, so that a crash at any moment leaves the old file or the new one. What is in it is left to `weights` and
//! `checkpoint_file`.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use safetensors::tensor::{Dtype, TensorView};

/// One array: its name, type, shape and little-endian bytes.
pub struct Part {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

impl Part {
    /// An array of float32.
    pub fn floats(name: &str, shape: &[usize], data: &[f32]) -> Self {
        let bytes = data.iter().flat_map(|x| x.to_le_bytes()).collect();
        Self { name: name.into(), dtype: Dtype::F32, shape: shape.into(), bytes }
    }
}

/// Writes `parts` to `path`.
///
/// # Errors
/// When the file cannot be written, or a part has not as many bytes as its shape says.
pub fn write(path: &Path, parts: &[Part], metadata: Option<HashMap<String, String>>) -> io::Result<()> {
    let views: Result<Vec<_>, _> = parts
        .iter()
        .map(|p| TensorView::new(p.dtype, p.shape.clone(), &p.bytes).map(|view| (p.name.as_str(), view)))
        .collect();
    let bytes = safetensors::serialize(views.map_err(io::Error::other)?, metadata).map_err(io::Error::other)?;
    let part = path.with_extension("part");
    File::create(&part).and_then(|mut file| file.write_all(&bytes).and_then(|()| file.sync_all()))?;
    fs::rename(&part, path)?;
    // The new name itself must reach the disk too. Not every system can open a folder; then it is written when it is.
    if let Some(Ok(folder)) = path.parent().map(File::open) {
        let _ = folder.sync_all();
    }
    Ok(())
}
