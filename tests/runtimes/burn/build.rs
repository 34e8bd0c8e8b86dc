//! Turns ONNX models into the sources of burn modules, and a function that finds one by its name.
//!
//! Takes the paths in IDARTS_MODELS, separated as those in PATH; gives `OUT_DIR/models.rs`. A model that burn-onnx does not
//! take is an entry that says so: the others are still to be run.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use burn_onnx::{LoadStrategy, ModelGen};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=IDARTS_MODELS");
    let folder = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets it"));
    let list = std::env::var_os("IDARTS_MODELS").unwrap_or_default();
    let (mut modules, mut arms) = (String::new(), String::new());
    for (i, model) in std::env::split_paths(&list).filter(|path| path.components().next().is_some()).enumerate() {
        println!("cargo::rerun-if-changed={}", model.display());
        let name = model.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let arm = match generate(&model, &folder, i) {
            Ok(()) => {
                let _ = writeln!(
                    modules,
                    "#[allow(dead_code)]\nmod network_{i} {{ include!(concat!(env!(\"OUT_DIR\"), \"/model/network_{i}.rs\")); }}"
                );
                format!("Ok(network_{i}::Model::default().forward(images))")
            }
            Err(why) => format!("Err({why:?})"),
        };
        let _ = writeln!(arms, "        {name:?} => {arm},");
    }
    let function = format!(
        "{modules}\n/// The logits of the model called `name`.\npub fn logits(name: &str, images: Tensor<4>) -> Result<Tensor<2>, &'static str> {{\n    \
         let _ = &images;\n    match name {{\n{arms}        _ => Err(\"no such model was compiled in\"),\n    }}\n}}\n"
    );
    if let Err(error) = std::fs::write(folder.join("models.rs"), function) {
        println!("cargo::error=cannot write models.rs: {error}");
    }
}

/// Writes `model/network_I.rs`. What burn-onnx does not know it panics on.
fn generate(model: &Path, folder: &Path, i: usize) -> Result<(), String> {
    // The generated file is called like the model.
    let copy = folder.join(format!("network_{i}.onnx"));
    std::fs::copy(model, &copy).map_err(|e| format!("cannot read {}: {e}", model.display()))?;
    let copy = copy.to_str().ok_or("the path of the build folder is no text")?;
    let generated = std::panic::catch_unwind(|| {
        ModelGen::new().input(copy).out_dir("model/").load_strategy(LoadStrategy::Embedded).run_from_script();
    });
    generated.map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
        format!("burn-onnx: {}", text.lines().next().unwrap_or_default())
    })
}
