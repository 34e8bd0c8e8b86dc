//! Where a convolution reads: which source position and which offsets from it make one output.
//!
//! Takes a [`Window`] and sizes; gives, for the forward pass and for each class of input pixels of the backward pass, a
//! [`Padded`] layout of the source planes, the [`Taps`] (offsets, one for each weight) and the [`Positions`] (one for each
//! output vector). With these three every kernel, stride, dilation and group count is the same loop: an output is the sum of
//! weight times source at position plus offset.
use std::sync::Arc;

use super::{
    super::{super::Window, kept::Kept},
    columns::Columns,
    padded::{Padded, move_row},
    positions::{Positions, Taps},
};

/// What the forward pass reads and writes.
pub struct Forward {
    /// None where the planes can be read in place.
    pub padded: Option<Padded>,
    pub taps: Taps,
    pub positions: Positions,
    /// Where one output plane can be made column by column of the kernel.
    pub columns: Option<Columns>,
    /// Where rows are shorter than a vector: the plane as one long row.
    pub flat: Option<Flat>,
}

/// What the gradient of the input reads and writes.
pub struct Backward {
    /// The layout of the output's gradient; none where it can be read in place.
    pub padded: Option<Padded>,
    pub classes: Vec<Class>,
    /// Whether the classes are all pixels; the others have gradient zero.
    pub complete: bool,
}

/// Input pixels that see the same weights: those with the same remainder of row and column modulo the stride.
pub struct Class {
    /// The kernel's taps (row, column) such a pixel meets.
    pub kernel: Vec<[usize; 2]>,
    /// In the order of (output channel, `kernel`).
    pub taps: Taps,
    pub positions: Positions,
    /// Where one plane of the class can be made column by column of the kernel.
    pub columns: Option<Columns>,
    /// Where rows are shorter than a vector: the plane as one long row.
    pub flat: Option<Flat>,
    /// How the class lies in the plane where its pixels are not neighbours.
    pub scatter: Option<Scatter>,
}

/// A plane of short rows as one long row, in which whole vectors find room: what lies between the rows is computed and thrown
/// away.
#[derive(Clone, Debug)]
pub struct Flat {
    pub positions: Positions,
    /// Rows of the plane.
    pub rows: usize,
    /// Pixels of a row.
    pub width: usize,
    /// From one row to the next.
    pub row: usize,
}

/// A dense block of `rows` by `columns`, spread over a plane: pixel (i, j) goes to `start + i * row_step + j * column_step`.
#[derive(Clone, Copy, Debug)]
pub struct Scatter {
    pub rows: usize,
    pub columns: usize,
    pub start: usize,
    pub row_step: usize,
    pub column_step: usize,
}

impl Forward {
    /// `planes` source planes for each output, `stride` apart if they are read in place.
    pub fn new(window: &Window, size: [usize; 2], planes: usize, stride: usize, lanes: usize) -> Arc<Self> {
        Self::reading(window, size, planes, stride, lanes, false)
    }

    /// As [`Forward::new`]; planes that are `changed` as they are read cannot be read in place.
    pub fn reading(
        window: &Window,
        size: [usize; 2],
        planes: usize,
        stride: usize,
        lanes: usize,
        changed: bool,
    ) -> Arc<Self> {
        static KEPT: Kept<(Window, [usize; 2], [usize; 3], bool), Forward> = Kept::new();
        KEPT.get((*window, size, [planes, stride, lanes], changed), |_| {
            Self::made(window, size, planes, stride, lanes, changed)
        })
    }

    fn made(window: &Window, size: [usize; 2], planes: usize, stride: usize, lanes: usize, changed: bool) -> Self {
        let [height, width] = size;
        let [oh, ow] = window.output_size(size);
        let pointwise = window.kernel == [1, 1];
        let unpadded = window.padding == [0, 0] && window.stride == [1, 1];
        let in_place = unpadded && if pointwise { oh * ow >= lanes } else { ow >= lanes && !changed };
        if in_place && pointwise && (changed || collide(planes, stride)) {
            let padded = Padded::apart(size);
            return Self {
                padded: Some(padded),
                taps: Taps::new((0..planes).map(|c| c * padded.plane()).collect()),
                positions: Positions::new(lanes, height * width, [[0, 0]]),
                columns: None,
                flat: None,
            };
        }
        if in_place {
            let unpadded = Padded::around(std::slice::from_ref(window), size);
            let plan = Self::laid(window, size, planes, unpadded, stride, lanes);
            let positions = match pointwise {
                true => Positions::new(lanes, height * width, [[0, 0]]),
                false => plan.positions,
            };
            return Self { padded: None, positions, flat: None, ..plan };
        }
        let padded = Padded::around(std::slice::from_ref(window), size);
        Self::laid(window, size, planes, padded, padded.plane(), lanes)
    }

    /// Reading planes laid out as `padded` says, with room for the window, `plane` apart.
    pub fn laid(window: &Window, size: [usize; 2], planes: usize, padded: Padded, plane: usize, lanes: usize) -> Self {
        let [oh, ow] = window.output_size(size);
        let [kh, kw] = window.kernel;
        let [sh, sw] = window.stride;
        let [dh, dw] = window.dilation;
        let row = padded.row();
        // From the corner of the layout to that of the window's own padding.
        let [down, right] = [padded.top - window.padding[0], padded.left - window.padding[1]];
        let taps = (0..planes * kh * kw).map(|k| {
            let (c, ky, kx) = (k / (kh * kw), k / kw % kh, k % kw);
            let column = kx * dw + right;
            c * plane + (ky * dh + down) * row + column % sw * padded.width + column / sw
        });
        let taps = Taps::new(taps.collect());
        let positions = Positions::new(lanes, ow, (0..oh).map(|y| [y * sh * row, y * ow]));
        let columns = Columns {
            rows: oh,
            width: ow,
            source: down * row + right,
            source_row: row,
            target_row: ow,
            kernel: window.kernel,
            dilation: window.dilation,
            planes,
            plane_step: plane,
        };
        let served = window.stride == [1, 1] && Columns::serve(window.kernel, ow, lanes);
        let short = window.stride == [1, 1] && ow < lanes;
        let flat = short.then(|| Flat::new(lanes, 0, [oh, ow], row));
        Self { padded: Some(padded), taps, positions, columns: served.then_some(columns), flat }
    }
}

impl Backward {
    /// `size` is the input's; each input pixel sums over `planes` planes of the output's gradient, `stride` apart if read in
    /// place.
    pub fn new(window: &Window, size: [usize; 2], planes: usize, stride: usize, lanes: usize) -> Arc<Self> {
        static KEPT: Kept<(Window, [usize; 2], [usize; 3]), Backward> = Kept::new();
        KEPT.get((*window, size, [planes, stride, lanes]), |_| Self::made(window, size, planes, stride, lanes))
    }

    fn made(window: &Window, size: [usize; 2], planes: usize, stride: usize, lanes: usize) -> Self {
        let [height, width] = size;
        let output = window.output_size(size);
        if window.kernel == [1, 1] && window.padding == [0, 0] && window.stride == [1, 1] && height * width >= lanes {
            let padded = collide(planes, stride).then(|| Padded::apart(size));
            return Self::of_pixels(size, planes, padded, stride, lanes);
        }
        let [sh, sw] = window.stride;
        // An input pixel at padded coordinate `r = class + s * i` meets tap k at output `i - (k * d - class) / s`. The scratch
        // holds `reach` zeros before output 0, so that this never goes below zero.
        let reach: [usize; 2] =
            std::array::from_fn(|axis| (window.kernel[axis] - 1) * window.dilation[axis] / window.stride[axis]);
        let last: [usize; 2] =
            std::array::from_fn(|axis| (size[axis] - 1 + window.padding[axis]) / window.stride[axis]);
        let padded = Padded {
            rows: reach[0] + last[0] + 1,
            phases: 1,
            width: reach[1] + last[1] + 1,
            top: reach[0],
            left: reach[1],
            size: output,
            gap: 0,
        };
        let class = |a: usize, b: usize| {
            let [rows, columns] = [axis_taps(window, 0, a), axis_taps(window, 1, b)];
            // The last tap first: it has the smallest offset.
            let pairs = rows.iter().rev().flat_map(|row| columns.iter().rev().map(move |column| [*row, *column]));
            let pairs: Vec<[(usize, usize); 2]> = pairs.collect();
            let offsets = (0..planes).flat_map(|c| {
                pairs
                    .iter()
                    .map(move |[(_, m), (_, l)]| c * padded.plane() + (reach[0] - m) * padded.width + reach[1] - l)
            });
            let taps = Taps::new(offsets.collect());
            // The range of i for which the pixel is inside the image.
            let range = |axis: usize, class: usize| {
                let (p, s) = (window.padding[axis], window.stride[axis]);
                let first = p.saturating_sub(class).div_ceil(s);
                let end = (size[axis] + p).saturating_sub(class).div_ceil(s);
                first..end.max(first)
            };
            let [i, j] = [range(0, a), range(1, b)];
            let source = |row: usize| (i.start + row) * padded.width + j.start;
            let start = [a + sh * i.start, b + sw * j.start];
            let start: [usize; 2] = std::array::from_fn(|axis| start[axis].saturating_sub(window.padding[axis]));
            let (positions, scatter);
            if window.stride == [1, 1] {
                positions = Positions::new(lanes, j.len(), (0..i.len()).map(|row| [source(row), row * width]));
                scatter = None;
            } else {
                positions = Positions::new(lanes, j.len(), (0..i.len()).map(|row| [source(row), row * j.len()]));
                scatter = Some(Scatter {
                    rows: i.len(),
                    columns: j.len(),
                    start: start[0] * width + start[1],
                    row_step: sh * width,
                    column_step: sw,
                });
            }
            let columns = Columns {
                rows: i.len(),
                width: j.len(),
                source: source(0),
                source_row: padded.width,
                target_row: width,
                kernel: window.kernel,
                dilation: window.dilation,
                planes,
                plane_step: padded.plane(),
            };
            let served = window.stride == [1, 1] && Columns::serve(window.kernel, j.len(), lanes);
            let short = window.stride == [1, 1] && j.len() < lanes && !i.is_empty() && !j.is_empty();
            Class {
                flat: short.then(|| Flat::new(lanes, source(0), [i.len(), j.len()], padded.width)),
                columns: served.then_some(columns),
                kernel: pairs.iter().map(|[(ky, _), (kx, _)]| [*ky, *kx]).collect(),
                taps,
                positions,
                scatter,
            }
        };
        let classes = (0..sh).flat_map(|a| (0..sw).map(move |b| (a, b))).map(|(a, b)| class(a, b));
        let with_pixels = classes.filter(|class| !class.positions.is_empty());
        let (classes, without_taps): (Vec<_>, Vec<_>) = with_pixels.partition(|class| !class.taps.offsets().is_empty());
        Self { padded: Some(padded), classes, complete: without_taps.is_empty() }
    }

    /// A convolution of single pixels, that reads planes `stride` apart, or as `padded` lays them.
    pub fn of_pixels(size: [usize; 2], planes: usize, padded: Option<Padded>, stride: usize, lanes: usize) -> Self {
        let plane = padded.map_or(stride, |padded| padded.plane());
        let taps = Taps::new((0..planes).map(|c| c * plane).collect());
        let positions = Positions::new(lanes, size.iter().product(), [[0, 0]]);
        let class = Class { kernel: vec![[0, 0]], taps, positions, columns: None, flat: None, scatter: None };
        Self { padded, classes: vec![class], complete: true }
    }

    /// Pixels of the largest class that has to be spread.
    pub fn largest_scatter(&self) -> usize {
        let pixels = |class: &Class| class.scatter.map_or(0, |scatter| scatter.rows * scatter.columns);
        self.classes.iter().map(pixels).max().unwrap_or(0)
    }
}

impl Flat {
    fn new(lanes: usize, source: usize, [rows, width]: [usize; 2], row: usize) -> Self {
        let positions = Positions::new(lanes, (rows - 1) * row + width, [[source, 0]]);
        Self { positions, rows, width, row }
    }

    /// Floats of the long row.
    pub fn len(&self) -> usize {
        (self.rows - 1) * self.row + self.width
    }

    /// Takes the plane out of the long row.
    #[inline(always)]
    pub fn compact(&self, long: &[f32], plane: &mut [f32]) {
        for (from, to) in long.chunks(self.row).zip(plane.chunks_exact_mut(self.width)) {
            move_row(&from[..self.width], to);
        }
    }

    /// Lays the plane out in the long row; what lies between the rows is left alone.
    #[inline(always)]
    pub fn spread(&self, plane: &[f32], long: &mut [f32]) {
        for (from, to) in plane.chunks_exact(self.width).zip(long.chunks_mut(self.row)) {
            move_row(from, to);
        }
    }
}

impl Scatter {
    pub fn spread(&self, dense: &[f32], plane: &mut [f32]) {
        for (row, dense) in dense.chunks_exact(self.columns).enumerate() {
            let plane = &mut plane[self.start + row * self.row_step..];
            match self.column_step {
                // Known where it is compiled, the step costs nothing.
                2 => plane.chunks_mut(2).zip(dense).for_each(|(to, &from)| to[0] = from),
                step => plane.chunks_mut(step).zip(dense).for_each(|(to, &from)| to[0] = from),
            }
        }
    }
}

/// Whether planes read together fall on so few places of the first-level cache that they drive each other out of it. Its sets
/// repeat every 4 KiB, and each holds eight lines.
fn collide(planes: usize, stride: usize) -> bool {
    let bytes = stride * size_of::<f32>();
    let places = if bytes == 0 {
        return false;
    } else {
        4096 >> bytes.trailing_zeros().min(12)
    };
    planes > 4 * places
}

/// The taps k of one axis with `k * dilation = class` modulo the stride, and `(k * dilation - class) / stride` of each.
fn axis_taps(window: &Window, axis: usize, class: usize) -> Vec<(usize, usize)> {
    let (d, s) = (window.dilation[axis], window.stride[axis]);
    let meets = (0..window.kernel[axis]).filter(|k| k * d % s == class);
    meets.map(|k| (k, (k * d - class) / s)).collect()
}
