//! The adapters of this machine and the choice of one.
//!
//! Takes what the user asked for; gives facts about every adapter and the one to open. Software adapters count as adapters.
//! Nothing is read from wgpu's environment variables: the choice is explicit, and a choice that fits nothing is an error that
//! lists what there is. Opening the adapter is left to `device`.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

use super::RuntimeError;

/// Which adapter to use. The default takes the best one there is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AdapterChoice {
    /// Part of the name or driver, in any case.
    pub name: Option<String>,
    /// Index as printed by `devices`.
    pub index: Option<usize>,
    /// The API.
    pub backend: Option<BackendName>,
}

impl FromStr for AdapterChoice {
    type Err = RuntimeError;

    /// `[vulkan:|gl:|metal:|dx12:]NAME`, `[backend:]INDEX` or a back end alone.
    fn from_str(text: &str) -> Result<Self, RuntimeError> {
        let (backend, rest) = match text.split_once(':') {
            Some((head, rest)) if BackendName::from_word(head).is_some() => (BackendName::from_word(head), rest),
            _ => match BackendName::from_word(text) {
                Some(backend) => return Ok(Self { backend: Some(backend), ..Self::default() }),
                None => (None, text),
            },
        };
        if rest.trim().is_empty() {
            return Err(RuntimeError::AdapterSyntax { text: text.into(), why: "the name is empty" });
        }
        Ok(match rest.parse() {
            Ok(index) => Self { index: Some(index), backend, name: None },
            Err(_) => Self { name: Some(rest.trim().into()), backend, index: None },
        })
    }
}

impl fmt::Display for AdapterChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let backend = self.backend.map(|b| b.to_string());
        let words = backend.into_iter().chain(self.index.map(|i| i.to_string())).chain(self.name.clone());
        let text = words.collect::<Vec<_>>().join(":");
        f.write_str(if text.is_empty() { "any" } else { &text })
    }
}

/// The API under an adapter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum BackendName {
    /// Vulkan.
    Vulkan,
    /// Metal.
    Metal,
    /// Direct3D 12.
    Dx12,
    /// OpenGL or OpenGL ES.
    Gl,
    /// Anything else, such as the driver that does nothing in tests.
    Other,
}

impl BackendName {
    fn from_word(word: &str) -> Option<Self> {
        match word.trim().to_ascii_lowercase().as_str() {
            "vulkan" | "vk" => Some(Self::Vulkan),
            "metal" => Some(Self::Metal),
            "dx12" | "d3d12" => Some(Self::Dx12),
            "gl" | "opengl" | "gles" => Some(Self::Gl),
            _ => None,
        }
    }
}

impl fmt::Display for BackendName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Vulkan => "vulkan",
            Self::Metal => "metal",
            Self::Dx12 => "dx12",
            Self::Gl => "gl",
            Self::Other => "other",
        })
    }
}

/// What kind of hardware an adapter is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceKind {
    /// A graphics card.
    Discrete,
    /// A GPU that shares the memory of the CPU.
    Integrated,
    /// A GPU behind a virtual machine.
    Virtual,
    /// The driver does not say.
    Unknown,
    /// A software driver.
    Software,
}

/// The limits that decide whether a model runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LimitFacts {
    /// Largest buffer, bytes.
    pub max_buffer_bytes: u64,
    /// Largest part of a buffer that a kernel can see, bytes.
    pub max_binding_bytes: u64,
    /// Storage buffers that one kernel can see.
    pub max_storage_buffers: u32,
    /// Threads in a workgroup.
    pub max_workgroup_threads: u32,
    /// Memory of a workgroup, bytes.
    pub max_workgroup_bytes: u32,
    /// Workgroups in one dimension of a dispatch.
    pub max_workgroups: u32,
}

/// What is known about an adapter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AdapterFacts {
    /// Its place in the list of [`adapters`].
    pub index: usize,
    /// The name that the driver gives.
    pub name: String,
    /// The API.
    pub backend: BackendName,
    /// What kind of hardware it is.
    pub kind: DeviceKind,
    /// Name and version of the driver.
    pub driver: String,
    /// Its limits.
    pub limits: LimitFacts,
    /// Whether it runs compute shaders at all.
    pub compute: bool,
    /// Whether it can time kernels.
    pub timestamps: bool,
    /// Whether shaders may use 16-bit floats.
    pub f16: bool,
    /// Threads of a subgroup, where shaders may exchange values inside of one and all have the same size.
    pub subgroup: Option<u32>,
}

impl AdapterFacts {
    /// The facts of `adapter`, listed at `index`.
    pub(super) fn of(index: usize, adapter: &wgpu::Adapter) -> Self {
        let flags = adapter.get_downlevel_capabilities().flags;
        let compute = flags.contains(wgpu::DownlevelFlags::COMPUTE_SHADERS);
        Self::new(index, &adapter.get_info(), adapter.features(), &adapter.limits(), compute)
    }

    pub(super) fn new(
        index: usize,
        info: &wgpu::AdapterInfo,
        features: wgpu::Features,
        limits: &wgpu::Limits,
        compute: bool,
    ) -> Self {
        Self {
            index,
            name: info.name.clone(),
            backend: match info.backend {
                wgpu::Backend::Vulkan => BackendName::Vulkan,
                wgpu::Backend::Metal => BackendName::Metal,
                wgpu::Backend::Dx12 => BackendName::Dx12,
                wgpu::Backend::Gl => BackendName::Gl,
                wgpu::Backend::Noop | wgpu::Backend::BrowserWebGpu => BackendName::Other,
            },
            kind: match info.device_type {
                wgpu::DeviceType::DiscreteGpu => DeviceKind::Discrete,
                wgpu::DeviceType::IntegratedGpu => DeviceKind::Integrated,
                wgpu::DeviceType::VirtualGpu => DeviceKind::Virtual,
                wgpu::DeviceType::Other => DeviceKind::Unknown,
                wgpu::DeviceType::Cpu => DeviceKind::Software,
            },
            driver: [info.driver.as_str(), info.driver_info.as_str()].join(" ").trim().into(),
            limits: LimitFacts {
                max_buffer_bytes: limits.max_buffer_size,
                max_binding_bytes: limits.max_storage_buffer_binding_size,
                max_storage_buffers: limits.max_storage_buffers_per_shader_stage,
                max_workgroup_threads: limits.max_compute_invocations_per_workgroup,
                max_workgroup_bytes: limits.max_compute_workgroup_storage_size,
                max_workgroups: limits.max_compute_workgroups_per_dimension,
            },
            compute,
            timestamps: features.contains(wgpu::Features::TIMESTAMP_QUERY),
            f16: features.contains(wgpu::Features::SHADER_F16),
            subgroup: (features.contains(wgpu::Features::SUBGROUP) && info.subgroup_min_size == info.subgroup_max_size)
                .then_some(info.subgroup_min_size),
        }
    }
}

impl fmt::Display for AdapterFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ({}, {})", self.index, self.name, self.backend, self.driver)
    }
}

/// Every adapter of this machine, in a stable order for one set of drivers.
pub fn adapters() -> Vec<AdapterFacts> {
    enumerate(PRIMARY)
        .into_iter()
        .chain(enumerate(wgpu::Backends::GL))
        .zip(0..)
        .map(|(a, i)| AdapterFacts::of(i, &a))
        .collect()
}

/// The adapter that `choice` means.
///
/// OpenGL is asked only if the other APIs have no hardware that fits: its loader is slow, and on a machine without a display
/// some versions complain on stderr.
///
/// # Errors
/// [`RuntimeError::NoAdapter`] when there is none at all, [`RuntimeError::AdapterNotFound`] when none fits.
pub(super) fn find(choice: &AdapterChoice) -> Result<(wgpu::Adapter, AdapterFacts), RuntimeError> {
    let mut all = Vec::new();
    for backends in [PRIMARY, wgpu::Backends::GL] {
        for adapter in enumerate(backends) {
            let facts = AdapterFacts::of(all.len(), &adapter);
            all.push((adapter, facts));
        }
        let facts: Vec<&AdapterFacts> = all.iter().map(|(_, facts)| facts).collect();
        let named = choice.index.is_some() || choice.backend.is_some_and(|b| b != BackendName::Gl);
        match pick(&facts, choice) {
            Ok(i) if backends == PRIMARY && !named && facts[i].kind == DeviceKind::Software => {}
            Ok(i) => return Ok(all.swap_remove(i)),
            Err(_) if backends == PRIMARY => {}
            Err(error) => return Err(error),
        }
    }
    Err(RuntimeError::NoAdapter)
}

/// The place in `all` of the best adapter that fits `choice`.
fn pick(all: &[&AdapterFacts], choice: &AdapterChoice) -> Result<usize, RuntimeError> {
    if all.is_empty() {
        return Err(RuntimeError::NoAdapter);
    }
    let fits = |facts: &AdapterFacts| {
        let text = format!("{} {}", facts.name, facts.driver).to_lowercase();
        choice.backend.is_none_or(|b| b == facts.backend)
            && choice.index.is_none_or(|i| i == facts.index)
            && choice.name.as_ref().is_none_or(|name| text.contains(&name.to_lowercase()))
    };
    let rank = |facts: &AdapterFacts| (!facts.compute, facts.kind, facts.backend == BackendName::Gl, facts.index);
    (0..all.len()).filter(|&i| fits(all[i])).min_by_key(|&i| rank(all[i])).ok_or_else(|| {
        let found = all.iter().map(|facts| facts.to_string()).collect::<Vec<_>>().join("; ");
        RuntimeError::AdapterNotFound { wanted: choice.to_string(), found }
    })
}

const PRIMARY: wgpu::Backends = wgpu::Backends::VULKAN.union(wgpu::Backends::METAL).union(wgpu::Backends::DX12);

fn enumerate(backends: wgpu::Backends) -> Vec<wgpu::Adapter> {
    let descriptor = wgpu::InstanceDescriptor { backends, ..wgpu::InstanceDescriptor::new_without_display_handle() };
    let instance = wgpu::Instance::new(descriptor);
    pollster::block_on(instance.enumerate_adapters(backends))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(index: usize, name: &str, backend: BackendName, kind: DeviceKind) -> AdapterFacts {
        let limits = LimitFacts {
            max_buffer_bytes: 1 << 28,
            max_binding_bytes: 1 << 27,
            max_storage_buffers: 8,
            max_workgroup_threads: 256,
            max_workgroup_bytes: 16384,
            max_workgroups: 65535,
        };
        let (name, driver) = (name.into(), "Mesa 22.3.6".into());
        AdapterFacts {
            index,
            name,
            backend,
            kind,
            driver,
            limits,
            compute: true,
            timestamps: true,
            f16: false,
            subgroup: None,
        }
    }

    fn machine() -> Vec<AdapterFacts> {
        vec![
            facts(0, "llvmpipe (LLVM 15)", BackendName::Vulkan, DeviceKind::Software),
            facts(1, "Radeon iGPU", BackendName::Gl, DeviceKind::Integrated),
            facts(2, "Radeon iGPU", BackendName::Vulkan, DeviceKind::Integrated),
        ]
    }

    fn check(text: &str, expected: Result<usize, &str>) {
        let machine = machine();
        let choice = if text.is_empty() { Ok(AdapterChoice::default()) } else { text.parse() };
        let got = choice.and_then(|choice| pick(&machine.iter().collect::<Vec<_>>(), &choice));
        match (got, expected) {
            (Ok(got), Ok(expected)) => assert_eq!(got, expected, "{text}"),
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
            (got, expected) => panic!("{text}: {got:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn the_choice_is_by_name_index_and_backend() {
        check("", Ok(2));
        check("gl", Ok(1));
        check("vulkan", Ok(2));
        check("LLVMpipe", Ok(0));
        check("1", Ok(1));
        check("gl:radeon", Ok(1));
        check("vulkan:0", Ok(0));
        check("mesa", Ok(2));
    }

    #[test]
    fn a_choice_that_fits_nothing_lists_what_there_is() {
        check(
            "geforce",
            Err("no adapter fits `geforce`; found: 0: llvmpipe (LLVM 15) (vulkan, Mesa 22.3.6); 1: Radeon"),
        );
        check("metal", Err("no adapter fits `metal`"));
        check("gl:0", Err("no adapter fits `gl:0`"));
        check("vulkan:", Err("the name is empty"));
    }

    #[test]
    fn a_machine_without_adapters_says_how_to_get_one() {
        let error = pick(&[], &AdapterChoice::default()).unwrap_err();
        assert!(matches!(error, RuntimeError::NoAdapter));
        assert!(error.to_string().contains("mesa-vulkan-drivers"));
    }
}
