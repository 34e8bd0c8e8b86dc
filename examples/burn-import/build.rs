//! Turns an ONNX model into the source of a burn module.
//!
//! Takes the path in IDARTS_MODEL, or the small model beside this file; gives `OUT_DIR/model/network.rs` with its weights.

use std::path::{Path, PathBuf};

use burn_onnx::{LoadStrategy, ModelGen};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=IDARTS_MODEL");
    let folder = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it");
    let model = std::env::var_os("IDARTS_MODEL").map_or_else(|| Path::new(&folder).join("model.onnx"), PathBuf::from);
    println!("cargo::rerun-if-changed={}", model.display());

    // The generated file is called like the model; a copy gives it a name that `main.rs` knows.
    let copy = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets it")).join("network.onnx");
    if let Err(error) = std::fs::copy(&model, &copy) {
        println!("cargo::error=cannot read {}: {error}", model.display());
        return;
    }
    let copy = copy.to_str().expect("the path of the build folder is text");
    ModelGen::new().input(copy).out_dir("model/").load_strategy(LoadStrategy::Embedded).run_from_script();
}
