//! Batch normalisation on the CPU: statistics in one pass over the input, the output in another, and the same backward.
//!
//! Takes and gives CPU tensors. The sums of each plane are taken in f32 vectors, then merged over images in f64 and in order.
//! The variance is summed around each plane's own mean, so that data far from zero keep their digits.
use std::ops::Range;

use burn::backend::flex::FlexTensor;
use macerator::{Simd, Vector};

use super::{
    buffer::{View, fill_planes, into_tensor, readable, vector},
    memory::Floats,
    simd::{map, splat, sums},
};

/// What one channel's plane becomes: `x * factor + offset`.
#[derive(Clone, Copy)]
struct Line {
    factor: f32,
    offset: f32,
}

/// What the gradient of one channel's plane becomes: `g * factor + (x - center) * slope + offset`.
#[derive(Clone, Copy)]
struct Slope {
    factor: f32,
    center: f32,
    slope: f32,
    offset: f32,
}

/// Output, mean and biased variance; `affine` is scale and bias.
pub fn forward(x: FlexTensor, affine: Option<[FlexTensor; 2]>, eps: f32) -> [FlexTensor; 3] {
    let x = readable(x);
    let x = View::new(&x);
    let [n, c, ..] = x.dims;
    let pixels = x.pixels();
    let statistics = statistics(&moments(x), [n, c], pixels);
    let affine = affine.map(|affine| affine.each_ref().map(vector));
    let (mut mean, mut var, mut lines) = (Vec::with_capacity(c), Vec::with_capacity(c), Vec::with_capacity(c));
    for (channel, [center, variance]) in statistics.into_iter().enumerate() {
        let [scale, offset] = affine.as_ref().map_or([1.0, 0.0], |[scale, bias]| [scale[channel], bias[channel]]);
        let factor = scale * inverse_deviation(variance, eps);
        mean.push(center);
        var.push(variance);
        // One scale and shift, rounded as PyTorch rounds it: where two outputs almost tie, a max pool behind must choose the
        // same one.
        lines.push(Line { factor, offset: offset - center * factor });
    }
    let [y] = fill_planes(x.dims, [pixels], pixels, |planes, [out]| lines_of(x, planes, &lines, out));
    [into_tensor(y, x.dims), into_tensor(mean.into_iter().collect(), [c]), into_tensor(var.into_iter().collect(), [c])]
}

/// Gradients of x, scale and bias.
pub fn backward(
    x: FlexTensor,
    scale: FlexTensor,
    mean: FlexTensor,
    var: FlexTensor,
    eps: f32,
    g: FlexTensor,
) -> [FlexTensor; 3] {
    let (x, g) = (readable(x), readable(g));
    let (x, g) = (View::new(&x), View::new(&g));
    let [n, c, ..] = x.dims;
    let pixels = x.pixels();
    let [scale, mean, var] = [scale, mean, var].map(|v| vector(&v));
    let [products] = fill_planes(x.dims, [2], 2 * pixels, |planes, [out]| products_of(x, g, planes, &mean, out));
    let (mut d_scale, mut d_bias, mut slopes) = (Vec::with_capacity(c), Vec::with_capacity(c), Vec::with_capacity(c));
    for channel in 0..c {
        let sum = |i: usize| (0..n).map(|image| f64::from(products[(image * c + channel) * 2 + i])).sum::<f64>();
        let [sum_g, sum_gx] = [sum(0), sum(1)];
        let inverse = f64::from(inverse_deviation(var[channel], eps));
        let count = (n * pixels) as f64;
        let factor = f64::from(scale[channel]) * inverse;
        d_scale.push((sum_gx * inverse) as f32);
        d_bias.push(sum_g as f32);
        slopes.push(Slope {
            factor: factor as f32,
            center: mean[channel],
            slope: (-factor * inverse * inverse * sum_gx / count) as f32,
            offset: (-factor * sum_g / count) as f32,
        });
    }
    let [dx] = fill_planes(x.dims, [pixels], pixels, |planes, [out]| slopes_of(x, g, planes, &slopes, out));
    [
        into_tensor(dx, x.dims),
        into_tensor(d_scale.into_iter().collect(), [c]),
        into_tensor(d_bias.into_iter().collect(), [c]),
    ]
}

/// `x * scale + shift`, per channel.
pub fn scale_and_shift(x: FlexTensor, scale: FlexTensor, shift: FlexTensor) -> FlexTensor {
    let x = readable(x);
    let x = View::new(&x);
    let line = |(factor, offset)| Line { factor, offset };
    let lines: Vec<Line> = vector(&scale).into_iter().zip(vector(&shift)).map(line).collect();
    let [y] = fill_planes(x.dims, [x.pixels()], x.pixels(), |planes, [out]| lines_of(x, planes, &lines, out));
    into_tensor(y, x.dims)
}

/// Gradients of x, scale and shift of [`scale_and_shift`], where wanted.
pub fn scale_and_shift_grads(
    x: FlexTensor,
    scale: FlexTensor,
    g: FlexTensor,
    [wanted_x, wanted_scale, wanted_shift]: [bool; 3],
) -> [Option<FlexTensor>; 3] {
    let (x, g) = (readable(x), readable(g));
    let (x, g) = (View::new(&x), View::new(&g));
    let [n, c, ..] = x.dims;
    let dx = wanted_x.then(|| {
        let line = |factor| Line { factor, offset: 0.0 };
        let lines: Vec<Line> = vector(&scale).into_iter().map(line).collect();
        let [dx] = fill_planes(g.dims, [g.pixels()], g.pixels(), |planes, [out]| lines_of(g, planes, &lines, out));
        into_tensor(dx, g.dims)
    });
    let d_scale = wanted_scale.then(|| {
        let zeros = vec![0.0; c];
        let [products] =
            fill_planes(x.dims, [2], 2 * x.pixels(), |planes, [out]| products_of(x, g, planes, &zeros, out));
        let sum = |channel| (0..n).map(|image| f64::from(products[(image * c + channel) * 2 + 1])).sum::<f64>() as f32;
        into_tensor((0..c).map(sum).collect(), [c])
    });
    [dx, d_scale, wanted_shift.then(|| into_tensor(channel_sums(g), [c]))]
}

/// Per channel the sum of `g`.
pub fn channel_sums(g: View) -> Floats {
    let [n, c, ..] = g.dims;
    let [of_planes] = fill_planes(g.dims, [1], g.pixels(), |planes, [out]| sums_of(g, planes, out));
    let sum = |channel| (0..n).map(|image| f64::from(of_planes[image * c + channel])).sum::<f64>() as f32;
    (0..c).map(sum).collect()
}

/// One over the standard deviation.
pub fn inverse_deviation(var: f32, eps: f32) -> f32 {
    (1.0 / (f64::from(var) + f64::from(eps)).sqrt()) as f32
}

/// Mean of each plane, and the sum of squares around it.
#[macerator::with_simd]
fn moments_of<'a, S: Simd>(x: View<'a>, planes: Range<usize>, out: &mut [f32]) {
    for ((_, plane), out) in x.walk(planes).zip(out.chunks_exact_mut(2)) {
        out.copy_from_slice(&moments_of_plane::<S>(plane));
    }
}

/// Mean and sum of squared distances from it, of planes one after the other.
#[macerator::with_simd]
pub fn moments_of_planes<S: Simd>(planes: &[f32], pixels: usize, out: &mut [f32]) {
    for (plane, out) in planes.chunks_exact(pixels).zip(out.chunks_exact_mut(2)) {
        out.copy_from_slice(&moments_of_plane::<S>(plane));
    }
}

/// Mean of a plane, and the sum of squares around it.
#[inline(always)]
fn moments_of_plane<S: Simd>(plane: &[f32]) -> [f32; 2] {
    let [sum] = sums::<S, 1, 1>([plane], |[x]| [x]);
    let mean = sum / plane.len() as f32;
    let center = splat::<S>(mean);
    let [spread] = sums::<S, 1, 1>([plane], |[x]| {
        let distance = x - center;
        [distance * distance]
    });
    [mean, spread]
}

/// Mean of every plane and the sum of squares around it, `[N, C, 2]`.
pub fn plane_moments(x: &FlexTensor) -> Floats {
    moments(View::new(x))
}

/// [`plane_moments`] of a view.
fn moments(x: View) -> Floats {
    let [moments] = fill_planes(x.dims, [2], 2 * x.pixels(), |planes, [out]| moments_of(x, planes, out));
    moments
}

/// Mean and biased variance of each channel over the batch, from the moments of `n` images of `c` planes.
pub fn statistics(moments: &[f32], [n, c]: [usize; 2], pixels: usize) -> Vec<[f32; 2]> {
    // Image by image, as they lie in memory.
    let mut centers = vec![0.0; c];
    for moments in moments.chunks_exact(2 * c) {
        let of_channels = moments.as_chunks::<2>().0;
        centers.iter_mut().zip(of_channels).for_each(|(sum, moments)| *sum += f64::from(moments[0]));
    }
    centers.iter_mut().for_each(|center| *center /= n as f64);
    let mut spreads = vec![0.0; c];
    for moments in moments.chunks_exact(2 * c) {
        let of_channels = centers.iter().zip(moments.as_chunks::<2>().0);
        for (sum, (center, &[of_plane, around_it])) in spreads.iter_mut().zip(of_channels) {
            *sum += f64::from(around_it) + pixels as f64 * (f64::from(of_plane) - center).powi(2);
        }
    }
    let count = (n * pixels) as f64;
    centers.into_iter().zip(spreads).map(|(center, spread)| [center as f32, (spread / count) as f32]).collect()
}

/// Of each plane the sum of `g` and that of `g * (x - center)`.
#[macerator::with_simd]
fn products_of<'a, S: Simd>(x: View<'a>, g: View<'a>, planes: Range<usize>, centers: &[f32], out: &mut [f32]) {
    let planes = x.walk(planes.clone()).zip(g.walk(planes));
    for ((([_, channel], x), (_, g)), out) in planes.zip(out.chunks_exact_mut(2)) {
        let center = splat::<S>(centers[channel]);
        out.copy_from_slice(&sums::<S, 2, 2>([x, g], |[x, g]| [g, g * (x - center)]));
    }
}

#[macerator::with_simd]
fn sums_of<'a, S: Simd>(g: View<'a>, planes: Range<usize>, out: &mut [f32]) {
    for ((_, plane), out) in g.walk(planes).zip(out) {
        [*out] = sums::<S, 1, 1>([plane], |[g]| [g]);
    }
}

#[macerator::with_simd]
fn lines_of<'a, S: Simd>(x: View<'a>, planes: Range<usize>, lines: &[Line], out: &mut [f32]) {
    for (([_, channel], plane), out) in x.walk(planes).zip(out.chunks_exact_mut(x.pixels())) {
        let line = lines[channel];
        let [factor, offset] = [line.factor, line.offset].map(splat::<S>);
        map([plane], out, |[x]: [Vector<S, f32>; 1]| x.mul_add(factor, offset));
    }
}

#[macerator::with_simd]
fn slopes_of<'a, S: Simd>(x: View<'a>, g: View<'a>, planes: Range<usize>, slopes: &[Slope], out: &mut [f32]) {
    let out = out.chunks_exact_mut(x.pixels());
    for ((([_, channel], x), (_, g)), out) in x.walk(planes.clone()).zip(g.walk(planes)).zip(out) {
        let of_channel = slopes[channel];
        let [factor, center] = [of_channel.factor, of_channel.center].map(splat::<S>);
        let [slope, offset] = [of_channel.slope, of_channel.offset].map(splat::<S>);
        map([x, g], out, |[x, g]: [Vector<S, f32>; 2]| g.mul_add(factor, (x - center).mul_add(slope, offset)));
    }
}
