//! Convolutions: which kernel computes a group around one, with the other value that it adds.
//!
//! Takes a [`Group`]; gives its dispatches. Where the kernel for subgroups runs, a separable unit is one dispatch; it computes
//! pointwise convolutions as well. What GPUs get instead is in `tile`.

use super::{Emitter, Kernel, constants, threads, window_constants};
use crate::ir::{Node, Op, ParamId, Tensor, Window};
use crate::passes::group::Group;
use crate::runtime::RuntimeError;
use crate::runtime::kernel::SUBGROUP;
use crate::runtime::program::{Dispatch, Source, fold};

/// The attributes of a convolution.
pub(super) struct Conv<'a> {
    pub weight: &'a Tensor,
    pub bias: Option<&'a Tensor>,
    pub window: Window,
    pub groups: usize,
    pub relu_in: bool,
    pub relu_out: bool,
}

/// Whether the kernel of separable units reaches all that four results read: `window` from planes of `size` to
/// planes of `out`. The numbers are those of the limits in its header.
pub(super) fn fits(window: &Window, size: [usize; 2], out: [usize; 2]) -> bool {
    let Window { kernel: [kh, kw], stride: [_, sw], padding: [_, left, ..], dilation: [_, dw], .. } = *window;
    let last = 4 + 3 * sw + (kw - 1) * dw;
    let aligned = size[1].is_multiple_of(4) && out[1].is_multiple_of(4);
    aligned && kh <= 5 && kw <= 5 && left <= 4 && last <= 15 + left
}

impl<'a> Emitter<'a> {
    pub(super) fn conv(&mut self, group: &Group) -> Result<Vec<Dispatch>, RuntimeError> {
        let graph = self.graph;
        let (node, last) = (&graph.nodes[group.node.index()], &graph.nodes[group.last().index()]);
        let conv = self.attributes(node);
        let [n, k, h, w] = self.nchw(node.inputs[0]);
        if !self.target.software
            && let Some(dispatch) = self.tiled(group, &conv)
        {
            return Ok(vec![dispatch]);
        }
        let pointwise = conv.is_pointwise();
        // With a few output channels the block would be mostly padding.
        let subgroups = pointwise && self.target.subgroups && conv.weight.shape[0] > 8 && (h * w).is_multiple_of(4);
        if group.depthwise.is_some() || subgroups {
            return Ok(vec![self.separable(group, &conv)]);
        }
        let dispatch = if pointwise {
            self.pointwise(&conv, [n, k, h * w], node, last)
        } else if self.is_depthwise(group, &conv) {
            self.depthwise(&conv, node, last)
        } else {
            self.dense(&conv, node, last)
        };
        let mut all = vec![dispatch];
        if let Some((_, other)) = group.add {
            let vec4s = self.elements(other).div_ceil(4);
            let reads = vec![Source::Value(self.place(other))];
            all.push(threads(Kernel::Accumulate, &[vec4s], reads, self.place(last.output)));
        }
        Ok(all)
    }

    /// The kernel for subgroups: `conv`, a pointwise one, behind the depthwise one of `group` if there is one.
    fn separable(&mut self, group: &Group, conv: &Conv) -> Dispatch {
        let first = &self.graph.nodes[group.depthwise.unwrap_or(group.node).index()];
        let last = &self.graph.nodes[group.last().index()];
        let taps = group.depthwise.map(|_| self.attributes(first));
        let [n, k, h, w] = self.nchw(first.inputs[0]);
        let [_, m, oh, ow] = self.nchw(last.output);
        // A pointwise convolution takes any shape of the plane; with rows of 4 pixels those of a thread are neighbours.
        let [h, w, oh, ow] = if taps.is_some() { [h, w, oh, ow] } else { [h * w / 4, 4, h * w / 4, 4] };
        let mut constants = match &taps {
            None => constants(&[("DEPTHWISE", 0)]),
            Some(taps) => {
                let ([top, left, ..], stride) = (taps.window.padding.map(|n| n as u32), taps.window.stride[1]);
                // The threads of a subgroup cover whole rows, so that every neighbour is one of them or outside of the image.
                let neighbours = w == stride * ow && stride <= 2 && [4, 8, 16, 32].contains(&ow);
                let neighbours = ("NEIGHBOURS", u32::from(neighbours));
                [window_constants(&taps.window), constants(&[("PAD_TOP", top), ("PAD_LEFT", left), neighbours])]
                    .concat()
            }
        };
        let twelves = m.div_ceil(12).min(3);
        let blocks = m.div_ceil(12 * twelves);
        let (packed, numbers) =
            self.pack.separable(taps.as_ref().map(|taps| taps.weight), conv.weight, conv.bias, [12 * twelves, 8]);
        let other = group.add.map(|(_, other)| Source::Value(self.place(other)));
        let sum = ("SUM", u32::from(other.is_some()));
        constants.extend(super::constants(&[("GROUPS", twelves as u32), ("EIGHTS", numbers as u32 / 8), sum]));
        let groups = n * blocks * (oh * ow / 4).div_ceil(SUBGROUP as usize);
        let relu_in = taps.as_ref().map_or(conv.relu_in, |taps| taps.relu_in);
        let sizes = [groups, blocks, k, m, h, w, oh, ow, usize::from(relu_in), usize::from(conv.relu_out)];
        let reads = vec![self.read(first, 0), packed, other.unwrap_or_else(|| self.nothing())];
        let dispatch = threads(Kernel::SeparableSubgroup, &sizes, reads, self.place(last.output));
        Dispatch { constants, workgroups: fold(groups), ..dispatch }
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

    /// Whether every output channel of the convolution reads one input channel, of several.
    pub(super) fn is_depthwise(&self, group: &Group, conv: &Conv) -> bool {
        let [_, c, ..] = self.nchw(self.graph.nodes[group.node.index()].inputs[0]);
        conv.groups == c && c > 1
    }

    pub(super) fn attributes(&self, node: &Node) -> Conv<'a> {
        let Op::Conv { weight, bias, window, groups, relu_in, relu_out } = node.op else {
            unreachable!("a group around a convolution holds convolutions")
        };
        let get = |id: ParamId| self.weights.get(id);
        Conv { weight: get(weight), bias: bias.map(get), window, groups, relu_in, relu_out }
    }
}

impl Conv<'_> {
    /// Whether it has one tap, moved by one pixel, and one group. With one tap the dilation means nothing.
    pub(super) fn is_pointwise(&self) -> bool {
        self.groups == 1 && Window { dilation: [1, 1], ..self.window } == Window::valid(1, 1)
    }

    pub(super) fn constants(&self) -> Vec<(String, u32)> {
        let mut constants = relu(self.relu_in, self.relu_out);
        constants.extend(window_constants(&self.window));
        constants
    }
}

pub(super) fn relu(before: bool, after: bool) -> Vec<(String, u32)> {
    constants(&[("RELU_IN", u32::from(before)), ("RELU_OUT", u32::from(after))])
}
