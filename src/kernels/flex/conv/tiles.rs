//! The inner loops that make outputs of every convolution, over slices.
//!
//! [`outputs`] makes outputs from weights (the forward pass, and the gradient of the input with the weights turned round); the
//! gradient of the weights is made in [`super::sums`]. They walk the positions and taps of [`super::positions`]. A tile of
//! several channels by several vectors stays in registers while the taps go by.
//!
//! They pick the vectors of the machine when they are called, which costs little beside a plane of work: there is one copy of
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
