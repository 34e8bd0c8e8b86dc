//! Convolution on the CPU: any kernel, stride, padding, dilation and number of groups, forward and backward.
//!
//! Takes and gives CPU tensors. There is no im2col: planes are read in place, or copied once with their padding to a scratch
//! that stays in cache, and `tiles` walks over them at the positions and offsets `geometry` has worked out. Depthwise
//! convolutions are those with one plane a group, pointwise ones those with one tap a plane.
#![allow(
    clippy::too_many_arguments,
    reason = "the slices of a vectorised loop are arguments: a struct of borrows would only move the list"
)]
mod columns;
pub mod geometry;
mod tiles;

use burn::backend::flex::FlexTensor;
use macerator::Simd;

use super::{
    super::Window,
    buffer::{Part, View, fill, into_tensor, readable, sum_rows, vector},
    memory::Floats,
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

/// What the backward pass of one convolution works with.
struct Job<'a> {
    sizes: Sizes,
    x: View<'a>,
    g: View<'a>,
    back: Backward,
    /// The weights of each class, if the gradient of x is wanted.
    packed: Option<Vec<Vec<f32>>>,
    /// How the gradient of the weights reads x, unless it reads the padded gradient instead.
    forth: Option<Forward>,
    wanted_w: bool,
    kernel_width: usize,
}

/// Room for one thread: padded planes, a class before it is spread, weight gradients of a group.
struct Scratch {
    g: Floats,
    x: Floats,
    spread: Floats,
    sums: Floats,
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
    let back = Backward::new(&window, size, sizes.outs, g.plane, lanes);
    let shared = sizes.ins == 1 && back.classes.iter().any(|class| class.columns.is_some());
    let forth = (wanted_w && !shared).then(|| Forward::new(&window, size, sizes.ins, x.plane, lanes));
    let packed = wanted_x.then(|| sizes.pack_backward(&back, &vector(&w), window.kernel[1]));
    let job = Job { sizes, x, g, back, packed, forth, wanted_w, kernel_width: window.kernel[1] };

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
    let macs = share.images * share.groups * sizes.outs * sizes.pixels_out * sizes.ins * sizes.taps;
    let [dx, dw] = fill(
        parts,
        macs.div_ceil(4),
        || job.scratch(),
        |scratch, index, [dx, dw]| {
            let start = share.start(&sizes, index);
            dw.fill(0.0);
            for i in 0..share.images.min(sizes.images - start.image) {
                let at = Start { image: start.image + i, ..start };
                let dx = if wanted_x { &mut dx[i * ins..(i + 1) * ins] } else { &mut [] };
                backward_chunk(&job, at, share.groups, scratch, dx, dw);
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
        outputs::<S>(plan, source, packed, bias, out, sizes.pixels_out);
    }
}

/// `groups` groups of one image: writes `dx` if there are packed weights for it, adds to `dw` if it is wanted.
#[macerator::with_simd]
fn backward_chunk<'a, S: Simd>(
    job: &Job<'a>,
    at: Start,
    groups: usize,
    scratch: &mut Scratch,
    dx: &mut [f32],
    dw: &mut [f32],
) {
    let Job { sizes, x, g, back, .. } = job;
    let (inputs_of_group, weights) = (sizes.ins * sizes.pixels_in, sizes.outs * sizes.ins * sizes.taps);
    for i in 0..groups {
        let group = at.group + i;
        let [from_x, from_g] = [[at.image, group * sizes.ins], [at.image, group * sizes.outs]];
        if job.packed.is_some() || job.forth.is_none() {
            let source = source(back.padded, *g, from_g, sizes.outs, &mut scratch.g);
            if let Some(packed) = &job.packed {
                let dx = &mut dx[i * inputs_of_group..(i + 1) * inputs_of_group];
                let packed = packed.iter().zip(&back.classes).map(|(packed, class)| {
                    let block = sizes.ins * class.taps.offsets().len();
                    &packed[group * block..(group + 1) * block]
                });
                inputs::<S>(back, source, packed, &mut scratch.spread, dx, sizes.pixels_in);
            }
            let class = back.classes.first();
            let columns = class.and_then(|class| class.columns.as_ref().map(|columns| (columns, &class.kernel)));
            if let (true, None, Some((columns, kernel))) = (job.wanted_w, &job.forth, columns) {
                // The padded gradient under the plane of x, instead of a padded plane of x under the gradient.
                scratch.sums.fill(0.0);
                columns::weights::<S>(columns, source, x.plane(at.image, group), &mut scratch.sums);
                let dw = dw[i * weights..(i + 1) * weights].chunks_exact_mut(sizes.taps);
                for (dw, sums) in dw.zip(scratch.sums.chunks_exact(sizes.taps)) {
                    for ([ky, kx], sum) in kernel.iter().zip(sums) {
                        dw[ky * job.kernel_width + kx] += sum;
                    }
                }
            }
        }
        if let Some(forth) = &job.forth {
            let source = source(forth.padded, *x, from_x, sizes.ins, &mut scratch.x);
            let gradient = g.planes(at.image, group * sizes.outs, sizes.outs);
            let dw = &mut dw[i * weights..(i + 1) * weights];
            tiles::weights::<S>(source, &forth.taps, &forth.positions, gradient, g.plane, dw);
        }
    }
}

/// Planes of outputs, `plane` apart, from the source as the plan wants it.
#[inline(always)]
pub fn outputs<S: Simd>(
    plan: &Forward,
    source: &[f32],
    packed: &[f32],
    bias: Option<&[f32]>,
    out: &mut [f32],
    plane: usize,
) {
    match &plan.columns {
        Some(columns) if out.len() == plane => {
            columns::outputs::<S>(columns, source, packed, bias.map_or(0.0, |bias| bias[0]), out);
        }
        _ => tiles::outputs::<S>(source, &plan.taps, &plan.positions, packed, bias, out, plane),
    }
}

/// Planes of the input's gradient, `plane` apart, from the output's gradient as the plan wants it and the packed weights of
/// each class.
#[inline(always)]
pub fn inputs<'a, S: Simd>(
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
            (None, Some(columns)) if dx.len() == plane => columns::outputs::<S>(columns, source, packed, 0.0, dx),
            (None, _) => tiles::outputs::<S>(source, taps, positions, packed, None, dx, plane),
            (Some(scatter), _) => {
                let pixels = scatter.rows * scatter.columns;
                let dense = &mut spread[..dx.len() / plane * pixels];
                tiles::outputs::<S>(source, taps, positions, packed, None, dense, pixels);
                for (dense, dx) in dense.chunks_exact(pixels).zip(dx.chunks_exact_mut(plane)) {
                    scatter.spread(dense, dx);
                }
            }
        }
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

impl Job<'_> {
    fn scratch(&self) -> Scratch {
        let Sizes { ins, outs, taps, .. } = self.sizes;
        Scratch {
            g: scratch(self.back.padded, outs),
            x: scratch(self.forth.as_ref().and_then(|forth| forth.padded), ins),
            spread: Floats::filled(ins * self.back.largest_scatter(), 0.0),
            sums: Floats::filled(outs * taps, 0.0),
        }
    }
}

/// Zeroed room for `planes` padded planes, and for the last vector to read past their end.
fn scratch(padded: Option<Padded>, planes: usize) -> Floats {
    Floats::filled(padded.map_or(0, |padded| planes * padded.plane() + MAX_LANES), 0.0)
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
