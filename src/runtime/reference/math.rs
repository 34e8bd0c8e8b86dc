//! The reference's kernels that compute: convolution, pooling, linear layers, batch norm, element-wise ops.
//!
//! Takes and gives values in float64, with parameters in float32; images are NCHW. The ops' rules were checked when the graph
//! was verified.

use std::ops::Range as Indices;

use rayon::prelude::*;

use super::wide::Wide;
use crate::ir::{Tensor, Window};

/// `max(x, 0)`; NaN stays NaN.
pub fn relu(x: &Wide) -> Wide {
    Wide::new(x.shape.clone(), x.data.iter().map(|&v| if v < 0.0 { 0.0 } else { v }).collect())
}

/// The sum of two tensors of one shape.
pub fn add(a: &Wide, b: &Wide) -> Wide {
    Wide::new(a.shape.clone(), a.data.iter().zip(&b.data).map(|(a, b)| a + b).collect())
}

/// `sum_k weights[indices[k]] * xs[k]`.
pub fn weighted_sum(weights: &Wide, xs: &[&Wide], indices: &[usize]) -> Wide {
    let mut sum = vec![0f64; xs[0].data.len()];
    for (x, &index) in xs.iter().zip(indices) {
        let weight = weights.data[index];
        sum.iter_mut().zip(&x.data).for_each(|(s, &v)| *s += weight * v);
    }
    Wide::new(xs[0].shape.clone(), sum)
}

/// Grouped convolution of `[N, C, H, W]` by `[M, C / groups, kH, kW]`.
pub fn conv(x: &Wide, weight: &Tensor, bias: Option<&Tensor>, window: &Window, groups: usize) -> Wide {
    let [n, c, h, w] = nchw(x);
    let (m, per_group) = (weight.shape[0], weight.shape[1]);
    let [kh, kw] = window.kernel;
    let (rows, columns) = (Axis::new(window, 0, h), Axis::new(window, 1, w));
    windowed([n, m], &rows, &columns, |image, filter, out| {
        out.fill(bias.map_or(0.0, |b| f64::from(b.data[filter])));
        let first = image * c + filter / (m / groups) * per_group;
        for channel in 0..per_group {
            let plane = &x.data[(first + channel) * h * w..][..h * w];
            let taps = &weight.data[(filter * per_group + channel) * kh * kw..][..kh * kw];
            for (tap, &weight) in taps.iter().enumerate() {
                let weight = f64::from(weight);
                each_row(&rows, &columns, tap / kw, tap % kw, |at, from, stride, len| {
                    let source = plane[from..].iter().step_by(stride);
                    out[at..at + len].iter_mut().zip(source).for_each(|(s, &v)| *s += weight * v);
                });
            }
        }
    })
}

/// The largest element under the window; padding counts as minus infinity, a NaN wins.
pub fn max_pool(x: &Wide, window: &Window) -> Wide {
    let [n, c, h, w] = nchw(x);
    let (rows, columns) = (Axis::new(window, 0, h), Axis::new(window, 1, w));
    windowed([n, c], &rows, &columns, |image, channel, out| {
        let plane = &x.data[(image * c + channel) * h * w..][..h * w];
        out.fill(f64::NEG_INFINITY);
        each_tap(window, &rows, &columns, |at, from, stride, len| {
            for (best, &v) in out[at..at + len].iter_mut().zip(plane[from..].iter().step_by(stride)) {
                if v > *best || v.is_nan() {
                    *best = v;
                }
            }
        });
    })
}

/// The mean under the window. The divisor counts real pixels, with `include_pad` also padding, but never what a last
/// window of ceil mode has beyond the padding.
pub fn avg_pool(x: &Wide, window: &Window, include_pad: bool) -> Wide {
    let [n, c, h, w] = nchw(x);
    let (rows, columns) = (Axis::new(window, 0, h), Axis::new(window, 1, w));
    windowed([n, c], &rows, &columns, |image, channel, out| {
        let plane = &x.data[(image * c + channel) * h * w..][..h * w];
        each_tap(window, &rows, &columns, |at, from, stride, len| {
            let source = plane[from..].iter().step_by(stride);
            out[at..at + len].iter_mut().zip(source).for_each(|(s, &v)| *s += v);
        });
        for (i, out) in out.iter_mut().enumerate() {
            let count = rows.count(i / columns.out, include_pad) * columns.count(i % columns.out, include_pad);
            *out /= count as f64;
        }
    })
}

/// The mean of every plane.
pub fn global_avg_pool(x: &Wide) -> Wide {
    let [n, c, h, w] = nchw(x);
    let mean = |i: usize| x.data[i * h * w..][..h * w].iter().sum::<f64>() / (h * w) as f64;
    Wide::new([n, c, 1, 1], (0..n * c).map(mean).collect())
}

/// `x` `[N, I]` by `weight` `[O, I]`.
pub fn linear(x: &Wide, weight: &Tensor, bias: Option<&Tensor>) -> Wide {
    let (outputs, inputs) = (weight.shape[0], weight.shape[1]);
    let mut data = vec![0f64; x.shape[0] * outputs];
    data.par_iter_mut().enumerate().for_each(|(i, y)| {
        let (row, output) = (i / outputs, i % outputs);
        let pairs = x.data[row * inputs..][..inputs].iter().zip(&weight.data[output * inputs..][..inputs]);
        let dot: f64 = pairs.map(|(&x, &w)| x * f64::from(w)).sum();
        *y = dot + bias.map_or(0.0, |b| f64::from(b.data[output]));
    });
    Wide::new([x.shape[0], outputs], data)
}

/// `(x - mean) / sqrt(var + epsilon) * scale + shift` for every channel (axis 1).
pub fn batch_norm(
    x: &Wide,
    scale: Option<&Tensor>,
    shift: Option<&Tensor>,
    mean: &Tensor,
    var: &Tensor,
    epsilon: f32,
) -> Wide {
    let channels = x.shape[1];
    let inner = x.shape[2..].iter().product::<usize>().max(1);
    let at = |p: Option<&Tensor>, channel: usize, other: f64| p.map_or(other, |p| f64::from(p.data[channel]));
    let mut data = x.data.clone();
    data.par_chunks_mut(inner).enumerate().for_each(|(plane, values)| {
        let c = plane % channels;
        let factor = at(scale, c, 1.0) / (f64::from(var.data[c]) + f64::from(epsilon)).sqrt();
        let (mean, shift) = (f64::from(mean.data[c]), at(shift, c, 0.0));
        values.iter_mut().for_each(|v| *v = (*v - mean) * factor + shift);
    });
    Wide::new(x.shape.clone(), data)
}

/// One spatial axis of a sliding window.
struct Axis {
    size: isize,
    out: usize,
    kernel: isize,
    stride: isize,
    dilation: isize,
    before: isize,
    after: isize,
}

impl Axis {
    fn new(window: &Window, axis: usize, size: usize) -> Self {
        Self {
            size: size as isize,
            out: window.output(size, axis).expect("verified: a window fits"),
            kernel: window.kernel[axis] as isize,
            stride: window.stride[axis] as isize,
            dilation: window.dilation[axis] as isize,
            before: window.padding[axis] as isize,
            after: window.padding[axis + 2] as isize,
        }
    }

    /// The results for which tap `tap` lies on the image, and the pixel under it for the first of them.
    fn hits(&self, tap: usize) -> (Indices<usize>, usize) {
        let shift = self.before - tap as isize * self.dilation;
        let first = (shift.max(0) + self.stride - 1) / self.stride;
        let end = ((self.size - 1 + shift).div_euclid(self.stride) + 1).clamp(0, self.out as isize);
        (first as usize..end.max(first) as usize, (first * self.stride - shift).max(0) as usize)
    }

    /// The taps of result `out` that lie on the image, or with `include_pad` on the padded image.
    fn count(&self, out: usize, include_pad: bool) -> usize {
        let start = out as isize * self.stride - self.before;
        let (low, high) = if include_pad { (-self.before, self.size + self.after) } else { (0, self.size) };
        (0..self.kernel).filter(|tap| (low..high).contains(&(start + tap * self.dilation))).count()
    }
}

/// Makes `[n, c, rows, columns]` plane by plane, in parallel.
fn windowed([n, c]: [usize; 2], rows: &Axis, columns: &Axis, plane: impl Fn(usize, usize, &mut [f64]) + Sync) -> Wide {
    let mut data = vec![0f64; n * c * rows.out * columns.out];
    data.par_chunks_mut(rows.out * columns.out).enumerate().for_each(|(i, out)| plane(i / c, i % c, out));
    Wide::new([n, c, rows.out, columns.out], data)
}

/// Calls `run(first result, first pixel, pixel stride, count)` for every row of results that the tap meets.
fn each_row(rows: &Axis, columns: &Axis, ky: usize, kx: usize, mut run: impl FnMut(usize, usize, usize, usize)) {
    let (ys, y) = rows.hits(ky);
    let (xs, x) = columns.hits(kx);
    if xs.is_empty() {
        return;
    }
    for (i, out_y) in ys.enumerate() {
        let pixel = (y + i * rows.stride as usize) * columns.size as usize + x;
        run(out_y * columns.out + xs.start, pixel, columns.stride as usize, xs.len());
    }
}

fn each_tap(window: &Window, rows: &Axis, columns: &Axis, mut run: impl FnMut(usize, usize, usize, usize)) {
    for ky in 0..window.kernel[0] {
        for kx in 0..window.kernel[1] {
            each_row(rows, columns, ky, kx, &mut run);
        }
    }
}

fn nchw(x: &Wide) -> [usize; 4] {
    <[usize; 4]>::try_from(x.shape.as_slice()).expect("verified: an image has four dimensions")
}
