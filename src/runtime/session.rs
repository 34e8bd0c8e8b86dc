//! A model made ready on one device, to be run many times.
//!
//! Takes a verified model, an adapter and a batch size; gives outputs for inputs. Making it compiles the pipelines, uploads
//! the weights and fixes every binding; a run only uploads the inputs, submits one command buffer and reads the outputs.

use std::time::Instant;

use serde::Serialize;

use super::RuntimeError;
use super::adapter::{AdapterChoice, AdapterFacts};
use super::device::Gpu;
use super::emit::{Target, emit};
use super::inputs::check_inputs;
use super::pipeline_cache::CacheFacts;
use super::program::{BINDING_ALIGN, Dispatch, Place, Port, Program, Source, Step};
use super::storage::Storage;
use crate::ir::{Model, Shape, Tensor, Verified};

/// A model on a device.
#[derive(Debug)]
pub struct Session {
    pub(super) gpu: Gpu,
    pub(super) program: Program,
    buffers: Vec<wgpu::Buffer>,
    /// For each step of the program.
    pub(super) launches: Vec<Vec<Launch>>,
    /// Buffers for outputs that no run uses.
    pub(super) spare: Vec<wgpu::Buffer>,
    facts: SessionFacts,
}

/// What making a session cost and what it holds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SessionFacts {
    /// The adapter.
    pub adapter: AdapterFacts,
    /// Images in a run.
    pub batch: usize,
    /// What values and weights are stored as.
    pub storage: Storage,
    /// Kernel launches in a run.
    pub dispatches: usize,
    /// Bytes of the value buffers.
    pub buffer_bytes: u64,
    /// Bytes that they would take without sharing.
    pub unshared_bytes: u64,
    /// Bytes of the packed weights.
    pub weight_bytes: u64,
    /// Milliseconds to choose kernels, pack and upload weights and bind.
    pub load_ms: f64,
    /// Milliseconds to compile pipelines.
    pub compile_ms: f64,
    /// What was kept of pipelines between runs of the program; `None` if nothing is.
    pub pipeline_cache: Option<CacheFacts>,
}

/// A dispatch made real.
#[derive(Debug)]
pub(super) struct Launch {
    pipeline: wgpu::ComputePipeline,
    bindings: wgpu::BindGroup,
    workgroups: [u32; 2],
}

impl Session {
    /// Makes `model` ready on the adapter that `adapter` means, for `batch` images in a run.
    ///
    /// # Errors
    /// When there is no such adapter, the model does not fit it, or the driver fails.
    pub fn new(model: &Verified<Model>, adapter: &AdapterChoice, batch: usize) -> Result<Self, RuntimeError> {
        Self::on(&Gpu::open(adapter)?, model, batch)
    }

    /// Makes `model` ready on a device that is already open.
    ///
    /// # Errors
    /// When the model does not fit the adapter, or the driver fails.
    pub fn on(gpu: &Gpu, model: &Verified<Model>, batch: usize) -> Result<Self, RuntimeError> {
        Self::with_storage(gpu, model, batch, Storage::default())
    }

    /// As [`Session::on`], with values and weights stored as `storage`; inputs and outputs stay float32.
    ///
    /// # Errors
    /// As [`Session::on`], and [`RuntimeError::NoHalf`] when the adapter does not know such numbers.
    pub fn with_storage(
        gpu: &Gpu,
        model: &Verified<Model>,
        batch: usize,
        storage: Storage,
    ) -> Result<Self, RuntimeError> {
        Self::for_target(gpu, model, batch, Target { storage, ..gpu.target() })
    }

    /// As [`Session::on`], with the kernels that `target` prefers, whatever the adapter is.
    pub(super) fn for_target(
        gpu: &Gpu,
        model: &Verified<Model>,
        batch: usize,
        target: Target,
    ) -> Result<Self, RuntimeError> {
        let start = Instant::now();
        let program = emit(model, batch, target)?;
        let session = Self::replay(gpu, program)?;
        let load_ms = milliseconds(start) - session.facts.compile_ms;
        Ok(Self { facts: SessionFacts { load_ms, ..session.facts }, ..session })
    }

    /// Makes a program ready, wherever it was emitted.
    ///
    /// # Errors
    /// When the program does not fit the adapter, or the driver fails.
    pub fn replay(gpu: &Gpu, program: Program) -> Result<Self, RuntimeError> {
        let start = Instant::now();
        if program.storage == Storage::Float16 && !gpu.facts().f16 {
            return Err(RuntimeError::NoHalf { adapter: gpu.facts().name.clone() });
        }
        check_limits(&program, gpu.facts())?;
        let compile = Instant::now();
        let pipelines =
            program.dispatches().map(|d| gpu.pipeline(d, program.storage)).collect::<Result<Vec<_>, _>>()?;
        let compile_ms = milliseconds(compile);
        let pipeline_cache = gpu.save_pipelines();
        let (buffers, launches, spare) = gpu.guard("loading the model", || load(gpu, &program, pipelines))?;
        gpu.wait("loading the model")?;
        let facts = SessionFacts {
            adapter: gpu.facts().clone(),
            batch: program.batch,
            storage: program.storage,
            dispatches: program.dispatches().count(),
            buffer_bytes: program.buffers.iter().sum(),
            unshared_bytes: program.unshared_bytes,
            weight_bytes: program.weight_bytes(),
            load_ms: milliseconds(start) - compile_ms,
            compile_ms,
            pipeline_cache,
        };
        let program = Program { weights: Vec::new(), ..program };
        Ok(Self { gpu: gpu.clone(), program, buffers, launches, spare: vec![spare], facts })
    }

    /// What making the session cost and what it holds.
    pub fn facts(&self) -> &SessionFacts {
        &self.facts
    }

    /// Runs the model node by node and shows every node's path with its value, in order; gives the graph outputs. It is for
    /// finding a wrong layer: a submission and a wait for every node make it slow. The buffers are those of
    /// [`Session::run`], so a value that shared memory wrongly is seen wrong.
    ///
    /// # Errors
    /// As [`Session::run`].
    pub fn run_all(
        &mut self,
        inputs: &[Tensor],
        visit: &mut dyn FnMut(&str, Tensor),
    ) -> Result<Vec<Tensor>, RuntimeError> {
        self.check(inputs)?;
        let storage = self.program.storage;
        let byte_count = |step: &Step| storage.copied_bytes(step.shape.iter().product());
        let largest = self.program.steps.iter().map(byte_count).max().unwrap_or(4);
        let staging = self.gpu.guard("making room for every layer", || {
            self.upload(inputs);
            staging(&self.gpu, largest)
        })?;
        for (step, launches) in self.program.steps.iter().zip(&self.launches) {
            if step.shape.contains(&0) {
                visit(&step.node, Tensor::new(step.shape.clone(), Vec::new()));
                continue;
            }
            let doing = format!("running node `{}`", step.node);
            self.gpu.guard(&doing, || {
                let mut encoder = self.encoder();
                self.encode(&mut encoder, launches.iter(), None);
                let source = &self.buffers[step.place.buffer];
                encoder.copy_buffer_to_buffer(source, step.place.offset, &staging, 0, byte_count(step));
                self.gpu.queue().submit([encoder.finish()]);
            })?;
            let bytes: Vec<u8> = self.gpu.read(&staging, byte_count(step), &doing)?;
            visit(&step.node, tensor(storage, &step.shape, &bytes));
        }
        let doing = "reading the outputs";
        let bytes = output_bytes(&self.program);
        let staging = self.gpu.guard(doing, || {
            let outputs = super::session::staging(&self.gpu, bytes);
            let mut encoder = self.encoder();
            self.copy_outputs(&mut encoder, &outputs);
            self.gpu.queue().submit([encoder.finish()]);
            outputs
        })?;
        let bytes: Vec<u8> = self.gpu.read(&staging, bytes, doing)?;
        Ok(self.split_outputs(&bytes))
    }

    /// The program that the session carries out, without its weights.
    pub fn program(&self) -> &Program {
        &self.program
    }

    pub(super) fn check(&self, inputs: &[Tensor]) -> Result<(), RuntimeError> {
        let shapes: Vec<Shape> = self.program.inputs.iter().map(Port::symbolic).collect();
        let names = self.program.inputs.iter().map(|port| port.name.as_str());
        check_inputs(names.zip(&shapes), inputs, Some(self.program.batch)).map(|_| ())
    }

    pub(super) fn upload(&self, inputs: &[Tensor]) {
        for (port, tensor) in self.program.inputs.iter().zip(inputs) {
            self.gpu.queue().write_buffer(
                &self.buffers[port.place.buffer],
                port.place.offset,
                &self.program.storage.encode(&tensor.data),
            );
        }
    }

    pub(super) fn encoder(&self) -> wgpu::CommandEncoder {
        self.gpu.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default())
    }

    /// Encodes `launches` as one compute pass.
    pub(super) fn encode<'a>(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        launches: impl Iterator<Item = &'a Launch>,
        timestamp_writes: Option<wgpu::ComputePassTimestampWrites>,
    ) {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label: None, timestamp_writes });
        for launch in launches {
            let [x, y] = launch.workgroups;
            pass.set_pipeline(&launch.pipeline);
            pass.set_bind_group(0, &launch.bindings, &[]);
            pass.dispatch_workgroups(x, y, 1);
        }
    }

    /// Encodes the copies of all outputs into `staging`, one behind the other.
    pub(super) fn copy_outputs(&self, encoder: &mut wgpu::CommandEncoder, staging: &wgpu::Buffer) {
        let mut at = 0;
        for port in &self.program.outputs {
            let bytes = self.program.storage.copied_bytes(port.shape.iter().product());
            let place = port.place;
            if bytes > 0 {
                encoder.copy_buffer_to_buffer(&self.buffers[place.buffer], place.offset, staging, at, bytes);
            }
            at += bytes;
        }
    }

    /// The graph outputs, which lie one behind the other.
    pub(super) fn split_outputs(&self, bytes: &[u8]) -> Vec<Tensor> {
        let (mut rest, storage) = (bytes, self.program.storage);
        let take = |port: &Port| {
            let (head, tail) = rest.split_at(storage.copied_bytes(port.shape.iter().product()) as usize);
            rest = tail;
            tensor(storage, &port.shape, head)
        };
        self.program.outputs.iter().map(take).collect()
    }
}

/// Makes buffers and bindings, and uploads weights and sizes.
fn load(
    gpu: &Gpu,
    program: &Program,
    pipelines: Vec<wgpu::ComputePipeline>,
) -> (Vec<wgpu::Buffer>, Vec<Vec<Launch>>, wgpu::Buffer) {
    use wgpu::BufferUsages as Usage;
    let make = |label: &str, size: u64, usage| {
        gpu.device().create_buffer(&wgpu::BufferDescriptor {
            label: Some(label),
            size,
            usage: usage | Usage::COPY_DST,
            mapped_at_creation: false,
        })
    };
    let buffers: Vec<_> =
        program.buffers.iter().map(|&bytes| make("values", bytes, Usage::STORAGE | Usage::COPY_SRC)).collect();
    let weights = make("weights", program.weight_bytes().max(16), Usage::STORAGE);
    gpu.queue().write_buffer(&weights, 0, &program.storage.encode(&program.weights));
    let sizes: Vec<u32> = program.dispatches().flat_map(padded_sizes).collect();
    let uniform = make("sizes", 4 * sizes.len().max(4) as u64, Usage::UNIFORM);
    gpu.queue().write_buffer(&uniform, 0, bytemuck::cast_slice(&sizes));
    let mut pipelines = pipelines.into_iter();
    let mut at = 0;
    let mut launch = |dispatch: &Dispatch| {
        let pipeline = pipelines.next().expect("a pipeline for each dispatch");
        let bindings = bind(gpu, dispatch, (&uniform, at), &weights, &buffers);
        at += padded_sizes(dispatch).len() as u64 * 4;
        Launch { pipeline, bindings, workgroups: dispatch.workgroups }
    };
    let step = |step: &Step| step.dispatches.iter().map(&mut launch).collect();
    let launches = program.steps.iter().map(step).collect();
    // Uploads wait for the next submission; an empty one sends them now.
    gpu.queue().submit([]);
    (buffers, launches, staging(gpu, output_bytes(program)))
}

fn bind(
    gpu: &Gpu,
    dispatch: &Dispatch,
    (uniform, at): (&wgpu::Buffer, u64),
    weights: &wgpu::Buffer,
    buffers: &[wgpu::Buffer],
) -> wgpu::BindGroup {
    let part = |buffer, offset, bytes: u64| {
        wgpu::BindingResource::Buffer(wgpu::BufferBinding { buffer, offset, size: wgpu::BufferSize::new(bytes) })
    };
    let value = |place: Place| part(&buffers[place.buffer], place.offset, place.bytes);
    let source = |source: &Source| match *source {
        Source::Value(place) => value(place),
        Source::Weights { offset, bytes } => part(weights, offset as u64, bytes as u64),
    };
    let size_bytes = 4 * dispatch.sizes.len().next_multiple_of(4) as u64;
    let resources = std::iter::once(part(uniform, at, size_bytes))
        .chain(dispatch.reads.iter().map(source))
        .chain([value(dispatch.write)]);
    let entries: Vec<_> =
        resources.zip(0..).map(|(resource, binding)| wgpu::BindGroupEntry { binding, resource }).collect();
    gpu.device().create_bind_group(&wgpu::BindGroupDescriptor {
        label: Some(dispatch.kernel.file()),
        layout: gpu.layout(dispatch.kernel),
        entries: &entries,
    })
}

/// The sizes of a dispatch, padded so that the next ones start at an allowed offset.
fn padded_sizes(dispatch: &Dispatch) -> Vec<u32> {
    let mut sizes = dispatch.sizes.clone();
    sizes.resize(sizes.len().next_multiple_of(BINDING_ALIGN / 4), 0);
    sizes
}

/// A buffer that the device copies results into and the host reads.
pub(super) fn staging(gpu: &Gpu, bytes: u64) -> wgpu::Buffer {
    gpu.device().create_buffer(&wgpu::BufferDescriptor {
        label: Some("staging"),
        size: bytes,
        usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
        mapped_at_creation: false,
    })
}

/// Says before anything is made whether the model fits the adapter, and which of its values does not.
fn check_limits(program: &Program, facts: &AdapterFacts) -> Result<(), RuntimeError> {
    let (limits, adapter) = (&facts.limits, &facts.name);
    let check = |what: String, needed: u64, available: u64| match needed > available {
        true => Err(RuntimeError::Limit { adapter: adapter.clone(), what, needed, available }),
        false => Ok(()),
    };
    let values = program.inputs.iter().map(|port| (&port.name, &port.shape));
    for (name, shape) in values.chain(program.steps.iter().map(|step| (&step.node, &step.shape))) {
        let bytes = (program.storage.bytes() as u64 * shape.iter().product::<usize>() as u64).next_multiple_of(16);
        check(format!("bytes of a bound buffer for value `{name}`"), bytes, limits.max_binding_bytes)?;
        check(format!("bytes of the buffer for value `{name}`"), bytes, limits.max_buffer_bytes)?;
    }
    for step in &program.steps {
        for source in step.dispatches.iter().flat_map(|d| &d.reads) {
            if let Source::Weights { bytes, .. } = source {
                let what = format!("bytes of a bound buffer for the parameters of node `{}`", step.node);
                check(what, *bytes as u64, limits.max_binding_bytes)?;
            }
        }
    }
    check("bytes of the buffer for all parameters".into(), program.weight_bytes(), limits.max_buffer_bytes)?;
    check("bytes of the buffer for all outputs".into(), output_bytes(program), limits.max_buffer_bytes)
}

/// The value in `bytes`, which may end with padding.
fn tensor(storage: Storage, shape: &[usize], bytes: &[u8]) -> Tensor {
    let mut data = storage.decode(bytes);
    data.truncate(shape.iter().product());
    Tensor::new(shape.to_vec(), data)
}

/// Bytes of a buffer for all outputs.
pub(super) fn output_bytes(program: &Program) -> u64 {
    let bytes = |port: &Port| program.storage.copied_bytes(port.shape.iter().product());
    // An empty output has no bytes, a buffer has some.
    program.outputs.iter().map(bytes).sum::<u64>().max(4)
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}
