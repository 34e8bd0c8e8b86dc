//! Values and weights in float16: every case on every adapter that has such numbers in shaders, and the refusal elsewhere.

use super::*;

/// A few roundings of 2^-11 = 4.9e-4, relative to the largest element.
const TOLERANCE: f64 = 4e-3;

fn half(target: Target) -> Target {
    Target { storage: Storage::Float16, ..target }
}

#[test]
fn every_case_agrees_with_the_reference_to_a_few_roundings() {
    let with_half: Vec<Gpu> = gpus("float16").into_iter().filter(|gpu| gpu.facts().f16).collect();
    if with_half.is_empty() {
        eprintln!("SKIPPED: float16: no adapter has 16-bit floats in shaders");
    }
    for gpu in with_half {
        let mut worst: (f64, String) = (0.0, String::new());
        for case in cases() {
            let expected = Reference::new(&case.model).run(&case.inputs).unwrap();
            // A number near the middle between two codes of eight bits becomes either.
            let tolerance = if case.name.starts_with("quantize") { 2e-2 } else { TOLERANCE };
            for target in targets(&gpu).map(half) {
                let mut session = Session::for_target(&gpu, &case.model, batch_of(&case), target).unwrap();
                for _ in 0..2 {
                    let rel = max_rel(&case.name, &session.run(&case.inputs).unwrap(), &expected);
                    assert!(rel <= tolerance, "{} on {} with {target:?}: {rel:e}", case.name, gpu.facts());
                    if rel > worst.0 {
                        worst = (rel, case.name.clone());
                    }
                }
                let mut layers = Vec::new();
                let outputs = session.run_all(&case.inputs, &mut |_, layer| layers.push(layer)).unwrap();
                assert!(max_rel(&case.name, &outputs, &expected) <= tolerance, "{}", case.name);
                assert!(layers.iter().all(|layer| layer.data.len() == layer.shape.iter().product::<usize>()));
            }
        }
        eprintln!("{}: float16, largest relative difference {:.1e} ({})", gpu.facts(), worst.0, worst.1);
    }
}

#[test]
fn the_half_form_passes_the_validation_of_a_device_that_does_nothing_and_takes_half_the_memory() {
    let gpu = Gpu::noop();
    for case in cases() {
        for target in TARGETS {
            let whole = Session::for_target(&gpu, &case.model, batch_of(&case), target).unwrap();
            let mut session = Session::for_target(&gpu, &case.model, batch_of(&case), half(target)).unwrap();
            session.run(&case.inputs).unwrap();
            let (whole, facts) = (whole.facts(), session.facts());
            assert_eq!((whole.storage, facts.storage), (Storage::Float32, Storage::Float16));
            assert!(facts.unshared_bytes <= whole.unshared_bytes && facts.weight_bytes <= whole.weight_bytes);
        }
    }
    let case = case("memory", 1, false, |b| unit(b, Window::same(3, 1, 1), [64, 32, 32], 64, true));
    let bytes = |target| {
        let program = emit(&case.model, 1, target).unwrap();
        (program.buffers.iter().sum::<u64>(), program.weight_bytes())
    };
    // The buffer of nothing is as large as ever.
    let ((whole, weights), (halved, fewer)) = (bytes(TARGETS[0]), bytes(half(TARGETS[0])));
    assert_eq!((halved - 16, fewer), ((whole - 16) / 2, weights / 2));
}

#[test]
fn an_adapter_without_such_numbers_is_refused_by_name() {
    let case = case("refused", 1, false, network);
    let mut gpus = gpus("refusal of float16");
    gpus.retain(|gpu| !gpu.facts().f16);
    for gpu in gpus {
        let error = Session::with_storage(&gpu, &case.model, 1, Storage::Float16).unwrap_err();
        assert!(matches!(error, RuntimeError::NoHalf { .. }), "{error}");
        let (text, name) = (error.to_string(), &gpu.facts().name);
        assert!(text.contains(&format!("adapter `{name}`")) && text.contains("leave --fp16 out"), "{text}");
    }
}
