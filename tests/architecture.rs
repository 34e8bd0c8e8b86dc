//! Holds the crate to its architecture: who may import whom, which external crate stands where, and the house style.
//!
//! Takes the files below `src`, `shaders`, `tests` and `examples`; gives one failure that lists every finding as
//! `file:line: [rule] what is wrong and what to do`. The tables below are the architecture; `rules` holds the checks,
//! `cases` the snippets that each check must find or accept, `scan` turns a file into tokens and paths. What the compiler
//! and clippy check already is left to them.

#[path = "architecture/cases.rs"]
mod cases;
#[path = "architecture/rules.rs"]
mod rules;
#[path = "architecture/scan.rs"]
mod scan;

use rules::Finding;
use std::path::{Path, PathBuf};

/// One module of the crate.
pub struct Module {
    /// Its name, a file or folder of `src`.
    pub name: &'static str,
    /// Its place from left to right; an import points left only.
    pub layer: u32,
    /// The modules that it may use.
    pub uses: &'static [&'static str],
    /// The modules that its `#[cfg(test)]` code may use besides all of lower layers.
    pub in_tests: &'static [&'static str],
}

const fn module(layer: u32, name: &'static str, uses: &'static [&'static str]) -> Module {
    Module { name, layer, uses, in_tests: &[] }
}

/// The modules, from left to right.
pub const MODULES: &[Module] = &[
    module(0, "genotype", &[]),
    module(0, "ir", &[]),
    module(1, "lower", &["genotype", "ir"]),
    // What a pass must not change is shown on real networks, which only `lower` can make.
    Module { name: "passes", layer: 1, uses: &["ir"], in_tests: &["lower"] },
    module(2, "kernels", &[]),
    module(2, "data", &[]),
    module(3, "train", &["ir", "passes", "kernels", "data"]),
    // Two forms of a file are the same where the reference computes the same.
    Module { name: "onnx", layer: 3, uses: &["ir"], in_tests: &["runtime"] },
    module(3, "runtime", &["ir", "passes"]),
    module(4, "search", &["genotype", "ir", "lower", "passes", "train", "data"]),
    module(5, "cli", &["genotype", "ir", "lower", "passes", "kernels", "data", "train", "onnx", "runtime", "search"]),
    // The binary, `src/main.rs`.
    module(6, "main", &["cli"]),
];

/// Where each dependency of Cargo.toml may be used, by its name in code; `&["*"]` is everywhere.
pub const EXTERNAL: &[(&str, &[&str])] = &[
    ("anyhow", &["cli", "main"]),
    ("burn", &["kernels", "train", "search", "cli"]),
    ("burn_std", &["kernels"]),
    ("bytemuck", &["*"]),
    ("ciborium", &["train"]),
    ("clap", &["cli", "main"]),
    ("crc32fast", &["train"]),
    ("gemm", &["kernels"]),
    ("half", &["onnx", "train", "cli", "runtime"]),
    ("image", &["data"]),
    ("indicatif", &["cli"]),
    ("libc", &["kernels"]),
    ("macerator", &["kernels"]),
    ("pollster", &["runtime"]),
    ("prost", &["onnx"]),
    ("rand", &["*"]),
    ("rand_chacha", &["*"]),
    ("rand_distr", &["*"]),
    ("rayon", &["*"]),
    ("safetensors", &["*"]),
    ("serde", &["*"]),
    ("serde_json", &["*"]),
    // Genotypes and the configuration files of training and search.
    ("serde_yaml", &["genotype", "train", "search", "cli"]),
    ("signal_hook", &["cli"]),
    ("thiserror", &["*"]),
    ("wgpu", &["runtime"]),
    ("zip", &["cli"]),
];

/// Modules that compute and touch neither files nor the environment.
pub const PURE: &[&str] = &["lower", "passes"];

/// Modules that may write to stdout and stderr.
pub const PRINTING: &[&str] = &["cli", "main"];

/// A file longer than this is named in the output; one longer than [`MAX_LINES`] fails.
const MANY_LINES: usize = 400;
const MAX_LINES: usize = 600;

#[test]
fn every_source_file_keeps_the_architecture() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for folder in ["src", "shaders", "tests", "examples"] {
        collect(&root.join(folder), &mut files);
    }
    files.sort();
    let files: Vec<(String, String)> = files
        .iter()
        .map(|path| {
            let name = path.strip_prefix(root).expect("collected below the root").to_string_lossy().replace('\\', "/");
            (name, std::fs::read_to_string(path).expect("a source file is readable text"))
        })
        .collect();
    assert!(files.iter().any(|(name, _)| name == "src/ir/op.rs"), "the walk over src found nothing");

    let test_files = rules::test_files(&files);
    let mut findings = Vec::new();
    for (name, text) in &files {
        findings.extend(rules::check(name, text, test_files.contains(name)));
        let lines = text.lines().count();
        if lines > MAX_LINES {
            findings.push(Finding::new(name, lines, "length", format!("over {MAX_LINES} lines; split it by task")));
        } else if lines > MANY_LINES {
            println!("note: {name} has {lines} lines; over {MANY_LINES} needs a reason");
        }
    }
    fail_on(&findings);
}

#[test]
fn the_modules_of_src_are_those_of_the_table() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    for entry in std::fs::read_dir(src).expect("src exists").map(|e| e.expect("src is readable")) {
        let name = entry.file_name().to_string_lossy().trim_end_matches(".rs").to_owned();
        if name != "lib" {
            found.push(name);
        }
    }
    let known = |name: &String| MODULES.iter().any(|m| m.name == name);
    let unknown: Vec<_> = found.iter().filter(|name| !known(name)).collect();
    assert!(
        unknown.is_empty(),
        "no row in the table of tests/architecture.rs for src/{unknown:?}: say what it may use"
    );
    let missing: Vec<_> = MODULES.iter().map(|m| m.name).filter(|m| !found.iter().any(|f| f == m)).collect();
    if found.iter().any(|name| name == "cli") {
        assert!(missing.is_empty(), "rows without a module in src: {missing:?}");
    } else {
        println!("note: not in src yet: {missing:?}");
    }
}

#[test]
fn the_table_points_left_only() {
    for module in MODULES {
        for used in module.uses.iter().chain(module.in_tests) {
            let used = MODULES.iter().find(|m| m.name == *used).expect("a used module has a row");
            let sideways = module.in_tests.contains(&used.name) && used.layer == module.layer;
            assert!(used.layer < module.layer || sideways, "{} may not use {}", module.name, used.name);
        }
    }
}

#[test]
fn every_dependency_has_a_place() {
    let manifest = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"));
    let names = dependencies(&manifest.expect("Cargo.toml is readable"));
    assert!(names.iter().any(|n| n == "burn"), "the dependencies of Cargo.toml were not found: {names:?}");
    for name in &names {
        assert!(
            EXTERNAL.iter().any(|(known, _)| known == name),
            "`{name}` has no row in the table of tests/architecture.rs: say which modules may use it"
        );
    }
    for (known, modules) in EXTERNAL {
        assert!(names.iter().any(|n| n == known), "`{known}` has a row and is no dependency");
        for module in modules.iter().filter(|m| **m != "*") {
            assert!(MODULES.iter().any(|m| m.name == *module), "row `{known}` names the unknown module {module}");
        }
    }
}

/// Names, as code writes them, of the ordinary dependencies in the text of a Cargo.toml.
fn dependencies(manifest: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut inside = false;
    for line in manifest.lines().map(str::trim) {
        if let Some(section) = line.strip_prefix('[') {
            inside = section == "dependencies]" || section.ends_with(".dependencies]");
        } else if inside && let Some((name, _)) = line.split_once('=') {
            let key = name.split('.').next().expect("split gives one part");
            names.push(key.trim().replace('-', "_"));
        }
    }
    names.retain(|name| !name.starts_with('#'));
    names
}

/// Adds the Rust and shader files below `folder`; a missing folder has none.
fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for path in entries.map(|e| e.expect("the folder is readable").path()) {
        if path.is_dir() {
            // Examples that are packages of their own keep their build output beside them.
            if path.file_name().is_none_or(|name| name != "target") {
                collect(&path, files);
            }
        } else if path.extension().is_some_and(|e| e == "rs" || e == "wgsl") {
            files.push(path);
        }
    }
}

fn fail_on(findings: &[Finding]) {
    let list: Vec<String> = findings.iter().map(Finding::to_string).collect();
    assert!(list.is_empty(), "{} findings:\n{}", list.len(), list.join("\n"));
}
