//! Sums of a gradient times source planes: what the gradients of normalisations and of the weights of sums are made of.
//!
//! Takes a gradient, as a tensor or as a [`Combination`] that is written out on the way, and for each channel the planes it is
//! multiplied with; gives [`Products`].
use std::sync::Arc;

use burn::backend::flex::FlexTensor;
use macerator::{Simd, Vector};

use super::{
    buffer::{View, column_sums, fill_planes, into_tensor},
    combine::Combination,
    memory::Floats,
    simd::{splat, sums, sums_ahead},
};

/// A source plane that a gradient is multiplied with: the sum over images and pixels of `g * (x - center)`.
#[derive(Clone, Copy, Debug)]
pub struct Factor {
    /// Which source.
    pub source: usize,
    /// Its channel.
    pub channel: usize,
    /// Subtracted from each of its pixels; the mean, so that no digits are lost.
    pub center: f32,
}

/// Sums of products by image.
#[derive(Debug)]
pub struct Products {
    values: Floats,
    /// Over all images.
    totals: Vec<f64>,
    images: usize,
    /// Sums of a channel, and of an image.
    of_channel: usize,
    of_image: usize,
}

/// For each channel of `g` the sum of its pixels and its products with the planes named for it.
pub fn products(g: &FlexTensor, sources: &[FlexTensor], factors: &[Vec<Factor>]) -> Products {
    let g = View::new(g);
    let views: Vec<View> = sources.iter().map(View::new).collect();
    let width = width(factors, g.dims[1]);
    let work = width * g.pixels();
    let [values] = fill_planes(g.dims, [width], work, |planes, [out]| {
        products_of(&views, factors, g.walk(planes), out, width);
    });
    Products::new(values, g.dims, width)
}

/// [`Combination::tensor`] and the [`products`] of what it gives, taken while it is in the cache.
pub fn tensor_and_products(g: &Combination, sources: &[FlexTensor], factors: &[Vec<Factor>]) -> (FlexTensor, Products) {
    if let Some(g) = g.as_tensor() {
        return (g.clone(), products(g, sources, factors));
    }
    let dims = g.dims();
    let [_, channels, h, w] = dims;
    let (planes, pixels) = (g.planes(), h * w);
    let views: Vec<View> = sources.iter().map(View::new).collect();
    let width = width(factors, channels);
    let [values, sums] = fill_planes(dims, [pixels, width], g.work() + width * pixels, |range, [out, sums]| {
        planes.write_range(range.clone(), out);
        let written = range.zip(out.chunks_exact(pixels)).map(|(i, g)| ([i / channels, i % channels], g));
        products_of(&views, factors, written, sums, width);
    });
    (into_tensor(values, dims), Products::new(sums, dims, width))
}

/// Floats that the products of a channel take: all channels get those of the longest, so that planes can be shared out evenly.
fn width(factors: &[Vec<Factor>], channels: usize) -> usize {
    assert_eq!(channels, factors.len(), "a list of factors a channel");
    1 + factors.iter().map(Vec::len).max().unwrap_or(0)
}

/// Products of planes of which the image and channel are given.
fn products_of<'a>(
    sources: &[View<'a>],
    factors: &[Vec<Factor>],
    g: impl Iterator<Item = ([usize; 2], &'a [f32])>,
    out: &mut [f32],
    width: usize,
) {
    for (([image, channel], g), out) in g.zip(out.chunks_exact_mut(width)) {
        products_of_plane(sources, &factors[channel], image, g, out);
    }
}

impl Products {
    fn new(values: Floats, [images, channels, ..]: [usize; 4], width: usize) -> Self {
        let of_image = channels * width;
        let totals = column_sums(&values, of_image);
        Self { values, totals, images, of_channel: width, of_image }
    }

    /// Sum `which` of a channel over all images, each times its factor: 0 is the sum of `g`, i + 1 the product with factor i.
    pub fn total(&self, channel: usize, which: usize, per_image: Option<&Arc<[f32]>>) -> f64 {
        let at = channel * self.of_channel + which;
        let of_image = |image: usize| f64::from(self.values[image * self.of_image + at]);
        match per_image {
            Some(factors) => (0..self.images).map(|image| of_image(image) * f64::from(factors[image])).sum(),
            None => self.totals[at],
        }
    }
}

#[macerator::with_simd]
fn products_of_plane<'a, S: Simd>(sources: &[View<'a>], factors: &[Factor], image: usize, g: &[f32], out: &mut [f32]) {
    let read = |factor: &Factor| sources[factor.source].plane(image, factor.channel);
    [out[0]] = sums::<S, 1, 1>([g], |[g]| [g]);
    let (threes, ones) = factors.as_chunks::<3>();
    let (out_of_threes, out_of_ones) = out[1..=factors.len()].split_at_mut(3 * threes.len());
    for (i, (three, out)) in threes.iter().zip(out_of_threes.chunks_exact_mut(3)).enumerate() {
        let [a, b, c] = three;
        // One by one: what maps an array of vectors is not inlined.
        let (ca, cb, cc) = (splat::<S>(a.center), splat::<S>(b.center), splat::<S>(c.center));
        let (a, b, c) = (read(a), read(b), read(c));
        let ahead = threes.get(i + 1).map_or([&[][..]; 3], |[a, b, c]| [read(a), read(b), read(c)]);
        let of_three = |[g, a, b, c]: [Vector<S, f32>; 4]| [g * (a - ca), g * (b - cb), g * (c - cc)];
        out.copy_from_slice(&sums_ahead::<S, 4, 3, 3>([g, a, b, c], ahead, of_three));
    }
    for (one, out) in ones.iter().zip(out_of_ones) {
        let center = splat::<S>(one.center);
        [*out] = sums::<S, 2, 1>([g, read(one)], |[g, x]| [g * (x - center)]);
    }
}
