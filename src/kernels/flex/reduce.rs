//! Sums over the lanes of many vectors at once.
//!
//! One vector alone takes a step for each halving, in which most lanes idle; where many are to be summed, each step takes two
//! of them together. Gradients of weights end in such sums, which over few pixels are most of their instructions.
use macerator::{Scalar, Simd, Vector};

use super::simd::MAX_LANES;

/// The sum over the lanes of each of at most [`MAX_LANES`] vectors.
#[inline(always)]
pub fn lane_sums<S: Simd, const N: usize>(vectors: &[Vector<S, f32>; N]) -> [f32; N] {
    const { assert!(N <= MAX_LANES) };
    let mut sums = [0.0; N];
    #[cfg(target_arch = "x86_64")]
    if N > 3 && matches!(f32::lanes::<S>(), 8 | 16) {
        let mut all = [0.0f32.splat::<S>(); MAX_LANES];
        all[..N].copy_from_slice(vectors);
        // SAFETY: on this machine only vectors of AVX-512 have sixteen lanes and only those of AVX have eight, and either exist
        // only where the machine has their instructions.
        let all = unsafe { if f32::lanes::<S>() == 16 { x86::sixteen(all) } else { x86::eights(all, N) } };
        sums.copy_from_slice(&all[..N]);
        return sums;
    }
    for i in 0..N {
        sums[i] = vectors[i].reduce_add();
    }
    sums
}

/// [`lane_sums`] of the first `count` vectors, a constant where it is called; what is behind them is anything.
#[inline(always)]
pub fn first_lane_sums<S: Simd>(vectors: &[Vector<S, f32>; MAX_LANES], count: usize) -> [f32; MAX_LANES] {
    match count {
        0..=4 => front::<S, 4>(vectors),
        5..=8 => front::<S, 8>(vectors),
        _ => lane_sums(vectors),
    }
}

#[inline(always)]
fn front<S: Simd, const N: usize>(vectors: &[Vector<S, f32>; MAX_LANES]) -> [f32; MAX_LANES] {
    let mut first = [vectors[0]; N];
    first.copy_from_slice(&vectors[..N]);
    let mut sums = [0.0; MAX_LANES];
    sums[..N].copy_from_slice(&lane_sums(&first));
    sums
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m256, __m512, _mm256_add_ps, _mm256_castpd_ps, _mm256_castps_pd, _mm256_permute2f128_ps, _mm256_unpackhi_pd,
        _mm256_unpackhi_ps, _mm256_unpacklo_pd, _mm256_unpacklo_ps, _mm512_add_ps, _mm512_castpd_ps, _mm512_castps_pd,
        _mm512_shuffle_f32x4, _mm512_unpackhi_pd, _mm512_unpackhi_ps, _mm512_unpacklo_pd, _mm512_unpacklo_ps,
    };

    use macerator::{Simd, Vector};

    /// Vectors of sixteen floats.
    ///
    /// # Safety
    /// The machine has AVX-512, and S is it.
    #[inline(always)]
    pub unsafe fn sixteen<S: Simd>(all: [Vector<S, f32>; 16]) -> [f32; 16] {
        // SAFETY: passed on.
        unsafe {
            let a = four([all[0], all[1], all[2], all[3]]);
            let b = four([all[4], all[5], all[6], all[7]]);
            let c = four([all[8], all[9], all[10], all[11]]);
            let d = four([all[12], all[13], all[14], all[15]]);
            bytemuck::cast(quarters(quarters(a, b), quarters(c, d)))
        }
    }

    /// In each quarter the sums over that quarter of the four vectors.
    ///
    /// # Safety
    /// As for [`sixteen`].
    #[inline(always)]
    unsafe fn four<S: Simd>(vectors: [Vector<S, f32>; 4]) -> __m512 {
        let [a, b, c, d] = vectors;
        let [a, b, c, d]: [__m512; 4] = [bytemuck::cast(a), bytemuck::cast(b), bytemuck::cast(c), bytemuck::cast(d)];
        // SAFETY: by the contract of this function.
        unsafe {
            let ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
            let cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
            let (ab, cd) = (_mm512_castps_pd(ab), _mm512_castps_pd(cd));
            let [low, high] = [_mm512_unpacklo_pd(ab, cd), _mm512_unpackhi_pd(ab, cd)];
            _mm512_add_ps(_mm512_castpd_ps(low), _mm512_castpd_ps(high))
        }
    }

    /// The first quarter of `a` plus its second, its third plus its fourth, and the same of `b`.
    ///
    /// # Safety
    /// As for [`sixteen`].
    #[inline(always)]
    unsafe fn quarters(a: __m512, b: __m512) -> __m512 {
        // SAFETY: by the contract of this function.
        unsafe { _mm512_add_ps(_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0xdd>(a, b)) }
    }

    /// The first `count` of vectors of eight floats; the others are not summed.
    ///
    /// # Safety
    /// The machine has AVX, and S are its vectors.
    #[inline(always)]
    pub unsafe fn eights<S: Simd>(all: [Vector<S, f32>; 16], count: usize) -> [f32; 16] {
        let mut sums = [[0.0f32; 8]; 2];
        for i in 0..2 {
            if 8 * i < count {
                let all = &all[8 * i..8 * i + 8];
                // SAFETY: passed on.
                unsafe {
                    let a = four_of_eight([all[0], all[1], all[2], all[3]]);
                    let b = four_of_eight([all[4], all[5], all[6], all[7]]);
                    let (low, high) = (_mm256_permute2f128_ps::<0x20>(a, b), _mm256_permute2f128_ps::<0x31>(a, b));
                    sums[i] = bytemuck::cast(_mm256_add_ps(low, high));
                }
            }
        }
        bytemuck::cast(sums)
    }

    /// In each half the sums over that half of the four vectors.
    ///
    /// # Safety
    /// As for [`eights`].
    #[inline(always)]
    unsafe fn four_of_eight<S: Simd>(vectors: [Vector<S, f32>; 4]) -> __m256 {
        let [a, b, c, d] = vectors;
        let [a, b, c, d]: [__m256; 4] = [bytemuck::cast(a), bytemuck::cast(b), bytemuck::cast(c), bytemuck::cast(d)];
        // SAFETY: by the contract of this function.
        unsafe {
            let ab = _mm256_add_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
            let cd = _mm256_add_ps(_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
            let (ab, cd) = (_mm256_castps_pd(ab), _mm256_castps_pd(cd));
            let [low, high] = [_mm256_unpacklo_pd(ab, cd), _mm256_unpackhi_pd(ab, cd)];
            _mm256_add_ps(_mm256_castpd_ps(low), _mm256_castpd_ps(high))
        }
    }
}

#[cfg(test)]
mod tests {
    use macerator::WithSimd;

    use super::{
        super::simd::{lanes, load, with_lanes},
        *,
    };

    struct Sums<'a, const N: usize>(&'a [f32]);

    impl<const N: usize> WithSimd for Sums<'_, N> {
        type Output = [f32; N];

        #[inline(always)]
        fn with_simd<S: Simd>(self) -> [f32; N] {
            let lanes = f32::lanes::<S>();
            let mut vectors = [0.0f32.splat::<S>(); N];
            vectors.iter_mut().enumerate().for_each(|(i, vector)| *vector = load::<S>(self.0, i * lanes));
            lane_sums(&vectors)
        }
    }

    fn check<const N: usize>(lanes: usize) {
        // Small whole numbers: every sum is exact.
        let values: Vec<f32> = (0..N * lanes).map(|i| ((i * 7919) % 4099) as f32).collect();
        let want: Vec<f32> = values.chunks(lanes).map(|vector| vector.iter().sum()).collect();
        assert_eq!(with_lanes(lanes, Sums::<N>(&values)).to_vec(), want, "{N} vectors of {lanes}");
    }

    #[test]
    fn each_vector_has_its_own_sum_whatever_their_number_and_width() {
        for lanes in [lanes(), super::super::simd::lanes_for(8)] {
            check::<1>(lanes);
            check::<3>(lanes);
            check::<4>(lanes);
            check::<7>(lanes);
            check::<8>(lanes);
            check::<9>(lanes);
            check::<15>(lanes);
            check::<16>(lanes);
        }
    }
}
