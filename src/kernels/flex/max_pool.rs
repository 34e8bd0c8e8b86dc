//! Maximum pools on the CPU.
//!
//! Takes and gives CPU tensors. Planes are copied once with their padding, then read tap by tap at any stride and dilation, as
//! a depthwise convolution would. Which tap was the maximum is kept as one byte a pixel; the gradient compares it with the tap
//! under which each pixel lies.
#![allow(
    clippy::needless_range_loop,
    reason = "iterators are closures, and those would not be inlined into the vectorised function"
)]
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
        geometry::{Backward, Class, Forward},
        padded::{place, scratch},
        positions::Position,
    },
    memory::Floats,
    simd::{MAX_LANES, lanes, load_unchecked, splat, store, store_partial},
};

/// Room for one thread of [`backward`]: padded gradients and taps, the taps of a plane as floats, a class before it is spread.
struct Scratch {
    gradients: Floats,
    taps: Floats,
    plane: Floats,
    spread: Floats,
}

/// The largest value over the taps, NaN above all, and in the bits of `first` the first tap that has it.
struct Maxima<S: Simd, const V: usize> {
    largest: [Vector<S, f32>; V],
    first: [Vector<S, f32>; V],
}

/// Whether the number of a tap fits a byte.
pub fn suits(window: &Window) -> bool {
    window.kernel.iter().product::<usize>() <= 256
}

/// The output and, if asked for, the number of the tap that was the maximum, one byte a pixel, planes padded to whole floats.
pub fn forward(x: FlexTensor, window: Window, with_argmax: bool) -> (FlexTensor, Option<FlexTensor>) {
    let x = readable(x);
    let x = View::new(&x);
    let plan = Forward::new(&window, [x.dims[2], x.dims[3]], 1, x.plane, lanes());
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
        || (scratch(plan.padded, 1, f32::NEG_INFINITY), Floats::filled(pixels, 0.0)),
        |(scratch, taps), chunk, [out, argmax]| {
            let range = chunk * planes..(n * c).min((chunk + 1) * planes);
            let argmax: &mut [u8] = bytemuck::cast_slice_mut(argmax);
            maxima_of(&plan, x, range, scratch, taps, out, with_argmax.then_some(argmax));
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

/// Gives each gradient to the pixel that was the maximum; `shape` is the input's.
pub fn backward(shape: [usize; 4], argmax: FlexTensor, g: FlexTensor, window: Window) -> FlexTensor {
    let g = readable(g);
    let g = View::new(&g);
    let [n, c, h, w] = shape;
    let argmax = &argmax.storage::<u8>()[argmax.layout().start_offset()..];
    let plan = Backward::new(&window, [h, w], 1, g.pixels(), lanes());
    let planes = planes_of_chunk(shape);
    let part = Part { len: n * c * h * w, chunk: planes * h * w };
    let [dx] = fill(
        [part],
        part.chunk * window.kernel.iter().product::<usize>(),
        || Scratch {
            gradients: scratch(plan.padded, 1, 0.0),
            // Padding is no output: no tap has its number.
            taps: scratch(plan.padded, 1, -1.0),
            plane: Floats::filled(g.pixels() + MAX_LANES, -1.0),
            spread: Floats::filled(plan.largest_scatter(), 0.0),
        },
        |scratch, chunk, [out]| {
            let range = chunk * planes..(n * c).min((chunk + 1) * planes);
            max_grads_of(&plan, g, range, argmax, window.kernel[1], scratch, out);
        },
    );
    into_tensor(dx, shape)
}

/// Bytes a plane of the argmax takes.
fn bytes_of_plane(pixels: usize) -> usize {
    pixels.next_multiple_of(4)
}

/// `taps` has room for the taps of one plane.
#[macerator::with_simd]
fn maxima_of<'a, S: Simd>(
    plan: &Forward,
    x: View<'a>,
    planes: Range<usize>,
    scratch: &mut [f32],
    taps: &mut [f32],
    out: &mut [f32],
    mut argmax: Option<&'a mut [u8]>,
) {
    let pixels = taps.len();
    let bytes = bytes_of_plane(pixels);
    for ((i, (_, plane)), out) in x.walk(planes).enumerate().zip(out.chunks_exact_mut(pixels)) {
        maxima_of_plane::<S>(plan, place(plan.padded, plane, scratch), out, taps);
        if let Some(argmax) = &mut argmax {
            let argmax = &mut argmax[i * bytes..(i + 1) * bytes];
            argmax.iter_mut().zip(&*taps).for_each(|(to, tap)| *to = tap.to_bits() as u8);
        }
    }
}

#[inline(always)]
fn maxima_of_plane<S: Simd>(plan: &Forward, source: &[f32], out: &mut [f32], taps: &mut [f32]) {
    let offsets = plan.taps.offsets();
    let fits = plan.positions.fit_source(&plan.taps, source.len(), f32::lanes::<S>());
    assert!(fits, "the source covers every position and tap");
    let (fours, rest) = plan.positions.wide().as_chunks::<4>();
    for positions in fours {
        // SAFETY: every position plus every offset plus a vector lies in the source, by the assertion.
        let Maxima { largest, first } = unsafe { maxima::<S, 4>(source, positions, offsets) };
        for v in 0..4 {
            store(out, positions[v].target, largest[v]);
            store(taps, positions[v].target, first[v]);
        }
    }
    for &position in rest {
        // SAFETY: as above.
        let Maxima { largest: [largest], first: [first] } = unsafe { maxima::<S, 1>(source, &[position], offsets) };
        store(out, position.target, largest);
        store(taps, position.target, first);
    }
    for &position in plan.positions.short() {
        // SAFETY: as above.
        let Maxima { largest: [largest], first: [first] } = unsafe { maxima::<S, 1>(source, &[position], offsets) };
        let row = position.target..position.target + plan.positions.short_width();
        store_partial(&mut out[row.clone()], largest);
        store_partial(&mut taps[row], first);
    }
}

/// [`Maxima`] of several positions at once, because each waits for its own last comparison.
///
/// # Safety
/// Every position plus every offset plus a vector lies in `source`.
#[inline(always)]
unsafe fn maxima<S: Simd, const V: usize>(
    source: &[f32],
    positions: &[Position; V],
    offsets: &[usize],
) -> Maxima<S, V> {
    let mut largest = [splat::<S>(f32::NEG_INFINITY); V];
    let mut first = [splat::<S>(0.0); V];
    for (tap, &offset) in (0u32..).zip(offsets) {
        let tap = splat::<S>(f32::from_bits(tap));
        for v in 0..V {
            // SAFETY: by the contract of this function.
            let value = unsafe { load_unchecked::<S>(source, positions[v].source + offset) };
            first[v] = takes(value, largest[v]).select(tap, first[v]);
            largest[v] = takes(value, largest[v]).select(value, largest[v]);
        }
    }
    Maxima { largest, first }
}

/// Where `value` replaces the largest so far.
#[inline(always)]
fn takes<S: Simd>(value: Vector<S, f32>, largest: Vector<S, f32>) -> Mask<S, f32> {
    value.gt(largest) | value.ne(value)
}

#[macerator::with_simd]
fn max_grads_of<'a, S: Simd>(
    plan: &Backward,
    g: View<'a>,
    planes: Range<usize>,
    argmax: &[u8],
    kernel_width: usize,
    scratch: &mut Scratch,
    out: &mut [f32],
) {
    let bytes = bytes_of_plane(g.pixels());
    let pixels = out.len() / planes.len();
    let argmax = argmax[planes.start * bytes..].chunks_exact(bytes);
    for (((_, plane), argmax), out) in g.walk(planes).zip(argmax).zip(out.chunks_exact_mut(pixels)) {
        scratch.plane.iter_mut().zip(&argmax[..g.pixels()]).for_each(|(to, &tap)| *to = f32::from(tap));
        let gradients = place(plan.padded, plane, &mut scratch.gradients);
        let taps = place(plan.padded, &scratch.plane, &mut scratch.taps);
        if !plan.complete {
            out.fill(0.0);
        }
        for class in &plan.classes {
            match class.scatter {
                None => max_grads_of_class::<S>(class, gradients, taps, kernel_width, out),
                Some(scatter) => {
                    let dense = &mut scratch.spread[..scatter.rows * scatter.columns];
                    max_grads_of_class::<S>(class, gradients, taps, kernel_width, dense);
                    scatter.spread(dense, out);
                }
            }
        }
    }
}

#[inline(always)]
fn max_grads_of_class<S: Simd>(class: &Class, gradients: &[f32], taps: &[f32], kernel_width: usize, out: &mut [f32]) {
    let source = gradients.len().min(taps.len());
    let fits = class.positions.fit_source(&class.taps, source, f32::lanes::<S>());
    assert!(fits, "the gradients and taps cover every position");
    let numbers = class.kernel.iter().map(|[ky, kx]| (ky * kernel_width + kx) as f32);
    let reads = || numbers.clone().zip(class.taps.offsets());
    for &position in class.positions.wide() {
        let mut sum = splat::<S>(0.0);
        for (number, &offset) in reads() {
            // SAFETY: by the assertion.
            sum += unsafe { received::<S>(gradients, taps, position.source + offset, number) };
        }
        store(out, position.target, sum);
    }
    for &position in class.positions.short() {
        let mut sum = splat::<S>(0.0);
        for (number, &offset) in reads() {
            // SAFETY: by the assertion.
            sum += unsafe { received::<S>(gradients, taps, position.source + offset, number) };
        }
        let out = &mut out[position.target..position.target + class.positions.short_width()];
        store_partial(out, sum);
    }
}

/// The gradients at `at` of those outputs whose maximum was tap `number`, zero for the others.
///
/// # Safety
/// A vector at `at` lies in both slices.
#[inline(always)]
unsafe fn received<S: Simd>(gradients: &[f32], taps: &[f32], at: usize, number: f32) -> Vector<S, f32> {
    // SAFETY: by the contract of this function.
    let (gradients, taps) = unsafe { (load_unchecked::<S>(gradients, at), load_unchecked::<S>(taps, at)) };
    taps.eq(splat::<S>(number)).select(gradients, splat::<S>(0.0))
}
