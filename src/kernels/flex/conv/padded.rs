//! Source planes with their padding, as the loops of a convolution read them.
//!
//! Takes planes of an image; gives them in a scratch that stays in cache: with their padding around them, columns sorted by
//! remainder modulo the stride, planes at a distance at which they do not drive each other out. How large the padding is
//! comes from [`super::geometry`].
#![allow(
    clippy::extra_unused_type_parameters,
    reason = "the parameter picks the instructions that a vectorised function is compiled for"
)]
use macerator::{Scalar, Simd, Vector, WithSimd};

use super::super::{
    super::Window,
    memory::Floats,
    simd::{MAX_LANES, lanes_for, load, load_unchecked, splat, store, with_lanes},
};

/// A copy of source planes with their padding, columns sorted by their remainder modulo the stride, so that neighbouring
/// outputs read neighbouring columns at any stride.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Padded {
    pub(super) rows: usize,
    pub(super) phases: usize,
    pub(super) width: usize,
    pub(super) top: usize,
    pub(super) left: usize,
    pub(super) size: [usize; 2],
    /// Floats between one plane and the next.
    pub(super) gap: usize,
}

/// Room for `planes` planes, full of `padding`, and for the last vector to read past their end.
pub fn scratch(padded: Option<Padded>, planes: usize, padding: f32) -> Floats {
    let floats = padded.map_or(0, |padded| planes * padded.plane() + MAX_LANES);
    Floats::filled(floats, padding)
}

/// The plane in its place in the scratch, or as it is where it can be read in place.
pub fn place<'a>(padded: Option<Padded>, plane: &'a [f32], scratch: &'a mut [f32]) -> &'a [f32] {
    match padded {
        Some(padded) => {
            padded.lay(plane, scratch);
            scratch
        }
        None => plane,
    }
}

#[macerator::with_simd]
fn lay<S: Simd>(padded: &Padded, plane: &[f32], scratch: &mut [f32]) {
    padded.copy(plane, scratch);
}

/// [`Padded::lay`] of planes `from_step` apart, to places `to_step` apart.
#[macerator::with_simd]
pub fn lay_all<S: Simd>(padded: &Padded, planes: &[f32], from_step: usize, scratch: &mut [f32], count: usize) {
    let to_step = padded.plane();
    for i in 0..count {
        padded.copy(&planes[i * from_step..], &mut scratch[i * to_step..]);
    }
}

/// [`Padded::lay`] of the positive part of `x * factor + offset`, of planes that come one after the other with their lines.
struct LayRectified<'p, I>(&'p Padded, I, &'p mut [f32]);

impl<'a, I: Iterator<Item = (&'a [f32], [f32; 2])>> WithSimd for LayRectified<'_, I> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self) {
        let Self(padded, planes, scratch) = self;
        for ((plane, line), to) in planes.zip(scratch.chunks_exact_mut(padded.plane())) {
            padded.copy_rectified::<S>(plane, to, line);
        }
    }
}

/// A row as it is, eight floats at a time: most are short.
#[inline(always)]
pub fn move_row(from: &[f32], to: &mut [f32]) {
    // A window with a stride may end before the row does.
    let len = from.len().min(to.len());
    if len > ROW {
        return to[..len].copy_from_slice(&from[..len]);
    }
    let (eights, rest) = from[..len].as_chunks::<8>();
    let (to_eights, to_rest) = to[..len].as_chunks_mut::<8>();
    eights.iter().zip(to_eights).for_each(|(from, to)| *to = *from);
    rest.iter().zip(to_rest).for_each(|(from, to)| *to = *from);
}

/// The positive part of `x * factor + offset` along a row. Vectors written out, since a compiler shuffles floats between several
/// of them, and no closures: what is not inlined goes through memory, and took two fifths more of a whole search step.
#[inline(always)]
fn rectify_row<S: Simd>(from: &[f32], to: &mut [f32], factor: Vector<S, f32>, offset: Vector<S, f32>) {
    let (lanes, zero) = (f32::lanes::<S>(), splat::<S>(0.0));
    let len = from.len().min(to.len());
    let (from, to) = (&from[..len], &mut to[..len]);
    if len < lanes {
        let mut whole = [0.0; MAX_LANES];
        move_row(from, &mut whole);
        let x = load::<S>(&whole, 0).mul_add(factor, offset);
        store::<S>(&mut whole, 0, x.le(zero).select(zero, x));
        return move_row(&whole[..len], to);
    }
    let mut at = 0;
    while at < len {
        // The last vector moves back over its neighbour.
        let here = at.min(len - lanes);
        // SAFETY: a whole vector from `here` ends with the row at the latest.
        let x = unsafe { load_unchecked::<S>(from, here) }.mul_add(factor, offset);
        store::<S>(to, here, x.le(zero).select(zero, x));
        at += lanes;
    }
}

/// Floats of the longest row that is not moved by the system's own copy, or mapped on the stack.
const ROW: usize = 256;

impl Padded {
    /// What all of some windows read, which have one stride: one copy serves them.
    pub fn around(windows: &[Window], size: [usize; 2]) -> Self {
        let most = |of: &dyn Fn(&Window) -> usize| windows.iter().map(of).max().unwrap_or(0);
        let (top, left) = (most(&|window| window.padding[0]), most(&|window| window.padding[1]));
        let [sh, sw] = windows[0].stride;
        let [oh, ow] = windows[0].output_size(size);
        let reach = |window: &Window, axis: usize| (window.kernel[axis] - 1) * window.dilation[axis];
        Self {
            rows: (oh - 1) * sh + most(&|window| reach(window, 0) + top - window.padding[0]) + 1,
            phases: sw,
            width: ow + most(&|window| reach(window, 1) + left - window.padding[1]) / sw,
            top,
            left,
            size,
            gap: 0,
        }
    }

    /// The planes as they are, but at a distance that keeps them apart in the cache.
    pub(super) fn apart(size: [usize; 2]) -> Self {
        Self { rows: size[0], phases: 1, width: size[1], top: 0, left: 0, size, gap: 16 }
    }

    /// From one row to the next.
    pub fn row(&self) -> usize {
        self.phases * self.width
    }

    /// Where the first pixel of a plane lies, of planes without a stride.
    pub fn first(&self) -> usize {
        self.top * self.row() + self.left
    }

    /// Floats of one plane.
    pub fn plane(&self) -> usize {
        self.rows * self.row() + self.gap
    }

    /// Copies a plane to its place; what is padding is left alone and must be filled once before.
    pub fn lay(&self, plane: &[f32], scratch: &mut [f32]) {
        lay(self, plane, scratch);
    }

    /// [`Padded::lay`] of planes, one after the other, each the positive part of `x * factor + offset`.
    pub fn lay_rectified<'a>(&self, planes: impl Iterator<Item = (&'a [f32], [f32; 2])>, scratch: &mut [f32]) {
        with_lanes(lanes_for(self.size[1]), LayRectified(self, planes, scratch));
    }

    /// [`Padded::lay`] for a vectorised function.
    #[inline(always)]
    fn copy(&self, plane: &[f32], scratch: &mut [f32]) {
        let [height, width] = self.size;
        if self.touches() {
            return move_row(&plane[..height * width], scratch);
        }
        let rows = scratch[..self.rows * self.row()].chunks_exact_mut(self.row()).skip(self.top);
        for (from, to) in plane[..height * width].chunks_exact(width).zip(rows) {
            match self.phases {
                1 => move_row(from, &mut to[self.left..]),
                _ => self.sort(from, to),
            }
        }
    }

    /// The same of the positive part of `x * factor + offset`.
    #[inline(always)]
    fn copy_rectified<S: Simd>(&self, plane: &[f32], scratch: &mut [f32], [factor, offset]: [f32; 2]) {
        let (factor, offset) = (splat::<S>(factor), splat::<S>(offset));
        let [height, width] = self.size;
        if self.touches() {
            return rectify_row::<S>(&plane[..height * width], scratch, factor, offset);
        }
        let rows = scratch[..self.rows * self.row()].chunks_exact_mut(self.row()).skip(self.top);
        let rows = plane[..height * width].chunks_exact(width).zip(rows);
        if self.phases == 1 {
            for (from, to) in rows {
                rectify_row::<S>(from, &mut to[self.left..], factor, offset);
            }
            return;
        }
        let (mut short, mut long) = ([0.0; ROW], Vec::new());
        if width > ROW {
            long.resize(width, 0.0);
        }
        for (from, to) in rows {
            let rectified = if width > ROW { &mut long[..] } else { &mut short[..width] };
            rectify_row::<S>(from, rectified, factor, offset);
            self.sort(rectified, to);
        }
    }

    /// Whether nothing lies between the rows.
    #[inline(always)]
    fn touches(&self) -> bool {
        self.phases == 1 && [self.rows, self.width] == self.size
    }

    /// A row by the remainders of its columns.
    #[inline(always)]
    fn sort(&self, from: &[f32], to: &mut [f32]) {
        if self.phases == 2 { self.copy_halves(from, to) } else { self.copy_phases(from, to) }
    }

    /// Even columns of the image to one phase, odd ones to the other.
    #[inline(always)]
    fn copy_halves(&self, from: &[f32], to: &mut [f32]) {
        let (pairs, last) = from.as_chunks::<2>();
        let (first, second) = to.split_at_mut(self.width);
        let (even, odd) = if self.left.is_multiple_of(2) { (first, second) } else { (second, first) };
        let even = even.get_mut(self.left / 2..).unwrap_or_default();
        let odd = odd.get_mut(self.left.div_ceil(2)..).unwrap_or_default();
        even.iter_mut().zip(pairs).for_each(|(to, pair)| *to = pair[0]);
        odd.iter_mut().zip(pairs).for_each(|(to, pair)| *to = pair[1]);
        if let (Some(to), [last]) = (even.get_mut(pairs.len()), last) {
            *to = *last;
        }
    }

    /// Column `q * phases + phase - left` of the image goes to place q of its phase.
    #[inline(always)]
    fn copy_phases(&self, from: &[f32], to: &mut [f32]) {
        for (phase, to) in to.chunks_exact_mut(self.width).enumerate() {
            let skip = self.left.saturating_sub(phase).div_ceil(self.phases);
            let first = skip * self.phases + phase - self.left;
            let from = from.get(first..).unwrap_or_default().iter().step_by(self.phases);
            to.iter_mut().skip(skip).zip(from).for_each(|(to, &from)| *to = from);
        }
    }
}
