//! The kernels on burn's CPU back end.
//!
//! Takes and gives CPU tensors (f32); routes each operation to its kernel. [`conv`] is every convolution, [`norm`] the batch
//! normalisation, [`pool`] the pools, [`pixels`] the element by element operations and channel moves; [`buffer`] and [`simd`]
//! are what they stand on.
mod buffer;
mod conv;
mod norm;
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

    fn normalise(x: FlexTensor, affine: Operands<Self>, eps: f32) -> (FlexTensor, FlexTensor, FlexTensor) {
        let [y, mean, var] = norm::forward(x, affine.0.try_into().ok(), eps);
        (y, mean, var)
    }

    fn scale_and_shift(x: FlexTensor, scale: FlexTensor, shift: FlexTensor) -> FlexTensor {
        norm::scale_and_shift(x, scale, shift)
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
}
