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
    simd::{Ahead, MAX_LANES, fetch, groups_ahead, splat, sums, sums_ahead},
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
        let cursor = Cursor::before(&views, factors, planes.start);
        products_of(&views, factors, cursor, g.walk(planes), out, width);
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
        let cursor = Cursor::before(&views, factors, range.start);
        planes.write_range(range.clone(), out);
        let written = range.zip(out.chunks_exact(pixels)).map(|(i, g)| ([i / channels, i % channels], g));
        products_of(&views, factors, cursor, written, sums, width);
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
    mut cursor: Cursor,
    g: impl Iterator<Item = ([usize; 2], &'a [f32])>,
    out: &mut [f32],
    width: usize,
) {
    for (([image, channel], g), out) in g.zip(out.chunks_exact_mut(width)) {
        products_of_plane(sources, factors, [image, channel], &mut cursor, g, out);
    }
}

/// A group of factors of a channel of an image, some groups ahead of the one that is multiplied now: three, or one of those that
/// remain.
struct Cursor {
    image: usize,
    channel: usize,
    group: usize,
}

impl Cursor {
    /// Ahead of the first group of a plane, counted through images and channels. What lies between is asked for now.
    fn before(sources: &[View], factors: &[Vec<Factor>], plane: usize) -> Self {
        let mut cursor = Self { image: plane / factors.len(), channel: plane % factors.len(), group: 0 };
        for _ in 0..sources.first().map_or(0, |source| groups_ahead(source.pixels())) {
            let group = cursor.next(sources, factors);
            for at in (0..group[0].len()).step_by(MAX_LANES) {
                fetch(group, at);
            }
        }
        cursor
    }

    /// The planes of its group, which it leaves for the next one that there is; none behind the last image.
    #[inline(always)]
    fn next<'a>(&mut self, sources: &[View<'a>], factors: &[Vec<Factor>]) -> Ahead<'a, 3> {
        let mut planes = [&[][..]; 3];
        // Channels without factors are passed by.
        for _ in 0..=factors.len() {
            let (threes, ones) = factors[self.channel].as_chunks::<3>();
            let group = match threes.get(self.group) {
                Some(three) => &three[..],
                None => ones.get(self.group - threes.len()).map_or(&[][..], std::slice::from_ref),
            };
            if let Some(Factor { source, .. }) = group.first()
                && self.image < sources[*source].dims[0]
            {
                for (plane, factor) in planes.iter_mut().zip(group) {
                    *plane = sources[factor.source].plane(self.image, factor.channel);
                }
                self.group += 1;
                break;
            }
            (self.group, self.channel) = (0, self.channel + 1);
            if self.channel == factors.len() {
                (self.channel, self.image) = (0, self.image + 1);
            }
        }
        planes
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
fn products_of_plane<'a, S: Simd>(
    sources: &[View<'a>],
    factors: &[Vec<Factor>],
    place: [usize; 2],
    cursor: &mut Cursor,
    g: &[f32],
    out: &mut [f32],
) {
    let [image, channel] = place;
    let all = factors;
    let factors = &factors[channel];
    let read = |factor: &Factor| sources[factor.source].plane(image, factor.channel);
    [out[0]] = sums::<S, 1, 1>([g], |[g]| [g]);
    let (threes, ones) = factors.as_chunks::<3>();
    let (out_of_threes, out_of_ones) = out[1..=factors.len()].split_at_mut(3 * threes.len());
    for (three, out) in threes.iter().zip(out_of_threes.chunks_exact_mut(3)) {
        let [a, b, c] = three;
        // One by one: what maps an array of vectors is not inlined.
        let (ca, cb, cc) = (splat::<S>(a.center), splat::<S>(b.center), splat::<S>(c.center));
        let (a, b, c) = (read(a), read(b), read(c));
        let ahead = cursor.next(sources, all);
        let of_three = |[g, a, b, c]: [Vector<S, f32>; 4]| [g * (a - ca), g * (b - cb), g * (c - cc)];
        out.copy_from_slice(&sums_ahead::<S, 4, 3, 3>([g, a, b, c], ahead, of_three));
    }
    for (one, out) in ones.iter().zip(out_of_ones) {
        let center = splat::<S>(one.center);
        let ahead = cursor.next(sources, all);
        [*out] = sums_ahead::<S, 2, 1, 3>([g, read(one)], ahead, |[g, x]| [g * (x - center)]);
    }
}
