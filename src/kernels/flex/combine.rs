//! Affine combinations of planes: what normalisations, weighted sums, concatenations, shuffles and slices of channels, and the
//! gradients of all of these, come to.
//!
//! Takes source tensors and, for each channel, the source planes with their factors; gives the channels written out, plane by
//! plane for a kernel that reads them, or as a tensor. Nothing is written that nobody reads as a whole. [`Products`] is the
//! way back: sums of a gradient times source planes.
#![allow(
    clippy::too_many_arguments,
    reason = "the slices of a vectorised loop are arguments: a struct of borrows would only move the list"
)]
use std::{ops::Range, sync::Arc};

use burn::backend::flex::FlexTensor;
use macerator::{Simd, Vector};

use super::{
    buffer::{View, fill_planes, into_tensor, readable},
    memory::Floats,
    simd::{Ahead, map_ahead, splat, sums, sums_ahead, update_ahead},
};

/// A tensor whose planes take part, with a factor for each image where it has one (drop path).
#[derive(Clone, Debug)]
pub struct Source {
    tensor: FlexTensor,
    per_image: Option<Arc<[f32]>>,
}

/// One plane of a source: `x * factor + offset`, both times the factor of the image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Term {
    /// Which source.
    pub source: usize,
    /// Its channel.
    pub channel: usize,
    /// What the plane is multiplied by.
    pub factor: f32,
    /// What is added to each pixel.
    pub offset: f32,
}

/// Channels of planes of one size, each an affine combination of source planes.
#[derive(Clone, Debug)]
pub struct Combination {
    /// Images, height and width.
    pub size: [usize; 3],
    /// What the terms name.
    pub sources: Vec<Source>,
    /// The terms of each channel, in order; without any it is zero.
    pub channels: Vec<Vec<Term>>,
}

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
    images: usize,
    /// Sums of a channel, and of an image.
    of_channel: usize,
    of_image: usize,
}

/// A [`Combination`] ready to be read.
pub struct Planes<'a> {
    terms: Vec<Ready<'a>>,
    /// Where the terms of each channel begin, and their end.
    starts: Vec<usize>,
}

/// A [`Term`] with the planes that it names.
#[derive(Clone, Copy)]
struct Ready<'a> {
    /// From the plane of the first image on.
    data: &'a [f32],
    /// From the plane of one image to that of the next.
    image: usize,
    factor: f32,
    offset: f32,
    per_image: Option<&'a [f32]>,
}

impl Source {
    /// All images alike.
    pub fn new(tensor: FlexTensor) -> Self {
        Self { tensor: readable(tensor), per_image: None }
    }

    /// Each image times its own factor.
    pub fn scaled(tensor: FlexTensor, per_image: Option<Arc<[f32]>>) -> Self {
        Self { tensor: readable(tensor), per_image }
    }

    /// The tensor.
    pub fn tensor(&self) -> &FlexTensor {
        &self.tensor
    }

    /// The factors of the images.
    pub fn per_image(&self) -> Option<&Arc<[f32]>> {
        self.per_image.as_ref()
    }
}

impl Combination {
    /// No terms at all: zeros.
    pub fn zeros(size: [usize; 3], channels: usize) -> Self {
        Self { size, sources: Vec::new(), channels: vec![Vec::new(); channels] }
    }

    /// The channels of the tensor as they are.
    pub fn whole(tensor: FlexTensor) -> Self {
        let [n, c, h, w] = tensor.layout().shape().dims();
        let channel = |channel| vec![Term { source: 0, channel, factor: 1.0, offset: 0.0 }];
        Self { size: [n, h, w], sources: vec![Source::new(tensor)], channels: (0..c).map(channel).collect() }
    }

    /// The tensor that this is, if it is the whole of one.
    pub fn as_tensor(&self) -> Option<&FlexTensor> {
        let [source] = self.sources.as_slice() else { return None };
        let [_, c, ..] = source.tensor.layout().shape().dims::<4>();
        let whole = |(i, terms): (usize, &Vec<Term>)| {
            terms.as_slice() == [Term { source: 0, channel: i, factor: 1.0, offset: 0.0 }]
        };
        let as_it_is = source.per_image.is_none() && c == self.channels.len();
        (as_it_is && self.channels.iter().enumerate().all(whole)).then_some(&source.tensor)
    }

    /// Adds `factor` times a channel of `source` plus `offset`, for each (channel, channel of the source, factor, offset).
    pub fn add(&mut self, source: Source, terms: impl IntoIterator<Item = (usize, usize, f32, f32)>) {
        let number = self.sources.len();
        for (to, channel, factor, offset) in terms {
            self.channels[to].push(Term { source: number, channel, factor, offset });
        }
        self.sources.push(source);
    }

    /// Adds the channels of another combination to those from `start` on.
    pub fn add_all(&mut self, other: &Combination, start: usize) {
        let first = self.sources.len();
        self.sources.extend(other.sources.iter().cloned());
        for (to, from) in self.channels[start..].iter_mut().zip(&other.channels) {
            to.extend(from.iter().map(|term| Term { source: term.source + first, ..*term }));
        }
    }

    /// The channels written out.
    pub fn tensor(&self) -> FlexTensor {
        if let Some(tensor) = self.as_tensor() {
            return tensor.clone();
        }
        let dims = self.dims();
        let planes = self.planes();
        let [y] = fill_planes(dims, [dims[2] * dims[3]], self.work(), |range, [out]| write(&planes, range, out));
        into_tensor(y, dims)
    }

    fn dims(&self) -> [usize; 4] {
        let [n, h, w] = self.size;
        [n, self.channels.len(), h, w]
    }

    /// Elementary steps of a plane.
    fn work(&self) -> usize {
        self.channels.iter().map(Vec::len).max().unwrap_or(0).max(1) * self.size[1] * self.size[2]
    }

    /// For reading plane by plane.
    pub fn planes(&self) -> Planes<'_> {
        let views: Vec<View> = self.sources.iter().map(|source| View::new(&source.tensor)).collect();
        let count = self.channels.iter().map(Vec::len).sum();
        let (mut terms, mut starts) = (Vec::with_capacity(count), Vec::with_capacity(self.channels.len() + 1));
        for channel in &self.channels {
            starts.push(terms.len());
            terms.extend(channel.iter().map(|&Term { source, channel, factor, offset }| {
                let (data, image) = views[source].channel(channel);
                Ready { data, image, factor, offset, per_image: self.sources[source].per_image.as_deref() }
            }));
        }
        starts.push(terms.len());
        Planes { terms, starts }
    }
}

impl<'p> Planes<'p> {
    /// Writes the planes of some channels of one image, `stride` apart.
    pub fn write(&self, image: usize, channels: Range<usize>, pixels: usize, stride: usize, out: &mut [f32]) {
        write_channels(self, image, channels, pixels, stride, out);
    }

    fn channels(&self) -> usize {
        self.starts.len() - 1
    }

    /// Writes the plane of one channel of one image; `next` is the one after it.
    #[inline(always)]
    fn plane<S: Simd>(&self, [image, channel]: [usize; 2], next: Option<[usize; 2]>, out: &mut [f32]) {
        let (first, fours) = self.groups(channel);
        let constant =
            splat::<S>(self.terms(channel).iter().map(|term| term.offset * term.of_image(image)).sum::<f32>());
        let pixels = out.len();
        let read = |term: &Ready<'p>| term.plane(image, pixels);
        let factor = |term: &Ready<'p>| splat::<S>(term.factor * term.of_image(image));
        let behind = match next {
            Some([image, channel]) => soon(self.groups(channel).0, image, pixels),
            None => [&[][..]; 4],
        };
        let ahead = |i: usize| fours.get(i).map_or(behind, |four| soon(four, image, pixels));
        let ahead_of_first = ahead(0);
        match first {
            [] => out.fill(0.0),
            [a] => {
                let fa = factor(a);
                map_ahead([read(a)], ahead_of_first, out, |[a]: [Vector<S, f32>; 1]| fa.mul_add(a, constant));
            }
            [a, b] => {
                let (fa, fb) = (factor(a), factor(b));
                map_ahead([read(a), read(b)], ahead_of_first, out, |[a, b]: [Vector<S, f32>; 2]| {
                    fb.mul_add(b, fa.mul_add(a, constant))
                });
            }
            [a, b, c] => {
                let (fa, fb, fc) = (factor(a), factor(b), factor(c));
                map_ahead([read(a), read(b), read(c)], ahead_of_first, out, |[a, b, c]: [Vector<S, f32>; 3]| {
                    fc.mul_add(c, fb.mul_add(b, fa.mul_add(a, constant)))
                });
            }
            [a, b, c, d, ..] => {
                let (fa, fb, fc, fd) = (factor(a), factor(b), factor(c), factor(d));
                let planes = [read(a), read(b), read(c), read(d)];
                map_ahead(planes, ahead_of_first, out, |[a, b, c, d]: [Vector<S, f32>; 4]| {
                    fb.mul_add(b, fa.mul_add(a, constant)) + fd.mul_add(d, fc * c)
                });
            }
        }
        for (i, four) in fours.iter().enumerate() {
            // One by one: what maps an array of vectors is not inlined.
            let [a, b, c, d] = four;
            let (fa, fb, fc, fd) = (factor(a), factor(b), factor(c), factor(d));
            let planes = [read(a), read(b), read(c), read(d)];
            update_ahead(planes, ahead(i + 1), out, |[a, b, c, d]: [Vector<S, f32>; 4], y| {
                y + (fb.mul_add(b, fa * a) + fd.mul_add(d, fc * c))
            });
        }
    }

    fn terms(&self, channel: usize) -> &[Ready<'p>] {
        &self.terms[self.starts[channel]..self.starts[channel + 1]]
    }

    /// The first few terms of a channel, so that what remains are fours.
    fn groups(&self, channel: usize) -> (&[Ready<'p>], &[[Ready<'p>; 4]]) {
        let terms = self.terms(channel);
        let (first, rest) = terms.split_at(terms.len().min((terms.len() + 3) % 4 + 1));
        (first, rest.as_chunks().0)
    }
}

/// The planes of up to four terms; nothing where there are fewer.
#[inline(always)]
fn soon<'a>(terms: &[Ready<'a>], image: usize, pixels: usize) -> Ahead<'a, 4> {
    let mut planes = [&[][..]; 4];
    for (plane, term) in planes.iter_mut().zip(terms) {
        *plane = term.plane(image, pixels);
    }
    planes
}

impl<'a> Ready<'a> {
    #[inline(always)]
    fn of_image(&self, image: usize) -> f32 {
        self.per_image.map_or(1.0, |factors| factors[image])
    }

    #[inline(always)]
    fn plane(&self, image: usize, pixels: usize) -> &'a [f32] {
        &self.data[image * self.image..][..pixels]
    }
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
        write(&planes, range.clone(), out);
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
        Self { values, images, of_channel: width, of_image: channels * width }
    }

    /// Sum `which` of a channel over all images, each times its factor: 0 is the sum of `g`, i + 1 the product with factor i.
    pub fn total(&self, channel: usize, which: usize, per_image: Option<&Arc<[f32]>>) -> f64 {
        let at = channel * self.of_channel + which;
        let of_image = |image: usize| f64::from(self.values[image * self.of_image + at]);
        match per_image {
            Some(factors) => (0..self.images).map(|image| of_image(image) * f64::from(factors[image])).sum(),
            None => (0..self.images).map(of_image).sum(),
        }
    }
}

#[macerator::with_simd]
fn write<'a, S: Simd>(combination: &Planes<'a>, range: Range<usize>, out: &mut [f32]) {
    let channels = combination.channels();
    let pixels = out.len() / range.len();
    let place = |plane: usize| [plane / channels, plane % channels];
    let end = range.end;
    for (plane, out) in range.zip(out.chunks_exact_mut(pixels)) {
        combination.plane::<S>(place(plane), (plane + 1 < end).then(|| place(plane + 1)), out);
    }
}

#[macerator::with_simd]
fn write_channels<'a, S: Simd>(
    combination: &Planes<'a>,
    image: usize,
    channels: Range<usize>,
    pixels: usize,
    stride: usize,
    out: &mut [f32],
) {
    let end = channels.end;
    for (channel, out) in channels.zip(out.chunks_exact_mut(stride)) {
        let next = (channel + 1 < end).then_some([image, channel + 1]);
        combination.plane::<S>([image, channel], next, &mut out[..pixels]);
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
