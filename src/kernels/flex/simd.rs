//! Vector loads and stores over slices, and the number of lanes this machine has.
//!
//! The kernels are generic over [`Simd`]; `#[macerator::with_simd]` picks AVX-512, AVX2, SSE4.2, NEON or plain code when the
//! program runs, because it is built without the flags of one machine.
use macerator::{Arch, Scalar, Simd, Vector, WithSimd};

/// The widest vector of any supported machine, in floats.
pub const MAX_LANES: usize = 16;

/// Floats per vector on this machine.
#[macerator::with_simd]
pub fn lanes<S: Simd>() -> usize {
    f32::lanes::<S>()
}

/// Floats of the vectors that suit rows of `width`: half of the widest where a row fills no more than
/// that and a whole one would be partly empty.
pub fn lanes_for(width: usize) -> usize {
    let lanes = lanes();
    if lanes == MAX_LANES && has_halves() && (lanes / 2..lanes).contains(&width) { lanes / 2 } else { lanes }
}

/// Carries `work` out with vectors of `lanes` floats, which come from [`lanes`] or [`lanes_for`].
pub fn with_lanes<W: WithSimd>(lanes: usize, work: W) -> W::Output {
    // SAFETY: `arch` gives what was detected, or `Arch::V3` where `has_halves` has found all that this one needs.
    unsafe { arch(lanes).dispatch(work) }
}

#[cfg(target_arch = "x86_64")]
fn arch(wanted: usize) -> Arch {
    if wanted < lanes() && has_halves() { Arch::V3 } else { Arch::detect() }
}

#[cfg(not(target_arch = "x86_64"))]
fn arch(_: usize) -> Arch {
    Arch::detect()
}

/// Whether the machine has all that [`Arch::V3`] is compiled for.
#[cfg(target_arch = "x86_64")]
fn has_halves() -> bool {
    use std::arch::is_x86_feature_detected as has;
    has!("avx2") && has!("fma") && has!("bmi1") && has!("bmi2") && has!("lzcnt") && has!("f16c") && has!("popcnt")
}

#[cfg(not(target_arch = "x86_64"))]
fn has_halves() -> bool {
    false
}

#[inline(always)]
pub fn load<S: Simd>(from: &[f32], at: usize) -> Vector<S, f32> {
    let from = &from[at..at + f32::lanes::<S>()];
    // SAFETY: the slice holds one whole vector.
    unsafe { f32::vload_unaligned(from.as_ptr()) }
}

/// [`load`] without the check, for the innermost loops.
///
/// # Safety
/// `at + lanes <= from.len()`.
#[inline(always)]
pub unsafe fn load_unchecked<S: Simd>(from: &[f32], at: usize) -> Vector<S, f32> {
    debug_assert!(at + f32::lanes::<S>() <= from.len());
    // SAFETY: the caller vouches for one whole vector from `at`.
    unsafe { f32::vload_unaligned(from.as_ptr().add(at)) }
}

/// The first vector of `from`, zero behind its end.
#[inline(always)]
pub fn load_partial<S: Simd>(from: &[f32]) -> Vector<S, f32> {
    let mut whole = [0.0; MAX_LANES];
    whole[..from.len()].copy_from_slice(from);
    load(&whole, 0)
}

#[inline(always)]
pub fn store<S: Simd>(to: &mut [f32], at: usize, vector: Vector<S, f32>) {
    let to = &mut to[at..at + f32::lanes::<S>()];
    // SAFETY: the slice holds one whole vector.
    unsafe { f32::vstore_unaligned(to.as_mut_ptr(), vector) }
}

/// As many lanes as `to` holds.
#[inline(always)]
pub fn store_partial<S: Simd>(to: &mut [f32], vector: Vector<S, f32>) {
    let mut whole = [0.0; MAX_LANES];
    store(&mut whole, 0, vector);
    to.copy_from_slice(&whole[..to.len()]);
}

#[inline(always)]
pub fn splat<S: Simd>(value: f32) -> Vector<S, f32> {
    value.splat()
}

/// Floats that will be read soon, each slice from its beginning as far as the work before it is long. The hardware foresees
/// reads inside of a page of memory and not which plane comes next, so that each would begin with a wait.
pub type Ahead<'a, const A: usize> = [&'a [f32]; A];

/// How many groups of planes of so many pixels ahead of what is read now to ask for: small ones are read before they could come
/// from memory.
#[inline(always)]
pub fn groups_ahead(pixels: usize) -> usize {
    (4096 / pixels.max(1)).clamp(1, 32)
}

/// Asks for the cache lines at `at` in each slice, as far as the second-level cache: there is more than the first one holds.
#[inline(always)]
pub fn fetch<const A: usize>(ahead: Ahead<A>, at: usize) {
    for slice in ahead {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: every x86-64 machine has the instruction, which reads nothing and may be given any address.
        unsafe {
            use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_T1>(slice.as_ptr().wrapping_add(at).cast());
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (slice, at);
    }
}

/// Asks for all of a plane.
#[inline(always)]
pub fn fetch_plane(plane: &[f32]) {
    for at in (0..plane.len()).step_by(MAX_LANES) {
        fetch([plane], at);
    }
}

/// `out[i] = f(inputs[0][i], inputs[1][i], ...)`; all slices have the length of `out`.
#[inline(always)]
pub fn map<S: Simd, const K: usize>(
    inputs: [&[f32]; K],
    out: &mut [f32],
    f: impl Fn([Vector<S, f32>; K]) -> Vector<S, f32>,
) {
    map_ahead(inputs, [], out, f);
}

/// [`map`], with what will be read next.
#[inline(always)]
pub fn map_ahead<S: Simd, const K: usize, const A: usize>(
    inputs: [&[f32]; K],
    ahead: Ahead<A>,
    out: &mut [f32],
    f: impl Fn([Vector<S, f32>; K]) -> Vector<S, f32>,
) {
    let lanes = f32::lanes::<S>();
    let inputs = inputs.map(|input| &input[..out.len()]);
    let whole = out.len() / lanes * lanes;
    for at in (0..whole).step_by(lanes) {
        fetch(ahead, at);
        // SAFETY: `at + lanes <= whole`, and every input is as long as the output.
        let values = inputs.map(|input| unsafe { load_unchecked::<S>(input, at) });
        store(out, at, f(values));
    }
    if whole < out.len() {
        let values = inputs.map(|input| load_partial::<S>(&input[whole..]));
        store_partial(&mut out[whole..], f(values));
    }
}

/// `[sum over i of f(inputs[0][i], ...)[r] for r]`; all inputs have one length.
#[inline(always)]
pub fn sums<S: Simd, const K: usize, const R: usize>(
    inputs: [&[f32]; K],
    f: impl Fn([Vector<S, f32>; K]) -> [Vector<S, f32>; R],
) -> [f32; R] {
    sums_ahead(inputs, [], f)
}

/// [`sums`], with what will be read next.
#[inline(always)]
pub fn sums_ahead<S: Simd, const K: usize, const R: usize, const A: usize>(
    inputs: [&[f32]; K],
    ahead: Ahead<A>,
    f: impl Fn([Vector<S, f32>; K]) -> [Vector<S, f32>; R],
) -> [f32; R] {
    /// Sums kept apart, so that an addition need not wait for the one before.
    const APART: usize = 4;
    let lanes = f32::lanes::<S>();
    let len = inputs[0].len();
    let inputs = inputs.map(|input| &input[..len]);
    let mut sums = [[splat::<S>(0.0); APART]; R];
    let whole = len / lanes * lanes;
    let mut at = 0;
    let mut add = |at: usize, apart: usize| {
        fetch(ahead, at);
        // SAFETY: called with `at + lanes <= whole` only, and every input has `len >= whole` elements.
        let values = inputs.map(|input| unsafe { load_unchecked::<S>(input, at) });
        for (sums, value) in sums.iter_mut().zip(f(values)) {
            sums[apart] += value;
        }
    };
    while at + APART * lanes <= whole {
        for apart in 0..APART {
            add(at + apart * lanes, apart);
        }
        at += APART * lanes;
    }
    while at < whole {
        add(at, 0);
        at += lanes;
    }
    if whole < len {
        let mut mask = [0.0; MAX_LANES];
        mask[..len - whole].fill(1.0);
        let values = inputs.map(|input| load_partial::<S>(&input[whole..]));
        for (sums, value) in sums.iter_mut().zip(f(values)) {
            sums[1] += value * load::<S>(&mask, 0);
        }
    }
    sums.map(|[a, b, c, d]| ((a + b) + (c + d)).reduce_add())
}

/// `out[i] = f(inputs.., out[i])`.
#[inline(always)]
pub fn update<S: Simd, const K: usize>(
    inputs: [&[f32]; K],
    out: &mut [f32],
    f: impl Fn([Vector<S, f32>; K], Vector<S, f32>) -> Vector<S, f32>,
) {
    update_ahead(inputs, [], out, f);
}

/// [`update`], with what will be read next.
#[inline(always)]
pub fn update_ahead<S: Simd, const K: usize, const A: usize>(
    inputs: [&[f32]; K],
    ahead: Ahead<A>,
    out: &mut [f32],
    f: impl Fn([Vector<S, f32>; K], Vector<S, f32>) -> Vector<S, f32>,
) {
    let lanes = f32::lanes::<S>();
    let inputs = inputs.map(|input| &input[..out.len()]);
    let whole = out.len() / lanes * lanes;
    for at in (0..whole).step_by(lanes) {
        fetch(ahead, at);
        // SAFETY: `at + lanes <= whole`, and every input is as long as the output.
        let values = inputs.map(|input| unsafe { load_unchecked::<S>(input, at) });
        let old = load::<S>(out, at);
        store(out, at, f(values, old));
    }
    if whole < out.len() {
        let values = inputs.map(|input| load_partial::<S>(&input[whole..]));
        let old = load_partial::<S>(&out[whole..]);
        store_partial(&mut out[whole..], f(values, old));
    }
}

/// Zero in `dx` where `x * factor + offset` is not above zero; `line` is the two.
#[macerator::with_simd]
pub fn behind_relu<S: Simd>(x: &[f32], line: [f32; 2], dx: &mut [f32]) {
    let ([factor, offset], zero) = (line.map(splat::<S>), splat::<S>(0.0));
    update([x], dx, |[x]: [Vector<S, f32>; 1], sum| x.mul_add(factor, offset).le(zero).select(zero, sum));
}

/// [`behind_relu`], and the sums of the new `dx` and of `dx * (x - center)`.
#[macerator::with_simd]
pub fn behind_relu_product<S: Simd>(x: &[f32], line: [f32; 2], dx: &mut [f32], center: f32) -> [f32; 2] {
    let ([factor, offset], zero, center) = (line.map(splat::<S>), splat::<S>(0.0), splat::<S>(center));
    let lanes = f32::lanes::<S>();
    // Sums kept apart, so that an addition need not wait for the one before.
    let mut sums = [[zero; 4]; 2];
    let (x, whole) = (&x[..dx.len()], dx.len() / lanes * lanes);
    let mut add = |x: Vector<S, f32>, g: Vector<S, f32>, apart: usize| {
        let g = x.mul_add(factor, offset).le(zero).select(zero, g);
        sums[0][apart] += g;
        sums[1][apart] = g.mul_add(x - center, sums[1][apart]);
        g
    };
    let mut at = 0;
    while at + 4 * lanes <= whole {
        for apart in 0..4 {
            let at = at + apart * lanes;
            // SAFETY: `at + lanes <= whole`, and neither slice has less.
            let [x, g] = unsafe { [load_unchecked::<S>(x, at), load_unchecked::<S>(dx, at)] };
            store(dx, at, add(x, g, apart));
        }
        at += 4 * lanes;
    }
    while at < whole {
        store(dx, at, add(load::<S>(x, at), load::<S>(dx, at), 0));
        at += lanes;
    }
    if whole < dx.len() {
        // Behind the end both are zero, and so is what they add.
        let g = add(load_partial::<S>(&x[whole..]), load_partial::<S>(&dx[whole..]), 0);
        store_partial(&mut dx[whole..], g);
    }
    sums.map(|[a, b, c, d]| ((a + b) + (c + d)).reduce_add())
}
