//! What the integration tests share: where reference files lie, and how a test that lacks something is skipped.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::path::PathBuf;

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
