//! The tensor operations of a network, as burn operations with kernels and gradients of our own.
//!
//! Takes burn tensors (f32, images NCHW) on any device, with or without autodiff; gives the results with gradients
//! recorded where inputs are tracked. On the CPU (Flex) they run on kernels written for the small, many operations of a
//! supernet; on every other device the same functions run on burn's own operations. Knows nothing of graphs or layers:
//! the trainable module calls these one by one.
//!
//! Inside: [`ops`] is the contract of a back end, `portable` its bodies on burn's operations, `flex` the CPU kernels,
//! `autodiff` the recording.
//!
//! # Panics
//! The shapes are those of a verified graph. A caller that breaks that (channels that do not fit, a window larger than
//! the padded image) made a mistake of the program, and the functions panic and name it, as burn's own do.
mod autodiff;
#[cfg(any(feature = "cuda", feature = "vulkan", feature = "metal"))]
mod cube;
mod flex;
pub mod ops;
mod portable;
#[cfg(test)]
mod tests;

/// What a training pass on the CPU is made of besides the operations below: CPU tensors in and out, gradients by hand.
pub mod cpu {
    pub use super::flex::{
        buffer::{readable, vector},
        combine, convolve_joined, convolve_joined_grads, convolve_rectified, convolve_rectified_grads, norm, planes,
        products, separable,
        team::with_team,
        update,
    };
}

use burn::{backend::Dispatch, tensor::Tensor};
use ops::{KernelOps, Operands};

/// How a convolution or a pool walks over an image: (height, width) of each, padding the same on both sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Window {
    /// Size of the window in taps.
    pub kernel: [usize; 2],
    /// Step from one output to the next.
    pub stride: [usize; 2],
    /// Pixels added at each of the two sides.
    pub padding: [usize; 2],
    /// Distance of the taps; 1 for a window without gaps.
    pub dilation: [usize; 2],
}

/// What batch normalisation gives in training.
pub struct Normalised {
    /// The output, of the input's shape.
    pub y: Tensor<4>,
    /// Mean of the batch per channel, `[C]`; carries no gradient.
    pub mean: Tensor<1>,
    /// Biased variance of the batch per channel, `[C]`; carries no gradient.
    pub var: Tensor<1>,
}

/// Convolution (ONNX `Conv`): `x` is `[N, C_in, H, W]`, `w` is `[C_out, C_in / groups, kH, kW]`, `bias` is `[C_out]`.
///
/// Gradients flow to x, w and bias. Depthwise, pointwise (also strided or grouped) and dense kernels are picked by shape.
pub fn conv2d(x: Tensor<4>, w: Tensor<4>, bias: Option<Tensor<1>>, window: Window, groups: usize) -> Tensor<4> {
    let [_, c_in, height, width] = x.dims();
    let [c_out, per_group, kh, kw] = w.dims();
    assert!(
        groups > 0 && c_in == per_group * groups && c_out % groups == 0,
        "conv2d: {c_in} channels in {groups} groups do not fit weights {:?}",
        w.dims()
    );
    assert_eq!([kh, kw], window.kernel, "conv2d: the weights' size is not the window's");
    window.check("conv2d", [height, width]);
    let bias = operands(bias);
    wrap(Dispatch::convolve(x.into_dispatch(), w.into_dispatch(), bias, window, groups))
}

/// `max(x, 0)` (ONNX `Relu`).
pub fn relu(x: Tensor<4>) -> Tensor<4> {
    wrap(Dispatch::rectify(x.into_dispatch()))
}

/// Batch normalisation with the statistics of this batch (ONNX `BatchNormalization`, training mode).
///
/// `scale` and `bias` are `[C]`, left out where the layer has none. Gradients flow to x, scale and bias.
pub fn batch_norm_train(x: Tensor<4>, scale: Option<Tensor<1>>, bias: Option<Tensor<1>>, eps: f32) -> Normalised {
    let affine = affine(&x, scale, bias);
    let affine = operands(affine.into_iter().flatten());
    let (y, mean, var) = Dispatch::normalise(x.into_dispatch(), affine, eps);
    Normalised { y: wrap(y), mean: Tensor::from_dispatch(mean), var: Tensor::from_dispatch(var) }
}

/// Batch normalisation with given statistics (ONNX `BatchNormalization`), as one scale and shift per channel.
pub fn batch_norm_eval(
    x: Tensor<4>,
    scale: Option<Tensor<1>>,
    bias: Option<Tensor<1>>,
    mean: Tensor<1>,
    var: Tensor<1>,
    eps: f32,
) -> Tensor<4> {
    assert_eq!([x.dims()[1]; 2], [mean.dims()[0], var.dims()[0]], "batch_norm_eval: one mean and variance a channel");
    let inverse = (var + eps).sqrt().recip();
    let scale = match scale {
        Some(scale) => scale * inverse,
        None => inverse,
    };
    let shift = match bias {
        Some(bias) => bias - mean * scale.clone(),
        None => -mean * scale.clone(),
    };
    wrap(Dispatch::scale_and_shift(x.into_dispatch(), scale.into_dispatch(), shift.into_dispatch()))
}

/// Maximum over a window (ONNX `MaxPool`, no ceil mode); padding never wins.
pub fn max_pool2d(x: Tensor<4>, window: Window) -> Tensor<4> {
    window.check_pool("max_pool2d", &x);
    wrap(Dispatch::pool_max(x.into_dispatch(), window))
}

/// Mean over a window (ONNX `AveragePool`, no ceil mode), of its real pixels only unless `count_include_pad`.
pub fn avg_pool2d(x: Tensor<4>, window: Window, count_include_pad: bool) -> Tensor<4> {
    window.check_pool("avg_pool2d", &x);
    wrap(Dispatch::pool_avg(x.into_dispatch(), window, count_include_pad))
}

/// `y = sum_k weights[indices[k]] * xs[k]`: one weight vector `[M]` serves many sums.
///
/// Gradients flow to each of `xs` and to `weights`, whose other entries get zero.
pub fn weighted_sum(weights: Tensor<1>, indices: &[usize], xs: Vec<Tensor<4>>) -> Tensor<4> {
    assert!(!xs.is_empty() && indices.len() == xs.len(), "weighted_sum: one index an input, and at least one");
    let available = weights.dims()[0];
    assert!(indices.iter().all(|&index| index < available), "weighted_sum: {indices:?} of {available} weights");
    let shape = xs[0].dims();
    assert!(xs.iter().all(|x| x.dims() == shape), "weighted_sum: the inputs differ in shape");
    wrap(Dispatch::mix(weights.into_dispatch(), indices.to_vec(), operands(xs)))
}

/// `[B, K, C/K, H, W]` transposed to `[B, C/K, K, H, W]`, with K = `groups`: mixes the channels of K blocks.
pub fn channel_shuffle(x: Tensor<4>, groups: usize) -> Tensor<4> {
    let channels = x.dims()[1];
    assert!(groups > 0 && channels.is_multiple_of(groups), "channel_shuffle: {channels} channels in {groups} groups");
    wrap(Dispatch::shuffle(x.into_dispatch(), groups))
}

/// Channels `start..start + count`.
pub fn slice_channels(x: Tensor<4>, start: usize, count: usize) -> Tensor<4> {
    let channels = x.dims()[1];
    assert!(count > 0 && start + count <= channels, "slice_channels: {start}..{} of {channels}", start + count);
    wrap(Dispatch::take_channels(x.into_dispatch(), start, count))
}

/// The channels of all inputs one after the other (ONNX `Concat`, axis 1).
pub fn concat_channels(xs: Vec<Tensor<4>>) -> Tensor<4> {
    assert!(!xs.is_empty(), "concat_channels: at least one input");
    let [n, _, h, w] = xs[0].dims();
    let fits = |x: &Tensor<4>| matches!(x.dims(), [xn, _, xh, xw] if [xn, xh, xw] == [n, h, w]);
    assert!(xs.iter().all(fits), "concat_channels: the inputs differ in more than channels");
    wrap(Dispatch::join_channels(operands(xs)))
}

impl Window {
    /// A square window.
    pub fn square(kernel: usize, stride: usize, padding: usize, dilation: usize) -> Self {
        Self { kernel: [kernel; 2], stride: [stride; 2], padding: [padding; 2], dilation: [dilation; 2] }
    }

    /// Size of the output for an image of `size`; zero where the window does not fit.
    pub fn output_size(&self, size: [usize; 2]) -> [usize; 2] {
        std::array::from_fn(|axis| {
            let reach = self.dilation[axis] * (self.kernel[axis] - 1) + 1;
            let padded = size[axis] + 2 * self.padding[axis];
            if padded < reach { 0 } else { (padded - reach) / self.stride[axis] + 1 }
        })
    }

    /// One over the number of pixels under the window, row by row of the output.
    fn reciprocal_counts(&self, size: [usize; 2], count_include_pad: bool) -> Vec<f32> {
        let [oh, ow] = self.output_size(size);
        let count = |axis: usize, at: usize| {
            let taps = (0..self.kernel[axis]).map(|k| at * self.stride[axis] + k * self.dilation[axis]);
            let real = self.padding[axis]..self.padding[axis] + size[axis];
            taps.filter(|tap| count_include_pad || real.contains(tap)).count()
        };
        let columns: Vec<usize> = (0..ow).map(|x| count(1, x)).collect();
        let row = |y| {
            let rows = count(0, y);
            columns.iter().map(move |&columns| 1.0 / (rows * columns).max(1) as f32).collect::<Vec<_>>()
        };
        (0..oh).flat_map(row).collect()
    }

    fn check(&self, op: &str, size: [usize; 2]) {
        let all = [self.kernel, self.stride, self.dilation].concat();
        assert!(all.iter().all(|&v| v > 0), "{op}: a zero in {self:?}");
        assert!(!self.output_size(size).contains(&0), "{op}: {self:?} does not fit an image of {size:?}");
    }

    fn check_pool(&self, op: &str, x: &Tensor<4>) {
        let [_, _, height, width] = x.dims();
        self.check(op, [height, width]);
        let in_padding = (0..2).any(|axis| self.padding[axis] > self.dilation[axis] * (self.kernel[axis] - 1));
        assert!(!in_padding, "{op}: with {self:?} a window would see nothing but padding");
    }
}

fn wrap(tensor: burn::backend::DispatchTensor) -> Tensor<4> {
    Tensor::from_dispatch(tensor)
}

fn operands<const D: usize>(tensors: impl IntoIterator<Item = Tensor<D>>) -> Operands<Dispatch> {
    Operands(tensors.into_iter().map(Tensor::into_dispatch).collect())
}

/// Both of scale and bias or neither: the kernels know no other case.
fn affine(x: &Tensor<4>, scale: Option<Tensor<1>>, bias: Option<Tensor<1>>) -> Option<[Tensor<1>; 2]> {
    let channels = x.dims()[1];
    for v in [&scale, &bias].into_iter().flatten() {
        assert_eq!(v.dims(), [channels], "batch_norm_train: one scale and bias a channel");
    }
    if scale.is_none() && bias.is_none() {
        return None;
    }
    let scale = scale.unwrap_or_else(|| Tensor::ones([channels], &x.device()));
    let bias = bias.unwrap_or_else(|| Tensor::zeros([channels], &x.device()));
    Some([scale, bias])
}
