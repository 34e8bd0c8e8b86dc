//! Reading burn's CPU tensors in place and filling new ones in parallel.
//!
//! Takes tensors of any layout; gives a [`View`] whose planes are contiguous (channel slices are read where they lie,
//! other layouts are copied once) and buffers filled chunk by chunk on all cores. How the work is cut depends on the
//! shapes alone, never on the number of threads, so that sums are the same on every machine.
use std::{
    collections::VecDeque,
    ops::Range,
    sync::{Mutex, PoisonError},
};

use burn::{
    backend::{
        DType,
        flex::{FlexTensor, Layout},
    },
    tensor::Shape,
};

use macerator::Simd;

use super::{memory::Floats, team::on_all};

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

/// The tensor itself if a `View` can read it, else a contiguous copy.
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
    if !tensor.layout().is_contiguous() {
        return vector(&tensor.to_contiguous());
    }
    let start = tensor.layout().start_offset();
    tensor.storage::<f32>()[start..start + tensor.layout().num_elements()].to_vec()
}

pub fn into_tensor<const D: usize>(values: Floats, dims: [usize; D]) -> FlexTensor {
    debug_assert_eq!(values.len(), dims.iter().product::<usize>());
    FlexTensor::new(values.into_bytes(), Layout::contiguous(Shape::new(dims)), DType::F32)
}

/// Fills buffers of the same number of chunks; `work` is the number of elementary steps of one chunk.
///
/// `fill` gets what `init` made for its thread, the chunk's number and its part of each buffer, all of which it must write:
/// there is anything in them.
pub fn fill_all<T>(
    parts: &[Part],
    work: usize,
    init: impl Fn() -> T + Sync + Send,
    fill: impl Fn(&mut T, usize, &mut [&mut [f32]]) + Sync + Send,
) -> Vec<Floats> {
    let chunks = parts[0].len.div_ceil(parts[0].chunk);
    let mut buffers: Vec<_> = parts.iter().map(|part| Floats::new(part.len)).collect();
    let mut cutters: Vec<_> =
        buffers.iter_mut().zip(parts).map(|(buffer, part)| buffer.chunks_mut(part.chunk)).collect();
    let mut cuts = Vec::with_capacity(chunks * parts.len());
    for _ in 0..chunks {
        let cut = cutters.iter_mut().map(|cutter| cutter.next().expect("the buffers have the same number of chunks"));
        cuts.extend(cut);
    }
    if chunks * work < 2 * SERIAL {
        let mut state = init();
        let chunks = cuts.chunks_mut(parts.len()).enumerate();
        chunks.for_each(|(chunk, cut)| fill(&mut state, chunk, cut));
    } else {
        let least = (SERIAL / work.max(1)).max(1);
        share(cuts.chunks_mut(parts.len()).enumerate(), least, chunks.div_ceil(least), init, |state, (chunk, cut)| {
            fill(state, chunk, cut);
        });
    }
    buffers
}

/// Works off `items` on all cores, `several` at a time, of which there are `portions`. Each core that takes part makes one
/// state. Where work is split in two again and again, as rayon's own iterators do it, each half makes one, and filling such
/// scratch with zeros showed in the profile of a training step.
///
/// Each core begins with a part of its own, the same one of a batch every time: what it made it finds in its caches. Then it
/// takes from the end of what others have left.
fn share<I: Send, T>(
    items: impl ExactSizeIterator<Item = I>,
    several: usize,
    portions: usize,
    init: impl Fn() -> T + Sync,
    work: impl Fn(&mut T, I) + Sync,
) {
    let cores = rayon::current_num_threads();
    let count = items.len();
    let mut parts: Vec<VecDeque<I>> = (0..cores).map(|_| VecDeque::with_capacity(count / cores + 1)).collect();
    items.enumerate().for_each(|(i, item)| parts[i * cores / count].push_back(item));
    let parts: Vec<Mutex<VecDeque<I>>> = parts.into_iter().map(Mutex::new).collect();
    let worker = || {
        let mine = rayon::current_thread_index().unwrap_or(0) % cores;
        let (mut state, mut portion) = (None, Vec::with_capacity(several));
        for i in 0..cores {
            loop {
                let mut part = parts[(mine + i) % cores].lock().unwrap_or_else(PoisonError::into_inner);
                let (left, taken) = (part.len(), several.min(part.len()));
                match i {
                    0 => portion.extend(part.drain(..taken)),
                    _ => portion.extend(part.drain(left - taken..)),
                }
                drop(part);
                if portion.is_empty() {
                    break;
                }
                let state = state.get_or_insert_with(&init);
                portion.drain(..).for_each(|item| work(state, item));
            }
        }
    };
    if portions > 1 && on_all(&worker) {
        return;
    }
    rayon::scope(|scope| {
        for _ in 1..cores.min(portions) {
            scope.spawn(|_| worker());
        }
        worker();
    });
}

/// [`fill_all`] for a number of buffers known beforehand.
pub fn fill<const K: usize, T>(
    parts: [Part; K],
    work: usize,
    init: impl Fn() -> T + Sync + Send,
    fill: impl Fn(&mut T, usize, [&mut [f32]; K]) + Sync + Send,
) -> [Floats; K] {
    let buffers = fill_all(&parts, work, init, |state, chunk, cut| {
        let mut cut = cut.iter_mut();
        let cut = std::array::from_fn(|_| std::mem::take(cut.next().expect("one cut a buffer")));
        fill(state, chunk, cut);
    });
    let mut buffers = buffers.into_iter();
    std::array::from_fn(|_| buffers.next().expect("one buffer a part"))
}

/// [`fill`] over the planes of a tensor: `floats` of each buffer a plane, as many planes a chunk as make a good piece of work.
///
/// `fill` gets the planes of the chunk, counted through images and channels, and the chunks; `work` is that of one plane.
pub fn fill_planes<const K: usize>(
    [n, c, h, w]: [usize; 4],
    floats: [usize; K],
    work: usize,
    fill_chunk: impl Fn(Range<usize>, [&mut [f32]; K]) + Sync + Send,
) -> [Floats; K] {
    let planes = planes_of_chunk([n, c, h, w]);
    let parts = floats.map(|floats| Part { len: n * c * floats, chunk: planes * floats });
    let range = |chunk: usize| chunk * planes..(n * c).min((chunk + 1) * planes);
    fill(parts, work * planes, || (), |(), chunk, cuts| fill_chunk(range(chunk), cuts))
}

/// How many planes of such a tensor make a good piece of work.
pub fn planes_of_chunk([n, c, h, w]: [usize; 4]) -> usize {
    (PLANES_CHUNK / (h * w)).clamp(1, n * c)
}

/// Sum over rows of `width` floats, in the order of the rows and in f64.
pub fn sum_rows(rows: &[f32], width: usize) -> Floats {
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

/// The sums that [`sum_rows`] takes, for rows that are too few or short to be shared out.
pub fn column_sums(rows: &[f32], width: usize) -> Vec<f64> {
    let mut sums = vec![0.0; width];
    add_rows(rows, &mut sums);
    sums
}

#[allow(
    clippy::extra_unused_type_parameters,
    reason = "the parameter picks the instructions that a vectorised function is compiled for"
)]
#[macerator::with_simd]
fn add_rows<S: Simd>(rows: &[f32], sums: &mut [f64]) {
    for row in rows.chunks_exact(sums.len()) {
        sums.iter_mut().zip(row).for_each(|(sum, &v)| *sum += f64::from(v));
    }
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

    /// A channel from its plane in the first image on, and the floats from there to its plane in the next.
    pub fn channel(&self, c: usize) -> (&'a [f32], usize) {
        (&self.data[c * self.plane..], self.image)
    }

    /// The planes of `range`, counted through images and channels, each with its image and channel.
    pub fn walk(&self, range: Range<usize>) -> impl Iterator<Item = ([usize; 2], &'a [f32])> + use<'a> {
        let view = *self;
        let [channels, first] = [self.dims[1], range.start];
        let (mut image, mut channel) = (first / channels, first % channels);
        range.map(move |_| {
            let here = ([image, channel], view.plane(image, channel));
            channel += 1;
            if channel == channels {
                (image, channel) = (image + 1, 0);
            }
            here
        })
    }

    /// From the start of channel `c` to the end of channel `c + count - 1`; planes lie `self.plane` apart.
    pub fn planes(&self, n: usize, c: usize, count: usize) -> &'a [f32] {
        let start = n * self.image + c * self.plane;
        &self.data[start..start + (count - 1) * self.plane + self.pixels()]
    }
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
                    a.iter_mut().enumerate().for_each(|(i, v)| *v = (chunk * 5 + i) as f32);
                    b[0] = chunk as f32;
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
