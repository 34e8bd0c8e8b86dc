//! Plans: a program in two files that any host with WebGPU can carry out.
//!
//! Takes a [`Program`]; writes `plan.json` and `weights.bin` into a folder, and reads them back. The plan holds the text of
//! the kernels, so that a host needs nothing else. To replay it: make the buffers, upload the weights (little-endian numbers
//! of the program's `storage`, float32 or float16), make a pipeline for each distinct pair of kernel and constants, and for
//! every dispatch bind
//!
//! - binding 0: its `sizes` as a uniform of 32-bit integers, padded with zeros to a multiple of 16 bytes;
//! - bindings 1 and on: its `reads`, each a part of a value buffer or of the weights;
//! - the last binding: its `write`.
//!
//! Then, for each run, write the inputs to their places, run the dispatches in order and read the outputs. All values are
//! numbers of the storage; with float16 the device needs the feature `shader-f16`, and the WGSL begins with the line that
//! enables it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, BufWriter};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::RuntimeError;
use super::kernel::{Binding, FOLD, Kernel};
use super::program::{BINDING_ALIGN, Dispatch, Place, Program, Source};
use super::storage::Storage;

/// Counts up when a host of older plans would misread newer ones.
const FORMAT: u32 = 2;

const PLAN: &str = "plan.json";
const WEIGHTS: &str = "weights.bin";

#[derive(Serialize, Deserialize)]
struct PlanFile {
    format: u32,
    producer: String,
    kernels: BTreeMap<Kernel, KernelText>,
    program: Program,
}

/// All that a host needs to know about a kernel.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
struct KernelText {
    entry: String,
    /// Whether its threads exchange values inside of subgroups; WGSL then wants the line `enable subgroups;`.
    subgroups: bool,
    wgsl: String,
}

impl Program {
    /// Writes the plan into `folder`, which is made if it is not there: `plan.json` and `weights.bin`.
    ///
    /// # Errors
    /// [`RuntimeError::Plan`] if a file cannot be written.
    pub fn write(&self, folder: &Path) -> Result<(), RuntimeError> {
        std::fs::create_dir_all(folder).map_err(|e| refused(folder, e))?;
        let kernels = self.dispatches().map(|d| (d.kernel, text(d.kernel, self.storage))).collect();
        let producer = concat!("idarts-compile ", env!("CARGO_PKG_VERSION")).into();
        let plan = PlanFile { format: FORMAT, producer, kernels, program: self.clone() };
        let path = folder.join(PLAN);
        let file = File::create(&path).map_err(|e| refused(&path, e))?;
        serde_json::to_writer(BufWriter::new(file), &plan).map_err(|e| refused(&path, e))?;
        let path = folder.join(WEIGHTS);
        std::fs::write(&path, self.storage.encode(&self.weights)).map_err(|e| refused(&path, e))
    }

    /// Reads the plan in `folder` and checks it: what it names exists, and every part lies inside of its buffer.
    ///
    /// # Errors
    /// [`RuntimeError::Plan`] if a file cannot be read, is damaged, or was written for other kernels than this version has.
    pub fn read(folder: &Path) -> Result<Self, RuntimeError> {
        let path = folder.join(PLAN);
        let file = File::open(&path).map_err(|e| refused(&path, e))?;
        let plan: PlanFile = serde_json::from_reader(BufReader::new(file)).map_err(|e| refused(&path, e))?;
        if plan.format != FORMAT {
            return Err(refused(&path, format!("its format is {}, this version reads {FORMAT}", plan.format)));
        }
        let path_of_weights = folder.join(WEIGHTS);
        let bytes = std::fs::read(&path_of_weights).map_err(|e| refused(&path_of_weights, e))?;
        // What is packed ends with whole vec4.
        if !bytes.len().is_multiple_of(4) {
            let why = format!("{} bytes are no whole number of parameters", bytes.len());
            return Err(refused(&path_of_weights, why));
        }
        let weights = plan.program.storage.decode(&bytes);
        let program = Program { weights, ..plan.program };
        check(&program).map_err(|why| refused(&path, why))?;
        for kernel in program.dispatches().map(|d| d.kernel) {
            if plan.kernels.get(&kernel) != Some(&text(kernel, program.storage)) {
                let (file, producer) = (kernel.file(), &plan.producer);
                let why = format!("its kernel {file} is not the one of this version; it was written by {producer}");
                return Err(refused(&path, why));
            }
        }
        Ok(program)
    }
}

fn text(kernel: Kernel, storage: Storage) -> KernelText {
    let wgsl = storage.wgsl(kernel.source()).into();
    KernelText { entry: kernel.entry().into(), subgroups: kernel.subgroups(), wgsl }
}

fn refused(path: &Path, why: impl ToString) -> RuntimeError {
    RuntimeError::Plan { path: path.to_owned(), why: why.to_string() }
}

/// Whether a session can carry out `program`; what it cannot is said with the name of the step.
fn check(program: &Program) -> Result<(), String> {
    if program.batch == 0 {
        return Err("its batch is 0".into());
    }
    let mut ports = program.inputs.iter().chain(&program.outputs);
    if let Some(port) = ports.find(|port| port.batched && port.shape.first() != Some(&program.batch)) {
        return Err(format!("value `{}`: {:?} has no batch of {}", port.name, port.shape, program.batch));
    }
    let ports = program.inputs.iter().chain(&program.outputs).map(|p| (&p.name, &p.shape, p.place));
    let steps = program.steps.iter().map(|s| (&s.node, &s.shape, s.place));
    for (name, shape, place) in ports.chain(steps) {
        check_place(program, place).map_err(|why| format!("value `{name}`: {why}"))?;
        let element = program.storage.bytes() as u64;
        let bytes = shape.iter().try_fold(element, |n, &d| n.checked_mul(d as u64));
        if bytes.is_none_or(|bytes| bytes > place.bytes) {
            return Err(format!("value `{name}`: {shape:?} does not fit into {} bytes", place.bytes));
        }
    }
    for step in &program.steps {
        for dispatch in &step.dispatches {
            check_dispatch(program, dispatch).map_err(|why| format!("step `{}`: {why}", step.node))?;
        }
    }
    Ok(())
}

fn check_dispatch(program: &Program, dispatch: &Dispatch) -> Result<(), String> {
    let reads = dispatch.kernel.reads();
    if reads.len() != dispatch.reads.len() {
        return Err(format!("{} reads {} buffers, not {}", dispatch.kernel.file(), reads.len(), dispatch.reads.len()));
    }
    if dispatch.sizes.is_empty() || dispatch.sizes.len() > BINDING_ALIGN / 4 {
        return Err(format!("{} sizes", dispatch.sizes.len()));
    }
    if dispatch.workgroups.iter().any(|&n| n == 0 || n as usize > FOLD) {
        return Err(format!("{:?} workgroups", dispatch.workgroups));
    }
    check_place(program, dispatch.write)?;
    for (binding, source) in reads.iter().zip(&dispatch.reads) {
        match (binding, *source) {
            (Binding::Value, Source::Value(place)) => check_place(program, place)?,
            (Binding::Weights, Source::Weights { offset, bytes }) => {
                check_part(offset as u64, bytes as u64, program.weight_bytes())?;
            }
            _ => return Err(format!("{} takes a value for weights, or the reverse", dispatch.kernel.file())),
        }
    }
    Ok(())
}

fn check_place(program: &Program, place: Place) -> Result<(), String> {
    let size = program.buffers.get(place.buffer).ok_or_else(|| format!("there is no buffer {}", place.buffer))?;
    check_part(place.offset, place.bytes, *size)
}

fn check_part(offset: u64, bytes: u64, size: u64) -> Result<(), String> {
    let inside = offset.checked_add(bytes).is_some_and(|end| end <= size);
    if !inside || bytes == 0 || !bytes.is_multiple_of(4) || !offset.is_multiple_of(BINDING_ALIGN as u64) {
        return Err(format!("{bytes} bytes at {offset} are no part of {size} bytes"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::cases::{case, network};
    use crate::runtime::{Gpu, Session, Target, emit};

    #[test]
    fn a_plan_comes_back_as_it_was_and_runs() {
        let folder = tempfile::tempdir().unwrap();
        let case = case("network", 3, false, network);
        for (subgroups, storage) in [(false, Storage::Float32), (true, Storage::Float32), (true, Storage::Float16)] {
            let program = emit(&case.model, 3, Target { software: true, subgroups, storage }).unwrap();
            program.write(folder.path()).unwrap();
            assert_eq!(Program::read(folder.path()).unwrap(), program);
        }
        let mut session = Session::replay(&Gpu::noop(), Program::read(folder.path()).unwrap()).unwrap();
        assert_eq!(session.run(&case.inputs).unwrap().len(), case.model.graph.outputs.len());
    }

    #[test]
    fn a_damaged_plan_is_refused_by_what_is_wrong() {
        let folder = tempfile::tempdir().unwrap();
        let case = case("network", 1, false, network);
        let program = emit(&case.model, 1, Target::default()).unwrap();
        program.write(folder.path()).unwrap();
        let path = folder.path().join(PLAN);
        let whole: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let first = program.steps.iter().position(|s| !s.dispatches.is_empty()).unwrap();
        let dispatch = format!("/program/steps/{first}/dispatches/0");
        let file = program.steps[first].dispatches[0].kernel.file();
        let kernel = serde_json::to_value(program.steps[first].dispatches[0].kernel).unwrap();
        let cases = [
            ("/format".into(), 1.into(), "its format is 1, this version reads 2".to_owned()),
            ("/program/batch".into(), 0.into(), "its batch is 0".into()),
            ("/program/inputs/0/shape".into(), serde_json::json!([]), "has no batch of 1".into()),
            ("/program/inputs/0/place/buffer".into(), 99.into(), "there is no buffer 99".into()),
            ("/program/inputs/0/place/offset".into(), u64::MAX.into(), "are no part of".into()),
            ("/program/inputs/0/shape/1".into(), u64::MAX.into(), "does not fit into".into()),
            (format!("{dispatch}/write/bytes"), 0.into(), "0 bytes at".into()),
            (format!("{dispatch}/workgroups/0"), 65536.into(), "workgroups".into()),
            (format!("{dispatch}/sizes"), serde_json::json!([]), "0 sizes".into()),
            (format!("{dispatch}/reads"), serde_json::json!([]), format!("{file} reads")),
            (format!("{dispatch}/kernel"), "magic".into(), "unknown variant `magic`".into()),
            (
                format!("/kernels/{}/wgsl", kernel.as_str().unwrap()),
                "".into(),
                format!("its kernel {file} is not the one of this version"),
            ),
        ];
        for (pointer, value, expected) in cases {
            let mut plan = whole.clone();
            *plan.pointer_mut(&pointer).unwrap_or_else(|| panic!("{pointer}")) = value;
            std::fs::write(&path, plan.to_string()).unwrap();
            let error = Program::read(folder.path()).unwrap_err().to_string();
            assert!(error.contains(&expected), "{pointer}: {error}");
        }
        std::fs::write(&path, whole.to_string()).unwrap();
        let weights = folder.path().join(WEIGHTS);
        for (bytes, expected) in [(vec![0; 6], "no whole number of parameters"), (vec![0; 4], "are no part of 4 bytes")]
        {
            std::fs::write(&weights, bytes).unwrap();
            let error = Program::read(folder.path()).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        std::fs::remove_file(&weights).unwrap();
        assert!(Program::read(folder.path()).unwrap_err().to_string().contains("weights.bin"));
    }
}
