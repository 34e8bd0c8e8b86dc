//! Convolution on the CPU: any kernel, stride, padding, dilation and number of groups, forward and backward.
//!
//! Takes and gives CPU tensors. There is no im2col: planes are read in place, or copied once with their padding to a scratch
//! that stays in cache, and `tiles` walks over them at the positions and offsets `geometry` has worked out. Depthwise
//! convolutions are those with one plane a group, pointwise ones those with one tap a plane.
pub mod geometry;
pub mod tiles;

use burn::backend::flex::FlexTensor;
use macerator::Simd;

use super::{
    super::Window,
    buffer::{Part, View, fill, into_tensor, readable, sum_rows, vector},
    norm::channel_sums,
    simd::{MAX_LANES, lanes},
};
use geometry::{Backward, Class, Forward, Padded};
use tiles::pack;

/// Gradients of x, w and bias where wanted.
pub type Gradients = [Option<FlexTensor>; 3];

/// Chunks a batch is cut into at least, if there is enough of it: what keeps many cores busy.
const CHUNKS: usize = 32;

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

pub fn forward(x: FlexTensor, w: FlexTensor, bias: Option<FlexTensor>, window: Window, groups: usize) -> FlexTensor {
    let x = readable(x);
    let x = View::new(&x);
    let [c_out, ..] = w.layout().shape().dims::<4>();
    let sizes = Sizes::new(&x, c_out, &window, groups);
    let packed = sizes.pack_forward(&vector(&w));
    let bias = bias.map(|bias| vector(&bias));
    let plan = Forward::new(&window, [x.dims[2], x.dims[3]], sizes.ins, x.plane, lanes());
    let share = sizes.share(false);
    let chunk = share.groups * sizes.outs * sizes.pixels_out;
    let len = sizes.images * sizes.groups * sizes.outs * sizes.pixels_out;
    let work = chunk * (sizes.ins * sizes.taps).div_ceil(8);
    let [values] = fill(
        [Part { len, chunk }],
        work,
        || scratch(plan.padded, sizes.ins),
        |scratch, index, [out]| {
            forward_chunk(&plan, &sizes, x, share.start(&sizes, index), &packed, bias.as_deref(), scratch, out);
        },
    );
    let [oh, ow] = window.output_size([x.dims[2], x.dims[3]]);
    into_tensor(values, [sizes.images, c_out, oh, ow])
}

pub fn backward(
    x: FlexTensor,
    w: FlexTensor,
    g: FlexTensor,
    window: Window,
    groups: usize,
    [wanted_x, wanted_w, wanted_bias]: [bool; 3],
) -> Gradients {
    let (x, g) = (readable(x), readable(g));
    let (x, g) = (View::new(&x), View::new(&g));
    let w_dims = w.layout().shape().dims::<4>();
    let sizes = Sizes::new(&x, w_dims[0], &window, groups);
    let size = [x.dims[2], x.dims[3]];
    let lanes = lanes();

    let to_x = wanted_x.then(|| {
        let plan = Backward::new(&window, size, sizes.outs, g.plane, lanes);
        let packed = sizes.pack_backward(&plan, &vector(&w), window.kernel[1]);
        (plan, packed)
    });
    let to_w = wanted_w.then(|| Forward::new(&window, size, sizes.ins, x.plane, lanes));

    let share = sizes.share(wanted_w);
    let ins = share.groups * sizes.ins * sizes.pixels_in;
    let weights = share.groups * sizes.outs * sizes.ins * sizes.taps;
    let chunks = sizes.images.div_ceil(share.images) * (sizes.groups / share.groups);
    let part = |wanted: bool, chunk: usize, len: usize| match wanted {
        true => Part { len, chunk },
        // One float a chunk keeps the number of chunks; it is thrown away.
        false => Part { len: chunks, chunk: 1 },
    };
    let parts =
        [part(wanted_x, share.images * ins, x.dims.iter().product()), part(wanted_w, weights, chunks * weights)];
    let work = share.images * share.groups * (sizes.outs * sizes.pixels_out * sizes.ins * sizes.taps).div_ceil(4);
    let [dx, dw] = fill(
        parts,
        work,
        || {
            let padded_g = to_x.as_ref().and_then(|(plan, _)| plan.padded);
            let padded_x = to_w.as_ref().and_then(|plan| plan.padded);
            let spread = to_x.as_ref().map_or(0, |(plan, _)| sizes.ins * plan.largest_scatter());
            (scratch(padded_g, sizes.outs), scratch(padded_x, sizes.ins), vec![0.0; spread])
        },
        |(scratch_g, scratch_x, spread), index, [dx, dw]| {
            let start = share.start(&sizes, index);
            dw.fill(0.0);
            for i in 0..share.images.min(sizes.images - start.image) {
                let at = Start { image: start.image + i, ..start };
                if let Some((plan, packed)) = &to_x {
                    let dx = &mut dx[i * ins..(i + 1) * ins];
                    input_chunk(plan, &sizes, g, at, packed, scratch_g, spread, dx);
                }
                if let Some(plan) = &to_w {
                    weight_chunk(plan, &sizes, x, g, at, scratch_x, dw);
                }
            }
        },
    );
    let dw = wanted_w.then(|| {
        // Chunks come group by group within images: one image's chunks together are one copy of all weights.
        let all = sizes.groups * sizes.outs * sizes.ins * sizes.taps;
        into_tensor(sum_rows(&dw, all), w_dims)
    });
    [wanted_x.then(|| into_tensor(dx, x.dims)), dw, wanted_bias.then(|| into_tensor(channel_sums(g), [w_dims[0]]))]
}

#[macerator::with_simd]
fn forward_chunk<'a, S: Simd>(
    plan: &Forward,
    sizes: &Sizes,
    x: View<'a>,
    at: Start,
    packed: &[f32],
    bias: Option<&'a [f32]>,
    scratch: &mut [f32],
    out: &mut [f32],
) {
    let block = sizes.outs * sizes.ins * sizes.taps;
    for (group, out) in (at.group..).zip(out.chunks_exact_mut(sizes.outs * sizes.pixels_out)) {
        let source = source(plan.padded, x, [at.image, group * sizes.ins], sizes.ins, scratch);
        let packed = &packed[group * block..(group + 1) * block];
        let bias = bias.map(|bias| &bias[group * sizes.outs..(group + 1) * sizes.outs]);
        tiles::outputs::<S>(source, &plan.taps, &plan.positions, packed, bias, out, sizes.pixels_out);
    }
}

/// `packed` has the weights of each class.
#[macerator::with_simd]
fn input_chunk<'a, S: Simd>(
    plan: &Backward,
    sizes: &Sizes,
    g: View<'a>,
    at: Start,
    packed: &[Vec<f32>],
    scratch: &mut [f32],
    spread: &mut [f32],
    dx: &mut [f32],
) {
    for (group, dx) in (at.group..).zip(dx.chunks_exact_mut(sizes.ins * sizes.pixels_in)) {
        let source = source(plan.padded, g, [at.image, group * sizes.outs], sizes.outs, scratch);
        if !plan.complete {
            dx.fill(0.0);
        }
        for (class, packed) in plan.classes.iter().zip(packed) {
            let block = sizes.ins * class.taps.offsets().len();
            let packed = &packed[group * block..(group + 1) * block];
            let Some(scatter) = class.scatter else {
                tiles::outputs::<S>(source, &class.taps, &class.positions, packed, None, dx, sizes.pixels_in);
                continue;
            };
            let pixels = scatter.rows * scatter.columns;
            let dense = &mut spread[..sizes.ins * pixels];
            tiles::outputs::<S>(source, &class.taps, &class.positions, packed, None, dense, pixels);
            for (dense, dx) in dense.chunks_exact(pixels).zip(dx.chunks_exact_mut(sizes.pixels_in)) {
                scatter.spread(dense, dx);
            }
        }
    }
}

/// Adds to `dw`.
#[macerator::with_simd]
fn weight_chunk<'a, S: Simd>(
    plan: &Forward,
    sizes: &Sizes,
    x: View<'a>,
    g: View<'a>,
    at: Start,
    scratch: &mut [f32],
    dw: &mut [f32],
) {
    for (group, dw) in (at.group..).zip(dw.chunks_exact_mut(sizes.outs * sizes.ins * sizes.taps)) {
        let source = source(plan.padded, x, [at.image, group * sizes.ins], sizes.ins, scratch);
        let gradient = g.planes(at.image, group * sizes.outs, sizes.outs);
        tiles::weights::<S>(source, &plan.taps, &plan.positions, gradient, g.plane, dw);
    }
}

/// `count` planes from `channel` of `image`: in place, or copied to their padded layout.
#[inline(always)]
fn source<'a>(
    padded: Option<Padded>,
    from: View<'a>,
    [image, channel]: [usize; 2],
    count: usize,
    scratch: &'a mut [f32],
) -> &'a [f32] {
    let Some(padded) = padded else {
        return from.planes(image, channel, count);
    };
    for (c, to) in (channel..channel + count).zip(scratch.chunks_exact_mut(padded.plane())) {
        padded.copy(from.plane(image, c), to, |v| v);
    }
    scratch
}

/// Zeroed room for `planes` padded planes, and for the last vector to read past their end.
fn scratch(padded: Option<Padded>, planes: usize) -> Vec<f32> {
    vec![0.0; padded.map_or(0, |padded| planes * padded.plane() + MAX_LANES)]
}

impl Sizes {
    fn new(x: &View, c_out: usize, window: &Window, groups: usize) -> Self {
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
