//! Convolutions on GPUs: kernels that keep in the memory of a workgroup what it reads several times.
//!
//! Takes a [`Group`] around a convolution; gives its dispatch, which adds the other value of the group as well. Where a kernel
//! would need more memory than every adapter has, there is none, and `conv` chooses one that needs no such memory.

use super::conv::{Conv, relu};
use super::{Emitter, Kernel, constants, threads, window_constants};
use crate::ir::Window;
use crate::passes::group::Group;
use crate::runtime::program::{Dispatch, Place, Source, fold};

/// Memory of a workgroup on every adapter, bytes.
const WORKGROUP_BYTES: usize = 16_352;

/// Rows and columns of pixels that a workgroup with a halo makes.
const SIDE: usize = 8;

/// Planes that a workgroup of the depthwise kernel makes.
const PLANES: usize = 4;

/// Output channels that one thread of the separable kernel makes at a time, times the threads for one pixel.
const CHANNELS: usize = 16;

/// Pixels that [`SIDE`] x [`SIDE`] results read of one plane.
fn halo(window: &Window) -> usize {
    let along = |axis: usize| (SIDE - 1) * window.stride[axis] + (window.kernel[axis] - 1) * window.dilation[axis] + 1;
    along(0).saturating_mul(along(1))
}

/// `vec4`s of a line of the separable kernel's weights: its output channels and the taps.
fn line(window: &Window, blocks: usize) -> usize {
    (CHANNELS * blocks + window.kernel[0] * window.kernel[1]).div_ceil(4)
}

/// Input channels that the separable kernel takes in a step; `None` if not even four fit.
fn depth(window: &Window, blocks: usize) -> Option<usize> {
    let bytes = 4usize.saturating_mul(halo(window)) + 16 * SIDE * SIDE / 4 + 16 * line(window, blocks);
    [8, 4].into_iter().find(|depth| bytes.saturating_mul(*depth) <= WORKGROUP_BYTES)
}

/// Whether the separable kernel can take a depthwise convolution with the window, of planes of any size.
pub(super) fn fits(window: &Window, _: [usize; 2], _: [usize; 2]) -> bool {
    depth(window, 4).is_some()
}

impl Emitter<'_> {
    /// The one dispatch of `group`, whose convolution is `conv`.
    pub(super) fn tiled(&mut self, group: &Group, conv: &Conv) -> Option<Dispatch> {
        let depthwise = group.depthwise.is_none() && self.is_depthwise(group, conv);
        if group.depthwise.is_some() {
            self.separable_tile(group, conv)
        } else if conv.is_pointwise() {
            Some(self.pointwise_tile(group, conv))
        } else if depthwise {
            self.depthwise_tile(group, conv)
        } else {
            Some(self.conv_tile(group, conv))
        }
    }

    fn pointwise_tile(&mut self, group: &Group, conv: &Conv) -> Dispatch {
        let [n, k, h, w] = self.nchw(self.graph.nodes[group.node.index()].inputs[0]);
        let (m, pixels) = (conv.weight.shape[0], h * w);
        let (packed, bias_at) = self.pack.pointwise::<4>(conv.weight, conv.bias);
        let rows = rows(m);
        let groups = n * m.div_ceil(4 * rows) * pixels.div_ceil(4 * (64 / rows));
        let kernel = match pixels.is_multiple_of(4) {
            true => Kernel::PointwiseTile,
            false => Kernel::PointwiseTileScalar,
        };
        let constants = [relu(conv.relu_in, conv.relu_out), constants(&[("ROWS", rows as u32)])].concat();
        self.one_tile(group, kernel, constants, &[groups, k, m, pixels, bias_at], packed)
    }

    fn conv_tile(&mut self, group: &Group, conv: &Conv) -> Dispatch {
        let node = &self.graph.nodes[group.node.index()];
        let ([_, c, h, w], [n, m, oh, ow]) = (self.nchw(node.inputs[0]), self.nchw(node.output));
        let (packed, bias_at) = self.pack.conv(conv.weight, conv.bias, conv.groups);
        let ([top, left, ..], per_group) = (conv.window.padding, m / conv.groups);
        let rows = rows(per_group);
        let workgroups = n * conv.groups * per_group.div_ceil(4 * rows) * (oh * ow).div_ceil(4 * (64 / rows));
        let sizes = [workgroups, conv.groups, c / conv.groups, per_group, h, w, oh, ow, top, left, bias_at];
        let constants = [conv.constants(), constants(&[("ROWS", rows as u32)])].concat();
        self.one_tile(group, Kernel::ConvTile, constants, &sizes, packed)
    }

    fn depthwise_tile(&mut self, group: &Group, conv: &Conv) -> Option<Dispatch> {
        let halo = halo(&conv.window);
        if halo.saturating_mul(4 * PLANES) > WORKGROUP_BYTES {
            return None;
        }
        let node = &self.graph.nodes[group.node.index()];
        let ([_, c, h, w], [n, m, oh, ow]) = (self.nchw(node.inputs[0]), self.nchw(node.output));
        let (packed, bias_at) = self.pack.depthwise(conv.weight, conv.bias);
        let [top, left, ..] = conv.window.padding;
        let groups = (n * m).div_ceil(PLANES) * tiles(oh, ow);
        let sizes = [groups, n * m, m, m / c, h, w, oh, ow, top, left, bias_at];
        let constants = [conv.constants(), constants(&[("HALO", halo as u32)])].concat();
        Some(self.one_tile(group, Kernel::DepthwiseTile, constants, &sizes, packed))
    }

    fn separable_tile(&mut self, group: &Group, conv: &Conv) -> Option<Dispatch> {
        let first = &self.graph.nodes[group.depthwise?.index()];
        let taps = self.attributes(first);
        let ([n, k, h, w], [_, m, oh, ow]) =
            (self.nchw(first.inputs[0]), self.nchw(self.graph.nodes[group.node.index()].output));
        let each = m.div_ceil(CHANNELS).min(4);
        let (blocks, depth) = (m.div_ceil(CHANNELS * each), depth(&taps.window, each)?);
        let (packed, numbers) = self.pack.separable(Some(taps.weight), conv.weight, conv.bias, [CHANNELS * each, 4]);
        let [top, left, ..] = taps.window.padding;
        let groups = n * blocks * tiles(oh, ow);
        let sizes = [groups, blocks, k, m, h, w, oh, ow, top, left];
        let chosen = [("HALO", halo(&taps.window)), ("LINE", numbers / 4), ("BLOCKS", each), ("DEPTH", depth)];
        let chosen = constants(&chosen.map(|(name, n)| (name, n as u32)));
        let constants = [relu(taps.relu_in, conv.relu_out), window_constants(&taps.window), chosen].concat();
        Some(self.one_tile(group, Kernel::SeparableTile, constants, &sizes, packed))
    }

    /// The dispatch whose first size is its number of workgroups, with the other value of the group.
    fn one_tile(
        &self,
        group: &Group,
        kernel: Kernel,
        mut constants: Vec<(String, u32)>,
        sizes: &[usize],
        packed: Source,
    ) -> Dispatch {
        let first = &self.graph.nodes[group.depthwise.unwrap_or(group.node).index()];
        let write: Place = self.place(self.graph.nodes[group.last().index()].output);
        let other = group.add.map(|(_, other)| Source::Value(self.place(other)));
        constants.extend(super::constants(&[("SUM", u32::from(other.is_some()))]));
        let reads = vec![self.read(first, 0), packed, other.unwrap_or_else(|| self.nothing())];
        Dispatch { constants, workgroups: fold(sizes[0]), ..threads(kernel, sizes, reads, write) }
    }
}

/// Blocks of four output channels in a tile of a product with `m` of them: what a tile has more is computed in vain.
fn rows(m: usize) -> usize {
    if m <= 16 { 4 } else { 8 }
}

fn tiles(oh: usize, ow: usize) -> usize {
    oh.div_ceil(SIDE) * ow.div_ceil(SIDE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_of_the_usual_windows_fit_and_others_are_left_to_two_kernels() {
        for kernel in [3, 5, 7] {
            for (stride, dilation) in [(1, 1), (2, 1), (1, 2), (2, 2)] {
                let window = Window::same(kernel, stride, dilation);
                assert!(fits(&window, [0; 2], [0; 2]), "{window:?}");
                assert!((1..=4).all(|blocks| depth(&window, blocks).is_some()), "{window:?}");
            }
        }
        assert!(!fits(&Window::same(7, 4, 1), [0; 2], [0; 2]));
        assert!(!fits(&Window::same(31, 1, 1), [0; 2], [0; 2]));
        assert_eq!(halo(&Window::same(3, 1, 1)), 100);
        assert_eq!(halo(&Window::same(7, 2, 2)), 27 * 27);
    }
}
