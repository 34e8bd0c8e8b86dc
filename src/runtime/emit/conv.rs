//! Convolutions: which kernel computes a group around one, with the other value that it adds.
//!
//! Takes a [`Group`]; gives its dispatches. Where the driver compiles large kernels a separable unit is one kernel with large blocks in registers,
//! which computes pointwise convolutions as well.

use super::{Emitter, Kernel, constants, threads, window_constants};
use crate::ir::{Node, NodeId, Op, ParamId, Tensor, ValueId, Window};
use crate::passes::group::Group;
use crate::runtime::RuntimeError;
use crate::runtime::program::{Dispatch, Source};

/// The attributes of a convolution.
struct Conv<'a> {
    weight: &'a Tensor,
    bias: Option<&'a Tensor>,
    window: Window,
    groups: usize,
    relu_in: bool,
    relu_out: bool,
}

/// Whether the kernel of separable units reaches all that a 4 x 4 block of results reads: `window` from planes of `size` to
/// planes of `out`. The numbers are those of the limits in its header.
pub(super) fn fits(window: &Window, size: [usize; 2], out: [usize; 2]) -> bool {
    let Window { kernel: [kh, kw], stride: [sh, sw], padding: [_, left, ..], dilation: [dh, dw], .. } = *window;
    let rows = 3 * sh + (kh - 1) * dh + 1;
    let last = 4 + 3 * sw + (kw - 1) * dw;
    let aligned = size[1].is_multiple_of(4) && out[1].is_multiple_of(4);
    aligned && kh <= 5 && kw <= 5 && left <= 4 && rows <= 15 && last <= 15 + left
}

impl<'a> Emitter<'a> {
    pub(super) fn conv(&mut self, group: &Group) -> Result<Vec<Dispatch>, RuntimeError> {
        let graph = self.graph;
        let (node, last) = (&graph.nodes[group.node.index()], &graph.nodes[group.last().index()]);
        let conv = self.attributes(node);
        let [n, c, h, w] = self.nchw(node.inputs[0]);
        // With one tap the dilation means nothing.
        let pointwise = conv.groups == 1 && Window { dilation: [1, 1], ..conv.window } == Window::valid(1, 1);
        let other = group.add.map(|(_, other)| other);
        if let Some(depthwise) = group.depthwise {
            return Ok(vec![self.separable(depthwise, &conv, other, last)]);
        }
        // With a few output channels the block would be mostly padding.
        let wide = pointwise && self.target.large_kernels && conv.weight.shape[0] > 8;
        if wide && (h * w).is_multiple_of(4) {
            return Ok(vec![self.pointwise_wide(&conv, [n, c, h * w], other, node, last)]);
        }
        let dispatch = if pointwise {
            self.pointwise(&conv, [n, c, h * w], node, last)
        } else if conv.groups == c && c > 1 {
            self.depthwise(&conv, node, last)
        } else {
            self.dense(&conv, node, last)
        };
        let mut all = vec![dispatch];
        if let Some(other) = other {
            let vec4s = self.elements(other).div_ceil(4);
            let reads = vec![Source::Value(self.place(other))];
            all.push(threads(Kernel::Accumulate, &[vec4s], reads, self.place(last.output)));
        }
        Ok(all)
    }

    fn separable(&mut self, depthwise: NodeId, conv: &Conv, other: Option<ValueId>, last: &Node) -> Dispatch {
        let first = &self.graph.nodes[depthwise.index()];
        let taps = self.attributes(first);
        let [_, k, h, w] = self.nchw(first.inputs[0]);
        let [n, m, oh, ow] = self.nchw(last.output);
        let twelves = twelves(m);
        let (packed, pointwise_at, bias_at) = self.pack.separable(Some(taps.weight), conv.weight, conv.bias, twelves);
        let count = n * m.div_ceil(12 * twelves) * oh.div_ceil(4) * (ow / 4);
        let sizes = [count, k, m, h, w, oh, ow, pointwise_at, bias_at];
        let [top, left, ..] = taps.window.padding.map(|n| n as u32);
        let mut all = constants(&[("PAD_TOP", top), ("PAD_LEFT", left), ("GROUPS", twelves as u32)]);
        all.extend(window_constants(&taps.window));
        all.extend(relu(taps.relu_in, conv.relu_out));
        self.wide(all, &sizes, first.inputs[0], packed, other, last)
    }

    fn pointwise_wide(
        &mut self,
        conv: &Conv,
        [n, k, pixels]: [usize; 3],
        other: Option<ValueId>,
        node: &Node,
        last: &Node,
    ) -> Dispatch {
        let m = conv.weight.shape[0];
        let twelves = twelves(m);
        let (packed, pointwise_at, bias_at) = self.pack.separable(None, conv.weight, conv.bias, twelves);
        // Any shape of the plane will do: with rows of 4 pixels the 16 pixels of a thread are neighbours.
        let rows = pixels / 4;
        let count = n * m.div_ceil(12 * twelves) * rows.div_ceil(4);
        let sizes = [count, k, m, rows, 4, rows, 4, pointwise_at, bias_at];
        let mut all = constants(&[("DEPTHWISE", 0), ("GROUPS", twelves as u32)]);
        all.extend(relu(conv.relu_in, conv.relu_out));
        self.wide(all, &sizes, node.inputs[0], packed, other, last)
    }

    fn wide(
        &self,
        mut constants: Vec<(String, u32)>,
        sizes: &[usize],
        input: ValueId,
        packed: Source,
        other: Option<ValueId>,
        last: &Node,
    ) -> Dispatch {
        constants.push(("SUM".into(), u32::from(other.is_some())));
        let other = other.map_or_else(|| self.nothing(), |other| Source::Value(self.place(other)));
        let reads = vec![Source::Value(self.place(input)), packed, other];
        Dispatch { constants, ..threads(Kernel::SeparableWide, sizes, reads, self.place(last.output)) }
    }

    fn pointwise(&mut self, conv: &Conv, [n, k, pixels]: [usize; 3], node: &Node, last: &Node) -> Dispatch {
        let m = conv.weight.shape[0];
        let wide = self.target.software && m > 8;
        let (packed, bias_at) = if wide {
            self.pack.pointwise::<12>(conv.weight, conv.bias)
        } else {
            self.pack.pointwise::<4>(conv.weight, conv.bias)
        };
        let (channels, quads) = if wide { (12, 4) } else { (4, 2) };
        let kernel = match (wide, pixels.is_multiple_of(4)) {
            (false, true) => Kernel::Pointwise,
            (false, false) => Kernel::PointwiseScalar,
            (true, _) => Kernel::PointwiseWide,
        };
        let count = n * m.div_ceil(channels) * pixels.div_ceil(4).div_ceil(quads);
        self.one(kernel, relu(conv.relu_in, conv.relu_out), &[count, k, m, pixels, bias_at], packed, node, last)
    }

    fn depthwise(&mut self, conv: &Conv, node: &Node, last: &Node) -> Dispatch {
        let (packed, bias_at) = self.pack.depthwise(conv.weight, conv.bias);
        let [_, c, h, w] = self.nchw(node.inputs[0]);
        let [n, m, oh, ow] = self.nchw(node.output);
        let [top, left, ..] = conv.window.padding;
        let sizes = [n * m * oh * ow.div_ceil(4), m, m / c, h, w, oh, ow, top, left, bias_at];
        self.one(Kernel::Depthwise, conv.constants(), &sizes, packed, node, last)
    }

    fn dense(&mut self, conv: &Conv, node: &Node, last: &Node) -> Dispatch {
        let (packed, bias_at) = self.pack.conv(conv.weight, conv.bias, conv.groups);
        let [_, c, h, w] = self.nchw(node.inputs[0]);
        let [n, m, oh, ow] = self.nchw(node.output);
        let [top, left, ..] = conv.window.padding;
        let (groups, per_group) = (conv.groups, m / conv.groups);
        let count = n * groups * per_group.div_ceil(4) * oh * ow.div_ceil(4);
        let sizes = [count, groups, c / groups, per_group, h, w, oh, ow, top, left, bias_at];
        self.one(Kernel::Conv, conv.constants(), &sizes, packed, node, last)
    }

    fn one(
        &self,
        kernel: Kernel,
        constants: Vec<(String, u32)>,
        sizes: &[usize],
        packed: Source,
        node: &Node,
        last: &Node,
    ) -> Dispatch {
        Dispatch { constants, ..threads(kernel, sizes, vec![self.read(node, 0), packed], self.place(last.output)) }
    }

    fn attributes(&self, node: &Node) -> Conv<'a> {
        let Op::Conv { weight, bias, window, groups, relu_in, relu_out } = node.op else {
            unreachable!("a group around a convolution holds convolutions")
        };
        let get = |id: ParamId| self.weights.get(id);
        Conv { weight: get(weight), bias: bias.map(get), window, groups, relu_in, relu_out }
    }
}

impl Conv<'_> {
    fn constants(&self) -> Vec<(String, u32)> {
        let mut constants = relu(self.relu_in, self.relu_out);
        constants.extend(window_constants(&self.window));
        constants
    }
}

fn relu(before: bool, after: bool) -> Vec<(String, u32)> {
    constants(&[("RELU_IN", u32::from(before)), ("RELU_OUT", u32::from(after))])
}

/// Twelves of output channels in a block.
fn twelves(channels: usize) -> usize {
    channels.div_ceil(12).min(3)
}
