//! What each rule must find and what it must accept, so that none of them can pass by finding nothing.
//!
//! Takes snippets as if they stood in a file of the crate and compares the names of the broken rules with the expected.

use crate::rules::{Finding, check, test_files};

/// The rules that a snippet in a file breaks, in order.
fn broken(file: &str, code: &str) -> Vec<&'static str> {
    check(file, &format!("//! Header.\n{code}\n"), false).iter().map(|f| f.rule).collect()
}

#[test]
fn an_import_to_the_right_is_found_however_it_is_written() {
    let found = [
        "use crate::passes::fold;",
        "use crate::{ir::Op, passes};",
        "use crate::{ir::{Op, Graph}, train::{self}};",
        "use super::super::search::derive;",
        "fn f() { crate::onnx::write(); }",
        "fn f(x: &crate::data::Loader) {}",
        "fn f() { let x = <crate::data::Loader as Default>::default(); }",
        "fn f() { format!(\"{}\", crate::runtime::name()) }",
        "mod inner { use super::super::super::train; }",
        "pub(in crate::train) fn f() {}",
        "use crate::*;",
        "use crate::Graph;",
        "use crate::report as words;",
        "macro_rules! m { () => { $crate::train::fit() } }",
    ];
    for code in found {
        assert_eq!(broken("src/lower/cell.rs", code), ["layers"], "{code}");
    }
    let accepted = [
        "use crate::{genotype::Genotype, ir::{self, Op}};",
        "use super::primitive; use crate::lower::network; use self::x::y;",
        "mod inner { use super::super::primitive; }",
        "// use crate::train;",
        "/* crate::train::x() /* nested */ */",
        "/// [`crate::train`]\nfn f() {}",
        "fn f() -> &'static str { r#\"use crate::train;\"# }",
        "pub(crate) fn f() {} pub(super) fn g() {}",
        "fn f() { x.train::<u8>(); Self::train(); Graph::train() }",
    ];
    for code in accepted {
        assert_eq!(broken("src/lower/cell.rs", code), [""; 0], "{code}");
    }
}

#[test]
fn test_code_may_look_further_left_and_never_right() {
    let check = |file: &str, path: &str, expected: &[&str]| {
        for code in [
            format!("#[cfg(test)]\nmod tests {{ use {path}; }}"),
            format!("#[cfg(test)]\n#[rustfmt::skip]\nuse {path};"),
            format!("#[cfg(all(test, feature = \"train\"))]\nmod tests {{ fn f() {{ {path}() }} }}"),
        ] {
            assert_eq!(broken(file, &code), expected, "{file}: {code}");
        }
    };
    check("src/passes/fold.rs", "crate::lower::network", &[]);
    check("src/onnx/write.rs", "crate::lower::network", &[]);
    check("src/onnx/write.rs", "crate::runtime::Runner", &[]);
    check("src/onnx/write.rs", "crate::train::Runner", &["layers"]);
    check("src/runtime/emit.rs", "crate::onnx::read", &["layers"]);
    check("src/lower/mod.rs", "crate::passes::fold", &["layers"]);
    check("src/ir/mod.rs", "crate::genotype::Cell", &["layers"]);
    // The item behind the tests is ordinary code again.
    assert_eq!(broken("src/onnx/write.rs", "#[cfg(test)] mod tests {} use crate::lower::network;"), ["layers"]);
    assert_eq!(broken("src/onnx/write.rs", "#[cfg(test)] use x::y; use crate::lower::network;"), ["layers"]);
    assert_eq!(broken("src/onnx/write.rs", "#[cfg(not(test))] use crate::lower::network;"), ["layers"]);
}

#[test]
fn a_test_module_in_a_file_of_its_own_is_test_code() {
    let files = [
        ("src/ir/mod.rs", "#[cfg(test)] mod tests; mod op; mod testsuite;"),
        ("src/ir/op.rs", "#[cfg(test)] mod cases;"),
        ("src/ir/op/cases.rs", ""),
        ("src/ir/tests/mod.rs", "mod inner;"),
        ("src/ir/tests/inner.rs", ""),
        ("src/ir/testsuite.rs", ""),
    ];
    let files = files.map(|(name, text)| (name.to_owned(), text.to_owned()));
    assert_eq!(test_files(&files), ["src/ir/op/cases.rs", "src/ir/tests/mod.rs", "src/ir/tests/inner.rs"]);
    let text = "//! Tests.\nfn f() { x.unwrap() }\n";
    assert_eq!((check("src/ir/tests.rs", text, true).len(), check("src/ir/tests.rs", text, false).len()), (0, 1));
}

#[test]
fn the_binary_uses_the_command_line_only() {
    assert_eq!(broken("src/main.rs", "fn main() { idarts_compile::cli::main() }"), [""; 0]);
    assert_eq!(broken("src/main.rs", "use idarts_compile::train::fit;"), ["layers"]);
    assert_eq!(broken("src/lib.rs", "pub mod ir; pub use ir::Graph; use crate::train::fit;"), [""; 0]);
}

#[test]
fn an_external_crate_outside_its_modules_is_found() {
    let cases = [
        ("src/onnx/write.rs", "use burn::tensor::Tensor;", "external"),
        ("src/onnx/write.rs", "fn f(x: ::burn::Tensor) {}", "external"),
        ("src/onnx/write.rs", "#[cfg(test)] mod tests { use burn::tensor; }", "external"),
        ("src/train/fit.rs", "use {std::fs, wgpu as gpu};", "external"),
        ("src/train/fit.rs", "#[derive(prost::Message)] struct S;", "external"),
        ("src/search/mod.rs", "fn f() -> anyhow::Result<()> { Ok(()) }", "external"),
        ("src/cli/run.rs", "use image::open;", "external"),
        ("src/lib.rs", "use burn::tensor;", "external"),
        ("src/ir/mod.rs", "use serde_yaml;", "external"),
        (
            "src/train/fit.rs",
            "use burn::tensor; fn f(image: u8) { self.image.wgpu::<u8>(); crate::data::image::x() }",
            "",
        ),
        ("src/report/svg.rs", "mod image; fn f() { image::draw() }", ""),
        ("src/runtime/mod.rs", "use wgpu::util; fn f() { pollster::block_on(x) }", ""),
        ("src/lower/mod.rs", "use serde::Serialize; #[derive(thiserror::Error)] enum E {}", ""),
    ];
    for (file, code, expected) in cases {
        assert_eq!(broken(file, code).join(" "), expected, "{file}: {code}");
    }
}

#[test]
fn files_and_output_have_their_places() {
    let cases = [
        ("src/passes/fold.rs", "use std::fs;", "pure"),
        ("src/passes/fold.rs", "use std::{fmt, fs::File, env};", "pure pure"),
        ("src/lower/cell.rs", "fn f() { std::process::exit(1) }", "pure"),
        ("src/lower/cell.rs", "use std::fmt; #[cfg(test)] mod tests { use std::fs; }", ""),
        ("src/data/cifar.rs", "use std::fs;", ""),
        ("src/train/fit.rs", "fn f() { println!(\"x\"); std::eprint!(\"y\") }", "printing printing"),
        ("src/train/fit.rs", "use std::io::{self, stdout};", "printing"),
        ("src/train/fit.rs", "fn f() { io::stderr().flush() }", "printing"),
        ("src/train/fit.rs", "fn f() { a.print(); print != x; format!(\"println!()\") } // println!(x)", ""),
        ("src/train/fit.rs", "#[test] fn f() { println!(\"SKIPPED: no data\") }", ""),
        ("src/cli/mod.rs", "fn f() { println!(\"x\"); eprintln!(\"y\") }", ""),
        ("src/main.rs", "fn main() { eprintln!(\"y\") }", ""),
    ];
    for (file, code, expected) in cases {
        assert_eq!(broken(file, code).join(" "), expected, "{file}: {code}");
    }
}

#[test]
fn what_panics_is_found_outside_of_tests() {
    let cases = [
        ("fn f() { x.unwrap(); y.unwrap_err(); z.map(Option::unwrap) }", "panics panics panics"),
        ("fn f() { panic!(\"x\"); std::todo!(); unimplemented!(); dbg!(x) }", "panics panics panics panics"),
        ("fn f() { unreachable!() }", "panics"),
        ("fn f() { unreachable!(\"checked above\"); x.expect(\"never empty\"); x.unwrap_or(1); assert!(x) }", ""),
        ("fn unwrap() { unwrap(); panic::catch(); \"x.unwrap()\" } // panic!()", ""),
        ("#[cfg(test)] mod tests { fn f() { x.unwrap(); panic!() } }", ""),
    ];
    for (code, expected) in cases {
        assert_eq!(broken("src/ir/x.rs", code).join(" "), expected, "{code}");
    }
}

#[test]
fn a_wildcard_in_a_match_on_op_is_found() {
    let cases = [
        ("match op { Op::Relu => 1, _ => 2 }", "wildcard"),
        ("match &node.op { ir::Op::Relu => {} other => {} }", "wildcard"),
        ("match op { Op::Add | Op::Relu => f::<A, B>(x), Op::Pad { .. } => {} all @ _ => {} }", "wildcard"),
        ("match x.get(0) { Some(Op::Relu) => 1, Some(&_) => 2, None => 3 }", "wildcard"),
        ("match op { &Op::Relu => match y { _ => 1 }, Op::Add | _ => 2 }", "wildcard"),
        ("match y { 1 => match op { Op::Relu => 1, _ => 2 }, _ => 2 }", "wildcard"),
        ("format!(\"{}\", match op { Op::Relu => 1, _ => 2 })", "wildcard"),
        ("use crate::ir::Op::{Relu, Add};", "wildcard wildcard"),
        ("use crate::ir::Op::*;", "wildcard"),
        ("match op { Op::Relu => 1, Op::Conv { groups: _, .. } | Op::MaxPool(_) => 2 }", ""),
        ("match op { Op::Relu => 1, _ if wide => 2, Op::Add => 3 }", ""),
        ("match name { \"Relu\" => Op::Relu, _ => Op::Add }", ""),
        ("match (a, b) { (Op::Conv { .. }, Op::Relu) => 1, _ => 2 }", ""),
        (
            "match op { Op::Add => match n { 1 => 2, _ => 3 }, Op::Relu => if matches!(x, Op::Add) { 1 } else { 2 } }",
            "",
        ),
        ("match op { #[cfg(a)] Op::Add => match n { _ => 3 }, Op::Relu => x as usize, }", ""),
        ("match kind { DataOp::A => 1, _ => 2 }", ""),
        ("#[cfg(test)] mod tests { fn g() { match op { Op::Add => 1, _ => 2 } } }", ""),
    ];
    for (code, expected) in cases {
        let item = code.starts_with("use") || code.starts_with("#[cfg(test)]");
        let code = if item { code.to_owned() } else { format!("fn f() {{ {code} }}") };
        assert_eq!(broken("src/onnx/x.rs", &code).join(" "), expected, "{code}");
    }
}

#[test]
fn every_file_opens_with_a_header() {
    let cases = [
        ("src/ir/x.rs", "use a::b;\n", "header"),
        ("tests/x.rs", "// Not a doc comment.\n", "header"),
        ("shaders/conv.wgsl", "@group(0) @binding(0) var<storage> x: u32;\n", "header"),
        ("src/ir/x.rs", "//! Takes a, gives b.\n", ""),
        ("shaders/conv.wgsl", "// Takes a, gives b.\n", ""),
        // Tests and examples are users of the crate: only the header is asked of them.
        ("examples/x.rs", "//! Header.\nfn main() { x.unwrap(); println!(\"x\") }\n", ""),
        ("src/ir/x.rs", "//! Header.\nfn f( {\n", "syntax"),
    ];
    for (file, text, expected) in cases {
        let rules: Vec<_> = check(file, text, false).iter().map(|f| f.rule).collect();
        assert_eq!(rules.join(" "), expected, "{file}: {text}");
    }
}

#[test]
fn a_finding_names_file_line_rule_and_remedy() {
    let findings = check("src/onnx/x.rs", "//! Header.\n\nuse crate::ir::Op;\nuse crate::train::fit;\n", false);
    let text: Vec<String> = findings.iter().map(Finding::to_string).collect();
    assert_eq!(text, ["src/onnx/x.rs:4: [layers] `onnx` may not use `train`; it may use ir"]);
}
