//! The kernels for GPUs: which of them a network gets, that the cases reach each of their choices, and what memory they take.
//!
//! They run here on software adapters, which shows that they are right and nothing about their speed.

use wgpu::naga::back::PipelineConstants;
use wgpu::naga::back::pipeline_constants::process_overrides;
use wgpu::naga::valid::{Capabilities, ValidationFlags, Validator};
use wgpu::naga::{AddressSpace, ShaderStage};

use super::*;

fn dispatches() -> Vec<crate::runtime::Dispatch> {
    let programs = cases().into_iter().map(|case| emit(&case.model, batch_of(&case), TARGETS[0]).unwrap());
    programs.flat_map(|p| p.dispatches().cloned().collect::<Vec<_>>()).collect()
}

#[test]
fn a_unit_of_any_row_width_and_its_sum_are_one_dispatch() {
    let kernels = |program: &Program| program.dispatches().map(|d| d.kernel).collect::<Vec<_>>();
    for window in [Window::same(3, 1, 1), Window::same(5, 2, 1), Window::same(7, 1, 1), Window::same(7, 2, 2)] {
        let case = case("unit", 1, false, |b| unit(b, window, [12, 14, 15], 25, true));
        assert_eq!(kernels(&emit(&case.model, 1, TARGETS[0]).unwrap()), [Kernel::Relu, Kernel::SeparableTile]);
    }
    // What does not fit into the memory of a workgroup is made by two kernels, or by those without such memory.
    for (window, first) in [(Window::same(7, 4, 1), Kernel::Depthwise), (Window::same(19, 1, 1), Kernel::DepthwiseTile)]
    {
        let case = case("unit", 1, false, |b| unit(b, window, [12, 33, 35], 25, true));
        let expected = [first, Kernel::Relu, Kernel::PointwiseTileScalar];
        assert_eq!(kernels(&emit(&case.model, 1, TARGETS[0]).unwrap()), expected);
    }
}

#[test]
fn the_cases_reach_every_choice_of_the_kernels_for_gpus() {
    let dispatches = dispatches();
    let choices = [
        (Kernel::PointwiseTile, "ROWS", vec![4, 8]),
        (Kernel::PointwiseTile, "SUM", vec![0, 1]),
        (Kernel::PointwiseTileScalar, "ROWS", vec![4, 8]),
        (Kernel::PointwiseTileScalar, "SUM", vec![0, 1]),
        (Kernel::ConvTile, "ROWS", vec![4, 8]),
        (Kernel::ConvTile, "SUM", vec![0, 1]),
        (Kernel::DepthwiseTile, "SUM", vec![0, 1]),
        (Kernel::SeparableTile, "SUM", vec![0, 1]),
        (Kernel::SeparableTile, "BLOCKS", vec![1, 2, 3, 4]),
        (Kernel::SeparableTile, "DEPTH", vec![4, 8]),
    ];
    for (kernel, name, values) in choices {
        for value in values {
            let met =
                |d: &&crate::runtime::Dispatch| d.kernel == kernel && d.constants.contains(&(name.to_owned(), value));
            assert!(dispatches.iter().any(|d| met(&d)), "no case has {kernel:?} with {name} = {value}");
        }
    }
}

#[test]
fn no_choice_takes_more_workgroup_memory_than_every_adapter_has() {
    let mut seen = BTreeSet::new();
    for dispatch in dispatches() {
        if !seen.insert((dispatch.kernel, dispatch.constants.clone())) {
            continue;
        }
        let module = wgpu::naga::front::wgsl::parse_str(dispatch.kernel.source()).unwrap();
        let info = Validator::new(ValidationFlags::all(), Capabilities::empty()).validate(&module).unwrap();
        let mut constants = PipelineConstants::default();
        constants.extend(dispatch.constants.iter().map(|(name, n)| (name.clone(), f64::from(*n))));
        let chosen = Some((ShaderStage::Compute, dispatch.kernel.entry()));
        let (module, _) = process_overrides(&module, &info, chosen, &constants).unwrap();
        let memory = module.global_variables.iter().filter(|(_, v)| v.space == AddressSpace::WorkGroup);
        let bytes: u32 = memory.map(|(_, v)| module.types[v.ty].inner.size(module.to_ctx())).sum();
        assert!(bytes <= 16_352, "{:?} {:?}: {bytes} B", dispatch.kernel, dispatch.constants);
    }
}
