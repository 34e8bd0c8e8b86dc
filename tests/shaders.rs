//! Checks every WGSL file without a GPU: it is valid with no optional capability (but those for subgroups, which need that
//! one), stays inside the portable limits, says in its header how its data lie, and translates to SPIR-V (Vulkan), MSL
//! (Metal) and HLSL (Direct3D 12). So is and does its form whose buffers hold float16, with the capability for these.

use std::collections::BTreeSet;
use std::path::Path;

use idarts_compile::runtime::{Binding, Kernel, Storage};
use naga::back::{hlsl, msl, pipeline_constants::process_overrides, spv};
use naga::valid::{Capabilities, ModuleInfo, SubgroupOperationSet, ValidationFlags, Validator};
use naga::{AddressSpace, EntryPoint, Module, ShaderStage};

/// Both forms of every shader.
const STORAGES: [Storage; 2] = [Storage::Float32, Storage::Float16];

/// A validator that knows no optional capability but those that the kernels in `file` and the storage are made for.
fn validator(file: &str, storage: Storage) -> Validator {
    let file = file.trim_end_matches(".wgsl");
    let half = match storage {
        Storage::Float32 => Capabilities::empty(),
        Storage::Float16 => Capabilities::SHADER_FLOAT16,
    };
    if !Kernel::ALL.iter().any(|kernel| kernel.subgroups() && kernel.file() == file) {
        return Validator::new(ValidationFlags::all(), half);
    }
    let mut validator = Validator::new(ValidationFlags::all(), half | Capabilities::SUBGROUP);
    validator.subgroup_stages(naga::valid::ShaderStages::COMPUTE);
    validator.subgroup_operations(SubgroupOperationSet::SHUFFLE);
    validator
}

/// Every shader by file name, parsed and validated.
fn shaders(storage: Storage) -> Vec<(String, String, Module, ModuleInfo)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("shaders");
    let mut all: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            let text = std::fs::read_to_string(&path).unwrap();
            let text = storage.wgsl(text.leak()).into_owned();
            let module = naga::front::wgsl::parse_str(&text).unwrap_or_else(|e| panic!("{}", e.emit_to_string(&text)));
            let info = validator(&name, storage)
                .validate(&module)
                .unwrap_or_else(|e| panic!("{name}: {}", e.emit_to_string(&text)));
            (name, text, module, info)
        })
        .collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    assert!(!all.is_empty());
    all
}

/// Runs `check` for every entry point, with the default values put in for the override constants.
fn each_entry(check: impl Fn(&str, &Module, &ModuleInfo, &EntryPoint)) {
    let both =
        STORAGES.into_iter().flat_map(|storage| shaders(storage).into_iter().map(move |shader| (storage, shader)));
    for (storage, (name, _, module, info)) in both {
        for entry in &module.entry_points {
            let place = format!("{name}:{} of {storage:?}", entry.name);
            let chosen = Some((ShaderStage::Compute, entry.name.as_str()));
            let (module, info) = process_overrides(&module, &info, chosen, &Default::default())
                .unwrap_or_else(|e| panic!("{place}: every override needs a default: {e}"));
            check(&place, &module, &info, &module.entry_points[0]);
        }
    }
}

#[test]
fn the_files_are_those_of_the_kernels() {
    let files: BTreeSet<String> = shaders(Storage::Float32)
        .iter()
        .flat_map(|(name, _, m, _)| m.entry_points.iter().map(move |e| format!("{name}:{}", e.name)))
        .collect();
    let kernels: BTreeSet<String> = Kernel::ALL.iter().map(|k| format!("{}.wgsl:{}", k.file(), k.entry())).collect();
    assert_eq!(files, kernels);
    for kernel in Kernel::ALL {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("shaders/{}.wgsl", kernel.file()));
        assert_eq!(kernel.source(), std::fs::read_to_string(path).unwrap());
    }
}

#[test]
fn every_header_tells_layout_bindings_workgroup_and_limits() {
    for (name, text, ..) in shaders(Storage::Float32) {
        let header: String = text.lines().take_while(|l| l.starts_with("//")).collect::<Vec<_>>().join("\n");
        assert_eq!(text.matches("alias Element = f32;").count(), 1, "{name}: one line says what the buffers hold");
        for word in ["// Layout ", "// Bindings ", "// Workgroup ", "// Limits "] {
            assert!(header.contains(word), "{name}: the header has no `{word}`");
        }
        for (i, line) in text.lines().enumerate() {
            assert!(line.len() <= 120 && line.is_ascii(), "{name}:{}: longer than 120 columns or not ASCII", i + 1);
        }
    }
}

#[test]
fn every_kernel_stays_inside_the_portable_limits() {
    each_entry(|place, module, info, entry| {
        let [x, y, z] = entry.workgroup_size;
        assert!(x * y * z <= 256 && z <= 64, "{place}: a workgroup of {x} x {y} x {z}");
        let uses = info.get_entry_point(0);
        let (mut storage, mut workgroup_bytes) = (0, 0);
        for (handle, variable) in module.global_variables.iter().filter(|(h, _)| !uses[*h].is_empty()) {
            match variable.space {
                AddressSpace::Storage { .. } => storage += 1,
                AddressSpace::WorkGroup => workgroup_bytes += module.types[variable.ty].inner.size(module.to_ctx()),
                // Of one thread; what it takes is the compiler's affair.
                AddressSpace::Uniform | AddressSpace::Private => {}
                other => panic!("{place}: {other:?} {handle:?}"),
            }
        }
        assert!(storage <= 4, "{place}: {storage} storage buffers");
        assert!(workgroup_bytes <= 16_352, "{place}: {workgroup_bytes} B of workgroup memory");
    });
}

#[test]
fn every_kernel_has_its_workgroup_and_binds_sizes_then_what_it_reads_then_what_it_writes() {
    for (kernel, storage) in Kernel::ALL.into_iter().flat_map(|kernel| STORAGES.map(|storage| (kernel, storage))) {
        let module = naga::front::wgsl::parse_str(&storage.wgsl(kernel.source())).unwrap();
        let info = validator(kernel.file(), storage).validate(&module).unwrap();
        let index = module.entry_points.iter().position(|e| e.name == kernel.entry()).unwrap();
        assert_eq!(module.entry_points[index].workgroup_size, [kernel.workgroup() as u32, 1, 1], "{kernel:?}");
        let mut bindings: Vec<(u32, &str)> = module
            .global_variables
            .iter()
            .filter(|(handle, _)| !info.get_entry_point(index)[*handle].is_empty())
            .filter_map(|(_, variable)| {
                let binding = variable.binding.as_ref()?;
                assert_eq!(binding.group, 0);
                let kind = match variable.space {
                    AddressSpace::Uniform => "sizes",
                    AddressSpace::Storage { access } if access.contains(naga::StorageAccess::STORE) => "write",
                    _ => "read",
                };
                Some((binding.binding, kind))
            })
            .collect();
        bindings.sort();
        let reads = kernel.reads().iter().map(|binding| match binding {
            Binding::Value => "write",
            Binding::Weights => "read",
        });
        let expected: Vec<(u32, &str)> = (0..).zip(std::iter::once("sizes").chain(reads).chain(["write"])).collect();
        assert_eq!(bindings, expected, "{kernel:?}");
    }
}

#[test]
fn every_kernel_translates_to_spirv_msl_and_hlsl() {
    each_entry(|place, module, info, entry| {
        let options = spv::PipelineOptions { shader_stage: ShaderStage::Compute, entry_point: entry.name.clone() };
        let words = spv::write_vec(module, info, &spv::Options::default(), Some(&options))
            .unwrap_or_else(|e| panic!("{place}: SPIR-V: {e}"));
        assert_eq!(words[0], 0x0723_0203, "{place}: SPIR-V starts with its magic number");

        let chosen = Some((ShaderStage::Compute, entry.name.clone()));
        let options = msl::Options { lang_version: (2, 0), fake_missing_bindings: true, ..msl::Options::default() };
        let pipeline = msl::PipelineOptions { entry_point: chosen.clone(), ..msl::PipelineOptions::default() };
        let (text, _) =
            msl::write_string(module, info, &options, &pipeline).unwrap_or_else(|e| panic!("{place}: MSL: {e}"));
        assert!(text.contains("kernel void"), "{place}: {text}");

        let options = hlsl::Options { fake_missing_bindings: true, ..hlsl::Options::default() };
        let pipeline = hlsl::PipelineOptions { entry_point: chosen };
        let mut text = String::new();
        hlsl::Writer::new(&mut text, &options, &pipeline)
            .write(module, info, None)
            .unwrap_or_else(|e| panic!("{place}: HLSL: {e}"));
        assert!(text.contains("numthreads"), "{place}: {text}");
    });
}
