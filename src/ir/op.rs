//! The closed set of operations.
//!
//! Takes nothing; gives [`Op`] with its attributes. Shapes of results are in `shape`, prices in `cost`. A `match` on
//! [`Op`] has no wildcard anywhere in the crate, so that a new op does not compile until every back end answers for it.

use super::{Grid, Imported, ParamId, Range, Window};

/// One unit of [`Op::Separable`].
#[derive(Debug, Clone, PartialEq)]
pub struct Unit {
    /// The first channel of the input that the unit reads; their number is that of the depthwise weights.
    pub from: usize,
    /// Window of the depthwise convolution.
    pub window: Window,
    /// `[C, 1, kH, kW]`.
    pub depthwise: ParamId,
    /// `[M, C, 1, 1]`.
    pub pointwise: ParamId,
    /// As in [`Op::BatchNorm`].
    pub scale: Option<ParamId>,
    /// As in [`Op::BatchNorm`].
    pub shift: Option<ParamId>,
    /// As in [`Op::BatchNorm`].
    pub mean: ParamId,
    /// As in [`Op::BatchNorm`].
    pub var: ParamId,
    /// As in [`Op::BatchNorm`].
    pub epsilon: f32,
}

/// One summand of [`Op::Mix`]: channels `from..from + len` of a value go to the channels `to`, `to + step`, ...
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MixTerm {
    /// Which input of the node.
    pub input: usize,
    /// The first channel taken.
    pub from: usize,
    /// How many.
    pub len: usize,
    /// Where the first one goes.
    pub to: usize,
    /// Distance of the channels in the result.
    pub step: usize,
    /// What it is multiplied by: an input of the node and an element of it, read flat, each.
    pub weights: Vec<(usize, usize)>,
    /// Whether samples of it are dropped, as by [`Op::DropPath`].
    pub drop_path: bool,
}

/// One operation. Inputs are values; everything else is an attribute or a parameter.
#[derive(Debug, Clone, PartialEq)]
pub enum Op {
    /// [Conv](https://onnx.ai/onnx/operators/onnx__Conv.html) in two dimensions, with optional ReLUs fused at both ends.
    /// Input `[N, C, H, W]`, weight `[M, C / groups, kH, kW]`, bias `[M]`.
    Conv {
        /// The filters.
        weight: ParamId,
        /// Added per output channel.
        bias: Option<ParamId>,
        /// Kernel, stride, padding and dilation.
        window: Window,
        /// Channel groups; equal to C for a depthwise convolution.
        groups: usize,
        /// Apply ReLU to the input as it is read.
        relu_in: bool,
        /// Apply ReLU to the result.
        relu_out: bool,
    },
    /// [BatchNormalization](https://onnx.ai/onnx/operators/onnx__BatchNormalization.html) over axis 1; scale and shift
    /// may be absent (1 and 0), as inside search cells. The running variance is the unbiased one, as in PyTorch.
    BatchNorm {
        /// `[C]`, multiplied.
        scale: Option<ParamId>,
        /// `[C]`, added.
        shift: Option<ParamId>,
        /// `[C]`, running mean.
        mean: ParamId,
        /// `[C]`, running variance.
        var: ParamId,
        /// Added to the variance.
        epsilon: f32,
    },
    /// [Relu](https://onnx.ai/onnx/operators/onnx__Relu.html).
    Relu,
    /// [MaxPool](https://onnx.ai/onnx/operators/onnx__MaxPool.html) in two dimensions.
    MaxPool(Window),
    /// [AveragePool](https://onnx.ai/onnx/operators/onnx__AveragePool.html) in two dimensions.
    AvgPool {
        /// The window.
        window: Window,
        /// Whether padding counts in the divisor; DARTS cells say no.
        count_include_pad: bool,
    },
    /// [GlobalAveragePool](https://onnx.ai/onnx/operators/onnx__GlobalAveragePool.html): `[N, C, H, W]` to `[N, C, 1, 1]`.
    GlobalAvgPool,
    /// [Flatten](https://onnx.ai/onnx/operators/onnx__Flatten.html) to two dimensions, split before `axis`.
    Flatten {
        /// Dimensions before it become the rows.
        axis: usize,
    },
    /// [Gemm](https://onnx.ai/onnx/operators/onnx__Gemm.html) with `transB = 1`: `[N, I]` by weight `[O, I]`, plus bias `[O]`.
    Linear {
        /// `[O, I]`.
        weight: ParamId,
        /// `[O]`.
        bias: Option<ParamId>,
    },
    /// [Add](https://onnx.ai/onnx/operators/onnx__Add.html) of two values of one shape.
    Add,
    /// [Concat](https://onnx.ai/onnx/operators/onnx__Concat.html) of one or more values.
    Concat {
        /// Along this axis.
        axis: usize,
    },
    /// [Slice](https://onnx.ai/onnx/operators/onnx__Slice.html) with constant bounds, at most one range an axis.
    Slice {
        /// The axes that are cut; the others stay whole.
        ranges: Vec<Range>,
    },
    /// [Pad](https://onnx.ai/onnx/operators/onnx__Pad.html) with a constant.
    Pad {
        /// Elements added before and after, for every axis.
        pads: Vec<[usize; 2]>,
        /// The constant.
        value: f32,
    },
    /// `sum_k w[indices[k]] * x_k`: inputs are the weight value (any shape, read flat), then one or more `x_k` of one shape.
    /// Not an ONNX operator: it occurs in supernets only.
    WeightedSum {
        /// Which weight multiplies which summand.
        indices: Vec<usize>,
    },
    /// Channel shuffle: `[N, C, H, W]` seen as `[N, groups, C / groups, H, W]`, axes 1 and 2 exchanged (supernets only).
    ChannelShuffle {
        /// Number of groups, a divisor of C.
        groups: usize,
    },
    /// Separable units side by side, each a ReLU, a depthwise convolution, a pointwise convolution and a batch norm over some
    /// channels of the one input; the results are concatenated along axis 1. Not an ONNX operator: training only.
    Separable {
        /// In the order of their results.
        units: Vec<Unit>,
    },
    /// Channels gathered from several values and added up: `y[to + i * step] += weights * x[from + i]`. What slices, weighted
    /// sums, concatenations, shuffles and drop paths of channels come to. Not an ONNX operator: training only.
    Mix {
        /// Channels of the result; one that no term names is zero.
        channels: usize,
        /// What is added up.
        terms: Vec<MixTerm>,
    },
    /// [QuantizeLinear](https://onnx.ai/onnx/operators/onnx__QuantizeLinear.html) to eight bits and
    /// [DequantizeLinear](https://onnx.ai/onnx/operators/onnx__DequantizeLinear.html) of its result, by one scale and zero point
    /// for the whole value: every element becomes the nearest number of the grid. Evaluation only.
    QuantizeDequantize(Grid),
    /// Drops whole samples of the value in training with the probability of the moment and scales the others by 1 / keep;
    /// the identity in evaluation.
    DropPath,
    /// What occurs in models of other programs only. Evaluation only.
    Imported(Imported),
}

impl Op {
    /// The op's name in the textual IR and in messages.
    pub fn name(&self) -> &'static str {
        match self {
            Op::Conv { .. } => "conv",
            Op::BatchNorm { .. } => "batch_norm",
            Op::Relu => "relu",
            Op::MaxPool(_) => "max_pool",
            Op::AvgPool { .. } => "avg_pool",
            Op::GlobalAvgPool => "global_avg_pool",
            Op::Flatten { .. } => "flatten",
            Op::Linear { .. } => "linear",
            Op::Add => "add",
            Op::Concat { .. } => "concat",
            Op::Slice { .. } => "slice",
            Op::Pad { .. } => "pad",
            Op::WeightedSum { .. } => "weighted_sum",
            Op::ChannelShuffle { .. } => "channel_shuffle",
            Op::Separable { .. } => "separable",
            Op::Mix { .. } => "mix",
            Op::QuantizeDequantize(_) => "quantize_dequantize",
            Op::DropPath => "drop_path",
            Op::Imported(imported) => imported.name(),
        }
    }

    /// Whether the op only moves whole channels, multiplies and adds them: what it reads may then still lack a factor and an
    /// offset per channel.
    pub fn moves_channels(&self) -> bool {
        match self {
            Op::Add
            | Op::Concat { .. }
            | Op::WeightedSum { .. }
            | Op::ChannelShuffle { .. }
            | Op::Mix { .. }
            | Op::DropPath => true,
            Op::Conv { .. }
            | Op::BatchNorm { .. }
            | Op::Relu
            | Op::MaxPool(_)
            | Op::AvgPool { .. }
            | Op::GlobalAvgPool
            | Op::Flatten { .. }
            | Op::Linear { .. }
            | Op::Slice { .. }
            | Op::Pad { .. }
            | Op::QuantizeDequantize(_)
            | Op::Imported(_)
            | Op::Separable { .. } => false,
        }
    }

    /// The parameters that the op reads, in a fixed order.
    pub fn params(&self) -> Vec<ParamId> {
        match self {
            Op::Conv { weight, bias, .. } | Op::Linear { weight, bias } => {
                [Some(*weight), *bias].into_iter().flatten().collect()
            }
            Op::BatchNorm { scale, shift, mean, var, .. } => {
                [*scale, *shift, Some(*mean), Some(*var)].into_iter().flatten().collect()
            }
            Op::Separable { units } => units.iter().flat_map(Unit::params).collect(),
            Op::Imported(imported) => imported.param().into_iter().collect(),
            Op::Relu
            | Op::MaxPool(_)
            | Op::AvgPool { .. }
            | Op::GlobalAvgPool
            | Op::Flatten { .. }
            | Op::Add
            | Op::Concat { .. }
            | Op::Slice { .. }
            | Op::Pad { .. }
            | Op::WeightedSum { .. }
            | Op::ChannelShuffle { .. }
            | Op::Mix { .. }
            | Op::QuantizeDequantize(_)
            | Op::DropPath => Vec::new(),
        }
    }

    /// The same for passes that renumber parameters.
    pub fn params_mut(&mut self) -> Vec<&mut ParamId> {
        match self {
            Op::Conv { weight, bias, .. } | Op::Linear { weight, bias } => {
                std::iter::once(weight).chain(bias.as_mut()).collect()
            }
            Op::BatchNorm { scale, shift, mean, var, .. } => {
                scale.as_mut().into_iter().chain(shift.as_mut()).chain([mean, var]).collect()
            }
            Op::Separable { units } => units.iter_mut().flat_map(Unit::params_mut).collect(),
            Op::Imported(imported) => imported.param_mut().into_iter().collect(),
            Op::Relu
            | Op::MaxPool(_)
            | Op::AvgPool { .. }
            | Op::GlobalAvgPool
            | Op::Flatten { .. }
            | Op::Add
            | Op::Concat { .. }
            | Op::Slice { .. }
            | Op::Pad { .. }
            | Op::WeightedSum { .. }
            | Op::ChannelShuffle { .. }
            | Op::Mix { .. }
            | Op::QuantizeDequantize(_)
            | Op::DropPath => Vec::new(),
        }
    }

    /// A plain convolution without fused activations.
    pub fn conv(weight: ParamId, bias: Option<ParamId>, window: Window, groups: usize) -> Self {
        Op::Conv { weight, bias, window, groups, relu_in: false, relu_out: false }
    }
}

impl Unit {
    fn params(&self) -> impl Iterator<Item = ParamId> {
        let norm = [self.scale, self.shift, Some(self.mean), Some(self.var)].into_iter().flatten();
        [self.depthwise, self.pointwise].into_iter().chain(norm)
    }

    fn params_mut(&mut self) -> impl Iterator<Item = &mut ParamId> {
        let Self { depthwise, pointwise, scale, shift, mean, var, .. } = self;
        [depthwise, pointwise].into_iter().chain(scale).chain(shift).chain([mean, var])
    }
}
