//! Reading a combination plane by plane: its sums written to where a kernel wants them.
use std::ops::Range;

use macerator::{Simd, Vector};

use super::super::simd::{Ahead, groups_ahead, map_ahead, splat, update_ahead};

/// A [`Combination`](super::Combination) ready to be read.
pub struct Planes<'a> {
    pub(super) images: usize,
    pub(super) terms: Vec<Ready<'a>>,
    /// Where the terms of each channel begin, and their end.
    pub(super) starts: Vec<usize>,
}

/// A [`Term`](super::Term) with the planes that it names.
#[derive(Clone, Copy)]
pub struct Ready<'a> {
    /// From the plane of the first image on.
    pub(super) data: &'a [f32],
    /// From the plane of one image to that of the next.
    pub(super) image: usize,
    pub(super) factor: f32,
    pub(super) offset: f32,
    pub(super) per_image: Option<&'a [f32]>,
}

impl<'p> Planes<'p> {
    /// Writes planes one after the other, counted over images and their channels.
    pub fn write_range(&self, range: Range<usize>, out: &mut [f32]) {
        write(self, range, out);
    }

    /// Writes the planes of some channels of one image, `stride` apart.
    pub fn write(&self, image: usize, channels: Range<usize>, pixels: usize, stride: usize, out: &mut [f32]) {
        write_channels(self, image, channels, pixels, stride, out);
    }

    fn channels(&self) -> usize {
        self.starts.len() - 1
    }

    /// Writes the plane of one channel of one image; `cursor` is on what is to be asked for meanwhile.
    #[inline(always)]
    fn plane<S: Simd>(&self, [image, channel]: [usize; 2], cursor: &mut Cursor, out: &mut [f32]) {
        let (first, fours) = self.groups(channel);
        let constant =
            splat::<S>(self.terms(channel).iter().map(|term| term.offset * term.of_image(image)).sum::<f32>());
        let pixels = out.len();
        let read = |term: &Ready<'p>| term.plane(image, pixels);
        let factor = |term: &Ready<'p>| splat::<S>(term.factor * term.of_image(image));
        let ahead_of_first = cursor.next(self, pixels);
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
        for four in fours {
            // One by one: what maps an array of vectors is not inlined.
            let [a, b, c, d] = four;
            let (fa, fb, fc, fd) = (factor(a), factor(b), factor(c), factor(d));
            let planes = [read(a), read(b), read(c), read(d)];
            update_ahead(planes, cursor.next(self, pixels), out, |[a, b, c, d]: [Vector<S, f32>; 4], y| {
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

/// A group of terms of a channel of an image, some groups ahead of the one that is read now.
struct Cursor {
    image: usize,
    channel: usize,
    group: usize,
}

impl Cursor {
    /// Ahead of the first group of a plane, as many as it takes for what is asked for to arrive.
    #[inline(always)]
    fn before<'p>(planes: &Planes<'p>, [image, channel]: [usize; 2], pixels: usize) -> Self {
        let mut cursor = Self { image, channel, group: 0 };
        for _ in 0..groups_ahead(pixels) {
            cursor.next(planes, pixels);
        }
        cursor
    }

    /// The planes of its group, which it leaves for the next one; none behind the last image.
    #[inline(always)]
    fn next<'p>(&mut self, planes: &Planes<'p>, pixels: usize) -> Ahead<'p, 4> {
        if self.image >= planes.images {
            return [&[][..]; 4];
        }
        let (first, fours) = planes.groups(self.channel);
        let terms = if self.group == 0 { first } else { &fours[self.group - 1][..] };
        let group = soon(terms, self.image, pixels);
        self.group += 1;
        if self.group > fours.len() {
            (self.group, self.channel) = (0, self.channel + 1);
            if self.channel == planes.channels() {
                (self.channel, self.image) = (0, self.image + 1);
            }
        }
        group
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

#[macerator::with_simd]
fn write<'a, S: Simd>(combination: &Planes<'a>, range: Range<usize>, out: &mut [f32]) {
    let channels = combination.channels();
    let pixels = out.len() / range.len();
    let place = |plane: usize| [plane / channels, plane % channels];
    let mut cursor = Cursor::before(combination, place(range.start), pixels);
    for (plane, out) in range.zip(out.chunks_exact_mut(pixels)) {
        combination.plane::<S>(place(plane), &mut cursor, out);
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
    let mut cursor = Cursor::before(combination, [image, channels.start], pixels);
    for (channel, out) in channels.zip(out.chunks_exact_mut(stride)) {
        combination.plane::<S>([image, channel], &mut cursor, &mut out[..pixels]);
    }
}
