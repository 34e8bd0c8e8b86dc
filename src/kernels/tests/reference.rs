//! The operations written as their definitions, in f64 and without any care for speed: what the kernels are held to.
use super::super::Window;

/// An NCHW image batch, or weights, in f64.
#[derive(Clone, Debug)]
pub struct Image {
    pub dims: [usize; 4],
    pub data: Vec<f64>,
}

impl Image {
    /// Builds the image pixel by pixel.
    pub fn of(dims: [usize; 4], mut value: impl FnMut([usize; 4]) -> f64) -> Self {
        let [_, c, h, w] = dims;
        let position = |i: usize| [i / (c * h * w), i / (h * w) % c, i / w % h, i % w];
        let data = (0..dims.iter().product()).map(|i| value(position(i))).collect();
        Self { dims, data }
    }

    pub fn at(&self, [n, c, y, x]: [usize; 4]) -> f64 {
        let [_, cs, h, w] = self.dims;
        self.data[((n * cs + c) * h + y) * w + x]
    }

    /// The pixel under tap (ky, kx) of the window at output (y, x), or nothing in the padding.
    fn under(&self, window: &Window, [n, c]: [usize; 2], out: [usize; 2], tap: [usize; 2]) -> Option<f64> {
        let mut at = [n, c, 0, 0];
        for axis in 0..2 {
            let padded = out[axis] * window.stride[axis] + tap[axis] * window.dilation[axis];
            at[2 + axis] = padded.checked_sub(window.padding[axis])?;
            if at[2 + axis] >= self.dims[2 + axis] {
                return None;
            }
        }
        Some(self.at(at))
    }
}

pub fn conv2d(x: &Image, w: &Image, bias: Option<&Image>, window: &Window, groups: usize) -> Image {
    let [n, _, h, width] = x.dims;
    let [c_out, per_group, kh, kw] = w.dims;
    let [oh, ow] = window.output_size([h, width]);
    Image::of([n, c_out, oh, ow], |[n, co, y, x_at]| {
        let first = co / (c_out / groups) * per_group;
        let mut sum = bias.map_or(0.0, |bias| bias.data[co]);
        for (ci, ky, kx) in triples([per_group, kh, kw]) {
            let pixel = x.under(window, [n, first + ci], [y, x_at], [ky, kx]);
            sum += pixel.unwrap_or(0.0) * w.at([co, ci, ky, kx]);
        }
        sum
    })
}

pub fn relu(x: &Image) -> Image {
    Image::of(x.dims, |at| x.at(at).max(0.0))
}

/// Mean and biased variance per channel.
pub fn statistics(x: &Image) -> (Vec<f64>, Vec<f64>) {
    let [n, c, h, w] = x.dims;
    let count = (n * h * w) as f64;
    let sum = |c: usize, term: &dyn Fn(f64) -> f64| -> f64 {
        triples([n, h, w]).map(|(n, y, x_at)| term(x.at([n, c, y, x_at]))).sum()
    };
    let mean: Vec<f64> = (0..c).map(|c| sum(c, &|v| v) / count).collect();
    let var = (0..c).map(|c| sum(c, &|v| (v - mean[c]).powi(2)) / count).collect();
    (mean, var)
}

pub fn batch_norm(x: &Image, scale: Option<&Image>, bias: Option<&Image>, eps: f64) -> Image {
    let (mean, var) = statistics(x);
    let value = |image: Option<&Image>, c: usize, default: f64| image.map_or(default, |image| image.data[c]);
    Image::of(x.dims, |at| {
        let c = at[1];
        (x.at(at) - mean[c]) / (var[c] + eps).sqrt() * value(scale, c, 1.0) + value(bias, c, 0.0)
    })
}

pub fn max_pool2d(x: &Image, window: &Window) -> Image {
    pool(x, window, |pixels, _| pixels.iter().copied().fold(f64::NEG_INFINITY, f64::max))
}

pub fn avg_pool2d(x: &Image, window: &Window, count_include_pad: bool) -> Image {
    pool(x, window, |pixels, taps| {
        let count = if count_include_pad { taps } else { pixels.len() };
        pixels.iter().sum::<f64>() / count as f64
    })
}

pub fn weighted_sum(weights: &Image, indices: &[usize], xs: &[Image]) -> Image {
    Image::of(xs[0].dims, |at| indices.iter().zip(xs).map(|(&k, x)| weights.data[k] * x.at(at)).sum())
}

pub fn channel_shuffle(x: &Image, groups: usize) -> Image {
    let per_group = x.dims[1] / groups;
    Image::of(x.dims, |[n, c, y, x_at]| x.at([n, c % groups * per_group + c / groups, y, x_at]))
}

fn pool(x: &Image, window: &Window, reduce: impl Fn(&[f64], usize) -> f64) -> Image {
    let [n, c, h, w] = x.dims;
    let [oh, ow] = window.output_size([h, w]);
    let [kh, kw] = window.kernel;
    Image::of([n, c, oh, ow], |[n, c, y, x_at]| {
        let taps = triples([1, kh, kw]);
        let pixels: Vec<f64> = taps.filter_map(|(_, ky, kx)| x.under(window, [n, c], [y, x_at], [ky, kx])).collect();
        reduce(&pixels, kh * kw)
    })
}

fn triples([a, b, c]: [usize; 3]) -> impl Iterator<Item = (usize, usize, usize)> {
    (0..a * b * c).map(move |i| (i / (b * c), i / c % b, i % c))
}
