//! Turns a verified model into a [`Program`]: chooses a kernel for every node, its sizes and its packed weights.
//!
//! Takes a model, a batch size and what is known about the adapter; gives plain data. It needs no device. What no kernel
//! does is an error that names the node.

mod conv;
mod copy;
mod head;
mod imported;
mod tile;

use serde::{Deserialize, Serialize};

use super::RuntimeError;
use super::kernel::Kernel;
use super::pack::Pack;
use super::program::{Dispatch, Place, Port, Program, Source, Step, fold, fold_threads};
use super::storage::Storage;
use crate::ir::{Dim, Graph, Model, Node, Op, ParamId, ValueId, Verified, Weights, Window};
use crate::passes::group::{Fits, Group, Grouping, groups};
use crate::passes::plan::{BUFFER_ALIGN, Plan, plan};

/// What the choice of kernels depends on besides the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Target {
    /// The adapter computes on the CPU: large register blocks pay, workgroup memory does not. Elsewhere it is the reverse.
    pub software: bool,
    /// Subgroups have 8 threads and exchange values more cheaply than they load them, as on lavapipe.
    pub subgroups: bool,
    /// What values and weights are stored as.
    pub storage: Storage,
}

/// Compiles `model` for `batch` images.
///
/// # Errors
/// When a node does something that no kernel does, or a value is too large for 32-bit indices.
pub fn emit(model: &Verified<Model>, batch: usize, target: Target) -> Result<Program, RuntimeError> {
    let separable: Option<Fits> = match target {
        Target { subgroups: true, .. } => Some(conv::fits),
        Target { software: false, .. } => Some(tile::fits),
        Target { software: true, .. } => None,
    };
    emit_grouped(model, batch, target, Grouping { separable, add: true, mean: Some(head::INPUTS) })
}

/// As [`emit`], with the groups that `grouping` allows.
pub(super) fn emit_grouped(
    model: &Verified<Model>,
    batch: usize,
    target: Target,
    grouping: Grouping,
) -> Result<Program, RuntimeError> {
    let graph = &model.graph;
    check_sizes(graph, batch)?;
    let groups = groups(graph, grouping);
    let storage = target.storage;
    let plan = plan(graph, &groups, batch, storage.bytes() as u64);
    let pack = Pack::new(storage);
    let mut emitter = Emitter { graph, weights: &model.weights, plan: &plan, batch, target, pack };
    let port = |name: &str, value: ValueId| Port {
        name: name.into(),
        shape: emitter.shape(value),
        batched: graph.shape(value).0.first() == Some(&Dim::Batch),
        place: emitter.place(value),
    };
    let inputs = graph.inputs.iter().map(|v| port(&graph.value(*v).name, *v)).collect();
    let outputs = graph.outputs.iter().map(|o| port(&o.name, o.value)).collect();
    let steps = groups.iter().map(|group| emitter.step(group)).collect::<Result<_, _>>()?;
    let mut weights = emitter.pack.floats;
    // What the file of a plan holds, or the device, is what the program holds.
    weights.iter_mut().for_each(|x| *x = storage.rounded(*x));
    let (name, unshared_bytes) = (graph.name.clone(), plan.unshared_bytes);
    // What kernels are bound to where they could read another value and do not.
    let mut buffers = plan.buffers;
    buffers.push(NOTHING_BYTES);
    Ok(Program { name, batch, storage, buffers, unshared_bytes, inputs, steps, outputs, weights })
}

/// Bytes of the last buffer, which holds nothing.
const NOTHING_BYTES: u64 = 16;

struct Emitter<'a> {
    graph: &'a Graph,
    weights: &'a Weights,
    plan: &'a Plan,
    batch: usize,
    target: Target,
    pack: Pack,
}

impl Emitter<'_> {
    fn step(&mut self, group: &Group) -> Result<Step, RuntimeError> {
        let graph = self.graph;
        let last = &graph.nodes[group.last().index()];
        let node = &graph.nodes[group.node.index()];
        let (shape, place) = (self.shape(last.output), self.place(last.output));
        if shape.contains(&0) {
            // There is nothing to compute.
            return Ok(Step {
                node: last.name.clone(),
                op: last.op.name().into(),
                shape,
                place,
                dispatches: Vec::new(),
            });
        }
        let copies = matches!(node.op, Op::Concat { .. } | Op::Pad { .. });
        if !copies && group.reads(graph).iter().any(|value| self.elements(*value) == 0) {
            return Err(unsupported(node, "it reads a value without elements".into()));
        }
        let mut dispatches = match &node.op {
            Op::Conv { .. } => self.conv(group)?,
            Op::Linear { .. } => vec![self.head(group)],
            Op::BatchNorm { .. }
            | Op::Relu
            | Op::QuantizeDequantize(_)
            | Op::Imported(_)
            | Op::MaxPool(_)
            | Op::AvgPool { .. }
            | Op::GlobalAvgPool
            | Op::Flatten { .. }
            | Op::Add
            | Op::Concat { .. }
            | Op::Slice { .. }
            | Op::Pad { .. }
            | Op::WeightedSum { .. }
            | Op::ChannelShuffle { .. }
            | Op::Separable { .. }
            | Op::Mix { .. }
            | Op::DropPath => self.dispatches(node)?,
        };
        // An empty part of a concatenation is not copied.
        dispatches.retain(|dispatch| !dispatch.workgroups.contains(&0));
        Ok(Step { node: last.name.clone(), op: last.op.name().into(), shape, place, dispatches })
    }

    fn dispatches(&mut self, node: &Node) -> Result<Vec<Dispatch>, RuntimeError> {
        let write = self.place(node.output);
        let one = |dispatch| Ok(vec![dispatch]);
        let vec4s = self.elements(node.output).div_ceil(4);
        match &node.op {
            Op::BatchNorm { scale, shift, mean, var, epsilon } => {
                let get = |id: &Option<ParamId>| id.map(|id| self.weights.get(id));
                let [mean, var] = [*mean, *var].map(|id| self.weights.get(id));
                let table = self.pack.batch_norm(get(scale), get(shift), mean, var, *epsilon);
                let shape = self.shape(node.output);
                let sizes = [shape.iter().product(), shape[1], shape[2..].iter().product()];
                one(threads(Kernel::BatchNorm, &sizes, vec![self.read(node, 0), table], write))
            }
            Op::Relu => one(threads(Kernel::Relu, &[vec4s], vec![self.read(node, 0)], write)),
            Op::QuantizeDequantize(grid) => {
                let numbers = [grid.scale, f32::from(grid.zero_point)].map(|x| x.to_bits() as usize);
                let sizes = [vec4s, numbers[0], numbers[1]];
                one(threads(Kernel::QuantizeDequantize, &sizes, vec![self.read(node, 0)], write))
            }
            Op::MaxPool(window) => one(self.pool(node, window, true, false)?),
            Op::AvgPool { window, count_include_pad } => one(self.pool(node, window, false, *count_include_pad)?),
            Op::GlobalAvgPool => {
                let [n, c, h, w] = self.nchw(node.inputs[0]);
                let dispatch = threads(Kernel::GlobalAvgPool, &[n * c, h * w], vec![self.read(node, 0)], write);
                one(Dispatch { workgroups: fold(n * c), ..dispatch })
            }
            Op::Flatten { .. } | Op::DropPath => Ok(Vec::new()),
            Op::Imported(op) => self.imported(node, op),
            Op::Add => one(threads(Kernel::Add, &[vec4s], vec![self.read(node, 0), self.read(node, 1)], write)),
            Op::Concat { axis } => self.concat(node, *axis),
            Op::Slice { ranges } => one(self.slice(node, ranges)?),
            Op::Pad { pads, value } => self.pad(node, pads, *value),
            Op::WeightedSum { indices } => Ok(indices
                .iter()
                .enumerate()
                .map(|(k, &index)| {
                    let reads = vec![self.read(node, 0), self.read(node, k + 1)];
                    let constants = constants(&[("ACCUMULATE", u32::from(k > 0))]);
                    Dispatch { constants, ..threads(Kernel::WeightedSum, &[vec4s, index], reads, write) }
                })
                .collect()),
            Op::ChannelShuffle { groups } => one(self.channel_shuffle(node, *groups)?),
            // Convolutions and linear layers are emitted as groups.
            Op::Conv { .. } | Op::Linear { .. } | Op::Separable { .. } | Op::Mix { .. } => {
                let why = "it is made for training only (a bug in the compiler, please report it)".into();
                Err(RuntimeError::Unsupported { node: node.name.clone(), op: node.op.name(), why })
            }
        }
    }

    fn pool(&self, node: &Node, window: &Window, max: bool, include_pad: bool) -> Result<Dispatch, RuntimeError> {
        self.check_pool_window(node, window)?;
        let [n, c, h, w] = self.nchw(node.inputs[0]);
        let [_, _, oh, ow] = self.nchw(node.output);
        let [top, left, bottom, right] = window.padding;
        let sizes = [n * c * oh * ow, h, w, oh, ow, top, left, bottom, right];
        let mut constants = constants(&[("MAXIMUM", u32::from(max)), ("INCLUDE_PAD", u32::from(include_pad))]);
        constants.extend(window_constants(window));
        let dispatch = threads(Kernel::Pool, &sizes, vec![self.read(node, 0)], self.place(node.output));
        Ok(Dispatch { constants, ..dispatch })
    }

    /// A window that sees only padding has no maximum and no mean.
    fn check_pool_window(&self, node: &Node, window: &Window) -> Result<(), RuntimeError> {
        let Some([_, h, w]) = self.graph.shape(node.inputs[0]).chw() else { return Ok(()) };
        let Some([_, oh, ow]) = self.graph.shape(node.output).chw() else { return Ok(()) };
        for (axis, size, out) in [(0, h, oh), (1, w, ow)] {
            let meets = |i: usize| {
                let taps = (0..window.kernel[axis]).map(|k| i * window.stride[axis] + k * window.dilation[axis]);
                let (low, high) = (window.padding[axis], window.padding[axis] + size);
                taps.into_iter().any(|at| (low..high).contains(&at))
            };
            if let Some(i) = (0..out).find(|i| !meets(*i)) {
                let side = ["row", "column"][axis];
                return Err(unsupported(node, format!("the window at {side} {i} of the result sees only padding")));
            }
        }
        Ok(())
    }

    fn read(&self, node: &Node, input: usize) -> Source {
        Source::Value(self.place(node.inputs[input]))
    }

    fn place(&self, value: ValueId) -> Place {
        let bytes = (self.target.storage.bytes() as u64 * self.elements(value) as u64)
            .next_multiple_of(BUFFER_ALIGN)
            .max(BUFFER_ALIGN);
        Place { buffer: self.plan.buffer(value), offset: self.plan.offset(value), bytes }
    }

    /// A place of nothing.
    fn nothing(&self) -> Source {
        Source::Value(Place { buffer: self.plan.buffers.len(), offset: 0, bytes: NOTHING_BYTES })
    }

    fn shape(&self, value: ValueId) -> Vec<usize> {
        self.graph.shape(value).with_batch(self.batch)
    }

    fn elements(&self, value: ValueId) -> usize {
        self.shape(value).iter().product()
    }

    fn nchw(&self, value: ValueId) -> [usize; 4] {
        let shape = self.shape(value);
        <[usize; 4]>::try_from(shape).expect("verified: an image has four dimensions")
    }
}

/// The kernels count elements in signed 32-bit integers, and there is nothing to run on an empty input.
fn check_sizes(graph: &Graph, batch: usize) -> Result<(), RuntimeError> {
    let inputs = graph.inputs.iter().map(|v| (*v, "input"));
    for (value, op) in inputs.chain(graph.nodes.iter().map(|n| (n.output, n.op.name()))) {
        let shape = graph.shape(value).with_batch(batch);
        let why = match shape.iter().try_fold(1usize, |product, &n| product.checked_mul(n)) {
            Some(0) if op == "input" => format!("its value {shape:?} has no elements"),
            Some(n) if n <= i32::MAX as usize - 3 => continue,
            _ => format!("its value {shape:?} has more than 2^31 elements; try a smaller batch"),
        };
        return Err(RuntimeError::Unsupported { node: graph.value(value).name.clone(), op, why });
    }
    Ok(())
}

/// A dispatch whose first size is its number of threads.
fn threads(kernel: Kernel, sizes: &[usize], reads: Vec<Source>, write: Place) -> Dispatch {
    let workgroups = fold_threads(kernel, sizes[0]);
    let sizes = sizes.iter().map(|&n| n as u32).collect();
    Dispatch { kernel, constants: Vec::new(), sizes, reads, write, workgroups }
}

fn constants(named: &[(&str, u32)]) -> Vec<(String, u32)> {
    named.iter().map(|&(name, n)| (name.to_owned(), n)).collect()
}

fn window_constants(window: &Window) -> Vec<(String, u32)> {
    let [kh, kw] = window.kernel.map(|n| n as u32);
    let [sh, sw] = window.stride.map(|n| n as u32);
    let [dh, dw] = window.dilation.map(|n| n as u32);
    constants(&[("KH", kh), ("KW", kw), ("SH", sh), ("SW", sw), ("DH", dh), ("DW", dw)])
}

fn unsupported(node: &Node, why: String) -> RuntimeError {
    RuntimeError::Unsupported { node: node.name.clone(), op: node.op.name(), why }
}
