//! The same cases on the formulas, the reference and every adapter of the machine, and what happens when things go wrong.
//!
//! Tolerances, relative to the largest magnitude of the reference: 1e-6 between formula and reference (both accumulate in
//! float64, so only the last rounding differs), 1e-5 between reference and shaders (float32 sums of up to about a hundred
//! terms), 0 for ops that only move or select. With values in float16, 4e-3: a few roundings of up to 4.9e-4.

mod half;
mod running;
mod tile;

use std::collections::{BTreeMap, BTreeSet};

use super::cases::{Case, case, cases, network, unit};
use super::emit::emit_grouped;
use super::kernel::SUBGROUP;
use super::naive;
use super::{
    AdapterChoice, AdapterFacts, BackendName, Gpu, Kernel, Program, Reference, RuntimeError, Session, Storage, Target,
    Tolerance, adapters, compare, compare_layers, emit,
};
use crate::ir::{Builder, Op, Shape, Tensor, Window};
use crate::passes::group::Grouping;

const LOOSE: Tolerance = Tolerance { atol: 1e9, rtol: 0.0 };

/// Every choice of kernels.
const TARGETS: [Target; 3] = [
    Target { software: false, subgroups: false, storage: Storage::Float32 },
    Target { software: true, subgroups: false, storage: Storage::Float32 },
    Target { software: true, subgroups: true, storage: Storage::Float32 },
];

/// The choices of kernels that run on the adapter.
fn targets(gpu: &Gpu) -> impl Iterator<Item = Target> {
    let subgroups = gpu.facts().subgroup == Some(SUBGROUP);
    TARGETS.into_iter().filter(move |target| subgroups || !target.subgroups)
}

/// Every adapter, opened; a machine without one skips the test, unless nothing may be skipped.
fn gpus(test: &str) -> Vec<Gpu> {
    let all = adapters();
    if all.is_empty() {
        let why = format!("{test}: no adapter; install mesa-vulkan-drivers for a software one");
        assert!(std::env::var_os("IDARTS_REQUIRE_ALL").is_none(), "{why}");
        eprintln!("SKIPPED: {why}");
    }
    let open = |facts: AdapterFacts| {
        let choice = AdapterChoice { index: Some(facts.index), ..AdapterChoice::default() };
        Gpu::open(&choice).unwrap_or_else(|e| panic!("{facts}: {e}"))
    };
    all.into_iter().map(open).collect()
}

fn batch_of(case: &Case) -> usize {
    if case.name.ends_with("batch 3") { 3 } else { 1 }
}

/// The largest relative difference of all outputs; none may be other than finite.
fn max_rel(name: &str, got: &[Tensor], expected: &[Tensor]) -> f64 {
    assert_eq!(got.len(), expected.len(), "{name}");
    let rel = |(got, expected): (&Tensor, &Tensor)| {
        let c = compare(name, got, expected, LOOSE).unwrap();
        assert_eq!(c.non_finite, 0, "{name}: {got:?}");
        c.max_rel
    };
    got.iter().zip(expected).map(rel).fold(0.0, f64::max)
}

#[test]
fn the_reference_agrees_with_the_formula_of_every_op() {
    for case in cases() {
        let got = Reference::new(&case.model).run(&case.inputs).unwrap();
        let expected = naive::run(&case.model, &case.inputs);
        let worst = max_rel(&case.name, &got, &expected);
        assert!(worst <= if case.exact { 0.0 } else { 1e-6 }, "{}: {worst:e}", case.name);
    }
}

#[test]
fn the_shaders_agree_with_the_reference_on_every_adapter() {
    let cases: Vec<(Case, Vec<Tensor>)> = cases()
        .into_iter()
        .map(|case| {
            let expected = Reference::new(&case.model).run(&case.inputs).unwrap();
            (case, expected)
        })
        .collect();
    for gpu in gpus("shaders against the reference") {
        let mut worst: BTreeMap<&str, f64> = BTreeMap::new();
        for (case, expected) in &cases {
            // Whatever the adapter is, the kernels for the other kind must be right on it as well.
            for target in targets(&gpu) {
                let mut session = Session::for_target(&gpu, &case.model, batch_of(case), target).unwrap();
                // The second run finds the buffers dirty.
                for _ in 0..2 {
                    let got = session.run(&case.inputs).unwrap_or_else(|e| panic!("{}: {e}", case.name));
                    let rel = max_rel(&case.name, &got, expected);
                    let limit = if case.exact { 0.0 } else { 1e-5 };
                    assert!(rel <= limit, "{} on {}: {rel:e}", case.name, gpu.facts());
                    let op = case.name.split([' ', ',']).next().unwrap_or_default();
                    let entry = worst.entry(op).or_default();
                    *entry = entry.max(rel);
                }
            }
        }
        let figures: Vec<String> = worst.iter().map(|(op, rel)| format!("{op} {rel:.1e}")).collect();
        eprintln!("{}: {} cases, largest relative difference: {}", gpu.facts(), cases.len(), figures.join(", "));
    }
}

#[test]
fn every_layer_can_be_compared_and_the_worst_comes_first() {
    let case = case("layers", 2, false, network);
    let expected = Reference::new(&case.model).run(&case.inputs).unwrap();
    for gpu in gpus("layers") {
        let mut session = Session::on(&gpu, &case.model, 2).unwrap();
        let mut names = Vec::new();
        let outputs = session.run_all(&case.inputs, &mut |name, _| names.push(name.to_string())).unwrap();
        assert_eq!(names, session.program().steps.iter().map(|s| s.node.clone()).collect::<Vec<_>>());
        assert!(max_rel("layers", &outputs, &expected) <= 1e-5);
        // The values reach a thousand.
        let tolerance = Tolerance { atol: 1e-2, rtol: 1e-4 };
        let layers = compare_layers(Reference::new(&case.model), &mut session, &case.inputs, tolerance).unwrap();
        assert_eq!(layers.len(), names.len());
        assert!(layers.iter().all(|l| l.comparison.ok), "{:?}", layers.iter().find(|l| !l.comparison.ok));
        assert!(layers.is_sorted_by(|a, b| a.comparison.max_rel >= b.comparison.max_rel));
        // A session of another model is wrong from its first layer on, and the comparison says where it began.
        let mut changed = case.model.clone().into_inner();
        let weight = changed.graph.params.iter().position(|p| p.name == "cells.1/pointwise.weight").unwrap();
        changed.weights.0[weight].data[0] += 1.0;
        let changed = crate::ir::verify(changed).unwrap();
        let layers = compare_layers(Reference::new(&changed), &mut session, &case.inputs, tolerance).unwrap();
        let wrong = |name: &str| !layers.iter().find(|l| l.name == name).unwrap().comparison.ok;
        assert!(!wrong("cells.1/depthwise") && wrong("cells.1/pointwise"));
    }
}

#[test]
fn values_beyond_65535_workgroups_are_right() {
    let image = |b: &mut Builder, shape: Shape, ops: &[Op]| {
        let mut x = b.input("input", shape);
        for (i, op) in ops.iter().enumerate() {
            x = b.node(format!("node{i}"), op.clone(), &[x]).unwrap();
        }
        b.output("out", x);
    };
    // 70,000 planes, a workgroup each; 4.3 million elements, a thread each; 17 million elements, a thread for four.
    let large = [
        case("planes", 1, false, |b| image(b, Shape::image(70_000, 1, 2), &[Op::GlobalAvgPool])),
        case("elements", 1, true, |b| image(b, Shape::image(2, 1, 2_150_000), &[Op::MaxPool(Window::valid(1, 1))])),
        case("vectors", 1, true, |b| image(b, Shape::image(1, 4200, 4001), &[Op::Relu])),
    ];
    for gpu in gpus("large values") {
        for case in &large {
            let expected = Reference::new(&case.model).run(&case.inputs).unwrap();
            let mut session = Session::on(&gpu, &case.model, 1).unwrap();
            assert!(session.program().dispatches().any(|d| d.workgroups[1] > 1), "{} is not large", case.name);
            let got = session.run(&case.inputs).unwrap();
            let worst = max_rel(&case.name, &got, &expected);
            assert!(worst <= if case.exact { 0.0 } else { 1e-6 }, "{} on {}: {worst:e}", case.name, gpu.facts());
        }
    }
}

#[test]
fn every_case_passes_the_validation_of_a_device_that_does_nothing() {
    let gpu = Gpu::noop();
    for case in cases() {
        for target in TARGETS {
            let mut session = Session::for_target(&gpu, &case.model, batch_of(&case), target).unwrap();
            let facts = session.facts();
            // Besides the values there are 16 bytes that nothing reads.
            assert!(facts.buffer_bytes <= facts.unshared_bytes + 16, "{}", case.name);
            let got = session.run(&case.inputs).unwrap();
            assert_eq!(got.len(), case.model.graph.outputs.len());
        }
    }
}

#[test]
fn every_dispatch_fits_the_wgsl_that_it_launches() {
    let modules: BTreeMap<Kernel, wgpu::naga::Module> =
        Kernel::ALL.into_iter().map(|k| (k, wgpu::naga::front::wgsl::parse_str(k.source()).unwrap())).collect();
    let mut seen = BTreeSet::new();
    for case in cases() {
        for target in TARGETS {
            let program = emit(&case.model, batch_of(&case), target).unwrap();
            for dispatch in program.dispatches() {
                seen.insert(dispatch.kernel);
                let module = &modules[&dispatch.kernel];
                let sizes = module.global_variables.iter().find(|(_, v)| v.name.as_deref() == Some("s")).unwrap().1;
                let bytes = module.types[sizes.ty].inner.size(module.to_ctx());
                assert_eq!(bytes as usize, 4 * dispatch.sizes.len(), "{}: {:?}", case.name, dispatch.kernel);
                assert_eq!(dispatch.reads.len(), dispatch.kernel.reads().len(), "{}", case.name);
                for (name, _) in &dispatch.constants {
                    let known = module.overrides.iter().any(|(_, o)| o.name.as_ref() == Some(name));
                    assert!(known, "{:?} has no override {name}", dispatch.kernel);
                }
                assert!(dispatch.workgroups.iter().all(|n| (1..=65535).contains(n)), "{}", case.name);
            }
        }
    }
    assert_eq!(seen, Kernel::ALL.into_iter().collect(), "the cases reach every kernel");
}

#[test]
fn groups_compute_what_their_nodes_compute_one_by_one() {
    let gpus = gpus("groups");
    for case in cases() {
        let expected = Reference::new(&case.model).run(&case.inputs).unwrap();
        for gpu in &gpus {
            for target in [gpu.target(), TARGETS[0]] {
                let alone = emit_grouped(&case.model, batch_of(&case), target, Grouping::NONE).unwrap();
                let got = Session::replay(gpu, alone).unwrap().run(&case.inputs).unwrap();
                let rel = max_rel(&case.name, &got, &expected);
                assert!(rel <= if case.exact { 0.0 } else { 1e-5 }, "{} on {}: {rel:e}", case.name, gpu.facts());
            }
        }
    }
    let programs = cases().into_iter().map(|case| emit(&case.model, batch_of(&case), TARGETS[2]).unwrap());
    let dispatches: Vec<_> = programs.flat_map(|p| p.dispatches().cloned().collect::<Vec<_>>()).collect();
    for (name, values) in [("NEIGHBOURS", 0..2), ("SUM", 0..2), ("DEPTHWISE", 0..1), ("GROUPS", 1..4)] {
        for value in values {
            let met = dispatches.iter().any(|d| d.constants.contains(&(name.to_owned(), value)));
            assert!(met, "no case has {name} = {value}");
        }
    }
    let case = case("unit", 1, false, |b| unit(b, Window::same(3, 1, 1), [12, 8, 8], 25, true));
    let kernels = |program: &Program| program.dispatches().map(|d| d.kernel).collect::<Vec<_>>();
    let fused = emit(&case.model, 1, TARGETS[2]).unwrap();
    assert_eq!(kernels(&fused), [Kernel::Relu, Kernel::SeparableSubgroup]);
    let alone = emit_grouped(&case.model, 1, TARGETS[2], Grouping::NONE).unwrap();
    assert_eq!(kernels(&alone), [Kernel::Depthwise, Kernel::SeparableSubgroup, Kernel::Relu, Kernel::Add]);
}
