//! The kernels on burn's CPU back end.
//!
//! Takes and gives CPU tensors (f32); routes each operation to its kernel: [`conv`] every convolution, [`norm`] batch
//! normalisation, [`max_pool`] and [`avg_pool`], [`pixels`] the rest. [`buffer`], [`memory`], [`team`], [`simd`], [`reduce`] and
//! [`kept`] are what they stand on. The few shapes the kernels are not made for go to the portable bodies.
mod arena;
mod avg_pool;
pub mod buffer;
pub mod combine;
mod conv;
mod kept;
mod max_pool;
pub mod memory;
pub mod norm;
mod pixels;
pub mod planes;
pub mod products;
mod reduce;
pub mod separable;
mod simd;
pub mod team;
pub mod update;

use burn::backend::{Flex, flex::FlexTensor};

use super::{
    Window,
    ops::{Grads, KernelGrads, KernelOps, Operands, Wanted},
    portable,
};

/// The convolution of the positive part of `x`.
pub fn convolve_rectified(
    x: FlexTensor,
    w: FlexTensor,
    bias: Operands<Flex>,
    window: Window,
    groups: usize,
) -> FlexTensor {
    match conv::suits(&x, &w, window) {
        true => conv::forward(x, w, bias.single(), window, groups, true),
        false => portable::convolve::<Flex>(pixels::relu(x), w, bias, window, groups),
    }
}

/// Gradients of [`convolve_rectified`].
pub fn convolve_rectified_grads(
    x: FlexTensor,
    w: FlexTensor,
    g: FlexTensor,
    window: Window,
    groups: usize,
    wanted: Wanted,
) -> Grads<Flex> {
    if conv::suits(&x, &w, window) {
        let [x, w, bias] = conv::backward(x, w, g, window, groups, true, [wanted.x, wanted.w, wanted.bias]);
        return Grads { x, w, bias };
    }
    let read = pixels::relu(x);
    let grads = portable::convolve_grads::<Flex>(read.clone(), w, g, window, groups, wanted);
    Grads { x: grads.x.map(|dx| pixels::relu_grad(read, dx)), ..grads }
}

/// A convolution of single pixels, behind a ReLU or not, of the channels of tensors one after the other.
pub fn convolve_joined(xs: Vec<FlexTensor>, w: FlexTensor, relu: bool) -> FlexTensor {
    let window = Window::square(1, 1, 0, 1);
    if conv::suits(&xs[0], &w, window) {
        let xs: Vec<FlexTensor> = xs.into_iter().map(buffer::readable).collect();
        return conv::forward_of(&xs, w, None, window, 1, relu);
    }
    let x = pixels::join_channels(xs);
    portable::convolve::<Flex>(if relu { pixels::relu(x) } else { x }, w, Operands(Vec::new()), window, 1)
}

/// Gradients of [`convolve_joined`], from a gradient that is read as it is needed.
pub fn convolve_joined_grads(
    xs: Vec<FlexTensor>,
    w: FlexTensor,
    g: &combine::Combination,
    relu: bool,
    wanted: Wanted,
) -> Grads<Flex> {
    let window = Window::square(1, 1, 0, 1);
    if conv::suits(&xs[0], &w, window) {
        let xs: Vec<FlexTensor> = xs.into_iter().map(buffer::readable).collect();
        let [x, w] = conv::backward_of(&xs, w, g, relu, [wanted.x, wanted.w]);
        return Grads { x, w, bias: None };
    }
    let x = if let [x] = xs.as_slice() { x.clone() } else { pixels::join_channels(xs) };
    match relu {
        true => convolve_rectified_grads(x, w, g.tensor(), window, 1, wanted),
        false => Flex::convolve_grads(x, w, g.tensor(), window, 1, wanted),
    }
}

impl KernelOps for Flex {
    fn convolve(x: FlexTensor, w: FlexTensor, bias: Operands<Self>, window: Window, groups: usize) -> FlexTensor {
        match conv::suits(&x, &w, window) {
            true => conv::forward(x, w, bias.single(), window, groups, false),
            false => portable::convolve::<Self>(x, w, bias, window, groups),
        }
    }

    fn rectify(x: FlexTensor) -> FlexTensor {
        pixels::relu(x)
    }

    fn normalise(x: FlexTensor, affine: Operands<Self>, eps: f32) -> (FlexTensor, FlexTensor, FlexTensor) {
        let [y, mean, var] = norm::forward(x, affine.0.try_into().ok(), eps);
        (y, mean, var)
    }

    fn scale_and_shift(x: FlexTensor, scale: FlexTensor, shift: FlexTensor) -> FlexTensor {
        norm::scale_and_shift(x, scale, shift)
    }

    fn pool_max(x: FlexTensor, window: Window) -> FlexTensor {
        match max_pool::suits(&window) {
            true => max_pool::forward(x, window, false).0,
            false => portable::pool_max::<Self>(x, window),
        }
    }

    fn pool_avg(x: FlexTensor, window: Window, count_include_pad: bool) -> FlexTensor {
        avg_pool::forward(x, window, count_include_pad)
    }

    fn mix(weights: FlexTensor, indices: Vec<usize>, xs: Operands<Self>) -> FlexTensor {
        pixels::mix(weights, &indices, xs.0)
    }

    fn shuffle(x: FlexTensor, groups: usize) -> FlexTensor {
        pixels::shuffle(x, groups)
    }

    fn join_channels(xs: Operands<Self>) -> FlexTensor {
        pixels::join_channels(xs.0)
    }
}

impl KernelGrads for Flex {
    fn convolve_grads(
        x: FlexTensor,
        w: FlexTensor,
        g: FlexTensor,
        window: Window,
        groups: usize,
        wanted: Wanted,
    ) -> Grads<Self> {
        if !conv::suits(&x, &w, window) {
            return portable::convolve_grads::<Self>(x, w, g, window, groups, wanted);
        }
        let [x, w, bias] = conv::backward(x, w, g, window, groups, false, [wanted.x, wanted.w, wanted.bias]);
        Grads { x, w, bias }
    }

    fn normalise_grads(
        x: FlexTensor,
        scale: FlexTensor,
        mean: FlexTensor,
        var: FlexTensor,
        eps: f32,
        g: FlexTensor,
    ) -> (FlexTensor, FlexTensor, FlexTensor) {
        let [x, scale, bias] = norm::backward(x, scale, mean, var, eps, g);
        (x, scale, bias)
    }

    fn rectify_grad(y: FlexTensor, g: FlexTensor) -> FlexTensor {
        pixels::relu_grad(y, g)
    }

    fn scale_and_shift_grads(x: FlexTensor, scale: FlexTensor, g: FlexTensor, wanted: Wanted) -> Grads<Self> {
        let [x, scale, shift] = norm::scale_and_shift_grads(x, scale, g, [wanted.x, wanted.w, wanted.bias]);
        Grads { x, w: scale, bias: shift }
    }

    fn pool_max_with_argmax(x: FlexTensor, window: Window) -> (FlexTensor, FlexTensor) {
        if !max_pool::suits(&window) {
            return portable::pool_max_with_argmax::<Self>(x, window);
        }
        let (y, argmax) = max_pool::forward(x, window, true);
        (y, argmax.expect("asked for"))
    }

    fn pool_max_grad(shape: [usize; 4], argmax: FlexTensor, g: FlexTensor, window: Window) -> FlexTensor {
        match max_pool::suits(&window) {
            true => max_pool::backward(shape, argmax, g, window),
            false => portable::pool_max_grad::<Self>(shape, argmax, g, window),
        }
    }

    fn pool_avg_grad(shape: [usize; 4], g: FlexTensor, window: Window, count_include_pad: bool) -> FlexTensor {
        avg_pool::backward(shape, g, window, count_include_pad)
    }

    fn mix_grads(
        weights: FlexTensor,
        indices: &[usize],
        xs: &[FlexTensor],
        g: FlexTensor,
        wanted_weights: bool,
        wanted_xs: &[bool],
    ) -> (Option<FlexTensor>, Vec<Option<FlexTensor>>) {
        pixels::mix_grads(weights, indices, xs, g, wanted_weights, wanted_xs)
    }

    fn place_channels(g: FlexTensor, start: usize, channels: usize) -> FlexTensor {
        pixels::place_channels(g, start, channels)
    }
}
