//! Maximum and average pools on the CPU.
//!
//! Takes and gives CPU tensors. Planes are copied once with their padding, then read tap by tap at any stride and dilation, as
//! a depthwise convolution would. Which tap was the maximum is kept as one byte a pixel.
#![allow(clippy::needless_range_loop)] // as in `conv::tiles`: loops that count are inlined, closures need not be

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
        geometry::{Backward, Class, Forward, Padded, Position},
    },
    memory::Floats,
    simd::{MAX_LANES, lanes, load_unchecked, map, splat, store, store_partial},
};

/// Room for one thread of [`max_grad`]: padded gradients and taps, the taps of a plane as floats, a class before it is spread.
struct MaxScratch {
    gradients: Floats,
    taps: Floats,
    plane: Floats,
    spread: Floats,
}

/// The output and, if asked for, the number of the tap that was the maximum, one byte a pixel, planes padded to whole floats.
pub fn max(x: FlexTensor, window: Window, with_argmax: bool) -> (FlexTensor, Option<FlexTensor>) {
    assert!(
        window.kernel.iter().product::<usize>() <= 256,
        "max pool: a window of more than 256 pixels"
    );
    let x = readable(x);
    let x = View::new(&x);
    let plan = plan(&window, &x);
    let [n, c, ..] = x.dims;
    let [oh, ow] = window.output_size([x.dims[2], x.dims[3]]);
    let pixels = oh * ow;
    let planes = planes_of_chunk(x.dims);
    let bytes = if with_argmax {
        bytes_of_plane(pixels)
    } else {
        4
    };
    let parts = [pixels, bytes / 4].map(|floats| Part {
        len: n * c * floats,
        chunk: planes * floats,
    });
    let work = planes * pixels * window.kernel.iter().product::<usize>();
    let [y, argmax] = fill(
        parts,
        work,
        || {
            (
                scratch(plan.padded, f32::NEG_INFINITY),
                Floats::filled(pixels, 0.0),
            )
        },
        |(scratch, taps), chunk, [out, argmax]| {
            let range = chunk * planes..(n * c).min((chunk + 1) * planes);
            let argmax: &mut [u8] = bytemuck::cast_slice_mut(argmax);
            maxima_of(
                &plan,
                x,
                range,
                scratch,
                taps,
                out,
                with_argmax.then_some(argmax),
            );
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
pub fn max_grad(
    shape: [usize; 4],
    argmax: FlexTensor,
    g: FlexTensor,
    window: Window,
) -> FlexTensor {
    let g = readable(g);
    let g = View::new(&g);
    let [n, c, h, w] = shape;
    let argmax = &argmax.storage::<u8>()[argmax.layout().start_offset()..];
    let plan = Backward::new(&window, [h, w], 1, g.pixels(), lanes());
    let planes = planes_of_chunk(shape);
    let part = Part {
        len: n * c * h * w,
        chunk: planes * h * w,
    };
    let [dx] = fill(
        [part],
        part.chunk * window.kernel.iter().product::<usize>(),
        || MaxScratch {
            gradients: scratch(plan.padded, 0.0),
            // Padding is no output: no tap has its number.
            taps: scratch(plan.padded, -1.0),
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

/// Mean over the window, of the real pixels only or of all.
pub fn average(x: FlexTensor, window: Window, count_include_pad: bool) -> FlexTensor {
    let x = readable(x);
    let x = View::new(&x);
    let plan = plan(&window, &x);
    let [n, c, h, w] = x.dims;
    let [oh, ow] = window.output_size([h, w]);
    let reciprocals = window.reciprocal_counts([h, w], count_include_pad);
    let planes = planes_of_chunk(x.dims);
    let part = Part {
        len: n * c * oh * ow,
        chunk: planes * oh * ow,
    };
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
pub fn average_grad(
    shape: [usize; 4],
    g: FlexTensor,
    window: Window,
    count_include_pad: bool,
) -> FlexTensor {
    let g = readable(g);
    let g = View::new(&g);
    let [n, c, h, w] = shape;
    // Scaled gradients are copied to a plane of their own, so there is never anything to read in place.
    let plan = Backward::new(&window, [h, w], 1, g.pixels(), lanes());
    let reciprocals = window.reciprocal_counts([h, w], count_include_pad);
    let planes = planes_of_chunk(shape);
    let part = Part {
        len: n * c * h * w,
        chunk: planes * h * w,
    };
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
    Floats::filled(
        padded.map_or(0, |padded| padded.plane() + MAX_LANES),
        padding,
    )
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
        maxima_of_plane::<S>(plan, source(plan.padded, plane, scratch), out, taps);
        if let Some(argmax) = &mut argmax {
            let argmax = &mut argmax[i * bytes..(i + 1) * bytes];
            argmax
                .iter_mut()
                .zip(&*taps)
                .for_each(|(to, tap)| *to = tap.to_bits() as u8);
        }
    }
}

#[inline(always)]
fn maxima_of_plane<S: Simd>(plan: &Forward, source: &[f32], out: &mut [f32], taps: &mut [f32]) {
    let offsets = plan.taps.offsets();
    let fits = plan
        .positions
        .fit_source(&plan.taps, source.len(), f32::lanes::<S>());
    assert!(fits, "the source covers every position and tap");
    // SAFETY (of `maxima`): every position plus every offset plus a vector lies in the source, by the assertion.
    let (fours, rest) = plan.positions.wide().as_chunks::<4>();
    for positions in fours {
        let (largest, first) = unsafe { maxima::<S, 4>(source, positions, offsets) };
        for v in 0..4 {
            store(out, positions[v].target, largest[v]);
            store(taps, positions[v].target, first[v]);
        }
    }
    for &position in rest {
        let ([largest], [first]) = unsafe { maxima::<S, 1>(source, &[position], offsets) };
        store(out, position.target, largest);
        store(taps, position.target, first);
    }
    for &position in plan.positions.short() {
        let ([largest], [first]) = unsafe { maxima::<S, 1>(source, &[position], offsets) };
        let row = position.target..position.target + plan.positions.short_width();
        store_partial(&mut out[row.clone()], largest);
        store_partial(&mut taps[row], first);
    }
}

/// For each position the largest value over the taps and, in the bits of the second answer, the first tap that has it; NaN is
/// largest. Several positions at once, because each waits for its own last comparison.
///
/// # Safety
/// Every position plus every offset plus a vector lies in `source`.
#[inline(always)]
unsafe fn maxima<S: Simd, const V: usize>(
    source: &[f32],
    positions: &[Position; V],
    offsets: &[usize],
) -> ([Vector<S, f32>; V], [Vector<S, f32>; V]) {
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
    (largest, first)
}

/// Where `value` replaces the largest so far.
#[inline(always)]
fn takes<S: Simd>(value: Vector<S, f32>, largest: Vector<S, f32>) -> Mask<S, f32> {
    value.gt(largest) | value.ne(value)
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
    for ((_, plane), out) in x.walk(planes).zip(out.chunks_exact_mut(pixels)) {
        let source = source(plan.padded, plane, scratch);
        conv::outputs::<S>(plan, source, &ones, None, sums, pixels);
        map(
            [&*sums, reciprocals],
            out,
            |[sum, reciprocal]: [Vector<S, f32>; 2]| sum * reciprocal,
        );
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
    let ones = vec![
        1.0;
        plan.classes
            .iter()
            .map(|class| class.taps.offsets().len())
            .max()
            .unwrap_or(0)
    ];
    for ((_, plane), out) in g.walk(planes).zip(out.chunks_exact_mut(pixels)) {
        map(
            [plane, reciprocals],
            scaled,
            |[g, reciprocal]: [Vector<S, f32>; 2]| g * reciprocal,
        );
        let source = source(plan.padded, scaled, scratch);
        let weights = plan
            .classes
            .iter()
            .map(|class| &ones[..class.taps.offsets().len()]);
        conv::inputs::<S>(plan, source, weights, spread, out, pixels);
    }
}

#[macerator::with_simd]
fn max_grads_of<'a, S: Simd>(
    plan: &Backward,
    g: View<'a>,
    planes: Range<usize>,
    argmax: &[u8],
    kernel_width: usize,
    scratch: &mut MaxScratch,
    out: &mut [f32],
) {
    let bytes = bytes_of_plane(g.pixels());
    let pixels = out.len() / planes.len();
    let argmax = argmax[planes.start * bytes..].chunks_exact(bytes);
    for (((_, plane), argmax), out) in g.walk(planes).zip(argmax).zip(out.chunks_exact_mut(pixels))
    {
        scratch
            .plane
            .iter_mut()
            .zip(&argmax[..g.pixels()])
            .for_each(|(to, &tap)| *to = f32::from(tap));
        let gradients = source(plan.padded, plane, &mut scratch.gradients);
        let taps = source(plan.padded, &scratch.plane, &mut scratch.taps);
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
fn max_grads_of_class<S: Simd>(
    class: &Class,
    gradients: &[f32],
    taps: &[f32],
    kernel_width: usize,
    out: &mut [f32],
) {
    let source = gradients.len().min(taps.len());
    let fits = class
        .positions
        .fit_source(&class.taps, source, f32::lanes::<S>());
    assert!(fits, "the gradients and taps cover every position");
    let numbers = class
        .kernel
        .iter()
        .map(|[ky, kx]| (ky * kernel_width + kx) as f32);
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
unsafe fn received<S: Simd>(
    gradients: &[f32],
    taps: &[f32],
    at: usize,
    number: f32,
) -> Vector<S, f32> {
    // SAFETY: by the contract of this function.
    let (gradients, taps) = unsafe {
        (
            load_unchecked::<S>(gradients, at),
            load_unchecked::<S>(taps, at),
        )
    };
    taps.eq(splat::<S>(number))
        .select(gradients, splat::<S>(0.0))
}
