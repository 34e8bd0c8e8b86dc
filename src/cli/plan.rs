//! `plan`: a model as plain data for another host with WebGPU, such as a page in a browser.
//!
//! Takes an ONNX file; writes a folder with the plan, the text of the kernels in it, and the packed weights.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use serde::Serialize;

use super::args::above_zero;
use super::progress::Console;
use super::validation::rows_of;
use super::{Verdict, load};
use crate::passes::{RUNTIME, apply};
use crate::runtime::{AdapterChoice, Gpu, RuntimeError, Storage, Target, emit};

/// Compile an ONNX model to a plan that another WebGPU host can replay: plan.json with the kernels, weights.bin
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// ONNX model
    #[arg(value_name = "MODEL.onnx")]
    model: PathBuf,
    /// Folder to write
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Images in a run; 1 if absent and the model has no static batch
    #[arg(long, value_name = "N", value_parser = above_zero)]
    batch: Option<usize>,
    /// Store values and weights as float16: the host's device then needs the feature shader-f16
    #[arg(long)]
    fp16: bool,
    /// Choose the kernels that are best on this adapter, as `devices` prints it; those for any GPU if absent
    #[arg(long, value_name = "ADAPTER")]
    adapter: Option<AdapterChoice>,
}

#[derive(Serialize)]
struct Written {
    plan: String,
    batch: usize,
    storage: Storage,
    dispatches: usize,
    buffer_mib: f64,
    unshared_mib: f64,
    weight_mib: f64,
}

pub fn run(args: &PlanArgs, console: &Console) -> Result<Verdict> {
    let model = load::model(&args.model)?;
    let batch = rows_of(&model, args.batch, 1)?;
    let (model, _) = apply(RUNTIME, model)?;
    let target = match &args.adapter {
        Some(choice) => {
            let gpu = Gpu::open(choice)?;
            if args.fp16 && !gpu.facts().f16 {
                return Err(RuntimeError::NoHalf { adapter: gpu.facts().name.clone() }.into());
            }
            gpu.target()
        }
        None => Target::default(),
    };
    let storage = if args.fp16 { Storage::Float16 } else { Storage::Float32 };
    let program = emit(&model, batch, Target { storage, ..target })?;
    program.write(&args.out)?;
    let mib = |bytes: u64| bytes as f64 / (1 << 20) as f64;
    let written = Written {
        plan: args.out.display().to_string(),
        batch,
        storage,
        dispatches: program.dispatches().count(),
        buffer_mib: mib(program.buffers.iter().sum()),
        unshared_mib: mib(program.unshared_bytes),
        weight_mib: mib(program.weight_bytes()),
    };
    console.result(&written, |w| {
        format!(
            "{} written: batch {}, {} dispatches\n  memory: buffers {:.2} MiB ({:.2} without sharing), weights {:.2} MiB",
            w.plan, w.batch, w.dispatches, w.buffer_mib, w.unshared_mib, w.weight_mib
        )
    })?;
    Ok(Verdict::Right)
}
