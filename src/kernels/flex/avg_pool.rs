//! Average pools on the CPU.
//!
//! Takes and gives CPU tensors. A plane is summed as a depthwise convolution by ones would do it, then scaled by the number of
//! pixels under each window; the gradient goes the same way back.
#![allow(
    clippy::too_many_arguments,
    reason = "the slices of a vectorised loop are arguments: a struct of borrows would only move the list"
)]
use std::{ops::Range, sync::Arc};

use burn::backend::flex::FlexTensor;
use macerator::{Simd, Vector};

use super::{
    super::Window,
    buffer::{Part, View, fill, into_tensor, planes_of_chunk, readable},
    conv::{
        self,
        geometry::{Backward, Forward},
        padded::{place, scratch},
    },
    kept::Kept,
    simd::{lanes, map},
};

/// Mean over the window, of the real pixels only or of all.
pub fn forward(x: FlexTensor, window: Window, count_include_pad: bool) -> FlexTensor {
    let x = readable(x);
    let x = View::new(&x);
    let plan = Forward::new(&window, [x.dims[2], x.dims[3]], 1, x.plane, lanes());
    let [n, c, h, w] = x.dims;
    let [oh, ow] = window.output_size([h, w]);
    let reciprocals = reciprocals(window, [h, w], count_include_pad);
    let planes = planes_of_chunk(x.dims);
    let part = Part { len: n * c * oh * ow, chunk: planes * oh * ow };
    let work = part.chunk * window.kernel.iter().product::<usize>();
    let [y] = fill(
        [part],
        work,
        || (scratch(plan.padded, 1, 0.0), vec![0.0; oh * ow]),
        |(scratch, sums), chunk, [out]| {
            let range = chunk * planes..(n * c).min((chunk + 1) * planes);
            averages_of(&plan, x, range, &reciprocals, scratch, sums, out);
        },
    );
    into_tensor(y, [n, c, oh, ow])
}

/// Gradient of [`forward`]; `shape` is the input's.
pub fn backward(shape: [usize; 4], g: FlexTensor, window: Window, count_include_pad: bool) -> FlexTensor {
    let g = readable(g);
    let g = View::new(&g);
    let [n, c, h, w] = shape;
    // Scaled gradients are copied to a plane of their own, so there is never anything to read in place.
    let plan = Backward::new(&window, [h, w], 1, g.pixels(), lanes());
    let reciprocals = reciprocals(window, [h, w], count_include_pad);
    let planes = planes_of_chunk(shape);
    let part = Part { len: n * c * h * w, chunk: planes * h * w };
    let work = part.chunk * window.kernel.iter().product::<usize>();
    let [dx] = fill(
        [part],
        work,
        || {
            let spread = vec![0.0; plan.largest_scatter()];
            (scratch(plan.padded, 1, 0.0), vec![0.0; g.pixels()], spread)
        },
        |(scratch, scaled, spread), chunk, [out]| {
            let range = chunk * planes..(n * c).min((chunk + 1) * planes);
            average_grads_of(&plan, g, range, &reciprocals, scratch, scaled, spread, out);
        },
    );
    into_tensor(dx, shape)
}

/// One over the number of pixels under the window, row by row of the output.
fn reciprocals(window: Window, size: [usize; 2], count_include_pad: bool) -> Arc<Vec<f32>> {
    static KEPT: Kept<(Window, [usize; 2], bool), Vec<f32>> = Kept::new();
    KEPT.get((window, size, count_include_pad), |_| window.reciprocal_counts(size, count_include_pad))
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
        let source = place(plan.padded, plane, scratch);
        conv::outputs(plan, source, &ones, None, sums, pixels);
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
    for ((_, plane), out) in g.walk(planes).zip(out.chunks_exact_mut(pixels)) {
        map([plane, reciprocals], scaled, |[g, reciprocal]: [Vector<S, f32>; 2]| g * reciprocal);
        let source = place(plan.padded, scaled, scratch);
        let weights = plan.classes.iter().map(|class| &ones[..class.taps.offsets().len()]);
        conv::inputs(plan, source, weights, spread, out, pixels);
    }
}
