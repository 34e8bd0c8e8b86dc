//! The inner loops of the gradients of weights, over slices.
//!
//! They walk the positions and taps that [`super::tiles`] walks for outputs; a tile of several channels by several taps stays in
//! registers while the positions go by. As there, the loops count and call no closures, and pick the vectors of the machine
//! when they are called.
#![allow(
    clippy::needless_range_loop,
    reason = "iterators are closures, and those would not be inlined into the vectorised function"
)]

use macerator::{Scalar, Simd, Vector};

use super::{
    super::reduce::first_lane_sums,
    super::simd::{MAX_LANES, load, load_partial, load_unchecked, splat},
    positions::{Position, Positions, Taps},
    tiles::BLOCK,
};

/// [`weights`] of a depthwise convolution: planes of the source `step` apart, of the gradient `plane` apart.
#[inline(always)]
pub fn weights_each<S: Simd>(
    source: &[f32],
    step: usize,
    taps: &Taps,
    positions: &Positions,
    gradient: &[f32],
    plane: usize,
    sums: &mut [f32],
) {
    let offsets = taps.offsets();
    for (channel, sums) in sums.chunks_exact_mut(offsets.len()).enumerate() {
        let (source, gradient) = (&source[channel * step..], &gradient[channel * plane..]);
        let fits = positions.fit_source(taps, source.len(), f32::lanes::<S>());
        assert!(fits && positions.fit_target(gradient.len()), "source and gradient cover every position");
        // SAFETY: by the assertion every vector that the tiles load lies in its slice.
        unsafe { tap_tiles::<S, 1>(source, offsets, positions, gradient, plane, sums) };
    }
}

/// `sums[c * taps + tap] += sum over positions of gradient[c * plane + position] * source[position + tap]`.
#[macerator::with_simd]
pub fn weights<S: Simd>(
    source: &[f32],
    taps: &Taps,
    positions: &Positions,
    gradient: &[f32],
    plane: usize,
    sums: &mut [f32],
) {
    let lanes = f32::lanes::<S>();
    let offsets = taps.offsets();
    let outs = sums.len() / offsets.len();
    assert!(positions.fit_source(taps, source.len(), lanes), "the source covers every position and tap");
    assert!(positions.fit_target(gradient.len() - (outs - 1) * plane), "the gradient covers every position");
    for first in (0..outs).step_by(BLOCK) {
        let count = BLOCK.min(outs - first);
        let gradient = &gradient[first * plane..];
        let sums = &mut sums[first * offsets.len()..];
        // SAFETY: by the assertions above every vector that the tiles load lies in its slice.
        unsafe {
            match count {
                4 => tap_tiles::<S, 4>(source, offsets, positions, gradient, plane, sums),
                3 => tap_tiles::<S, 3>(source, offsets, positions, gradient, plane, sums),
                2 => tap_tiles::<S, 2>(source, offsets, positions, gradient, plane, sums),
                _ => tap_tiles::<S, 1>(source, offsets, positions, gradient, plane, sums),
            }
        }
    }
}

/// Gradients of the weights of `C` channels, a few taps at a time so that their sums fit the registers.
///
/// # Safety
/// Every position plus every offset plus a vector lies in `source`, and every target position plus a vector lies in each of the `C` planes of `gradient`.
#[inline(always)]
unsafe fn tap_tiles<S: Simd, const C: usize>(
    source: &[f32],
    offsets: &[usize],
    positions: &Positions,
    gradient: &[f32],
    plane: usize,
    sums: &mut [f32],
) {
    let together = match (C, f32::lanes::<S>() == MAX_LANES) {
        (1, _) => 9,
        (2, false) => 4,
        (3, false) => 3,
        (_, false) => 2,
        // Where there are registers for it: a vector of gradients serves more taps.
        (2, true) => 8,
        (3, true) => 5,
        (_, true) => 4,
    };
    // Even shares: 25 taps are 9 + 8 + 8, not 9 + 9 + 7.
    let together = offsets.len().div_ceil(offsets.len().div_ceil(together));
    let mut first = 0;
    for offsets_of_tile in offsets.chunks(together) {
        let sums = (&mut *sums, offsets.len(), first);
        // SAFETY: passed on.
        unsafe {
            match offsets_of_tile.len() {
                9 => tap_tile::<S, C, 9>(source, offsets_of_tile, positions, gradient, plane, sums),
                8 => tap_tile::<S, C, 8>(source, offsets_of_tile, positions, gradient, plane, sums),
                7 => tap_tile::<S, C, 7>(source, offsets_of_tile, positions, gradient, plane, sums),
                6 => tap_tile::<S, C, 6>(source, offsets_of_tile, positions, gradient, plane, sums),
                5 => tap_tile::<S, C, 5>(source, offsets_of_tile, positions, gradient, plane, sums),
                4 => tap_tile::<S, C, 4>(source, offsets_of_tile, positions, gradient, plane, sums),
                3 => tap_tile::<S, C, 3>(source, offsets_of_tile, positions, gradient, plane, sums),
                2 => tap_tile::<S, C, 2>(source, offsets_of_tile, positions, gradient, plane, sums),
                _ => tap_tile::<S, C, 1>(source, offsets_of_tile, positions, gradient, plane, sums),
            }
        }
        first += offsets_of_tile.len();
    }
}

/// # Safety
/// As for [`tap_tiles`]; `offsets` has `T` elements.
#[inline(always)]
unsafe fn tap_tile<S: Simd, const C: usize, const T: usize>(
    source: &[f32],
    offsets: &[usize],
    positions: &Positions,
    gradient: &[f32],
    plane: usize,
    (into, row, first): (&mut [f32], usize, usize),
) {
    // Tiles that `tap_tiles` never asks for would only be dead code to compile.
    if const { C * T > 16 } {
        return;
    }
    let lanes = f32::lanes::<S>();
    let mut taps = [0; T];
    taps.copy_from_slice(offsets);
    let mut sums = [[splat::<S>(0.0); T]; C];
    for &Position { source: at, target } in positions.disjoint() {
        let mut gradients = [splat::<S>(0.0); C];
        for c in 0..C {
            // SAFETY: by the contract of this function.
            gradients[c] = unsafe { load_unchecked::<S>(gradient, c * plane + target) };
        }
        // SAFETY: by the contract of this function.
        unsafe { accumulate(&mut sums, source, at, &taps, &gradients) };
    }
    let mut mask = [0.0; MAX_LANES];
    mask[lanes - positions.own_lanes()..lanes].fill(1.0);
    for &Position { source: at, target } in positions.overlapping() {
        let mut gradients = [load::<S>(&mask, 0); C];
        for c in 0..C {
            gradients[c] *= load::<S>(gradient, c * plane + target);
        }
        // SAFETY: by the contract of this function.
        unsafe { accumulate(&mut sums, source, at, &taps, &gradients) };
    }
    for &Position { source: at, target } in positions.short() {
        let mut gradients = [splat::<S>(0.0); C];
        for c in 0..C {
            gradients[c] = load_partial::<S>(&gradient[c * plane + target..][..positions.short_width()]);
        }
        // SAFETY: by the contract of this function.
        unsafe { accumulate(&mut sums, source, at, &taps, &gradients) };
    }
    let mut flat = [splat::<S>(0.0); MAX_LANES];
    for c in 0..C {
        for t in 0..T {
            flat[c * T + t] = sums[c][t];
        }
    }
    let flat = first_lane_sums(&flat, C * T);
    for c in 0..C {
        for t in 0..T {
            into[c * row + first + t] += flat[c * T + t];
        }
    }
}

/// # Safety
/// `at` plus each tap plus a vector lies in `source`.
#[inline(always)]
unsafe fn accumulate<S: Simd, const C: usize, const T: usize>(
    sums: &mut [[Vector<S, f32>; T]; C],
    source: &[f32],
    at: usize,
    taps: &[usize; T],
    gradients: &[Vector<S, f32>; C],
) {
    for t in 0..T {
        // SAFETY: by the contract of this function.
        let pixels = unsafe { load_unchecked::<S>(source, at + taps[t]) };
        for c in 0..C {
            sums[c][t] = gradients[c].mul_add(pixels, sums[c][t]);
        }
    }
}
