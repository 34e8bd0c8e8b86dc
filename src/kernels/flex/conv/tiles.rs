//! The two inner loops of every convolution, over slices.
//!
//! [`outputs`] makes outputs from weights (the forward pass, and the gradient of the input with the weights turned round);
//! [`weights`] makes the gradient of the weights. Both walk the positions and taps of [`super::positions`]. A tile of several
//! channels by several vectors stays in registers while the taps go by.
//!
//! Both pick the vectors of the machine when they are called, which costs little beside a plane of work: there is one copy of
//! the loops for each kind of machine, whoever calls them.
//!
//! The loops count over array indices and call no closures: the compiler must inline everything below a vectorised function
//! into it, or every vector goes through memory.
#![allow(clippy::needless_lifetimes, reason = "the macro that vectorises a function needs the name")]
#![allow(
    clippy::needless_range_loop,
    reason = "iterators are closures, and those would not be inlined into the vectorised function"
)]

use macerator::{Scalar, Simd, Vector};

use super::{
    super::reduce::first_lane_sums,
    super::simd::{MAX_LANES, fetch, load, load_partial, load_unchecked, splat, store, store_partial},
    positions::{Position, Positions, Taps},
};

/// Channels one tile computes together; weights are packed in blocks of it.
pub const BLOCK: usize = 4;

/// Source floats one strip of positions should touch: well inside a first-level cache.
const STRIP: usize = 4096;

/// Weights of `outs` channels by `taps`, in blocks of [`BLOCK`] channels, tap by tap within a block; the last block has the
/// channels that remain.
pub fn pack(outs: usize, taps: usize, weight: impl Fn(usize, usize) -> f32) -> Vec<f32> {
    let mut packed = Vec::with_capacity(outs * taps);
    for first in (0..outs).step_by(BLOCK) {
        let block = first..outs.min(first + BLOCK);
        packed.extend(
            (0..taps).flat_map(|tap| block.clone().map(move |out| (out, tap))).map(|(out, tap)| weight(out, tap)),
        );
    }
    packed
}

/// `target[c * plane + position] = bias[c] + sum over taps of packed weight * source[position + tap]`, for each channel c.
#[macerator::with_simd]
pub fn outputs<'a, S: Simd>(
    source: &[f32],
    taps: &Taps,
    positions: &Positions,
    packed: &[f32],
    bias: Option<&'a [f32]>,
    target: &mut [f32],
    plane: usize,
) {
    outputs_of::<S, false>(source, taps, positions, packed, bias, target, plane, &[]);
}

/// [`outputs`] without bias as the gradient of something behind a ReLU: zero where the ReLU read nothing above zero, in planes
/// like those of the target.
#[macerator::with_simd]
pub fn outputs_behind_relu<'a, S: Simd>(
    source: &[f32],
    taps: &Taps,
    positions: &Positions,
    packed: &[f32],
    target: &mut [f32],
    plane: usize,
    rectified: &[&'a [f32]],
) {
    outputs_of::<S, true>(source, taps, positions, packed, None, target, plane, rectified);
}

#[inline(always)]
fn outputs_of<S: Simd, const RELU: bool>(
    source: &[f32],
    taps: &Taps,
    positions: &Positions,
    packed: &[f32],
    bias: Option<&[f32]>,
    target: &mut [f32],
    plane: usize,
    rectified: &[&[f32]],
) {
    let lanes = f32::lanes::<S>();
    let offsets = taps.offsets();
    let outs = packed.len() / offsets.len();
    assert!(positions.fit_source(taps, source.len(), lanes), "the source covers every position and tap");
    assert!(positions.fit_target((target.len() + plane) - outs * plane), "the target covers every position");
    let strip = (STRIP / (offsets.len() * lanes)).next_multiple_of(8).max(8);
    for wide in positions.wide().chunks(strip) {
        for first in (0..outs).step_by(BLOCK) {
            let count = BLOCK.min(outs - first);
            let weights = &packed[first * offsets.len()..(first + count) * offsets.len()];
            let bias = bias.map(|bias| &bias[first..first + count]);
            let target = &mut target[first * plane..];
            let behind = if RELU { &rectified[first..first + count] } else { &[] };
            // SAFETY: every position plus every offset plus a vector lies in the source, by the first assertion above.
            unsafe {
                match count {
                    4 => strip_of::<S, 4, RELU>(source, offsets, wide, weights, bias, target, plane, behind),
                    3 => strip_of::<S, 3, RELU>(source, offsets, wide, weights, bias, target, plane, behind),
                    2 => strip_of::<S, 2, RELU>(source, offsets, wide, weights, bias, target, plane, behind),
                    _ => strip_of::<S, 1, RELU>(source, offsets, wide, weights, bias, target, plane, behind),
                }
            }
        }
    }
    for &Position { source: at, target: to } in positions.short() {
        for out in 0..outs {
            let block = out / BLOCK * BLOCK;
            let count = BLOCK.min(outs - block);
            let weights = packed[block * offsets.len()..].iter().skip(out - block).step_by(count);
            let mut sum = splat::<S>(bias.map_or(0.0, |bias| bias[out]));
            for (&offset, &weight) in offsets.iter().zip(weights) {
                // SAFETY: as above.
                let pixels = unsafe { load_unchecked::<S>(source, at + offset) };
                sum = splat::<S>(weight).mul_add(pixels, sum);
            }
            if RELU {
                let read = &rectified[out][to..][..positions.short_width()];
                sum = behind_relu::<S>(load_partial::<S>(read), sum);
            }
            let to = out * plane + to;
            store_partial(&mut target[to..to + positions.short_width()], sum);
        }
    }
}

/// One output plane from each source plane, `plane` and `step` apart: a depthwise convolution of stride 1 or more.
#[inline(always)]
pub fn outputs_each<S: Simd>(
    source: &[f32],
    step: usize,
    taps: &Taps,
    positions: &Positions,
    weights: &[f32],
    target: &mut [f32],
    plane: usize,
) {
    let lanes = f32::lanes::<S>();
    let offsets = taps.offsets();
    for (channel, weights) in weights.chunks_exact(offsets.len()).enumerate() {
        let (source, target) = (&source[channel * step..], &mut target[channel * plane..]);
        assert!(positions.fit_source(taps, source.len(), lanes), "the source covers every position and tap");
        // SAFETY: every position plus every offset plus a vector lies in the source, by the assertion above.
        unsafe {
            strip_of::<S, 1, false>(source, offsets, positions.wide(), weights, None, target, plane, &[]);
        }
        for &Position { source: at, target: to } in positions.short() {
            let mut sum = splat::<S>(0.0);
            for (&offset, &weight) in offsets.iter().zip(weights) {
                // SAFETY: as above.
                let pixels = unsafe { load_unchecked::<S>(source, at + offset) };
                sum = splat::<S>(weight).mul_add(pixels, sum);
            }
            store_partial(&mut target[to..to + positions.short_width()], sum);
        }
    }
}

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

/// Runs tiles of `C` channels over a strip, as many vectors together as make eight sums, or sixteen.
///
/// # Safety
/// Every position plus every offset plus a vector lies in `source`.
#[inline(always)]
unsafe fn strip_of<S: Simd, const C: usize, const RELU: bool>(
    source: &[f32],
    offsets: &[usize],
    positions: &[Position],
    weights: &[f32],
    bias: Option<&[f32]>,
    target: &mut [f32],
    plane: usize,
    behind: &[&[f32]],
) {
    let mut of_channels = [0.0; C];
    if let Some(bias) = bias {
        of_channels.copy_from_slice(bias);
    }
    let bias = of_channels;
    let mut rest = positions;
    // SAFETY: passed on.
    unsafe {
        if C == 1 {
            rest = tiles::<S, C, 8, RELU>(source, offsets, rest, weights, bias, target, plane, behind);
        }
        // Where there are registers for it: a weight that is spread over a vector serves more of them.
        if C <= 2 || f32::lanes::<S>() == MAX_LANES {
            rest = tiles::<S, C, 4, RELU>(source, offsets, rest, weights, bias, target, plane, behind);
        }
        rest = tiles::<S, C, 2, RELU>(source, offsets, rest, weights, bias, target, plane, behind);
        tiles::<S, C, 1, RELU>(source, offsets, rest, weights, bias, target, plane, behind);
    }
}

/// As many tiles of `V` vectors as there are positions for; gives the positions left over.
///
/// # Safety
/// As for [`strip_of`].
#[inline(always)]
unsafe fn tiles<'a, S: Simd, const C: usize, const V: usize, const RELU: bool>(
    source: &[f32],
    offsets: &[usize],
    positions: &'a [Position],
    weights: &[f32],
    bias: [f32; C],
    target: &mut [f32],
    plane: usize,
    behind: &[&[f32]],
) -> &'a [Position] {
    let (groups, rest) = positions.as_chunks::<V>();
    let (weights, _) = weights.as_chunks::<C>();
    for group in groups {
        if RELU {
            // Read when the sums are done, and there by then.
            for c in 0..C {
                for v in 0..V {
                    fetch([behind[c]], group[v].target);
                }
            }
        }
        let mut sums = [[splat::<S>(0.0); V]; C];
        for c in 0..C {
            sums[c] = [splat::<S>(bias[c]); V];
        }
        for (&offset, weights) in offsets.iter().zip(weights) {
            let mut pixels = [splat::<S>(0.0); V];
            for v in 0..V {
                // SAFETY: by the contract of this function.
                pixels[v] = unsafe { load_unchecked::<S>(source, group[v].source + offset) };
            }
            for c in 0..C {
                let weight = splat::<S>(weights[c]);
                for v in 0..V {
                    sums[c][v] = weight.mul_add(pixels[v], sums[c][v]);
                }
            }
        }
        for c in 0..C {
            for v in 0..V {
                let mut sum = sums[c][v];
                if RELU {
                    sum = behind_relu::<S>(load::<S>(behind[c], group[v].target), sum);
                }
                store(target, c * plane + group[v].target, sum);
            }
        }
    }
    rest
}

/// The gradient where what the ReLU read is above zero, or no number.
#[inline(always)]
fn behind_relu<S: Simd>(read: Vector<S, f32>, gradient: Vector<S, f32>) -> Vector<S, f32> {
    let zero = splat::<S>(0.0);
    read.le(zero).select(zero, gradient)
}

/// Gradients of the weights of `C` channels, a few taps at a time so that their sums fit the registers.
///
/// # Safety
/// As for [`strip_of`], and every target position plus a vector lies in each of the `C` planes of `gradient`.
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
