//! The two traits a burn back end implements to run the kernels, and the list type that carries tensors across burn's dispatch.
//!
//! Takes and gives back-end primitives. [`KernelOps`] holds the forward operations and is routed by device;
//! [`KernelGrads`] holds what only the backward pass calls, on the inner back end. Every method has a portable body, so
//! that an empty `impl` is a complete back end. Leaves the recording of gradients to `autodiff`, the public functions to
//! the parent module.
use burn::backend::{
    Backend, BackendTensor, Dispatch, DispatchAutodiffContext, DispatchTensor, DispatchTensorKind, ExtensionType,
    backend_extension,
    tensor::{FloatTensor, IntTensor},
};

use super::{Window, portable};

/// Zero or more float tensors of one back end: a variable number of inputs or an optional one.
///
/// burn's dispatch macro passes single tensors only; this carries lists through it.
#[derive(Debug)]
pub struct Operands<B: Backend>(pub Vec<FloatTensor<B>>);

/// Which gradients of a convolution the graph asks for.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Of the input.
    pub x: bool,
    /// Of the weights.
    pub w: bool,
    /// Of the bias.
    pub bias: bool,
}

/// Gradients of a convolution or of a per-channel scale and shift; absent where not wanted.
#[derive(Debug)]
pub struct Grads<B: Backend> {
    /// Of the input.
    pub x: Option<FloatTensor<B>>,
    /// Of the weights or the scale.
    pub w: Option<FloatTensor<B>>,
    /// Of the bias or the shift.
    pub bias: Option<FloatTensor<B>>,
}

/// The forward operations. Tensors are f32, images NCHW, per-channel vectors `[C]`.
#[backend_extension(Flex, Cube: cfg(any(feature = "cuda", feature = "vulkan", feature = "metal")), Autodiff)]
pub trait KernelOps: Backend {
    /// Convolution; `bias` holds nothing or one `[C_out]` vector.
    fn convolve(
        x: FloatTensor<Self>,
        w: FloatTensor<Self>,
        #[extension_type] bias: Operands<Self>,
        window: Window,
        groups: usize,
    ) -> FloatTensor<Self> {
        portable::convolve::<Self>(x, w, bias, window, groups)
    }

    /// `max(x, 0)`; NaN stays NaN.
    fn rectify(x: FloatTensor<Self>) -> FloatTensor<Self> {
        portable::rectify::<Self>(x)
    }

    /// Batch normalisation by the batch's own statistics; `affine` holds nothing or scale and bias.
    ///
    /// Gives the output, the mean and the biased variance.
    fn normalise(
        x: FloatTensor<Self>,
        #[extension_type] affine: Operands<Self>,
        eps: f32,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        portable::normalise::<Self>(x, affine, eps)
    }

    /// `x * scale + shift`, both per channel.
    fn scale_and_shift(x: FloatTensor<Self>, scale: FloatTensor<Self>, shift: FloatTensor<Self>) -> FloatTensor<Self> {
        portable::scale_and_shift::<Self>(x, scale, shift)
    }

    /// Maximum over a window; padding never wins.
    fn pool_max(x: FloatTensor<Self>, window: Window) -> FloatTensor<Self> {
        portable::pool_max::<Self>(x, window)
    }

    /// Mean over a window, of the real pixels only or of all.
    fn pool_avg(x: FloatTensor<Self>, window: Window, count_include_pad: bool) -> FloatTensor<Self> {
        portable::pool_avg::<Self>(x, window, count_include_pad)
    }

    /// `sum_k weights[indices[k]] * xs[k]`.
    fn mix(weights: FloatTensor<Self>, indices: Vec<usize>, #[extension_type] xs: Operands<Self>) -> FloatTensor<Self> {
        portable::mix::<Self>(weights, indices, xs)
    }

    /// Channel `g * C/groups + c` moves to `c * groups + g`.
    fn shuffle(x: FloatTensor<Self>, groups: usize) -> FloatTensor<Self> {
        portable::shuffle::<Self>(x, groups)
    }

    /// Channels `start..start + count`.
    fn take_channels(x: FloatTensor<Self>, start: usize, count: usize) -> FloatTensor<Self> {
        portable::take_channels::<Self>(x, start, count)
    }

    /// All channels of the first, then of the second, and so on.
    fn join_channels(#[extension_type] xs: Operands<Self>) -> FloatTensor<Self> {
        portable::join_channels::<Self>(xs)
    }
}

/// What the backward pass calls, on the back end below autodiff.
pub trait KernelGrads: KernelOps {
    /// Gradients of [`KernelOps::convolve`] from the output's gradient `g`.
    fn convolve_grads(
        x: FloatTensor<Self>,
        w: FloatTensor<Self>,
        g: FloatTensor<Self>,
        window: Window,
        groups: usize,
        wanted: Wanted,
    ) -> Grads<Self> {
        portable::convolve_grads::<Self>(x, w, g, window, groups, wanted)
    }

    /// `g` where the output `y` is above zero.
    fn rectify_grad(y: FloatTensor<Self>, g: FloatTensor<Self>) -> FloatTensor<Self> {
        portable::rectify_grad::<Self>(y, g)
    }

    /// Gradients of [`KernelOps::normalise`] with respect to x, scale and bias, for `y = (x - mean) / sqrt(var + eps) * scale + bias`.
    fn normalise_grads(
        x: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        mean: FloatTensor<Self>,
        var: FloatTensor<Self>,
        eps: f32,
        g: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        portable::normalise_grads::<Self>(x, scale, mean, var, eps, g)
    }

    /// Gradients of [`KernelOps::scale_and_shift`]; `w` and `bias` of the answer are those of scale and shift.
    fn scale_and_shift_grads(
        x: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        g: FloatTensor<Self>,
        wanted: Wanted,
    ) -> Grads<Self> {
        portable::scale_and_shift_grads::<Self>(x, scale, g, wanted)
    }

    /// [`KernelOps::pool_max`] and where each maximum was found; only [`KernelGrads::pool_max_grad`] reads the second.
    fn pool_max_with_argmax(x: FloatTensor<Self>, window: Window) -> (FloatTensor<Self>, IntTensor<Self>) {
        portable::pool_max_with_argmax::<Self>(x, window)
    }

    /// Sends each gradient to the pixel that was the maximum; `shape` is that of the input.
    fn pool_max_grad(
        shape: [usize; 4],
        argmax: IntTensor<Self>,
        g: FloatTensor<Self>,
        window: Window,
    ) -> FloatTensor<Self> {
        portable::pool_max_grad::<Self>(shape, argmax, g, window)
    }

    /// Gradient of [`KernelOps::pool_avg`]; `shape` is that of the input.
    fn pool_avg_grad(
        shape: [usize; 4],
        g: FloatTensor<Self>,
        window: Window,
        count_include_pad: bool,
    ) -> FloatTensor<Self> {
        portable::pool_avg_grad::<Self>(shape, g, window, count_include_pad)
    }

    /// Gradients of [`KernelOps::mix`] with respect to the weights (if `wanted_weights`; else `xs` may be empty) and each
    /// input.
    fn mix_grads(
        weights: FloatTensor<Self>,
        indices: &[usize],
        xs: &[FloatTensor<Self>],
        g: FloatTensor<Self>,
        wanted_weights: bool,
        wanted_xs: &[bool],
    ) -> (Option<FloatTensor<Self>>, Vec<Option<FloatTensor<Self>>>) {
        portable::mix_grads::<Self>(weights, indices, xs, g, wanted_weights, wanted_xs)
    }

    /// `g` as the channels from `start` of an otherwise zero tensor of `channels` channels.
    fn place_channels(g: FloatTensor<Self>, start: usize, channels: usize) -> FloatTensor<Self> {
        portable::place_channels::<Self>(g, start, channels)
    }
}

impl<B: Backend> Operands<B> {
    /// No tensor: the optional operand is absent.
    pub fn none() -> Self {
        Self(Vec::new())
    }

    /// The only tensor, if there is one.
    pub fn single(self) -> Option<FloatTensor<B>> {
        self.0.into_iter().next()
    }
}

impl<B: Backend> ExtensionType<B> for Operands<B> {
    type Target = Operands<Dispatch>;

    fn map_to_dispatch<F>(self, map_kind: F, autodiff: DispatchAutodiffContext) -> Self::Target
    where
        F: Fn(BackendTensor<B>) -> DispatchTensorKind,
    {
        let wrap = |tensor| DispatchTensor { kind: map_kind(BackendTensor::Float(tensor)), autodiff };
        Operands(self.0.into_iter().map(wrap).collect())
    }

    fn map_from_dispatch<F>(target: Self::Target, unwrap_kind: F) -> Self
    where
        F: Fn(DispatchTensor) -> BackendTensor<B>,
    {
        Operands(target.0.into_iter().map(|tensor| unwrap_kind(tensor).float()).collect())
    }

    fn routing_tensor(target: &Self::Target) -> Option<&DispatchTensor> {
        target.0.first()
    }

    fn routing_float_tensor(target: &Self::Target) -> Option<&DispatchTensor> {
        target.0.first()
    }

    fn autodiff_context(target: &Self::Target) -> DispatchAutodiffContext {
        target.0.iter().fold(DispatchAutodiffContext::Disabled, |context, tensor| context.merge(tensor.autodiff))
    }
}
