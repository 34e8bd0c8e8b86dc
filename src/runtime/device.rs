//! An opened adapter: the device, its queue, its pipelines, and the net that catches what goes wrong on it.
//!
//! Takes the choice of an adapter; gives [`Gpu`], on which sessions are made. wgpu panics on errors that nobody asked for and
//! when a device is lost during a wait; here every call that can fail runs between error scopes, and both become errors.

use std::collections::{BTreeMap, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use super::RuntimeError;
use super::adapter::{AdapterChoice, AdapterFacts, find};
use super::emit::Target;
use super::kernel::{Binding, Kernel, SUBGROUP};
use super::pipeline_cache::{CacheFacts, PipelineCache};
use super::program::Dispatch;
use super::storage::Storage;
use crate::runtime::DeviceKind;

/// An opened adapter. Clones share the device and the compiled pipelines.
#[derive(Debug, Clone)]
pub struct Gpu {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    device: wgpu::Device,
    queue: wgpu::Queue,
    facts: AdapterFacts,
    faults: Arc<Mutex<Faults>>,
    layouts: BTreeMap<Kernel, wgpu::BindGroupLayout>,
    pipelines: Mutex<HashMap<PipelineKey, wgpu::ComputePipeline>>,
    cache: OnceLock<PipelineCache>,
}

/// What was reported outside of the error scopes.
#[derive(Debug, Default)]
struct Faults {
    lost: Option<String>,
    uncaptured: Option<String>,
}

/// What makes two dispatches share a pipeline.
type PipelineKey = (Kernel, Storage, Vec<(String, u32)>);

/// What is used where the adapter has it.
const WELCOME: wgpu::Features = wgpu::Features::TIMESTAMP_QUERY
    .union(wgpu::Features::SUBGROUP)
    .union(wgpu::Features::PIPELINE_CACHE)
    .union(wgpu::Features::SHADER_F16);

impl Gpu {
    /// Opens the adapter that `choice` means.
    ///
    /// The device gets the limits that WebGPU promises on every adapter (the lower ones for OpenGL: 4 storage buffers in a
    /// kernel, 16,352 B of workgroup memory), and of the adapter's own only the two sizes of buffers. A kernel that needs more
    /// thus fails on every machine, not only on small ones.
    ///
    /// # Errors
    /// When there is no adapter, none fits, or the driver refuses.
    pub fn open(choice: &AdapterChoice) -> Result<Self, RuntimeError> {
        let (adapter, facts) = find(choice)?;
        if !facts.compute {
            return Err(RuntimeError::NoCompute { adapter: facts.name });
        }
        let required_limits = required_limits(&adapter.limits());
        check_base_limits(&required_limits, &adapter.limits(), &facts)?;
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("idarts-compile"),
            required_features: adapter.features() & WELCOME,
            required_limits,
            ..wgpu::DeviceDescriptor::default()
        };
        let (device, queue) = pollster::block_on(adapter.request_device(&descriptor))
            .map_err(|e| RuntimeError::Open { adapter: facts.name.clone(), why: e.to_string() })?;
        Self::new(device, queue, facts)
    }

    /// A device that accepts and validates every call and computes nothing.
    #[cfg(test)]
    pub(super) fn noop() -> Self {
        let limits = wgpu::Limits::downlevel_defaults();
        let descriptor = wgpu::DeviceDescriptor {
            required_features: wgpu::Features::SUBGROUP | wgpu::Features::SHADER_F16,
            required_limits: limits.clone(),
            ..wgpu::DeviceDescriptor::default()
        };
        let (device, queue) = wgpu::Device::noop(&descriptor);
        let facts = AdapterFacts::new(0, &device.adapter_info(), device.features(), &limits, true);
        Self::new(device, queue, facts).expect("the device that does nothing refuses nothing")
    }

    /// Keeps compiled pipelines in files in `folder`, if the driver lets them be taken out, and finds them there the next time.
    pub fn keep_pipelines_in(self, folder: &Path) -> Self {
        if let Some(cache) = PipelineCache::open(self.device(), &self.device().adapter_info(), folder) {
            // It may be set once; clones of the device then share it.
            let _ = self.inner.cache.set(cache);
        }
        self
    }

    /// Writes the pipelines made so far to their file. A cache that cannot be written is one that will be cold.
    pub(super) fn save_pipelines(&self) -> Option<CacheFacts> {
        self.inner.cache.get().and_then(|cache| cache.save().ok())
    }

    /// What is known about the adapter.
    pub fn facts(&self) -> &AdapterFacts {
        &self.inner.facts
    }

    /// What the choice of kernels needs to know, with values stored as float32.
    pub fn target(&self) -> Target {
        let software = self.facts().kind == DeviceKind::Software;
        let subgroups = software && self.facts().subgroup == Some(SUBGROUP);
        Target { software, subgroups, storage: Storage::Float32 }
    }

    pub(super) fn device(&self) -> &wgpu::Device {
        &self.inner.device
    }

    pub(super) fn queue(&self) -> &wgpu::Queue {
        &self.inner.queue
    }

    /// The layout of the bind group of `kernel`.
    pub(super) fn layout(&self, kernel: Kernel) -> &wgpu::BindGroupLayout {
        &self.inner.layouts[&kernel]
    }

    /// The pipeline of `dispatch`, compiled at its first use on this device.
    pub(super) fn pipeline(
        &self,
        dispatch: &Dispatch,
        storage: Storage,
    ) -> Result<wgpu::ComputePipeline, RuntimeError> {
        let key = (dispatch.kernel, storage, dispatch.constants.clone());
        if let Some(pipeline) = self.pipelines().get(&key) {
            return Ok(pipeline.clone());
        }
        let kernel = dispatch.kernel;
        let doing = format!("compiling kernel {}:{} {:?}", kernel.file(), kernel.entry(), dispatch.constants);
        let pipeline = self.guard(&doing, || self.compile(dispatch, storage))?;
        self.pipelines().insert(key, pipeline.clone());
        Ok(pipeline)
    }

    /// Runs `work` between error scopes and gives its result if nothing went wrong on the device.
    pub(super) fn guard<T>(&self, doing: &str, work: impl FnOnce() -> T) -> Result<T, RuntimeError> {
        let filters = [wgpu::ErrorFilter::Internal, wgpu::ErrorFilter::Validation, wgpu::ErrorFilter::OutOfMemory];
        let scopes = filters.map(|filter| self.device().push_error_scope(filter));
        let result = work();
        let caught: Vec<wgpu::Error> =
            scopes.into_iter().rev().filter_map(|scope| pollster::block_on(scope.pop())).collect();
        self.check(doing)?;
        // Out of memory comes first: it is the cause of the invalid objects that follow it.
        match caught.into_iter().next() {
            None => Ok(result),
            Some(wgpu::Error::OutOfMemory { .. }) => {
                Err(RuntimeError::OutOfMemory { adapter: self.facts().name.clone(), doing: doing.into() })
            }
            Some(error) => Err(self.failed(doing, error.to_string())),
        }
    }

    /// Waits until the device has done everything that was submitted.
    pub(super) fn wait(&self, doing: &str) -> Result<(), RuntimeError> {
        self.wait_for(None, doing)
    }

    /// Waits until the device has done `submission` and all before it; without one, everything.
    pub(super) fn wait_for(&self, submission: Option<wgpu::SubmissionIndex>, doing: &str) -> Result<(), RuntimeError> {
        let kind = wgpu::PollType::Wait { submission_index: submission, timeout: None };
        // wgpu panics here when the driver loses the device; that is an event, not a bug.
        let polled = catch_unwind(AssertUnwindSafe(|| self.device().poll(kind)));
        self.check(doing)?;
        match polled {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => {
                // A lost device takes no submission, so there is none to wait for; it says so when it is asked once more.
                let again = wgpu::PollType::wait_indefinitely();
                let _ = catch_unwind(AssertUnwindSafe(|| self.device().poll(again)));
                self.check(doing)?;
                Err(self.failed(doing, error.to_string()))
            }
            Err(_) => Err(self.lost(doing, "the driver failed during a wait".into())),
        }
    }

    fn new(device: wgpu::Device, queue: wgpu::Queue, facts: AdapterFacts) -> Result<Self, RuntimeError> {
        let faults = Arc::new(Mutex::new(Faults::default()));
        let (lost, uncaptured) = (faults.clone(), faults.clone());
        device.set_device_lost_callback(move |reason, message| {
            unpoisoned(&lost).lost.get_or_insert(format!("{reason:?}: {message}"));
        });
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
            unpoisoned(&uncaptured).uncaptured.get_or_insert(error.to_string());
        }));
        let layouts =
            Kernel::ALL.into_iter().map(|kernel| (kernel, bind_group_layout(&device, kernel.reads()))).collect();
        let inner =
            Inner { device, queue, facts, faults, layouts, pipelines: Mutex::default(), cache: OnceLock::new() };
        let gpu = Self { inner: Arc::new(inner) };
        gpu.check("opening the device")?;
        Ok(gpu)
    }

    fn compile(&self, dispatch: &Dispatch, storage: Storage) -> wgpu::ComputePipeline {
        let (device, kernel) = (self.device(), dispatch.kernel);
        let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: Some(kernel.file()),
            source: wgpu::ShaderSource::Wgsl(storage.wgsl(kernel.source())),
        });
        let layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: Some(kernel.file()),
            bind_group_layouts: &[Some(self.layout(kernel))],
            ..wgpu::PipelineLayoutDescriptor::default()
        });
        let constants: Vec<(&str, f64)> =
            dispatch.constants.iter().map(|(name, n)| (name.as_str(), f64::from(*n))).collect();
        device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(kernel.file()),
            layout: Some(&layout),
            module: &module,
            entry_point: Some(kernel.entry()),
            compilation_options: wgpu::PipelineCompilationOptions {
                constants: &constants,
                // No kernel reads workgroup memory that it has not written.
                zero_initialize_workgroup_memory: false,
            },
            cache: self.inner.cache.get().map(PipelineCache::handle),
        })
    }

    fn check(&self, doing: &str) -> Result<(), RuntimeError> {
        let mut faults = unpoisoned(&self.inner.faults);
        if let Some(why) = faults.lost.clone() {
            return Err(self.lost(doing, why));
        }
        match faults.uncaptured.take() {
            Some(why) => Err(self.failed(doing, why)),
            None => Ok(()),
        }
    }

    fn lost(&self, doing: &str, why: String) -> RuntimeError {
        RuntimeError::DeviceLost { adapter: self.facts().name.clone(), doing: doing.into(), why }
    }

    pub(super) fn failed(&self, doing: &str, why: String) -> RuntimeError {
        RuntimeError::Device { adapter: self.facts().name.clone(), doing: doing.into(), why }
    }

    fn pipelines(&self) -> MutexGuard<'_, HashMap<PipelineKey, wgpu::ComputePipeline>> {
        unpoisoned(&self.inner.pipelines)
    }
}

/// The limits to ask for on an adapter with `available`.
fn required_limits(available: &wgpu::Limits) -> wgpu::Limits {
    wgpu::Limits {
        max_buffer_size: available.max_buffer_size,
        max_storage_buffer_binding_size: available.max_storage_buffer_binding_size,
        ..wgpu::Limits::downlevel_defaults().using_resolution(available.clone())
    }
}

/// Names the first limit that every kernel counts on and the adapter lacks.
fn check_base_limits(
    required: &wgpu::Limits,
    available: &wgpu::Limits,
    facts: &AdapterFacts,
) -> Result<(), RuntimeError> {
    let mut missing = None;
    required.check_limits_with_fail_fn(available, true, |what, needed, available| {
        missing = Some((what, needed, available));
    });
    match missing {
        None => Ok(()),
        Some((what, needed, available)) => {
            Err(RuntimeError::Limit { adapter: facts.name.clone(), what: what.into(), needed, available })
        }
    }
}

fn bind_group_layout(device: &wgpu::Device, reads: &[Binding]) -> wgpu::BindGroupLayout {
    let entry = |binding: usize, ty| wgpu::BindGroupLayoutEntry {
        binding: binding as u32,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset: false, min_binding_size: None },
        count: None,
    };
    let storage = |read_only| wgpu::BufferBindingType::Storage { read_only };
    let mut entries = vec![entry(0, wgpu::BufferBindingType::Uniform)];
    entries.extend((1..).zip(reads).map(|(i, binding)| entry(i, storage(*binding == Binding::Weights))));
    entries.push(entry(reads.len() + 1, storage(false)));
    device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: None, entries: &entries })
}

/// Locks a mutex whose contents stay meaningful even if a thread panicked with it.
pub(super) fn unpoisoned<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
