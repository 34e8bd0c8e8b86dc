//! Turns a verified model into a [`Program`]: chooses a kernel for every node, its sizes and its packed weights.
//!
//! Takes a model, a batch size and what is known about the adapter; gives plain data. It needs no device. What no kernel
//! does is an error that names the node.

use serde::Serialize;

use super::RuntimeError;
use super::kernel::Kernel;
use super::pack::Pack;
use super::program::{Dispatch, Port, Program, Source, Step, fold, fold_threads};
use crate::ir::{Graph, Model, Node, Op, ParamId, Range, Tensor, ValueId, Verified, Weights, Window};
use crate::passes::plan::{Plan, plan};

/// What the choice of kernels depends on besides the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Target {
    /// The adapter computes on the CPU: large register blocks pay, workgroup memory does not.
    pub software: bool,
}

/// Compiles `model` for `batch` images.
///
/// # Errors
/// When a node does something that no kernel does, or a value is too large for 32-bit indices.
pub fn emit(model: &Verified<Model>, batch: usize, target: Target) -> Result<Program, RuntimeError> {
    let graph = &model.graph;
    check_sizes(graph, batch)?;
    let plan = plan(graph, batch);
    let port = |name: &str, value: ValueId| Port {
        name: name.into(),
        shape: graph.shape(value).with_batch(batch),
        buffer: plan.buffer(value),
    };
    let inputs = graph.inputs.iter().map(|v| port(&graph.value(*v).name, *v)).collect();
    let outputs = graph.outputs.iter().map(|o| port(&o.name, o.value)).collect();
    let mut emitter = Emitter { graph, weights: &model.weights, plan: &plan, batch, target, pack: Pack::default() };
    let steps = graph.nodes.iter().map(|node| emitter.step(node)).collect::<Result<_, _>>()?;
    let weights = emitter.pack.floats;
    let (name, unshared_bytes) = (graph.name.clone(), plan.unshared_bytes);
    Ok(Program { name, batch, buffers: plan.buffers, unshared_bytes, inputs, steps, outputs, weights })
}

struct Emitter<'a> {
    graph: &'a Graph,
    weights: &'a Weights,
    plan: &'a Plan,
    batch: usize,
    target: Target,
    pack: Pack,
}

impl Emitter<'_> {
    fn step(&mut self, node: &Node) -> Result<Step, RuntimeError> {
        let dispatches = self.dispatches(node)?;
        let buffer = self.plan.buffer(node.output);
        Ok(Step { node: node.name.clone(), op: node.op.name(), shape: self.shape(node.output), buffer, dispatches })
    }

    fn dispatches(&mut self, node: &Node) -> Result<Vec<Dispatch>, RuntimeError> {
        let write = self.plan.buffer(node.output);
        let one = |dispatch| Ok(vec![dispatch]);
        let vec4s = self.elements(node.output).div_ceil(4);
        match &node.op {
            Op::Conv { weight, bias, window, groups, relu_in, relu_out } => {
                one(self.conv(node, *weight, *bias, window, *groups, [*relu_in, *relu_out]))
            }
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
            Op::Linear { weight, bias } => {
                let (weight, bias) = (self.weights.get(*weight), bias.map(|b| self.weights.get(b)));
                let (packed, bias_at) = self.pack.linear(weight, bias);
                let (outputs, inputs) = (weight.shape[0], weight.shape[1]);
                let count = self.elements(node.inputs[0]) / inputs * outputs.div_ceil(4);
                let sizes = [count, inputs, outputs, bias_at];
                one(threads(Kernel::Linear, &sizes, vec![self.read(node, 0), packed], write))
            }
            Op::Add => one(threads(Kernel::Add, &[vec4s], vec![self.read(node, 0), self.read(node, 1)], write)),
            Op::Concat { axis } => self.concat(node, *axis),
            Op::Slice { ranges } => one(self.slice(node, ranges)?),
            Op::Pad { pads, value } => self.pad(node, pads, *value),
            Op::WeightedSum { indices } => Ok(indices
                .iter()
                .enumerate()
                .map(|(k, &index)| {
                    let reads = vec![self.read(node, 0), self.read(node, k + 1)];
                    let constants = vec![("ACCUMULATE", u32::from(k > 0))];
                    Dispatch { constants, ..threads(Kernel::WeightedSum, &[vec4s, index], reads, write) }
                })
                .collect()),
            Op::ChannelShuffle { groups } => one(self.channel_shuffle(node, *groups)?),
            Op::Separable { .. } | Op::Mix { .. } => {
                let why = "it is made for training only (a bug in the compiler, please report it)".into();
                Err(RuntimeError::Unsupported { node: node.name.clone(), op: node.op.name(), why })
            }
        }
    }

    fn conv(
        &mut self,
        node: &Node,
        weight: ParamId,
        bias: Option<ParamId>,
        window: &Window,
        groups: usize,
        relu: [bool; 2],
    ) -> Dispatch {
        let (weight, bias) = (self.weights.get(weight), bias.map(|b| self.weights.get(b)));
        let [n, c, h, w] = self.nchw(node.inputs[0]);
        let [_, m, oh, ow] = self.nchw(node.output);
        let [top, left, ..] = window.padding;
        let mut constants = vec![("RELU_IN", u32::from(relu[0])), ("RELU_OUT", u32::from(relu[1]))];
        // With one tap the dilation means nothing.
        let one_pixel = Window { dilation: [1, 1], ..*window } == Window::valid(1, 1);
        let (kernel, packed, sizes) = if groups == 1 && one_pixel {
            self.pointwise(weight, bias, [n, c, h * w])
        } else if groups == c && groups > 1 {
            constants.extend(window_constants(window));
            let (packed, bias_at) = self.pack.depthwise(weight, bias);
            let count = n * m * oh * ow.div_ceil(4);
            (Kernel::Depthwise, packed, vec![count, m, m / c, h, w, oh, ow, top, left, bias_at])
        } else {
            constants.extend(window_constants(window));
            let (packed, bias_at) = self.pack.conv(weight, bias, groups);
            let per_group = m / groups;
            let count = n * groups * per_group.div_ceil(4) * oh * ow.div_ceil(4);
            let sizes = vec![count, groups, c / groups, per_group, h, w, oh, ow, top, left, bias_at];
            (Kernel::Conv, packed, sizes)
        };
        let reads = vec![self.read(node, 0), packed];
        Dispatch { constants, ..threads(kernel, &sizes, reads, self.plan.buffer(node.output)) }
    }

    fn pointwise(
        &mut self,
        weight: &Tensor,
        bias: Option<&Tensor>,
        [n, k, pixels]: [usize; 3],
    ) -> (Kernel, Source, Vec<usize>) {
        let m = weight.shape[0];
        // With 4 or 8 output channels the block of 12 would be mostly padding.
        let wide = self.target.software && m > 8;
        let (packed, bias_at) =
            if wide { self.pack.pointwise::<12>(weight, bias) } else { self.pack.pointwise::<4>(weight, bias) };
        let (channels, quads) = if wide { (12, 4) } else { (4, 2) };
        let kernel = match (wide, pixels.is_multiple_of(4)) {
            (false, true) => Kernel::Pointwise,
            (false, false) => Kernel::PointwiseScalar,
            (true, true) => Kernel::PointwiseWide,
            (true, false) => Kernel::PointwiseWideScalar,
        };
        let count = n * m.div_ceil(channels) * pixels.div_ceil(4).div_ceil(quads);
        (kernel, packed, vec![count, k, m, pixels, bias_at])
    }

    fn pool(&self, node: &Node, window: &Window, max: bool, include_pad: bool) -> Result<Dispatch, RuntimeError> {
        self.check_pool_window(node, window)?;
        let [n, c, h, w] = self.nchw(node.inputs[0]);
        let [_, _, oh, ow] = self.nchw(node.output);
        let [top, left, bottom, right] = window.padding;
        let sizes = [n * c * oh * ow, h, w, oh, ow, top, left, bottom, right];
        let mut constants = vec![("MAXIMUM", u32::from(max)), ("INCLUDE_PAD", u32::from(include_pad))];
        constants.extend(window_constants(window));
        let dispatch = threads(Kernel::Pool, &sizes, vec![self.read(node, 0)], self.plan.buffer(node.output));
        Ok(Dispatch { constants, ..dispatch })
    }

    fn concat(&self, node: &Node, axis: usize) -> Result<Vec<Dispatch>, RuntimeError> {
        let write = strides(&self.shape(node.output));
        let mut done = 0;
        let part = |(i, &input): (usize, &ValueId)| {
            let shape = self.shape(input);
            let at = done * write[axis];
            done += shape[axis] as isize;
            self.copy(node, i, &shape, [(&strides(&shape), 0), (&write, at)])
        };
        node.inputs.iter().enumerate().map(part).collect()
    }

    fn slice(&self, node: &Node, ranges: &[Range]) -> Result<Dispatch, RuntimeError> {
        let mut read = strides(&self.shape(node.inputs[0]));
        let mut read_at = 0;
        for r in ranges {
            read_at += r.start as isize * read[r.axis];
            read[r.axis] *= r.step;
        }
        let shape = self.shape(node.output);
        self.copy(node, 0, &shape, [(&read, read_at), (&strides(&shape), 0)])
    }

    fn pad(&self, node: &Node, pads: &[[usize; 2]], value: f32) -> Result<Vec<Dispatch>, RuntimeError> {
        let fill = Dispatch {
            kernel: Kernel::Fill,
            constants: Vec::new(),
            sizes: vec![self.elements(node.output).div_ceil(4) as u32, value.to_bits()],
            reads: Vec::new(),
            write: self.plan.buffer(node.output),
            workgroups: fold_threads(Kernel::Fill, self.elements(node.output).div_ceil(4)),
        };
        let write = strides(&self.shape(node.output));
        let at = write.iter().zip(pads).map(|(stride, [before, _])| stride * *before as isize).sum();
        let shape = self.shape(node.inputs[0]);
        Ok(vec![fill, self.copy(node, 0, &shape, [(&strides(&shape), 0), (&write, at)])?])
    }

    fn channel_shuffle(&self, node: &Node, groups: usize) -> Result<Dispatch, RuntimeError> {
        let [n, c, h, w] = self.nchw(node.inputs[0]);
        let pixels = (h * w) as isize;
        let shape = [n, groups, c / groups, h * w];
        let write = [c as isize * pixels, pixels, groups as isize * pixels, 1];
        self.copy(node, 0, &shape, [(&strides(&shape), 0), (&write, 0)])
    }

    /// A copy of the box `shape` from input `input`; the pairs are strides and first element where it reads and writes.
    fn copy(
        &self,
        node: &Node,
        input: usize,
        shape: &[usize],
        [(read, read_at), (write, write_at)]: [(&[isize], isize); 2],
    ) -> Result<Dispatch, RuntimeError> {
        let mut dims: Vec<(usize, isize, isize)> = Vec::new();
        for (&size, (&read, &write)) in shape.iter().zip(read.iter().zip(write)) {
            match dims.last_mut() {
                _ if size == 1 => {}
                // The outer dimension continues where the inner one ends: they are one.
                Some(outer) if outer.1 == size as isize * read && outer.2 == size as isize * write => {
                    *outer = (outer.0 * size, read, write);
                }
                _ => dims.push((size, read, write)),
            }
        }
        if dims.len() > 4 {
            return Err(unsupported(
                node,
                format!("it copies {} separate dimensions, at most 4 are supported", dims.len()),
            ));
        }
        let mut padded = vec![(1, 0, 0); 4 - dims.len()];
        padded.extend(dims);
        let count: usize = shape.iter().product();
        let sizes = padded.iter().map(|d| d.0 as u32);
        let reads = padded.iter().map(|d| d.1 as i32 as u32);
        let writes = padded.iter().map(|d| d.2 as i32 as u32);
        let rest = [read_at as i32 as u32, write_at as i32 as u32, count as u32, 0];
        Ok(Dispatch {
            kernel: Kernel::Copy,
            constants: Vec::new(),
            sizes: sizes.chain(reads).chain(writes).chain(rest).collect(),
            reads: vec![self.read(node, input)],
            write: self.plan.buffer(node.output),
            workgroups: fold_threads(Kernel::Copy, count),
        })
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
        Source::Buffer(self.plan.buffer(node.inputs[input]))
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

/// The kernels count elements in signed 32-bit integers, and an empty tensor has no buffer to bind.
fn check_sizes(graph: &Graph, batch: usize) -> Result<(), RuntimeError> {
    let inputs = graph.inputs.iter().map(|v| (*v, "input"));
    for (value, op) in inputs.chain(graph.nodes.iter().map(|n| (n.output, n.op.name()))) {
        let shape = graph.shape(value).with_batch(batch);
        let why = match shape.iter().try_fold(1usize, |product, &n| product.checked_mul(n)) {
            Some(0) => format!("its value {shape:?} has no elements"),
            Some(n) if n <= i32::MAX as usize - 3 => continue,
            _ => format!("its value {shape:?} has more than 2^31 elements; try a smaller batch"),
        };
        return Err(RuntimeError::Unsupported { node: graph.value(value).name.clone(), op, why });
    }
    Ok(())
}

/// A dispatch whose first size is its number of threads.
fn threads(kernel: Kernel, sizes: &[usize], reads: Vec<Source>, write: usize) -> Dispatch {
    let workgroups = fold_threads(kernel, sizes[0]);
    let sizes = sizes.iter().map(|&n| n as u32).collect();
    Dispatch { kernel, constants: Vec::new(), sizes, reads, write, workgroups }
}

fn window_constants(window: &Window) -> [(&'static str, u32); 6] {
    let [kh, kw] = window.kernel.map(|n| n as u32);
    let [sh, sw] = window.stride.map(|n| n as u32);
    let [dh, dw] = window.dilation.map(|n| n as u32);
    [("KH", kh), ("KW", kw), ("SH", sh), ("SW", sw), ("DH", dh), ("DW", dw)]
}

fn strides(shape: &[usize]) -> Vec<isize> {
    let mut strides = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis] as isize;
    }
    strides
}

fn unsupported(node: &Node, why: String) -> RuntimeError {
    RuntimeError::Unsupported { node: node.name.clone(), op: node.op.name(), why }
}
