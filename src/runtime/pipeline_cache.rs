//! Compiled pipelines kept from one run of the program to the next, where the driver lets them be taken out.
//!
//! Takes a device and a folder; gives the driver's cache, filled from a file if there is one, and writes it back. wgpu knows
//! such caches on Vulkan only; drivers that keep their own (Mesa, NVIDIA on desktops) gain little from it.

use std::fs;
use std::hash::{DefaultHasher, Hasher};
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

/// First bytes of a file, with the version of its form.
const MAGIC: &[u8; 8] = b"IDARTSP1";

/// What the cache did for a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct CacheFacts {
    /// Whether it was filled from a file.
    pub warm: bool,
    /// Bytes of its contents when the pipelines were made.
    pub bytes: u64,
}

/// A driver's cache and the file it is kept in.
#[derive(Debug)]
pub(super) struct PipelineCache {
    cache: wgpu::PipelineCache,
    path: PathBuf,
    /// Bytes that came from the file.
    loaded: Option<usize>,
}

impl PipelineCache {
    /// The cache of `device` in `folder`; `None` if the driver has none. A file that is missing, damaged or of another driver
    /// leaves it empty.
    pub(super) fn open(device: &wgpu::Device, info: &wgpu::AdapterInfo, folder: &Path) -> Option<Self> {
        if !device.features().contains(wgpu::Features::PIPELINE_CACHE) {
            return None;
        }
        let key = wgpu::util::pipeline_cache_key(info)?;
        let mut driver = DefaultHasher::new();
        [&info.name, &info.driver, &info.driver_info].iter().for_each(|text| driver.write(text.as_bytes()));
        let path = folder.join(format!("{key}_{:016x}.bin", driver.finish()));
        let data = fs::read(&path).ok().and_then(contents);
        // SAFETY: `data` must come from `get_data` of a cache. `contents` gives bytes only if they stand behind our mark and
        // their own checksum, which `save` alone writes, with what `get_data` gave it; the file's name holds device and
        // driver. A file that fails this is not used. wgpu checks its header with the driver's key once more.
        let cache = unsafe {
            device.create_pipeline_cache(&wgpu::PipelineCacheDescriptor {
                label: Some("pipelines"),
                data: data.as_deref(),
                fallback: true,
            })
        };
        Some(Self { cache, path, loaded: data.map(|data| data.len()) })
    }

    /// The cache that pipelines are made with.
    pub(super) fn handle(&self) -> &wgpu::PipelineCache {
        &self.cache
    }

    /// Writes the contents to the file, beside it first, so that no other process reads half of it.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(super) fn save(&self) -> io::Result<CacheFacts> {
        let data = self.cache.get_data().unwrap_or_default();
        let facts = CacheFacts { warm: self.loaded.is_some(), bytes: data.len() as u64 };
        if self.loaded == Some(data.len()) {
            // Caches only grow.
            return Ok(facts);
        }
        if let Some(folder) = self.path.parent() {
            fs::create_dir_all(folder)?;
        }
        let part = self.path.with_extension(format!("{}.part", std::process::id()));
        fs::write(&part, packed(&data))?;
        fs::rename(&part, &self.path)?;
        Ok(facts)
    }
}

fn packed(data: &[u8]) -> Vec<u8> {
    [MAGIC, &checksum(data).to_le_bytes(), data].concat()
}

/// The data in a file, if it is whole.
fn contents(file: Vec<u8>) -> Option<Vec<u8>> {
    let (sum, data) = file.strip_prefix(MAGIC)?.split_first_chunk::<8>()?;
    (u64::from_le_bytes(*sum) == checksum(data) && !data.is_empty()).then(|| data.to_vec())
}

fn checksum(data: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(data);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::cases::{case, network};
    use crate::runtime::{AdapterChoice, Gpu, Session, adapters};

    #[test]
    fn only_a_whole_file_has_contents() {
        let whole = packed(b"pipelines");
        assert_eq!(contents(whole.clone()).unwrap(), b"pipelines");
        for i in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[i] ^= 1;
            assert!(contents(damaged).is_none(), "byte {i}");
            assert!(contents(whole[..i].to_vec()).is_none(), "{i} bytes");
        }
        assert!(contents(packed(b"")).is_none());
    }

    #[test]
    fn pipelines_are_kept_where_the_driver_has_a_cache_and_a_damaged_file_does_no_harm() {
        let case = case("network", 1, false, network);
        let folder = tempfile::tempdir().unwrap();
        for facts in adapters() {
            let run = || {
                let choice = AdapterChoice { index: Some(facts.index), ..AdapterChoice::default() };
                let gpu = Gpu::open(&choice).unwrap().keep_pipelines_in(folder.path());
                let mut session = Session::on(&gpu, &case.model, 1).unwrap();
                (session.run(&case.inputs).unwrap(), session.facts().pipeline_cache)
            };
            let (outputs, cold) = run();
            let Some(cold) = cold else {
                eprintln!("SKIPPED: {facts}: its driver has no pipeline cache");
                continue;
            };
            assert!(!cold.warm && cold.bytes > 0);
            let (again, warm) = run();
            assert!(warm.unwrap().warm);
            assert_eq!(again, outputs);
            for file in fs::read_dir(folder.path()).unwrap() {
                let path = file.unwrap().path();
                let mut bytes = fs::read(&path).unwrap();
                *bytes.last_mut().unwrap() ^= 1;
                fs::write(path, bytes).unwrap();
            }
            let (third, damaged) = run();
            assert!(!damaged.unwrap().warm);
            assert_eq!(third, outputs);
            eprintln!("{facts}: {} bytes of pipelines", cold.bytes);
        }
    }
}
