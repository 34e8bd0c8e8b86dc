//! Maximum and average pools on the CPU.
//!
//! Takes and gives CPU tensors. Planes are copied once with their padding, then read tap by tap at any stride and dilation, as
//! a depthwise convolution would. Which tap was the maximum is kept as one byte a pixel.
#![allow(
    clippy::too_many_arguments,
    reason = "the slices of a vectorised loop are arguments: a struct of borrows would only move the list"
)]
use std::ops::Range;

use burn::{
    backend::{
        DType,
        flex::{FlexTensor, Layout},
    },
    tensor::Shape,
};
use macerator::{Mask, Scalar, Simd, Vector};

use super::{
    super::Window,
    buffer::{Part, View, fill, into_tensor, planes_of_chunk, readable},
    conv::{
        self,
        geometry::{Backward, Forward, Padded, Position},
    },
    memory::Floats,
    simd::{MAX_LANES, lanes, load_unchecked, map, splat, store, store_partial},
};

/// The output and, if asked for, the number of the tap that was the maximum, one byte a pixel, planes padded to whole floats.
pub fn max(x: FlexTensor, window: Window, with_argmax: bool) -> (FlexTensor, Option<FlexTensor>) {
    assert!(window.kernel.iter().product::<usize>() <= 256, "max pool: a window of more than 256 pixels");
    let x = readable(x);
    let x = View::new(&x);
    let plan = plan(&window, &x);
    let [n, c, ..] = x.dims;
    let [oh, ow] = window.output_size([x.dims[2], x.dims[3]]);
    let pixels = oh * ow;
    let planes = planes_of_chunk(x.dims);
    let bytes = if with_argmax { bytes_of_plane(pixels) } else { 4 };
    let parts = [pixels, bytes / 4].map(|floats| Part { len: n * c * floats, chunk: planes * floats });
    let work = planes * pixels * window.kernel.iter().product::<usize>();
    let [y, argmax] = fill(
        parts,
        work,
        || scratch(plan.padded, f32::NEG_INFINITY),
        |scratch, chunk, [out, argmax]| {
            let range = chunk * planes..(n * c).min((chunk + 1) * planes);
            let argmax: &mut [u8] = bytemuck::cast_slice_mut(argmax);
            maxima_of(&plan, x, range, scratch, out, with_argmax.then_some(argmax), pixels);
        },
    );
    let argmax = match with_argmax {
        true => {
            let layout = Layout::contiguous(Shape::new([n, c, bytes]));
            Some(FlexTensor::new(argmax.into_bytes(), layout, DType::U8))
        }
        false => None,
    };
    (into_tensor(y, [n, c, oh, ow]), argmax)
}

/// Adds each gradient to the pixel that was the maximum; `shape` is the input's.
pub fn max_grad(shape: [usize; 4], argmax: FlexTensor, g: FlexTensor, window: Window) -> FlexTensor {
    let g = readable(g);
    let g = View::new(&g);
    let [n, c, h, w] = shape;
    let argmax = &argmax.storage::<u8>()[argmax.layout().start_offset()..];
    let bytes = bytes_of_plane(g.pixels());
    // Gradients are added up in the padded plane; what falls on padding is dropped.
    let [ph, pw] = window.padding;
    let row = w + 2 * pw;
    let offsets: Vec<usize> = (0..window.kernel[0] * window.kernel[1])
        .map(|k| k / window.kernel[1] * window.dilation[0] * row + k % window.kernel[1] * window.dilation[1])
        .collect();
    let planes = planes_of_chunk(shape);
    let part = Part { len: n * c * h * w, chunk: planes * h * w };
    let [dx] = fill(
        [part],
        4 * part.chunk,
        || vec![0.0; (h + 2 * ph) * row],
        |scratch: &mut Vec<f32>, chunk, [out]| {
            for (plane, out) in (chunk * planes..).zip(out.chunks_exact_mut(h * w)) {
                scratch.fill(0.0);
                let argmax = &argmax[plane * bytes..];
                let rows = g.nth_plane(plane).chunks_exact(g.dims[3]).zip(argmax.chunks_exact(g.dims[3]));
                for (y, (g, argmax)) in rows.enumerate() {
                    let scratch = &mut scratch[y * window.stride[0] * row..];
                    for (x, (&g, &tap)) in g.iter().zip(argmax).enumerate() {
                        scratch[x * window.stride[1] + offsets[usize::from(tap)]] += g;
                    }
                }
                for (out, scratch) in out.chunks_exact_mut(w).zip(scratch.chunks_exact(row).skip(ph)) {
                    out.copy_from_slice(&scratch[pw..pw + w]);
                }
            }
        },
    );
    into_tensor(dx, shape)
}

/// Mean over the window, of the real pixels only or of all.
pub fn average(x: FlexTensor, window: Window, count_include_pad: bool) -> FlexTensor {
    let x = readable(x);
    let x = View::new(&x);
    let plan = plan(&window, &x);
    let [n, c, h, w] = x.dims;
    let [oh, ow] = window.output_size([h, w]);
    let reciprocals = window.reciprocal_counts([h, w], count_include_pad);
    let planes = planes_of_chunk(x.dims);
    let part = Part { len: n * c * oh * ow, chunk: planes * oh * ow };
    let work = part.chunk * window.kernel.iter().product::<usize>();
    let [y] = fill(
        [part],
        work,
        || (scratch(plan.padded, 0.0), vec![0.0; oh * ow]),
        |(scratch, sums), chunk, [out]| {
            let range = chunk * planes..(n * c).min((chunk + 1) * planes);
            averages_of(&plan, x, range, &reciprocals, scratch, sums, out);
        },
    );
    into_tensor(y, [n, c, oh, ow])
}

/// Gradient of [`average`]; `shape` is the input's.
pub fn average_grad(shape: [usize; 4], g: FlexTensor, window: Window, count_include_pad: bool) -> FlexTensor {
    let g = readable(g);
    let g = View::new(&g);
    let [n, c, h, w] = shape;
    // Scaled gradients are copied to a plane of their own, so there is never anything to read in place.
    let plan = Backward::new(&window, [h, w], 1, g.pixels(), lanes());
    let reciprocals = window.reciprocal_counts([h, w], count_include_pad);
    let planes = planes_of_chunk(shape);
    let part = Part { len: n * c * h * w, chunk: planes * h * w };
    let work = part.chunk * window.kernel.iter().product::<usize>();
    let [dx] = fill(
        [part],
        work,
        || {
            let spread = vec![0.0; plan.largest_scatter()];
            (scratch(plan.padded, 0.0), vec![0.0; g.pixels()], spread)
        },
        |(scratch, scaled, spread), chunk, [out]| {
            let range = chunk * planes..(n * c).min((chunk + 1) * planes);
            average_grads_of(&plan, g, range, &reciprocals, scratch, scaled, spread, out);
        },
    );
    into_tensor(dx, shape)
}

fn plan(window: &Window, x: &View) -> Forward {
    Forward::new(window, [x.dims[2], x.dims[3]], 1, x.plane, lanes())
}

fn scratch(padded: Option<Padded>, padding: f32) -> Floats {
    Floats::filled(padded.map_or(0, |padded| padded.plane() + MAX_LANES), padding)
}

/// Bytes a plane of the argmax takes.
fn bytes_of_plane(pixels: usize) -> usize {
    pixels.next_multiple_of(4)
}

/// The plane as the plan wants to read it.
#[inline(always)]
fn source<'a>(padded: Option<Padded>, plane: &'a [f32], scratch: &'a mut [f32]) -> &'a [f32] {
    match padded {
        Some(padded) => {
            padded.copy(plane, scratch, |v| v);
            scratch
        }
        None => plane,
    }
}

#[macerator::with_simd]
fn maxima_of<'a, S: Simd>(
    plan: &Forward,
    x: View<'a>,
    planes: Range<usize>,
    scratch: &mut [f32],
    out: &mut [f32],
    mut argmax: Option<&'a mut [u8]>,
    pixels: usize,
) {
    let offsets = plan.taps.offsets();
    let bytes = bytes_of_plane(pixels);
    for ((i, plane), out) in planes.enumerate().zip(out.chunks_exact_mut(pixels)) {
        let source = source(plan.padded, x.nth_plane(plane), scratch);
        assert!(plan.positions.fit_source(&plan.taps, source.len(), f32::lanes::<S>()), "the source covers every tap");
        for &position in plan.positions.wide() {
            // SAFETY: every position plus every offset plus a vector lies in the source, by the assertion.
            let (largest, tap) = unsafe { maximum::<S>(source, position, offsets) };
            store(out, position.target, largest);
            if let Some(argmax) = &mut argmax {
                let to = i * bytes + position.target;
                store_bytes(&mut argmax[to..to + f32::lanes::<S>()], tap);
            }
        }
        for &position in plan.positions.short() {
            let width = plan.positions.short_width();
            // SAFETY: as above.
            let (largest, tap) = unsafe { maximum::<S>(source, position, offsets) };
            store_partial(&mut out[position.target..position.target + width], largest);
            if let Some(argmax) = &mut argmax {
                let to = i * bytes + position.target;
                store_bytes(&mut argmax[to..to + width], tap);
            }
        }
    }
}

/// The largest value over the taps and, in the bits of the second vector, the first tap that has it; NaN is largest.
///
/// # Safety
/// The position plus every offset plus a vector lies in `source`.
#[inline(always)]
unsafe fn maximum<S: Simd>(source: &[f32], position: Position, offsets: &[usize]) -> (Vector<S, f32>, Vector<S, f32>) {
    let mut largest = splat::<S>(f32::NEG_INFINITY);
    let mut first = splat::<S>(0.0);
    for (tap, &offset) in (0u32..).zip(offsets) {
        // SAFETY: by the contract of this function.
        let value = unsafe { load_unchecked::<S>(source, position.source + offset) };
        first = takes(value, largest).select(splat::<S>(f32::from_bits(tap)), first);
        largest = takes(value, largest).select(value, largest);
    }
    (largest, first)
}

/// Where `value` replaces the largest so far.
#[inline(always)]
fn takes<S: Simd>(value: Vector<S, f32>, largest: Vector<S, f32>) -> Mask<S, f32> {
    value.gt(largest) | value.ne(value)
}

#[inline(always)]
fn store_bytes<S: Simd>(to: &mut [u8], taps: Vector<S, f32>) {
    let mut whole = [0.0f32; MAX_LANES];
    store(&mut whole, 0, taps);
    to.iter_mut().zip(whole).for_each(|(to, tap)| *to = tap.to_bits() as u8);
}

#[macerator::with_simd]
fn averages_of<'a, S: Simd>(
    plan: &Forward,
    x: View<'a>,
    planes: Range<usize>,
    reciprocals: &[f32],
    scratch: &mut [f32],
    sums: &mut [f32],
    out: &mut [f32],
) {
    let ones = vec![1.0; plan.taps.offsets().len()];
    let pixels = reciprocals.len();
    for (plane, out) in planes.zip(out.chunks_exact_mut(pixels)) {
        let source = source(plan.padded, x.nth_plane(plane), scratch);
        conv::outputs::<S>(plan, source, &ones, None, sums, pixels);
        map([&*sums, reciprocals], out, |[sum, reciprocal]: [Vector<S, f32>; 2]| sum * reciprocal);
    }
}

#[macerator::with_simd]
fn average_grads_of<'a, S: Simd>(
    plan: &Backward,
    g: View<'a>,
    planes: Range<usize>,
    reciprocals: &[f32],
    scratch: &mut [f32],
    scaled: &mut [f32],
    spread: &mut [f32],
    out: &mut [f32],
) {
    let pixels = out.len() / planes.len();
    let ones = vec![1.0; plan.classes.iter().map(|class| class.taps.offsets().len()).max().unwrap_or(0)];
    for (plane, out) in planes.zip(out.chunks_exact_mut(pixels)) {
        let inputs = [g.nth_plane(plane), reciprocals];
        map(inputs, scaled, |[g, reciprocal]: [Vector<S, f32>; 2]| g * reciprocal);
        let source = source(plan.padded, scaled, scratch);
        let weights = plan.classes.iter().map(|class| &ones[..class.taps.offsets().len()]);
        conv::inputs::<S>(plan, source, weights, spread, out, pixels);
    }
}
