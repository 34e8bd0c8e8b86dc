//! What a session does beyond one right run: several at once, values that are not finite, and what is refused.

use super::super::{Precision, first_non_finite, naive};
use super::*;
use crate::ir::Role;
use crate::runtime::cases::param;

#[test]
fn runs_that_are_on_their_way_together_are_those_one_by_one() {
    let case = case("flight", 2, false, network);
    for gpu in gpus("several runs in flight") {
        let mut session = Session::on(&gpu, &case.model, 2).unwrap();
        let scaled = |factor: f32| {
            let x = &case.inputs[0];
            vec![Tensor::new(x.shape.clone(), x.data.iter().map(|v| v * factor).collect())]
        };
        let inputs: Vec<Vec<Tensor>> = (1..=5).map(|i| scaled(i as f32 / 4.0)).collect();
        let alone: Vec<_> = inputs.iter().map(|inputs| session.run(inputs).unwrap()).collect();
        assert_ne!(alone[0], alone[1]);
        for order in [[0, 1, 2, 3, 4], [4, 2, 0, 3, 1]] {
            let started: Vec<_> = inputs.iter().map(|inputs| session.start(inputs).unwrap()).collect();
            let mut started: Vec<_> = started.into_iter().map(Some).collect();
            // They may be waited for in any order, and one need not be waited for at all.
            for i in order.into_iter().take(4) {
                assert_eq!(session.finish(started[i].take().unwrap()).unwrap(), alone[i]);
            }
        }
        let other =
            Session::on(&gpu, &case.model, 1).unwrap().start(&[Tensor::new([1, 3, 9, 9], vec![0.0; 243])]).unwrap();
        let error = session.finish(other).unwrap_err().to_string();
        assert!(error.contains("started on another session"), "{error}");
    }
}

#[test]
fn the_reference_in_float64_is_the_formula_and_rounding_is_small() {
    let case = case("network", 3, false, network);
    let judge = Reference::with_precision(&case.model, Precision::Double).run(&case.inputs).unwrap();
    assert_eq!(judge, naive::run(&case.model, &case.inputs));
    let rounded = Reference::new(&case.model).run(&case.inputs).unwrap();
    assert_ne!(rounded, judge);
    assert!(max_rel("rounding", &rounded, &judge) < 1e-6);
}

#[test]
fn the_first_value_that_is_not_finite_is_found() {
    let case = case("overflow", 1, false, |b| {
        let x = b.input("image", Shape::image(2, 3, 3));
        let weight = param(b, "weight", &[2, 2, 1, 1], Role::Weight);
        let mut y = x;
        for i in 0..3 {
            y = b.node(format!("conv{i}"), Op::conv(weight, None, Window::valid(1, 1), 1), &[y]).unwrap();
        }
        b.output("out", y);
    });
    let mut model = case.model.into_inner();
    model.weights.0[0].data = vec![1e30; 4];
    let model = crate::ir::verify(model).unwrap();
    for gpu in gpus("values that are not finite") {
        let mut session = Session::on(&gpu, &model, 1).unwrap();
        let mut first = |value: f32| {
            let image = Tensor::new([1, 2, 3, 3], vec![value; 18]);
            first_non_finite(&mut session, &[image]).unwrap()
        };
        let found = first(1.0).unwrap();
        assert_eq!((found.name.as_str(), found.op.as_str(), found.count, found.elements), ("conv1", "conv", 18, 18));
        assert_eq!(found.to_string(), "`conv1` (conv), where 18 of 18 elements are NaN or infinite");
        assert_eq!(first(f32::NAN).unwrap().op, "input");
        assert_eq!(first(0.0), None);
    }
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
    check(Shape::fixed(&[4; 5]), 1, five, "node `odd`: slice cannot run: it walks over 5 separate dimensions");
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
    assert_eq!(json["steps"][0]["dispatches"][0]["kernel"], "conv_tile");
    assert_eq!(json["outputs"][0]["shape"], serde_json::json!([1, 10]));
    assert!(json.get("weights").is_none());
    // Drop path runs nothing; the flatten is a part of the classifier.
    let idle: Vec<&str> = program.steps.iter().filter(|s| s.dispatches.is_empty()).map(|s| s.node.as_str()).collect();
    assert_eq!(idle, ["cells.0/drop", "cells.1/drop", "cells.2/drop"]);
}
