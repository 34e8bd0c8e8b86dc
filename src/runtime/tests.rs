//! The same cases on the formulas, the reference and every adapter of the machine, and what happens when things go wrong.
//!
//! Tolerances, relative to the largest magnitude of the reference: 1e-6 between formula and reference (both accumulate in
//! float64, so only the last rounding differs), 1e-5 between reference and shaders (float32 sums of up to about a hundred
//! terms), 0 for ops that only move or select.

use std::collections::{BTreeMap, BTreeSet};

use super::cases::{Case, case, cases, network, unit};
use super::emit::emit_grouped;
use super::kernel::SUBGROUP;
use super::naive;
use super::{
    AdapterChoice, AdapterFacts, BackendName, Gpu, Kernel, Program, Reference, RuntimeError, Session, Target,
    Tolerance, adapters, compare, compare_layers, emit,
};
use crate::ir::{Builder, Op, Shape, Tensor, Window};
use crate::passes::group::Grouping;

const LOOSE: Tolerance = Tolerance { atol: 1e9, rtol: 0.0 };

/// Every choice of kernels.
const TARGETS: [Target; 3] = [
    Target { software: false, subgroups: false },
    Target { software: true, subgroups: false },
    Target { software: true, subgroups: true },
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
        let layers = compare_layers(&case.model, &mut session, &case.inputs, tolerance).unwrap();
        assert_eq!(layers.len(), names.len());
        assert!(layers.iter().all(|l| l.comparison.ok), "{:?}", layers.iter().find(|l| !l.comparison.ok));
        assert!(layers.is_sorted_by(|a, b| a.comparison.max_rel >= b.comparison.max_rel));
        // A session of another model is wrong from its first layer on, and the comparison says where it began.
        let mut changed = case.model.clone().into_inner();
        let weight = changed.graph.params.iter().position(|p| p.name == "cells.1/pointwise.weight").unwrap();
        changed.weights.0[weight].data[0] += 1.0;
        let changed = crate::ir::verify(changed).unwrap();
        let layers = compare_layers(&changed, &mut session, &case.inputs, tolerance).unwrap();
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
            let alone = emit_grouped(&case.model, batch_of(&case), gpu.target(), Grouping::NONE).unwrap();
            let got = Session::replay(gpu, alone).unwrap().run(&case.inputs).unwrap();
            let rel = max_rel(&case.name, &got, &expected);
            assert!(rel <= if case.exact { 0.0 } else { 1e-5 }, "{} on {}: {rel:e}", case.name, gpu.facts());
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

#[test]
fn wrong_inputs_are_errors_that_name_the_input() {
    let case = case("inputs", 2, false, network);
    let mut session = Session::on(&Gpu::noop(), &case.model, 2).unwrap();
    let image = |n| Tensor::new([n, 3, 9, 9], vec![0.0; n * 243]);
    let message = |inputs: &[Tensor], session: &mut Session| session.run(inputs).unwrap_err().to_string();
    assert_eq!(message(&[], &mut session), "the model takes 1 inputs, got 0");
    let text = message(&[image(3)], &mut session);
    assert!(text.starts_with("input `image` must be [N, 3, 9, 9], got [3, 3, 9, 9] with 729 elements"), "{text}");
    assert!(Reference::new(&case.model).run(&[image(3)]).is_ok());
    assert!(Reference::new(&case.model).run(&[]).is_err());
}

#[test]
fn what_no_kernel_does_is_an_error_that_names_the_node() {
    let check = |shape: Shape, batch: usize, op: Op, expected: &str| {
        let case = case("unsupported", 1, false, |b| {
            let x = b.input("input", shape);
            let y = b.node("odd", op, &[x]).unwrap();
            b.output("out", y);
        });
        let error = emit(&case.model, batch, Target::default()).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
    };
    let far = Window { padding: [0, 0, 3, 0], ..Window::valid(2, 1) };
    check(Shape::image(1, 4, 4), 1, Op::MaxPool(far), "node `odd`: max_pool cannot run: the window at row 4");
    let between = Window::new([1, 2], [1, 1], [0, 1], [1, 2]);
    let average = Op::AvgPool { window: between, count_include_pad: false };
    check(Shape::image(1, 1, 1), 1, average, "node `odd`: avg_pool cannot run: the window at column 0");
    let cut = |axis| crate::ir::Range { axis, start: 1, len: 2, step: 1 };
    let five = Op::Slice { ranges: (0..5).map(cut).collect() };
    check(Shape::fixed(&[4; 5]), 1, five, "node `odd`: slice cannot run: it copies 5 separate dimensions");
    check(Shape::image(0, 4, 4), 1, Op::Relu, "node `input`: input cannot run: its value [1, 0, 4, 4] has no elements");
    check(
        Shape::image(64, 64, 64),
        9000,
        Op::Relu,
        "node `input`: input cannot run: its value [9000, 64, 64, 64] has more",
    );
}

#[test]
fn a_model_larger_than_the_adapter_is_refused_before_anything_is_made() {
    let case = case("large", 1, false, network);
    // The device that does nothing keeps the lowest limits: 128 MiB in a binding, 256 MiB in a buffer.
    let gpu = Gpu::noop();
    let batch = 60_000;
    let error = Session::on(&gpu, &case.model, batch).unwrap_err();
    let RuntimeError::Limit { what, needed, available, .. } = &error else { panic!("{error}") };
    assert_eq!(what, "bytes of a bound buffer for value `stem`");
    assert_eq!((*needed, *available), (60_000 * 8 * 81 * 4, 128 << 20));
    let text = error.to_string();
    assert!(text.contains("the model needs 155520000, adapter `") && text.ends_with("` has 134217728"), "{text}");
}

#[test]
fn a_lost_device_is_an_error_and_not_a_panic() {
    let case = case("lost", 1, false, network);
    for gpu in gpus("lost device") {
        let mut session = Session::on(&gpu, &case.model, 1).unwrap();
        session.run(&case.inputs).unwrap();
        gpu.device().destroy();
        for _ in 0..2 {
            let error = session.run(&case.inputs).unwrap_err();
            assert!(matches!(error, RuntimeError::DeviceLost { .. }), "{}: {error}", gpu.facts());
        }
        let error = Session::on(&gpu, &case.model, 1).unwrap_err();
        assert!(matches!(error, RuntimeError::DeviceLost { .. }), "{}: {error}", gpu.facts());
    }
}

#[test]
fn every_launch_can_be_timed() {
    let case = case("profile", 1, false, network);
    for gpu in gpus("profile").into_iter().chain([Gpu::noop()]) {
        let mut session = Session::on(&gpu, &case.model, 1).unwrap();
        let profile = session.profile(&case.inputs).unwrap();
        let expected: Vec<_> = session
            .program()
            .steps
            .iter()
            .flat_map(|s| s.dispatches.iter().map(|d| (s.node.as_str(), d.kernel)))
            .collect();
        let got: Vec<_> = profile.launches.iter().map(|l| (l.name.as_str(), l.kernel)).collect();
        assert_eq!(got, expected);
        assert_eq!(profile.timestamps, gpu.facts().timestamps && gpu.facts().backend != BackendName::Other);
        assert!(profile.launches.iter().all(|l| l.gpu_us.is_finite() && l.gpu_us >= 0.0));
        if gpu.facts().backend != BackendName::Other {
            assert!(profile.launches.iter().map(|l| l.gpu_us).sum::<f64>() > 0.0, "{}", gpu.facts());
            // A profile run leaves the session usable.
            let expected = Reference::new(&case.model).run(&case.inputs).unwrap();
            assert!(max_rel("profile", &session.run(&case.inputs).unwrap(), &expected) <= 1e-5);
        }
    }
}

#[test]
fn a_session_takes_the_best_adapter_unless_told_otherwise() {
    let case = case("choice", 1, false, network);
    if gpus("choice of an adapter").is_empty() {
        let error = Session::new(&case.model, &AdapterChoice::default(), 1).unwrap_err();
        assert!(matches!(error, RuntimeError::NoAdapter));
        return;
    }
    let session = Session::new(&case.model, &AdapterChoice::default(), 1).unwrap();
    assert!(adapters().iter().any(|facts| facts == &session.facts().adapter));
    let error = Session::new(&case.model, &"no such adapter".parse().unwrap(), 1).unwrap_err();
    assert!(matches!(error, RuntimeError::AdapterNotFound { .. }), "{error}");
}

#[test]
fn a_program_is_plain_data_that_can_be_written() {
    let case = case("program", 1, false, network);
    let program = emit(&case.model, 1, Target::default()).unwrap();
    let json: serde_json::Value = serde_json::to_value(&program).unwrap();
    assert_eq!(json["steps"][0]["node"], "stem");
    assert_eq!(json["steps"][0]["dispatches"][0]["kernel"], "conv");
    assert_eq!(json["outputs"][0]["shape"], serde_json::json!([1, 10]));
    assert!(json.get("weights").is_none());
    // Flatten and drop path run nothing.
    let idle: Vec<&str> = program.steps.iter().filter(|s| s.dispatches.is_empty()).map(|s| s.node.as_str()).collect();
    assert_eq!(idle, ["cells.0/drop", "cells.1/drop", "cells.2/drop", "flatten"]);
}
