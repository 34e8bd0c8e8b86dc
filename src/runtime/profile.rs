//! Times every kernel launch of a session.
//!
//! Takes a session and inputs; gives [`Profile`], one entry a launch. With timestamp queries the device takes the time at
//! the borders of compute passes; without them each launch is submitted alone and the host's clock is read, so that the
//! cost of a submission counts as well.

use std::time::Instant;

use serde::Serialize;

use super::RuntimeError;
use super::device::Gpu;
use super::kernel::Kernel;
use super::session::{Launch, Session};
use crate::ir::Tensor;

/// Timestamps of one query set, two a launch; WebGPU allows 4096.
const QUERIES: usize = 1024;

/// How long every launch takes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Profile {
    /// Whether the device took the time; else the host did.
    pub timestamps: bool,
    /// Every launch in order.
    pub launches: Vec<LaunchTime>,
}

/// How long one launch takes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LaunchTime {
    /// Path of the node that it belongs to.
    pub name: String,
    /// The kernel.
    pub kernel: Kernel,
    /// Microseconds.
    pub gpu_us: f64,
}

impl Session {
    /// Runs the model once and times every launch.
    ///
    /// # Errors
    /// As [`Session::run`].
    pub fn profile(&mut self, inputs: &[Tensor]) -> Result<Profile, RuntimeError> {
        self.check(inputs)?;
        self.gpu.guard("uploading the inputs", || self.upload(inputs))?;
        let timestamps = self.gpu.device().features().contains(wgpu::Features::TIMESTAMP_QUERY);
        let launches: Vec<&Launch> = self.launches.iter().flatten().collect();
        let mut times = Vec::with_capacity(launches.len());
        for chunk in launches.chunks(if timestamps { QUERIES / 2 } else { 1 }) {
            if timestamps {
                times.extend(self.timed_by_device(chunk)?);
            } else {
                times.push(self.timed_by_host(chunk)?);
            }
        }
        let names = self.program.steps.iter().flat_map(|s| s.dispatches.iter().map(|d| (s.node.clone(), d.kernel)));
        let entry = |((name, kernel), gpu_us)| LaunchTime { name, kernel, gpu_us };
        Ok(Profile { timestamps, launches: names.zip(times).map(entry).collect() })
    }

    fn timed_by_device(&self, launches: &[&Launch]) -> Result<Vec<f64>, RuntimeError> {
        let gpu: &Gpu = &self.gpu;
        let doing = "timing the kernels";
        let count = launches.len() as u32 * 2;
        let bytes = u64::from(count) * 8;
        let staging = gpu.guard(doing, || {
            let queries = gpu.device().create_query_set(&wgpu::QuerySetDescriptor {
                label: Some("times"),
                ty: wgpu::QueryType::Timestamp,
                count,
            });
            let resolved = gpu.device().create_buffer(&wgpu::BufferDescriptor {
                label: Some("times"),
                size: bytes,
                usage: wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC,
                mapped_at_creation: false,
            });
            let staging = super::session::staging(gpu, bytes);
            let mut encoder = self.encoder();
            for (i, launch) in launches.iter().enumerate() {
                let writes = wgpu::ComputePassTimestampWrites {
                    query_set: &queries,
                    beginning_of_pass_write_index: Some(2 * i as u32),
                    end_of_pass_write_index: Some(2 * i as u32 + 1),
                };
                self.encode(&mut encoder, std::iter::once(*launch), Some(writes));
            }
            encoder.resolve_query_set(&queries, 0..count, &resolved, 0);
            encoder.copy_buffer_to_buffer(&resolved, 0, &staging, 0, bytes);
            gpu.queue().submit([encoder.finish()]);
            staging
        })?;
        let ticks: Vec<u64> = gpu.read(&staging, bytes, doing)?;
        let period = f64::from(gpu.queue().get_timestamp_period());
        // A driver may round or reorder: no launch takes less than no time.
        Ok(ticks.chunks_exact(2).map(|t| t[1].saturating_sub(t[0]) as f64 * period / 1e3).collect())
    }

    fn timed_by_host(&self, launches: &[&Launch]) -> Result<f64, RuntimeError> {
        let doing = "timing a kernel";
        let start = Instant::now();
        self.gpu.guard(doing, || {
            let mut encoder = self.encoder();
            self.encode(&mut encoder, launches.iter().copied(), None);
            self.gpu.queue().submit([encoder.finish()]);
        })?;
        self.gpu.wait(doing)?;
        Ok(start.elapsed().as_secs_f64() * 1e6)
    }
}
