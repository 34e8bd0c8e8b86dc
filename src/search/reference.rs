//! Reference values for the tests of the search.
//!
//! Takes the environment; gives paths and tensors of the PyTorch reference, or `None` where a checkout does not have
//! them.

use std::path::PathBuf;

use safetensors::SafeTensors;

use super::arch::CellValues;

/// A file of the reference: of the folder or file in the environment variable, else of `../shared/reference`.
///
/// # Panics
/// If it is not there and `IDARTS_REQUIRE_ALL` is set.
pub fn file(variable: &str, default: &str, name: &str) -> Option<PathBuf> {
    let base = std::env::var_os(variable).map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/reference").join(default),
        PathBuf::from,
    );
    let path = if name.is_empty() { base } else { base.join(name) };
    if path.is_file() {
        return Some(path);
    }
    let why = format!("{} is not there ({variable} can name another place)", path.display());
    assert!(std::env::var_os("IDARTS_REQUIRE_ALL").is_none(), "{why}");
    eprintln!("SKIPPED: {why}");
    None
}

/// A file of weights and results of the reference network.
pub struct Fixture {
    bytes: Vec<u8>,
}

/// The fixture called `name`.
pub fn fixture(name: &str) -> Option<Fixture> {
    let path = file("IDARTS_FIXTURES", "fixtures", &format!("{name}.safetensors"))?;
    Some(Fixture { bytes: std::fs::read(path).unwrap() })
}

impl Fixture {
    /// Alpha and beta of the cell type, such as `after/alphas_normal` and `after/betas_normal`.
    pub fn cell(&self, prefix: &str, cell: &str) -> CellValues {
        let read = |kind: &str| self.floats(&format!("{prefix}{kind}_{cell}"));
        CellValues { alpha: read("alphas"), beta: read("betas") }
    }

    /// An entry of the metadata.
    pub fn metadata(&self, key: &str) -> String {
        let (_, metadata) = SafeTensors::read_metadata(&self.bytes).unwrap();
        metadata.metadata().as_ref().unwrap()[key].clone()
    }

    fn floats(&self, name: &str) -> Vec<f32> {
        let tensors = SafeTensors::deserialize(&self.bytes).unwrap();
        let data = tensors.tensor(name).unwrap().data().as_chunks::<4>().0.to_vec();
        data.into_iter().map(f32::from_le_bytes).collect()
    }
}
