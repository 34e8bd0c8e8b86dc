//! What moves or averages whole planes on the CPU: padding, cropping, global means.
//!
//! Takes and gives CPU tensors; each function has its way back beside it.
use burn::backend::flex::FlexTensor;

use super::{
    buffer::{View, fill_planes, into_tensor, readable},
    memory::Floats,
};

/// Pixels before and after the rows, and before and after the columns, of an image.
pub type Border = [[usize; 2]; 2];

/// The planes with a border of `value`; [`crop`] is its way back.
pub fn pad(x: FlexTensor, border: Border, value: f32) -> FlexTensor {
    let x = readable(x);
    let x = View::new(&x);
    let [n, c, h, w] = x.dims;
    let [[top, bottom], [left, right]] = border;
    let (rows, width) = (top + h + bottom, left + w + right);
    let [y] = fill_planes([n, c, rows, width], [rows * width], rows * width / 4, |planes, [out]| {
        for ((_, plane), out) in x.walk(planes).zip(out.chunks_exact_mut(rows * width)) {
            out.fill(value);
            for (from, to) in plane.chunks_exact(w).zip(out.chunks_exact_mut(width).skip(top)) {
                to[left..left + w].copy_from_slice(from);
            }
        }
    });
    into_tensor(y, [n, c, rows, width])
}

/// The planes without their border; [`pad`] with zeros is its way back.
pub fn crop(x: FlexTensor, border: Border) -> FlexTensor {
    let x = readable(x);
    let x = View::new(&x);
    let [n, c, h, w] = x.dims;
    let [[top, bottom], [left, right]] = border;
    let (rows, width) = (h - top - bottom, w - left - right);
    let [y] = fill_planes([n, c, rows, width], [rows * width], rows * width / 4, |planes, [out]| {
        for ((_, plane), out) in x.walk(planes).zip(out.chunks_exact_mut(rows * width)) {
            for (from, to) in plane.chunks_exact(w).skip(top).zip(out.chunks_exact_mut(width)) {
                to.copy_from_slice(&from[left..left + width]);
            }
        }
    });
    into_tensor(y, [n, c, rows, width])
}

/// Every element by `f`.
pub fn map(x: FlexTensor, f: impl Fn(f32) -> f32 + Sync) -> FlexTensor {
    let x = readable(x);
    let x = View::new(&x);
    let pixels = x.pixels();
    let [y] = fill_planes(x.dims, [pixels], pixels, |planes, [out]| {
        for ((_, plane), out) in x.walk(planes).zip(out.chunks_exact_mut(pixels)) {
            out.iter_mut().zip(plane).for_each(|(out, v)| *out = f(*v));
        }
    });
    into_tensor(y, x.dims)
}

/// The mean of each plane, `[N, C, 1, 1]`.
pub fn means(x: FlexTensor) -> FlexTensor {
    let x = readable(x);
    let x = View::new(&x);
    let [n, c, ..] = x.dims;
    let pixels = x.pixels();
    let [y] = fill_planes(x.dims, [1], pixels, |planes, [out]| {
        for ((_, plane), out) in x.walk(planes).zip(out) {
            *out = (plane.iter().map(|&v| f64::from(v)).sum::<f64>() / pixels as f64) as f32;
        }
    });
    into_tensor(y, [n, c, 1, 1])
}

/// Gradient of [`means`]: every pixel of a plane of `size` gets its share.
pub fn means_grad(g: FlexTensor, [h, w]: [usize; 2]) -> FlexTensor {
    let g = readable(g);
    let g = View::new(&g);
    let [n, c, ..] = g.dims;
    let [dx] = fill_planes([n, c, h, w], [h * w], h * w, |planes, [out]| {
        for ((_, plane), out) in g.walk(planes).zip(out.chunks_exact_mut(h * w)) {
            out.fill(plane[0] / (h * w) as f32);
        }
    });
    into_tensor(dx, [n, c, h, w])
}

/// The same floats in another shape.
pub fn reshape(x: FlexTensor, dims: [usize; 4]) -> FlexTensor {
    x.to_contiguous().reshape(burn::tensor::Shape::new(dims))
}

/// A tensor of the given floats.
pub fn tensor<const D: usize>(values: Vec<f32>, dims: [usize; D]) -> FlexTensor {
    into_tensor(values.into_iter().collect::<Floats>(), dims)
}
