//! What the integration tests share: where reference files lie, which device is tested, and how a test that lacks something
//! is skipped.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::path::PathBuf;

#[cfg(feature = "train")]
use idarts_compile::train::device::DeviceChoice;

/// The training device that IDARTS_TEST_DEVICE names (`default` without it), as `--device` of the program takes it; skips where
/// this build or this machine has none.
#[cfg(feature = "train")]
pub fn device(default: &str) -> Option<burn::tensor::Device> {
    let name = std::env::var("IDARTS_TEST_DEVICE").unwrap_or_else(|_| default.to_owned());
    let choice: DeviceChoice = name.parse().unwrap_or_else(|why| panic!("IDARTS_TEST_DEVICE: {why}"));
    choice.open().map(|(device, _)| device).map_err(|why| skip(&why.to_string())).ok()
}

/// Says why a test is skipped, or fails it where everything must be there (IDARTS_REQUIRE_ALL, set by CI).
pub fn skip(why: &str) {
    assert!(std::env::var_os("IDARTS_REQUIRE_ALL").is_none(), "would be skipped, but everything must run: {why}");
    println!("SKIPPED: {why}");
}

/// The file `name` of the fixture folder (IDARTS_FIXTURES, default ../shared/reference/fixtures); skips where it is absent.
pub fn fixture(name: &str) -> Option<PathBuf> {
    let default = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/reference/fixtures");
    let folder = std::env::var_os("IDARTS_FIXTURES").map_or_else(default, PathBuf::from);
    let path = folder.join(name);
    if !path.is_file() {
        skip(&format!("{} is not there", path.display()));
        return None;
    }
    Some(path)
}
