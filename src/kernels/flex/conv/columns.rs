//! The inner loops of depthwise convolutions of stride 1, over slices.
//!
//! The same sums as in [`super::tiles`], for one output plane. There the source is loaded anew for every tap; here a block of
//! output rows shares it: a source vector is loaded once for each column of the kernel and used by every row of the block
//! it is under, which is what keeps a 5x5 kernel from waiting for its loads. With a dilation the rows that share lie that
//! far apart.
//!
//! As in `tiles`, the loops count and call no closures, so that all is inlined into the vectorised function around them.
#![allow(
    clippy::needless_range_loop,
    reason = "iterators are closures, and those would not be inlined into the vectorised function"
)]
#![allow(
    clippy::absurd_extreme_comparisons,
    clippy::unnecessary_min_or_max,
    reason = "the constants of unrolled loops: some of them are the extreme ones"
)]

use macerator::{Scalar, Simd, Vector};

use super::super::{
    reduce::first_lane_sums,
    simd::{MAX_LANES, load, load_unchecked, splat, store},
};

/// A plane of `rows` by `width` outputs and the kernel over one or more source planes.
#[derive(Clone, Copy, Debug)]
pub struct Columns {
    pub rows: usize,
    pub width: usize,
    /// Where the first tap of the first output reads.
    pub source: usize,
    pub source_row: usize,
    pub target_row: usize,
    pub kernel: [usize; 2],
    pub dilation: [usize; 2],
    pub planes: usize,
    pub plane_step: usize,
}

/// Rows of a block, in the widest case; kernels higher than 7 take the other path.
macro_rules! each {
    ($name:ident in $($value:literal)* => $body:block) => {
        $({
            const $name: usize = $value;
            $body
        })*
    };
}

/// `target[y, x] = bias + sum over taps of weight * source`; the weights lie plane by plane, row by row.
#[macerator::with_simd]
pub fn outputs<S: Simd>(columns: &Columns, source: &[f32], weights: &[f32], bias: f32, target: &mut [f32]) {
    columns.check::<S>(source.len());
    // SAFETY: `check` holds, and the blocks below cover rows and columns inside the plane.
    unsafe {
        match columns.kernel[0] {
            3 => output_rows::<S, 3, false>(columns, source, weights, bias, target),
            5 => output_rows::<S, 5, false>(columns, source, weights, bias, target),
            _ => output_rows::<S, 7, false>(columns, source, weights, bias, target),
        }
    }
}

/// [`outputs`] of each source plane, `step` apart; outputs lie `plane` apart. With `ADD` they are added to what is there, for
/// which whole vectors must fit a row.
#[inline(always)]
pub fn outputs_each<S: Simd, const ADD: bool>(
    columns: &Columns,
    source: &[f32],
    step: usize,
    weights: &[f32],
    target: &mut [f32],
    plane: usize,
) {
    assert!(!ADD || columns.adds(f32::lanes::<S>()), "no output is added twice");
    let taps = columns.kernel[0] * columns.kernel[1];
    for (channel, weights) in weights.chunks_exact(taps).enumerate() {
        let (source, target) = (&source[channel * step..], &mut target[channel * plane..]);
        columns.check::<S>(source.len());
        // SAFETY: as in `outputs`.
        unsafe {
            match columns.kernel[0] {
                3 => output_rows::<S, 3, ADD>(columns, source, weights, 0.0, target),
                5 => output_rows::<S, 5, ADD>(columns, source, weights, 0.0, target),
                _ => output_rows::<S, 7, ADD>(columns, source, weights, 0.0, target),
            }
        }
    }
}

/// `sums[tap] += sum over y, x of factor[y, x] * source`; `factor` lies where [`outputs`] has its target.
#[macerator::with_simd]
pub fn weights<S: Simd>(columns: &Columns, source: &[f32], factor: &[f32], sums: &mut [f32]) {
    weights_each::<S>(columns, source, 0, factor, 0, sums);
}

/// [`weights`] of each source plane, `step` apart, with planes of the factor `plane` apart.
#[inline(always)]
pub fn weights_each<S: Simd>(
    columns: &Columns,
    source: &[f32],
    step: usize,
    factor: &[f32],
    plane: usize,
    sums: &mut [f32],
) {
    let taps = columns.planes * columns.kernel[0] * columns.kernel[1];
    for (channel, sums) in sums.chunks_exact_mut(taps).enumerate() {
        let (source, factor) = (&source[channel * step..], &factor[channel * plane..]);
        columns.check::<S>(source.len());
        // SAFETY: as in `outputs`.
        unsafe {
            match columns.kernel[0] {
                3 => weight_rows::<S, 3, 3>(columns, source, factor, sums),
                5 => weight_rows::<S, 5, 2>(columns, source, factor, sums),
                _ => weight_rows::<S, 7, 1>(columns, source, factor, sums),
            }
        }
    }
}

impl Columns {
    /// Whether these loops know the kernel and a vector fits a row.
    pub fn serve(kernel: [usize; 2], width: usize, lanes: usize) -> bool {
        matches!(kernel[0], 3 | 5 | 7) && width >= lanes
    }

    /// Whether outputs can be added to what is there: no vector overlaps another.
    pub fn adds(&self, lanes: usize) -> bool {
        self.width.is_multiple_of(lanes)
    }

    /// Every load below is of one vector at an output's place plus a tap: this is the farthest.
    #[inline(always)]
    fn check<S: Simd>(&self, source_len: usize) {
        let lanes = f32::lanes::<S>();
        assert!(Self::serve(self.kernel, self.width, lanes) && self.rows > 0 && self.planes > 0);
        let last = self.source + (self.rows - 1) * self.source_row + self.width - lanes;
        let tap = (self.planes - 1) * self.plane_step
            + (self.kernel[0] - 1) * self.row_step()
            + (self.kernel[1] - 1) * self.dilation[1];
        assert!(last + tap + lanes <= source_len, "the source covers every output and tap");
    }

    /// From one row of taps to the next, and from one row of a block to the next.
    #[inline(always)]
    fn row_step(&self) -> usize {
        self.dilation[0] * self.source_row
    }
}

/// # Safety
/// [`Columns::check`] holds for `source`; `KH` is the height of the kernel.
#[inline(always)]
unsafe fn output_rows<S: Simd, const KH: usize, const ADD: bool>(
    columns: &Columns,
    source: &[f32],
    weights: &[f32],
    bias: f32,
    target: &mut [f32],
) {
    let lanes = f32::lanes::<S>();
    for first in 0..columns.dilation[0].min(columns.rows) {
        // Rows first, first + dilation, ... in blocks.
        let rows = (columns.rows - first).div_ceil(columns.dilation[0]);
        let mut column = 0;
        while column + 2 * lanes <= columns.width {
            let mut row = 0;
            // SAFETY: blocks of 4 and 1 rows end at `rows`, pairs of vectors end within the width.
            unsafe {
                // Where there are registers for it: a row that is loaded serves more of them.
                while lanes == MAX_LANES && row + 8 <= rows {
                    output_block::<S, KH, 8, 2, ADD>(columns, source, weights, bias, target, [first, row, column]);
                    row += 8;
                }
                while row + 4 <= rows {
                    output_block::<S, KH, 4, 2, ADD>(columns, source, weights, bias, target, [first, row, column]);
                    row += 4;
                }
                while row < rows {
                    output_block::<S, KH, 1, 2, ADD>(columns, source, weights, bias, target, [first, row, column]);
                    row += 1;
                }
            }
            column += 2 * lanes;
        }
        while column < columns.width {
            // The last vector moves back over its neighbour.
            let at = column.min(columns.width - lanes);
            let mut row = 0;
            // SAFETY: as above.
            unsafe {
                while row + 8 <= rows {
                    output_block::<S, KH, 8, 1, ADD>(columns, source, weights, bias, target, [first, row, at]);
                    row += 8;
                }
                while row + 4 <= rows {
                    output_block::<S, KH, 4, 1, ADD>(columns, source, weights, bias, target, [first, row, at]);
                    row += 4;
                }
                while row < rows {
                    output_block::<S, KH, 1, 1, ADD>(columns, source, weights, bias, target, [first, row, at]);
                    row += 1;
                }
            }
            column += lanes;
        }
    }
}

/// `R` rows of `V` vectors.
///
/// # Safety
/// As for [`output_rows`]; the rows `first + dilation * (row..row + R)` and the columns from `column` lie in the plane.
#[inline(always)]
unsafe fn output_block<S: Simd, const KH: usize, const R: usize, const V: usize, const ADD: bool>(
    columns: &Columns,
    source: &[f32],
    weights: &[f32],
    bias: f32,
    target: &mut [f32],
    [first, row, column]: [usize; 3],
) {
    let lanes = f32::lanes::<S>();
    let step = columns.row_step();
    let row = first + row * columns.dilation[0];
    let start = columns.source + row * columns.source_row + column;
    let mut sums = [[splat::<S>(bias); V]; R];
    for plane in 0..columns.planes {
        for kx in 0..columns.kernel[1] {
            let mut of_column = [splat::<S>(0.0); KH];
            for ky in 0..KH {
                of_column[ky] = splat::<S>(weights[(plane * KH + ky) * columns.kernel[1] + kx]);
            }
            let at = start + plane * columns.plane_step + kx * columns.dilation[1];
            each!(ROW in 0 1 2 3 4 5 6 7 8 9 10 11 12 13 => {
                if ROW < R + KH - 1 {
                    for v in 0..V {
                        // SAFETY: by the contract: some row of the block has some tap here.
                        let pixels = unsafe { load_unchecked::<S>(source, at + ROW * step + v * lanes) };
                        each!(KY in 0 1 2 3 4 5 6 => {
                            if KY < KH && KY <= ROW && ROW < KY + R {
                                let sum = &mut sums[ROW - KY.min(ROW)][v];
                                *sum = of_column[KY].mul_add(pixels, *sum);
                            }
                        });
                    }
                }
            });
        }
    }
    for r in 0..R {
        for v in 0..V {
            let to = (row + r * columns.dilation[0]) * columns.target_row + column + v * lanes;
            let sum = if ADD { load::<S>(target, to) + sums[r][v] } else { sums[r][v] };
            store(target, to, sum);
        }
    }
}

/// `G` columns of the kernel at a time, so that their sums fit the registers.
///
/// # Safety
/// As for [`output_rows`].
#[inline(always)]
unsafe fn weight_rows<S: Simd, const KH: usize, const G: usize>(
    columns: &Columns,
    source: &[f32],
    factor: &[f32],
    sums: &mut [f32],
) {
    let [_, kw] = columns.kernel;
    for plane in 0..columns.planes {
        let sums = &mut sums[plane * KH * kw..(plane + 1) * KH * kw];
        let mut kx = 0;
        // SAFETY: passed on; the groups end at the width of the kernel.
        unsafe {
            while kx + G <= kw {
                weight_columns::<S, KH, G>(columns, source, factor, sums, plane, kx);
                kx += G;
            }
            while kx < kw {
                weight_columns::<S, KH, 1>(columns, source, factor, sums, plane, kx);
                kx += 1;
            }
        }
    }
}

/// # Safety
/// As for [`output_rows`]; `plane` and `kx + G` lie in the kernel.
#[inline(always)]
unsafe fn weight_columns<S: Simd, const KH: usize, const G: usize>(
    columns: &Columns,
    source: &[f32],
    factor: &[f32],
    sums: &mut [f32],
    plane: usize,
    kx: usize,
) {
    let lanes = f32::lanes::<S>();
    let own = columns.width % lanes;
    let mut mask = [0.0; MAX_LANES];
    mask[lanes - own..lanes].fill(1.0);
    let (all, last) = (splat::<S>(1.0), load::<S>(&mask, 0));
    let offset = plane * columns.plane_step + kx * columns.dilation[1];
    let mut of_taps = [[splat::<S>(0.0); G]; KH];
    for first in 0..columns.dilation[0].min(columns.rows) {
        let rows = (columns.rows - first).div_ceil(columns.dilation[0]);
        let mut column = 0;
        while column < columns.width {
            // The last vector moves back over its neighbour, whose lanes it must not count again.
            let at = column.min(columns.width - lanes);
            let mask = if at == column { all } else { last };
            let mut row = 0;
            // SAFETY: blocks of 4 and 1 rows end at `rows`, and a vector at `at` ends within the width.
            unsafe {
                while row + 4 <= rows {
                    let place = [first, row, at];
                    weight_block::<S, KH, G, 4>(columns, source, factor, &mut of_taps, offset, place, mask);
                    row += 4;
                }
                while row < rows {
                    let place = [first, row, at];
                    weight_block::<S, KH, G, 1>(columns, source, factor, &mut of_taps, offset, place, mask);
                    row += 1;
                }
            }
            column += lanes;
        }
    }
    let mut flat = [splat::<S>(0.0); MAX_LANES];
    for ky in 0..KH {
        for g in 0..G {
            flat[ky * G + g] = of_taps[ky][g];
        }
    }
    let flat = first_lane_sums(&flat, KH * G);
    for ky in 0..KH {
        for g in 0..G {
            sums[ky * columns.kernel[1] + kx + g] += flat[ky * G + g];
        }
    }
}

/// # Safety
/// As for [`weight_columns`]; the rows `first + dilation * (row..row + R)` and a vector at `column` lie in the plane.
#[inline(always)]
unsafe fn weight_block<S: Simd, const KH: usize, const G: usize, const R: usize>(
    columns: &Columns,
    source: &[f32],
    factor: &[f32],
    sums: &mut [[Vector<S, f32>; G]; KH],
    offset: usize,
    [first, row, column]: [usize; 3],
    mask: Vector<S, f32>,
) {
    let step = columns.row_step();
    let row = first + row * columns.dilation[0];
    let at = columns.source + row * columns.source_row + column + offset;
    let mut factors = [splat::<S>(0.0); R];
    for r in 0..R {
        let row = row + r * columns.dilation[0];
        factors[r] = load::<S>(factor, row * columns.target_row + column) * mask;
    }
    each!(ROW in 0 1 2 3 4 5 6 7 8 9 => {
        if ROW < R + KH - 1 {
            for g in 0..G {
                // SAFETY: by the contract: some row of the block has some tap here.
                let pixels = unsafe { load_unchecked::<S>(source, at + ROW * step + g * columns.dilation[1]) };
                each!(KY in 0 1 2 3 4 5 6 => {
                    if KY < KH && KY <= ROW && ROW < KY + R {
                        let sum = &mut sums[KY.min(KH - 1)][g];
                        *sum = factors[ROW - KY.min(ROW)].mul_add(pixels, *sum);
                    }
                });
            }
        }
    });
}
