//! Reading burn's CPU tensors in place and filling new ones in parallel.
//!
//! Takes tensors of any layout; gives a [`View`] whose planes are contiguous (channel slices are read where they lie,
//! other layouts are copied once) and buffers filled chunk by chunk on all cores. How the work is cut depends on the
//! shapes alone, never on the number of threads, so that sums are the same on every machine.
use std::{mem::MaybeUninit, ops::Range};

use burn::{
    backend::{
        DType,
        flex::{FlexTensor, Layout},
    },
    tensor::{Bytes, Shape},
};
use rayon::prelude::*;

/// Work below which a second thread costs more than it brings, in elementary steps (an addition, a load).
const SERIAL: usize = 1 << 15;

/// An NCHW tensor whose planes are contiguous; images and channels may lie at any distance.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    data: &'a [f32],
    pub dims: [usize; 4],
    image: usize,
    pub plane: usize,
}

/// One buffer to fill: its length and how much of it one chunk gets; the last chunk may be shorter.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    pub len: usize,
    pub chunk: usize,
}

/// The tensor itself if a [`View`] can read it, else a contiguous copy.
pub fn readable(tensor: FlexTensor) -> FlexTensor {
    let layout = tensor.layout();
    let [n, c, h, w] = layout.shape().dims();
    let strides = layout.strides();
    let rows_touch = (w == 1 || strides[3] == 1) && (h == 1 || strides[2] == w as isize);
    let forward = (n == 1 || strides[0] >= 0) && (c == 1 || strides[1] >= 0);
    if rows_touch && forward { tensor } else { tensor.to_contiguous() }
}

/// The elements of a vector or scalar tensor.
pub fn vector(tensor: &FlexTensor) -> Vec<f32> {
    let tensor = tensor.to_contiguous();
    let start = tensor.layout().start_offset();
    tensor.storage::<f32>()[start..start + tensor.layout().num_elements()].to_vec()
}

pub fn into_tensor<const D: usize>(values: Vec<f32>, dims: [usize; D]) -> FlexTensor {
    debug_assert_eq!(values.len(), dims.iter().product::<usize>());
    FlexTensor::new(Bytes::from_elems(values), Layout::contiguous(Shape::new(dims)), DType::F32)
}

/// Fills `K` buffers of the same number of chunks; `work` is the number of elementary steps of one chunk.
///
/// `fill` gets what `init` made for its thread, the chunk's number and the chunks, zeroed.
pub fn fill<const K: usize, T>(
    parts: [Part; K],
    work: usize,
    init: impl Fn() -> T + Sync + Send,
    fill: impl Fn(&mut T, usize, [&mut [f32]; K]) + Sync + Send,
) -> [Vec<f32>; K] {
    let chunks = parts[0].len.div_ceil(parts[0].chunk);
    let mut buffers = parts.map(|part| Vec::with_capacity(part.len));
    let mut cuts = Vec::with_capacity(chunks);
    let mut rest = buffers.each_mut().map(|buffer: &mut Vec<f32>| buffer.spare_capacity_mut());
    for (rest, part) in rest.iter_mut().zip(parts) {
        assert_eq!(part.len.div_ceil(part.chunk), chunks, "the buffers have the same number of chunks");
        *rest = &mut std::mem::take(rest)[..part.len];
    }
    for _ in 0..chunks {
        let mut index = 0;
        cuts.push(rest.each_mut().map(|rest| {
            let whole = std::mem::take(rest);
            let (cut, tail) = whole.split_at_mut(parts[index].chunk.min(whole.len()));
            index += 1;
            *rest = tail;
            cut
        }));
    }
    let step = |state: &mut T, (chunk, cut): (usize, [&mut [MaybeUninit<f32>]; K])| fill(state, chunk, cut.map(zeroed));
    if chunks * work < 2 * SERIAL {
        let mut state = init();
        cuts.into_iter().enumerate().for_each(|cut| step(&mut state, cut));
    } else {
        let least = (SERIAL / work.max(1)).max(1);
        cuts.into_par_iter().enumerate().with_min_len(least).for_each_init(init, step);
    }
    for (buffer, part) in buffers.iter_mut().zip(parts) {
        // SAFETY: the capacity is at least `len`, and the chunks above, each initialised by `zeroed`, cover the first `len`
        // elements: they were split off one after the other and there are `ceil(len / chunk)` of them.
        unsafe { buffer.set_len(part.len) };
    }
    buffers
}

/// [`fill`] over the planes of a tensor: `floats` of each buffer a plane, as many planes a chunk as make a good piece of work.
///
/// `fill` gets the planes of the chunk, counted through images and channels, and the chunks; `work` is that of one plane.
pub fn fill_planes<const K: usize>(
    [n, c, h, w]: [usize; 4],
    floats: [usize; K],
    work: usize,
    fill_chunk: impl Fn(Range<usize>, [&mut [f32]; K]) + Sync + Send,
) -> [Vec<f32>; K] {
    let planes = (PLANES_CHUNK / (h * w)).clamp(1, n * c);
    let parts = floats.map(|floats| Part { len: n * c * floats, chunk: planes * floats });
    let range = |chunk: usize| chunk * planes..(n * c).min((chunk + 1) * planes);
    fill(parts, work * planes, || (), |(), chunk, cuts| fill_chunk(range(chunk), cuts))
}

/// Sum over rows of `width` floats, in the order of the rows and in f64.
pub fn sum_rows(rows: &[f32], width: usize) -> Vec<f32> {
    let work = rows.len() / width.max(1) * width.min(SUM_CHUNK);
    let [sums] = fill(
        [Part { len: width, chunk: SUM_CHUNK.min(width.max(1)) }],
        work,
        || (),
        |(), chunk, [out]| {
            let start = chunk * SUM_CHUNK.min(width);
            let mut sums = vec![0.0f64; out.len()];
            for row in rows.chunks_exact(width) {
                let row = &row[start..start + out.len()];
                sums.iter_mut().zip(row).for_each(|(sum, &v)| *sum += f64::from(v));
            }
            out.iter_mut().zip(sums).for_each(|(out, sum)| *out = sum as f32);
        },
    );
    sums
}

/// Columns of one chunk of [`sum_rows`].
const SUM_CHUNK: usize = 1024;

/// Floats of one chunk of [`fill_planes`]: half a first-level cache.
const PLANES_CHUNK: usize = 4096;

impl<'a> View<'a> {
    /// Reads a tensor that [`readable`] has seen.
    pub fn new(tensor: &'a FlexTensor) -> Self {
        let layout = tensor.layout();
        let dims = layout.shape().dims();
        let stride = |axis: usize| {
            if dims[axis] == 1 { 0 } else { layout.strides()[axis] as usize }
        };
        let data = &tensor.storage::<f32>()[layout.start_offset()..];
        Self { data, dims, image: stride(0), plane: stride(1) }
    }

    pub fn pixels(&self) -> usize {
        self.dims[2] * self.dims[3]
    }

    pub fn plane(&self, n: usize, c: usize) -> &'a [f32] {
        let start = n * self.image + c * self.plane;
        &self.data[start..start + self.pixels()]
    }

    /// Plane number `index`, counted through images and channels.
    pub fn nth_plane(&self, index: usize) -> &'a [f32] {
        self.plane(index / self.dims[1], index % self.dims[1])
    }

    /// From the start of channel `c` to the end of channel `c + count - 1`; planes lie `self.plane` apart.
    pub fn planes(&self, n: usize, c: usize, count: usize) -> &'a [f32] {
        let start = n * self.image + c * self.plane;
        &self.data[start..start + (count - 1) * self.plane + self.pixels()]
    }
}

fn zeroed(part: &mut [MaybeUninit<f32>]) -> &mut [f32] {
    part.fill(MaybeUninit::new(0.0));
    // SAFETY: every element was written just now.
    unsafe { part.assume_init_mut() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_cover_every_buffer_whatever_the_lengths() {
        for (chunks, work) in [(1, 1), (3, 1), (7, 100_000), (300, 1000)] {
            let parts = [Part { len: chunks * 5 - 2, chunk: 5 }, Part { len: chunks, chunk: 1 }];
            let [a, b] = fill(
                parts,
                work,
                || 0,
                |seen, chunk, [a, b]| {
                    *seen += 1;
                    a.iter_mut().enumerate().for_each(|(i, v)| *v += (chunk * 5 + i) as f32);
                    b[0] += chunk as f32;
                },
            );
            assert!(a.iter().enumerate().all(|(i, &v)| v == i as f32) && a.len() == chunks * 5 - 2);
            assert!(b.iter().enumerate().all(|(i, &v)| v == i as f32) && b.len() == chunks);
        }
    }

    #[test]
    fn rows_are_summed_over_every_chunk() {
        let (rows, width) = (7, 2 * SUM_CHUNK + 3);
        let values: Vec<f32> = (0..rows * width).map(|i| (i % width) as f32).collect();
        let sums = sum_rows(&values, width);
        assert!(sums.iter().enumerate().all(|(i, &v)| v == (i * rows) as f32));
    }

    #[test]
    fn a_channel_slice_is_viewed_in_place_and_a_transpose_is_copied() {
        let tensor = into_tensor((0..48).map(|v| v as f32).collect(), [2, 4, 2, 3]);
        let slice = Layout::new(Shape::new([2, 2, 2, 3]), vec![24, 6, 3, 1], 6);
        let slice = readable(tensor.clone().with_layout(slice));
        let view = View::new(&slice);
        assert_eq!(view.plane(1, 1), &[36.0, 37.0, 38.0, 39.0, 40.0, 41.0]);
        assert_eq!(view.planes(0, 0, 2).len(), 12);
        let turned = readable(tensor.with_layout(Layout::new(Shape::new([2, 4, 3, 2]), vec![24, 6, 1, 3], 0)));
        assert_eq!(View::new(&turned).plane(0, 1), &[6.0, 9.0, 7.0, 10.0, 8.0, 11.0]);
    }
}
