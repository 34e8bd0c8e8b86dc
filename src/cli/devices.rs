//! `devices`: what this machine can train and validate on.
//!
//! Takes nothing; lists the training devices that this build knows and the wgpu adapters with their limits.

use std::fmt::Write;

use anyhow::Result;
use clap::Args;
use serde::Serialize;

use super::Verdict;
use super::progress::Console;
use crate::runtime::{AdapterFacts, DeviceKind, RuntimeError, adapters};

/// List training devices and wgpu adapters, with limits
#[derive(Debug, Args)]
pub struct DevicesArgs {}

#[derive(Serialize)]
struct Devices {
    training: Vec<TrainingDevice>,
    adapters: Vec<AdapterFacts>,
}

/// What `--device` may name.
#[derive(Serialize)]
struct TrainingDevice {
    device: String,
    description: String,
}

pub fn run(_: &DevicesArgs, console: &Console) -> Result<Verdict> {
    let devices = Devices { training: training_devices(), adapters: adapters() };
    if devices.adapters.is_empty() {
        console.warn(RuntimeError::NoAdapter);
    }
    console.result(&devices, text)?;
    Ok(Verdict::Right)
}

#[cfg(feature = "train")]
fn training_devices() -> Vec<TrainingDevice> {
    use crate::train::device::Kind;
    let cpu = TrainingDevice { device: "cpu".into(), description: format!("{} threads", rayon::current_num_threads()) };
    let gpus = [Kind::Cuda, Kind::Vulkan, Kind::Metal].into_iter().flat_map(|kind| {
        let number = kind.devices().len();
        (0..number).map(move |i| TrainingDevice { device: format!("{}:{i}", kind.name()), description: "GPU".into() })
    });
    std::iter::once(cpu).chain(gpus).collect()
}

#[cfg(not(feature = "train"))]
fn training_devices() -> Vec<TrainingDevice> {
    Vec::new()
}

fn text(devices: &Devices) -> String {
    let mut out = String::from("training devices (--device):\n");
    for TrainingDevice { device, description } in &devices.training {
        let _ = writeln!(out, "  {device}: {description}");
    }
    if devices.training.is_empty() {
        out.push_str("  none: this build has no training (feature `train`)\n");
    }
    out.push_str("wgpu adapters (--adapter):\n");
    for facts in &devices.adapters {
        let _ = writeln!(out, "  {facts}");
        let _ = writeln!(out, "     {}", capabilities(facts));
        let _ = writeln!(out, "     {}", limits(facts));
    }
    if devices.adapters.is_empty() {
        out.push_str("  none\n");
    }
    out
}

fn capabilities(facts: &AdapterFacts) -> String {
    let kind = match facts.kind {
        DeviceKind::Discrete => "graphics card",
        DeviceKind::Integrated => "integrated GPU",
        DeviceKind::Virtual => "virtual GPU",
        DeviceKind::Unknown => "unknown kind",
        DeviceKind::Software => "software",
    };
    let compute = if facts.compute { "compute shaders" } else { "no compute shaders: cannot run models" };
    let more = [(facts.timestamps, "timestamps"), (facts.f16, "16-bit floats")];
    let more = more.into_iter().filter_map(|(has, what)| has.then_some(what));
    [kind, compute].into_iter().chain(more).collect::<Vec<_>>().join(", ")
}

fn limits(facts: &AdapterFacts) -> String {
    const MIB: u64 = 1 << 20;
    let limits = &facts.limits;
    format!(
        "buffer {} MiB, binding {} MiB, {} storage buffers a kernel, {} threads and {} B of memory a workgroup",
        limits.max_buffer_bytes / MIB,
        limits.max_binding_bytes / MIB,
        limits.max_storage_buffers,
        limits.max_workgroup_threads,
        limits.max_workgroup_bytes
    )
}
