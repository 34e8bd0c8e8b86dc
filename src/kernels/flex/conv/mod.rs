//! Convolution on the CPU: any kernel, stride, padding, dilation and number of groups, forward and backward.
//!
//! Takes and gives CPU tensors. There is no im2col: planes are read in place, or copied once with their padding to a scratch
//! that stays in cache, and `tiles` walks over them at the positions and offsets `geometry` has worked out. Depthwise
//! convolutions are those with one plane a group, pointwise ones those with one tap a plane.
#![allow(
    clippy::too_many_arguments,
    reason = "the slices of a vectorised loop are arguments: a struct of borrows would only move the list"
)]
mod backward;
pub mod columns;
pub mod geometry;
mod input;
pub mod padded;
pub mod positions;
pub mod sums;
pub mod tiles;

use std::sync::Arc;

use burn::backend::flex::FlexTensor;

use super::{
    super::Window,
    buffer::{Part, fill, into_tensor, readable, vector},
    simd::lanes,
};
pub use backward::{backward, backward_of};
use geometry::{Backward, Class, Forward};
use input::Input;
use padded::{Padded, scratch};
use tiles::pack;

/// Chunks a batch is cut into at least, if there is enough of it: what keeps many cores busy.
const CHUNKS: usize = 32;

/// Weights an output has at least for its convolution to be a matrix product rather than a sum.
const NARROW: usize = 64;

/// Sizes of a convolution.
#[derive(Clone, Copy)]
struct Sizes {
    images: usize,
    groups: usize,
    ins: usize,
    outs: usize,
    taps: usize,
    pixels_in: usize,
    pixels_out: usize,
}

/// Which images and groups one chunk of a tensor holds.
#[derive(Clone, Copy)]
struct Share {
    images: usize,
    groups: usize,
}

/// The first image and group of a chunk.
#[derive(Clone, Copy)]
struct Start {
    image: usize,
    group: usize,
}

/// Whether there are pixels enough for these kernels, whose vectors run along them. A wide convolution to a few pixels is a
/// matrix product over the batch, which burn does well.
pub fn suits(x: &FlexTensor, w: &FlexTensor, window: Window) -> bool {
    let [_, _, height, width] = x.layout().shape().dims::<4>();
    let [_, ins, kh, kw] = w.layout().shape().dims::<4>();
    let pixels: usize = window.output_size([height, width]).iter().product();
    pixels >= lanes() || ins * kh * kw < NARROW
}

/// The convolution of `x`, or of its positive part if `relu`.
pub fn forward(
    x: FlexTensor,
    w: FlexTensor,
    bias: Option<FlexTensor>,
    window: Window,
    groups: usize,
    relu: bool,
) -> FlexTensor {
    forward_of(&[readable(x)], w, bias, window, groups, relu)
}

/// [`forward`] of the channels of tensors that [`readable`] has seen, one after the other.
pub fn forward_of(
    tensors: &[FlexTensor],
    w: FlexTensor,
    bias: Option<FlexTensor>,
    window: Window,
    groups: usize,
    relu: bool,
) -> FlexTensor {
    let x = Input::new(tensors);
    let [c_out, ..] = w.layout().shape().dims::<4>();
    let sizes = Sizes::new(&x, c_out, &window, groups);
    let packed = sizes.pack_forward(&vector(&w));
    let bias = bias.map(|bias| vector(&bias));
    let plan = sizes.forth(&x, &window, relu);
    let share = sizes.share(false);
    let chunk = share.groups * sizes.outs * sizes.pixels_out;
    let len = sizes.images * sizes.groups * sizes.outs * sizes.pixels_out;
    let work = chunk * (sizes.ins * sizes.taps).div_ceil(8);
    let [values] = fill(
        [Part { len, chunk }],
        work,
        || scratch(plan.padded, sizes.ins, 0.0),
        |scratch, index, [out]| {
            let at = share.start(&sizes, index);
            forward_chunk(&plan, &sizes, &x, relu, at, &packed, bias.as_deref(), scratch, out);
        },
    );
    let [oh, ow] = window.output_size([x.dims[2], x.dims[3]]);
    into_tensor(values, [sizes.images, c_out, oh, ow])
}

fn forward_chunk(
    plan: &Forward,
    sizes: &Sizes,
    x: &Input,
    relu: bool,
    at: Start,
    packed: &[f32],
    bias: Option<&[f32]>,
    scratch: &mut [f32],
    out: &mut [f32],
) {
    let block = sizes.outs * sizes.ins * sizes.taps;
    for (group, out) in (at.group..).zip(out.chunks_exact_mut(sizes.outs * sizes.pixels_out)) {
        let source = source(plan.padded, x, relu, [at.image, group * sizes.ins], sizes.ins, scratch);
        let packed = &packed[group * block..(group + 1) * block];
        let bias = bias.map(|bias| &bias[group * sizes.outs..(group + 1) * sizes.outs]);
        outputs(plan, source, packed, bias, out, sizes.pixels_out);
    }
}

/// Planes of outputs, `plane` apart, from the source as the plan wants it.
pub fn outputs(plan: &Forward, source: &[f32], packed: &[f32], bias: Option<&[f32]>, out: &mut [f32], plane: usize) {
    match &plan.columns {
        Some(columns) if out.len() == plane => {
            columns::outputs(columns, source, packed, bias.map_or(0.0, |bias| bias[0]), out);
        }
        _ => tiles::outputs(source, &plan.taps, &plan.positions, packed, bias, out, plane),
    }
}

/// Planes of the input's gradient, `plane` apart, from the output's gradient as the plan wants it and the packed weights of
/// each class.
pub fn inputs<'a>(
    plan: &Backward,
    source: &[f32],
    packed: impl Iterator<Item = &'a [f32]>,
    spread: &mut [f32],
    dx: &mut [f32],
    plane: usize,
) {
    if !plan.complete {
        dx.fill(0.0);
    }
    for (class, packed) in plan.classes.iter().zip(packed) {
        let Class { taps, positions, .. } = class;
        match (class.scatter, &class.columns) {
            (None, Some(columns)) if dx.len() == plane => columns::outputs(columns, source, packed, 0.0, dx),
            (None, _) => tiles::outputs(source, taps, positions, packed, None, dx, plane),
            (Some(scatter), _) => {
                let pixels = scatter.rows * scatter.columns;
                let dense = &mut spread[..dx.len() / plane * pixels];
                tiles::outputs(source, taps, positions, packed, None, dense, pixels);
                for (dense, dx) in dense.chunks_exact(pixels).zip(dx.chunks_exact_mut(plane)) {
                    scatter.spread(dense, dx);
                }
            }
        }
    }
}

/// `count` planes from `channel` of `image`: in place, or copied to their padded layout, behind a ReLU or not.
fn source<'a>(
    padded: Option<Padded>,
    from: &Input<'a>,
    relu: bool,
    [image, channel]: [usize; 2],
    count: usize,
    scratch: &'a mut [f32],
) -> &'a [f32] {
    let Some(padded) = padded else {
        return from.planes(image, channel, count);
    };
    let channels = channel..channel + count;
    if relu {
        padded.lay_rectified(channels.map(|c| (from.plane(image, c), [1.0, 0.0])), scratch);
        return scratch;
    }
    for (c, to) in channels.zip(scratch.chunks_exact_mut(padded.plane())) {
        padded.lay(from.plane(image, c), to);
    }
    scratch
}

impl Sizes {
    fn new(x: &Input, c_out: usize, window: &Window, groups: usize) -> Self {
        let [images, c_in, height, width] = x.dims;
        Self {
            images,
            groups,
            ins: c_in / groups,
            outs: c_out / groups,
            taps: window.kernel.iter().product(),
            pixels_in: height * width,
            pixels_out: window.output_size([height, width]).iter().product(),
        }
    }

    /// How an input of these sizes is read, `changed` on the way or not.
    fn forth(&self, x: &Input, window: &Window, changed: bool) -> Arc<Forward> {
        // Planes that lie apart are copied, and then it is all the same how far.
        let (stride, changed) = (x.stride().unwrap_or(0), changed || x.stride().is_none());
        Forward::reading(window, [x.dims[2], x.dims[3]], self.ins, stride, lanes(), changed)
    }

    /// Weights of all groups as `tiles::outputs` wants them.
    fn pack_forward(&self, w: &[f32]) -> Vec<f32> {
        let taps = self.ins * self.taps;
        w.chunks_exact(self.outs * taps).flat_map(|w| pack(self.outs, taps, |out, tap| w[out * taps + tap])).collect()
    }

    /// For each class the weights of all groups, inputs and outputs exchanged.
    fn pack_backward(&self, plan: &Backward, w: &[f32], kernel_width: usize) -> Vec<Vec<f32>> {
        let of_class = |class: &Class| {
            let taps = class.kernel.len();
            let of_group = |w: &[f32]| {
                pack(self.ins, self.outs * taps, |i, k| {
                    let [ky, kx] = class.kernel[k % taps];
                    w[(k / taps * self.ins + i) * self.taps + ky * kernel_width + kx]
                })
            };
            w.chunks_exact(self.outs * self.ins * self.taps).flat_map(of_group).collect()
        };
        plan.classes.iter().map(of_class).collect()
    }

    /// Some images with all their groups, or, of a small batch, some groups of one image. The more images share a chunk, the
    /// fewer copies of the weights' gradient there are to add up.
    fn share(&self, weight_gradient: bool) -> Share {
        if self.images >= CHUNKS {
            let images = if weight_gradient { self.images.div_ceil(CHUNKS) } else { 1 };
            return Share { images, groups: self.groups };
        }
        let wanted = (self.groups * self.images).div_ceil(CHUNKS);
        let groups = (1..=wanted).rev().find(|groups| self.groups.is_multiple_of(*groups));
        Share { images: 1, groups: groups.unwrap_or(1) }
    }
}

impl Share {
    fn start(&self, sizes: &Sizes, index: usize) -> Start {
        let blocks = sizes.groups / self.groups;
        Start { image: index / blocks * self.images, group: index % blocks * self.groups }
    }
}
