//! The kernels written on burn's own operations: what every back end without a kernel of its own runs.
//!
//! Takes and gives back-end primitives, with the meaning and shapes stated at [`super::ops`]. Nothing here knows about
//! autodiff; the gradients are plain functions of saved tensors and the output's gradient.
use burn::backend::{
    Backend, FloatDType, IntDType, Scalar, Shape, Slice, TensorData, TensorMetadata,
    ops::ConvOptions,
    tensor::{FloatTensor, IndexingUpdateOp, IntTensor},
};

use super::{
    Window,
    ops::{Grads, Operands, Wanted},
};

pub fn convolve<B: Backend>(
    x: FloatTensor<B>,
    w: FloatTensor<B>,
    bias: Operands<B>,
    window: Window,
    groups: usize,
) -> FloatTensor<B> {
    B::conv2d(x, w, bias.single(), options(window, groups))
}

pub fn convolve_grads<B: Backend>(
    x: FloatTensor<B>,
    w: FloatTensor<B>,
    g: FloatTensor<B>,
    window: Window,
    groups: usize,
    wanted: Wanted,
) -> Grads<B> {
    let options = options(window, groups);
    Grads {
        x: wanted.x.then(|| B::conv2d_x_backward(x.clone(), w.clone(), g.clone(), options.clone())),
        w: wanted.w.then(|| B::conv2d_weight_backward(x, w, g.clone(), options)),
        bias: wanted.bias.then(|| sum_per_channel::<B>(g)),
    }
}

pub fn rectify<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    B::relu(x)
}

pub fn rectify_grad<B: Backend>(y: FloatTensor<B>, g: FloatTensor<B>) -> FloatTensor<B> {
    B::relu_backward(y, g)
}

pub fn normalise<B: Backend>(
    x: FloatTensor<B>,
    affine: Operands<B>,
    eps: f32,
) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let channels = Shape::new([dims::<B>(&x)[1]]);
    let device = x.device();
    let mut affine = affine.0.into_iter();
    let scale = affine.next().unwrap_or_else(|| B::float_ones(channels.clone(), &device, FloatDType::F32));
    let bias = affine.next().unwrap_or_else(|| B::float_zeros(channels, &device, FloatDType::F32));
    let out = B::batch_norm_train(x, scale, bias, f64::from(eps));
    (out.output, out.mean, out.variance)
}

pub fn normalise_grads<B: Backend>(
    x: FloatTensor<B>,
    scale: FloatTensor<B>,
    mean: FloatTensor<B>,
    var: FloatTensor<B>,
    eps: f32,
    g: FloatTensor<B>,
) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let grads = B::batch_norm_train_backward(x, scale, mean, var, f64::from(eps), g);
    (grads.x_grad, grads.gamma_grad, grads.beta_grad)
}

pub fn scale_and_shift<B: Backend>(x: FloatTensor<B>, scale: FloatTensor<B>, shift: FloatTensor<B>) -> FloatTensor<B> {
    B::float_add(B::float_mul(x, as_image::<B>(scale)), as_image::<B>(shift))
}

pub fn scale_and_shift_grads<B: Backend>(
    x: FloatTensor<B>,
    scale: FloatTensor<B>,
    g: FloatTensor<B>,
    wanted: Wanted,
) -> Grads<B> {
    Grads {
        x: wanted.x.then(|| B::float_mul(g.clone(), as_image::<B>(scale))),
        w: wanted.w.then(|| sum_per_channel::<B>(B::float_mul(g.clone(), x))),
        bias: wanted.bias.then(|| sum_per_channel::<B>(g)),
    }
}

pub fn pool_max<B: Backend>(x: FloatTensor<B>, window: Window) -> FloatTensor<B> {
    B::max_pool2d(x, window.kernel, window.stride, window.padding, window.dilation, false)
}

pub fn pool_max_with_argmax<B: Backend>(x: FloatTensor<B>, window: Window) -> (FloatTensor<B>, IntTensor<B>) {
    let Window { kernel, stride, padding, dilation } = window;
    let out = B::max_pool2d_with_indices(x, kernel, stride, padding, dilation, false, IntDType::I32);
    (out.output, out.indices)
}

pub fn pool_max_grad<B: Backend>(
    shape: [usize; 4],
    argmax: IntTensor<B>,
    g: FloatTensor<B>,
    window: Window,
) -> FloatTensor<B> {
    let Window { kernel, stride, padding, dilation } = window;
    let like_x = B::float_empty(Shape::new(shape), &g.device(), FloatDType::F32);
    B::max_pool2d_with_indices_backward(like_x, kernel, stride, padding, dilation, false, g, argmax).x_grad
}

/// burn's average pooling knows no dilation; with one it is a depthwise convolution by ones.
pub fn pool_avg<B: Backend>(x: FloatTensor<B>, window: Window, count_include_pad: bool) -> FloatTensor<B> {
    if window.dilation == [1, 1] {
        return B::avg_pool2d(x, window.kernel, window.stride, window.padding, count_include_pad, false);
    }
    let [_, c, h, w] = dims::<B>(&x);
    let device = x.device();
    let sums = B::conv2d(x, ones::<B>(c, window, &device), None, options(window, c));
    B::float_mul(sums, reciprocal_counts::<B>([h, w], window, count_include_pad, &device))
}

pub fn pool_avg_grad<B: Backend>(
    shape: [usize; 4],
    g: FloatTensor<B>,
    window: Window,
    count_include_pad: bool,
) -> FloatTensor<B> {
    let Window { kernel, stride, padding, dilation } = window;
    let [_, c, h, w] = shape;
    let device = g.device();
    let like_x = B::float_empty(Shape::new(shape), &device, FloatDType::F32);
    if dilation == [1, 1] {
        return B::avg_pool2d_backward(like_x, g, kernel, stride, padding, count_include_pad, false);
    }
    let g = B::float_mul(g, reciprocal_counts::<B>([h, w], window, count_include_pad, &device));
    B::conv2d_x_backward(like_x, ones::<B>(c, window, &device), g, options(window, c))
}

pub fn mix<B: Backend>(weights: FloatTensor<B>, indices: Vec<usize>, xs: Operands<B>) -> FloatTensor<B> {
    let term = |(x, index)| B::float_mul(x, weight_as_image::<B>(&weights, index));
    let sum = xs.0.into_iter().zip(indices).map(term).reduce(B::float_add);
    sum.expect("a weighted sum has at least one input")
}

pub fn mix_grads<B: Backend>(
    weights: FloatTensor<B>,
    indices: &[usize],
    xs: &[FloatTensor<B>],
    g: FloatTensor<B>,
    wanted_weights: bool,
    wanted_xs: &[bool],
) -> (Option<FloatTensor<B>>, Vec<Option<FloatTensor<B>>>) {
    let by_input = indices.iter().zip(wanted_xs);
    let grads = by_input
        .map(|(&index, &wanted)| wanted.then(|| B::float_mul(g.clone(), weight_as_image::<B>(&weights, index))))
        .collect();
    let weight_grad = wanted_weights.then(|| {
        let device = g.device();
        let dots = xs.iter().map(|x| {
            let dot = B::float_sum(B::float_mul(g.clone(), x.clone()));
            B::float_reshape(dot, Shape::new([1]))
        });
        let dots = B::float_cat(dots.collect(), 0);
        let indices: Vec<i32> = indices.iter().map(|&index| index as i32).collect();
        let count = indices.len();
        let indices = B::int_from_data(TensorData::new(indices, [count]), &device);
        let zeros = B::float_zeros(weights.shape(), &device, FloatDType::F32);
        B::float_select_assign(zeros, 0, indices, dots, IndexingUpdateOp::Add)
    });
    (weight_grad, grads)
}

pub fn shuffle<B: Backend>(x: FloatTensor<B>, groups: usize) -> FloatTensor<B> {
    let [n, c, h, w] = dims::<B>(&x);
    let split = B::float_reshape(x, Shape::new([n, groups, c / groups, h * w]));
    B::float_reshape(B::float_swap_dims(split, 1, 2), Shape::new([n, c, h, w]))
}

pub fn take_channels<B: Backend>(x: FloatTensor<B>, start: usize, count: usize) -> FloatTensor<B> {
    B::float_slice(x, &channels(start, count))
}

pub fn join_channels<B: Backend>(xs: Operands<B>) -> FloatTensor<B> {
    B::float_cat(xs.0, 1)
}

pub fn place_channels<B: Backend>(g: FloatTensor<B>, start: usize, total: usize) -> FloatTensor<B> {
    let [n, c, h, w] = dims::<B>(&g);
    let zeros = B::float_zeros(Shape::new([n, total, h, w]), &g.device(), FloatDType::F32);
    B::float_slice_assign(zeros, &channels(start, c), g)
}

fn options(window: Window, groups: usize) -> ConvOptions<2> {
    ConvOptions::new(window.stride, window.padding, window.dilation, groups)
}

fn channels(start: usize, count: usize) -> [Slice; 2] {
    [Slice::full(), Slice::new(start as isize, Some((start + count) as isize), 1)]
}

fn dims<B: Backend>(x: &FloatTensor<B>) -> [usize; 4] {
    x.shape().dims()
}

/// `[C]` as `[1, C, 1, 1]`.
fn as_image<B: Backend>(v: FloatTensor<B>) -> FloatTensor<B> {
    let c = v.shape().num_elements();
    B::float_reshape(v, Shape::new([1, c, 1, 1]))
}

/// `weights[index]` as `[1, 1, 1, 1]`.
fn weight_as_image<B: Backend>(weights: &FloatTensor<B>, index: usize) -> FloatTensor<B> {
    let one = Slice::new(index as isize, Some(index as isize + 1), 1);
    as_image::<B>(B::float_slice(weights.clone(), &[one]))
}

/// Sum over images and pixels: `[N, C, H, W]` to `[C]`.
fn sum_per_channel<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    let c = dims::<B>(&x)[1];
    B::float_reshape(B::float_sum_dims(x, &[0, 2, 3]), Shape::new([c]))
}

fn ones<B: Backend>(channels: usize, window: Window, device: &B::Device) -> FloatTensor<B> {
    let [kh, kw] = window.kernel;
    B::float_full(Shape::new([channels, 1, kh, kw]), Scalar::from(1.0f32), device, FloatDType::F32)
}

/// One over the number of pixels each mean is taken of: `[1, 1, H_out, W_out]`.
fn reciprocal_counts<B: Backend>(
    size: [usize; 2],
    window: Window,
    count_include_pad: bool,
    device: &B::Device,
) -> FloatTensor<B> {
    let [oh, ow] = window.output_size(size);
    let values = window.reciprocal_counts(size, count_include_pad);
    B::float_from_data(TensorData::new(values, [1, 1, oh, ow]), device)
}
