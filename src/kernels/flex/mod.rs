//! The kernels on burn's CPU back end.
//!
//! Takes and gives CPU tensors (f32); routes each operation to its kernel. [`conv`] is every convolution, [`norm`] the batch
//! normalisation, [`pool`] the pools, [`pixels`] the element by element operations and channel moves; [`buffer`] and [`simd`]
//! are what they stand on.
mod buffer;
mod conv;
mod memory;
mod norm;
mod pixels;
mod pool;
mod simd;

use burn::backend::{Flex, flex::FlexTensor};

use super::{
    Window,
    ops::{Grads, KernelGrads, KernelOps, Operands, Wanted},
};

impl KernelOps for Flex {
    fn convolve(x: FlexTensor, w: FlexTensor, bias: Operands<Self>, window: Window, groups: usize) -> FlexTensor {
        conv::forward(x, w, bias.single(), window, groups)
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
        pool::max(x, window, false).0
    }

    fn pool_avg(x: FlexTensor, window: Window, count_include_pad: bool) -> FlexTensor {
        pool::average(x, window, count_include_pad)
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
        let [x, w, bias] = conv::backward(x, w, g, window, groups, [wanted.x, wanted.w, wanted.bias]);
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
        let (y, argmax) = pool::max(x, window, true);
        (y, argmax.expect("asked for"))
    }

    fn pool_max_grad(shape: [usize; 4], argmax: FlexTensor, g: FlexTensor, window: Window) -> FlexTensor {
        pool::max_grad(shape, argmax, g, window)
    }

    fn pool_avg_grad(shape: [usize; 4], g: FlexTensor, window: Window, count_include_pad: bool) -> FlexTensor {
        pool::average_grad(shape, g, window, count_include_pad)
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
