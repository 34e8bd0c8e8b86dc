//! Operations pixel by pixel or plane by plane on the CPU: ReLU, weighted sums, channel moves.
//!
//! Takes and gives CPU tensors; each pass reads its inputs once and writes its outputs once.
#![allow(clippy::needless_lifetimes, reason = "the macro that vectorises a function needs the name")]
use std::ops::Range;

use burn::backend::flex::FlexTensor;
use macerator::{Simd, Vector};

use super::{
    buffer::{Part, View, fill_all, fill_planes, into_tensor, planes_of_chunk, readable, vector},
    simd::{map, splat, sums, update},
};

/// `max(x, 0)`, NaN stays NaN.
pub fn relu(x: FlexTensor) -> FlexTensor {
    let x = readable(x);
    let x = View::new(&x);
    let [y] = fill_planes(x.dims, [x.pixels()], x.pixels(), |planes, [out]| relu_of(x, planes, out));
    into_tensor(y, x.dims)
}

/// `g` where the output of [`relu`] is above zero or NaN.
pub fn relu_grad(y: FlexTensor, g: FlexTensor) -> FlexTensor {
    let (y, g) = (readable(y), readable(g));
    let (y, g) = (View::new(&y), View::new(&g));
    let [dx] = fill_planes(y.dims, [y.pixels()], y.pixels(), |planes, [out]| relu_grad_of(y, g, planes, out));
    into_tensor(dx, y.dims)
}

/// `sum_k weights[indices[k]] * xs[k]`.
pub fn mix(weights: FlexTensor, indices: &[usize], xs: Vec<FlexTensor>) -> FlexTensor {
    let weights = vector(&weights);
    let weights: Vec<f32> = indices.iter().map(|&index| weights[index]).collect();
    let xs: Vec<FlexTensor> = xs.into_iter().map(readable).collect();
    let xs: Vec<View> = xs.iter().map(View::new).collect();
    let dims = xs[0].dims;
    let work = xs.len() * xs[0].pixels();
    let [y] = fill_planes(dims, [xs[0].pixels()], work, |planes, [out]| mix_of(&xs, &weights, planes, out));
    into_tensor(y, dims)
}

/// Gradients of [`mix`]: of the weights if wanted (else `xs` is not read), and of the inputs wanted.
pub fn mix_grads(
    weights: FlexTensor,
    indices: &[usize],
    xs: &[FlexTensor],
    g: FlexTensor,
    wanted_weights: bool,
    wanted_xs: &[bool],
) -> (Option<FlexTensor>, Vec<Option<FlexTensor>>) {
    let count = weights.layout().num_elements();
    let weights = vector(&weights);
    let g = readable(g);
    let g = View::new(&g);
    let xs: Vec<FlexTensor> = if wanted_weights { xs.iter().cloned().map(readable).collect() } else { Vec::new() };
    let xs: Vec<View> = xs.iter().map(View::new).collect();
    // One buffer for the products of all inputs with g, then one for each gradient.
    let factors: Vec<f32> =
        indices.iter().zip(wanted_xs).filter(|(_, wanted)| **wanted).map(|(&index, _)| weights[index]).collect();
    let [n, c, ..] = g.dims;
    let planes = planes_of_chunk(g.dims);
    let products = Part { len: n * c * xs.len().max(1), chunk: planes * xs.len().max(1) };
    let gradient = Part { len: n * c * g.pixels(), chunk: planes * g.pixels() };
    let mut parts = vec![products];
    parts.extend(factors.iter().map(|_| gradient));
    let work = planes * g.pixels() * (xs.len() + factors.len());
    let filled = fill_all(
        &parts,
        work,
        || (),
        |(), chunk, cuts| {
            let range = chunk * planes..(n * c).min((chunk + 1) * planes);
            mix_grads_of(&xs, &factors, g, range, cuts);
        },
    );
    let mut filled = filled.into_iter();
    let products = filled.next().expect("the first part is the products");
    let weights = wanted_weights.then(|| {
        let mut sums = vec![0.0f64; count];
        for products in products.chunks_exact(indices.len()) {
            indices.iter().zip(products).for_each(|(&index, &product)| sums[index] += f64::from(product));
        }
        into_tensor(sums.into_iter().map(|sum| sum as f32).collect(), [count])
    });
    let mut gradients = filled.map(|values| into_tensor(values, g.dims));
    (weights, wanted_xs.iter().map(|wanted| if *wanted { gradients.next() } else { None }).collect())
}

/// Channel `g * C/groups + c` moves to `c * groups + g`.
pub fn shuffle(x: FlexTensor, groups: usize) -> FlexTensor {
    let x = readable(x);
    let x = View::new(&x);
    let [_, c, ..] = x.dims;
    let from = |channel: usize| channel % groups * (c / groups) + channel / groups;
    let [y] = fill_planes(x.dims, [x.pixels()], x.pixels() / 4, |planes, [out]| {
        for (plane, out) in planes.zip(out.chunks_exact_mut(x.pixels())) {
            out.copy_from_slice(x.plane(plane / c, from(plane % c)));
        }
    });
    into_tensor(y, x.dims)
}

/// The channels of all inputs one after the other.
pub fn join_channels(xs: Vec<FlexTensor>) -> FlexTensor {
    let xs: Vec<FlexTensor> = xs.into_iter().map(readable).collect();
    let xs: Vec<View> = xs.iter().map(View::new).collect();
    let owners: Vec<(View, usize)> = xs.iter().flat_map(|x| (0..x.dims[1]).map(move |c| (*x, c))).collect();
    let [n, _, h, w] = xs[0].dims;
    let dims = [n, owners.len(), h, w];
    let [y] = fill_planes(dims, [h * w], h * w / 4, |planes, [out]| {
        for (plane, out) in planes.zip(out.chunks_exact_mut(h * w)) {
            let (x, channel) = owners[plane % owners.len()];
            out.copy_from_slice(x.plane(plane / owners.len(), channel));
        }
    });
    into_tensor(y, dims)
}

/// `g` as the channels from `start` of an otherwise zero tensor of `channels` channels.
pub fn place_channels(g: FlexTensor, start: usize, channels: usize) -> FlexTensor {
    let g = readable(g);
    let g = View::new(&g);
    let [n, c, h, w] = g.dims;
    let dims = [n, channels, h, w];
    let [y] = fill_planes(dims, [h * w], h * w / 4, |planes, [out]| {
        for (plane, out) in planes.zip(out.chunks_exact_mut(h * w)) {
            match (plane % channels).checked_sub(start) {
                Some(channel) if channel < c => out.copy_from_slice(g.plane(plane / channels, channel)),
                _ => out.fill(0.0),
            }
        }
    });
    into_tensor(y, dims)
}

#[macerator::with_simd]
fn relu_of<'a, S: Simd>(x: View<'a>, planes: Range<usize>, out: &mut [f32]) {
    let zero = splat::<S>(0.0);
    for ((_, plane), out) in x.walk(planes).zip(out.chunks_exact_mut(x.pixels())) {
        map([plane], out, |[x]: [Vector<S, f32>; 1]| x.le(zero).select(zero, x));
    }
}

#[macerator::with_simd]
fn relu_grad_of<'a, S: Simd>(y: View<'a>, g: View<'a>, planes: Range<usize>, out: &mut [f32]) {
    let zero = splat::<S>(0.0);
    let out = out.chunks_exact_mut(y.pixels());
    for (((_, y), (_, g)), out) in y.walk(planes.clone()).zip(g.walk(planes)).zip(out) {
        map([y, g], out, |[y, g]: [Vector<S, f32>; 2]| y.le(zero).select(zero, g));
    }
}

#[macerator::with_simd]
fn mix_of<'a, S: Simd>(xs: &[View<'a>], weights: &[f32], planes: Range<usize>, out: &mut [f32]) {
    for (([image, channel], _), out) in xs[0].walk(planes).zip(out.chunks_exact_mut(xs[0].pixels())) {
        let (fours, rest) = xs.as_chunks::<4>();
        let (weights_of_fours, weights_of_rest) = weights.as_chunks::<4>();
        let mut first = true;
        for (xs, weights) in fours.iter().zip(weights_of_fours) {
            let [a, b, c, d] = weights.map(splat::<S>);
            let planes = xs.each_ref().map(|x| x.plane(image, channel));
            let sum = |[xa, xb, xc, xd]: [Vector<S, f32>; 4]| a.mul_add(xa, b * xb) + c.mul_add(xc, d * xd);
            match first {
                true => map(planes, out, sum),
                false => update(planes, out, |xs, y| y + sum(xs)),
            }
            first = false;
        }
        for (x, &weight) in rest.iter().zip(weights_of_rest) {
            let weight = splat::<S>(weight);
            let planes = [x.plane(image, channel)];
            match first {
                true => map(planes, out, |[x]: [Vector<S, f32>; 1]| weight * x),
                false => update(planes, out, |[x]: [Vector<S, f32>; 1], y| weight.mul_add(x, y)),
            }
            first = false;
        }
    }
}

/// Writes the products of each plane of g with each input, and each gradient.
#[allow(clippy::needless_lifetimes, reason = "with_simd needs every lifetime named")]
#[macerator::with_simd]
fn mix_grads_of<'a, 'b, S: Simd>(
    xs: &[View<'a>],
    factors: &[f32],
    g: View<'a>,
    planes: Range<usize>,
    cuts: &mut [&'b mut [f32]],
) {
    let Some((products, gradients)) = cuts.split_first_mut() else {
        return;
    };
    for (i, ([image, channel], of_g)) in g.walk(planes).enumerate() {
        for (k, x) in xs.iter().enumerate() {
            [products[i * xs.len() + k]] = sums::<S, 2, 1>([of_g, x.plane(image, channel)], |[g, x]| [g * x]);
        }
        for (gradient, &factor) in gradients.iter_mut().zip(factors) {
            let factor = splat::<S>(factor);
            let out = &mut gradient[i * of_g.len()..(i + 1) * of_g.len()];
            map([of_g], out, |[g]: [Vector<S, f32>; 1]| factor * g);
        }
    }
}
