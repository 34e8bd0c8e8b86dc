//! Results on their way back: runs that have been started, and buffers that the host will read.
//!
//! Takes a session and inputs; gives [`Started`], of which several may be on their way at once, so that the host prepares one
//! run and reads another while the device computes a third.

use std::sync::{Arc, Mutex};

use super::RuntimeError;
use super::device::{Gpu, unpoisoned};
use super::session::{Session, output_bytes, staging};
use crate::ir::Tensor;

/// A run that has been started on a session; [`Session::finish`] waits for its outputs.
#[derive(Debug)]
pub struct Started {
    mapping: Mapping,
    submission: wgpu::SubmissionIndex,
}

/// A buffer that becomes readable once the device is done with it.
#[derive(Debug)]
pub(super) struct Mapping {
    staging: wgpu::Buffer,
    bytes: u64,
    outcome: Arc<Mutex<Option<Result<(), wgpu::BufferAsyncError>>>>,
}

impl Session {
    /// Runs the model and gives the graph outputs in order.
    ///
    /// # Errors
    /// When the inputs do not fit the model and the batch of the session, or the device fails.
    pub fn run(&mut self, inputs: &[Tensor]) -> Result<Vec<Tensor>, RuntimeError> {
        let started = self.start(inputs)?;
        self.finish(started)
    }

    /// Starts a run and does not wait for it. Runs are carried out in the order in which they were started.
    ///
    /// # Errors
    /// As [`Session::run`].
    pub fn start(&mut self, inputs: &[Tensor]) -> Result<Started, RuntimeError> {
        self.check(inputs)?;
        let doing = "running the model";
        let bytes = output_bytes(&self.program);
        let spare = self.spare.pop();
        let (staging, submission) = self.gpu.guard(doing, || {
            let staging = spare.unwrap_or_else(|| staging(&self.gpu, bytes));
            self.upload(inputs);
            let mut encoder = self.encoder();
            self.encode(&mut encoder, self.launches.iter().flatten(), None);
            self.copy_outputs(&mut encoder, &staging);
            let submission = self.gpu.queue().submit([encoder.finish()]);
            (staging, submission)
        })?;
        Ok(Started { mapping: self.gpu.map(staging, bytes, doing)?, submission })
    }

    /// Waits for a run of this session and gives the graph outputs in order.
    ///
    /// # Errors
    /// When the device fails.
    pub fn finish(&mut self, run: Started) -> Result<Vec<Tensor>, RuntimeError> {
        let doing = "running the model";
        self.gpu.wait_for(Some(run.submission), doing)?;
        let (bytes, staging) = self.gpu.take::<u8>(run.mapping, doing)?;
        if staging.size() != output_bytes(&self.program) {
            return Err(self.gpu.failed(doing, "the run was started on another session".into()));
        }
        self.spare.push(staging);
        Ok(self.split_outputs(&bytes))
    }
}

impl Gpu {
    /// Asks for the first `bytes` of `staging`, which must be mappable.
    pub(super) fn map(&self, staging: wgpu::Buffer, bytes: u64, doing: &str) -> Result<Mapping, RuntimeError> {
        let outcome = Arc::new(Mutex::new(None));
        let result = outcome.clone();
        self.guard(doing, || {
            staging.slice(..bytes).map_async(wgpu::MapMode::Read, move |r| *unpoisoned(&result) = Some(r));
        })?;
        Ok(Mapping { staging, bytes, outcome })
    }

    /// The contents of a buffer that was waited for, and the buffer.
    pub(super) fn take<T: bytemuck::AnyBitPattern + bytemuck::NoUninit>(
        &self,
        mapping: Mapping,
        doing: &str,
    ) -> Result<(Vec<T>, wgpu::Buffer), RuntimeError> {
        let Mapping { staging, bytes, outcome } = mapping;
        let outcome = unpoisoned(&outcome).take();
        let why = match outcome {
            Some(Ok(())) => match staging.slice(..bytes).get_mapped_range() {
                Ok(view) => {
                    let numbers = bytemuck::pod_collect_to_vec(&view[..]);
                    drop(view);
                    staging.unmap();
                    return Ok((numbers, staging));
                }
                Err(error) => error.to_string(),
            },
            Some(Err(error)) => error.to_string(),
            None => "the result did not become readable".into(),
        };
        Err(self.failed(doing, why))
    }

    /// Copies the first `bytes` of `staging` to the host; waits for all that was submitted.
    pub(super) fn read<T: bytemuck::AnyBitPattern + bytemuck::NoUninit>(
        &self,
        staging: &wgpu::Buffer,
        bytes: u64,
        doing: &str,
    ) -> Result<Vec<T>, RuntimeError> {
        let mapping = self.map(staging.clone(), bytes, doing)?;
        self.wait_for(None, doing)?;
        Ok(self.take(mapping, doing)?.0)
    }
}
