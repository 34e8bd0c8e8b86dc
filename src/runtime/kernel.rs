//! The kernels: which WGSL file and entry point each one is, and what it binds.
//!
//! Takes nothing; gives [`Kernel`]. Binding 0 is the uniform with the sizes, then come the buffers that are read, then the
//! one that is written. The header of each WGSL file says how its data lie.

use serde::{Deserialize, Serialize};

/// Workgroups in x after which the host goes on in y; the kernels number them `y * 65535 + x`.
pub const FOLD: usize = 65535;

/// Threads that the kernels for subgroups expect in one.
pub const SUBGROUP: u32 = 8;

/// How a kernel binds what it reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Binding {
    /// A value: `read_write`, even where it is only read, because the kernel may write beside it in the same buffer.
    Value,
    /// Packed parameters: `read`.
    Weights,
}

/// One compute kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kernel {
    /// Any convolution.
    Conv,
    /// One input channel for each output channel.
    Depthwise,
    /// 1x1 convolution, 4 output channels and 8 pixels a thread, pixels a multiple of 4.
    Pointwise,
    /// The same for any number of pixels.
    PointwiseScalar,
    /// 1x1 convolution, 12 output channels and 16 pixels a thread, any number of pixels.
    PointwiseWide,
    /// Depthwise and pointwise convolution, or the latter alone, up to 36 output channels and 4 pixels a thread, for
    /// subgroups of 8 threads.
    SeparableSubgroup,
    /// 1x1 convolution from workgroup memory, pixels a multiple of 4.
    PointwiseTile,
    /// The same for any number of pixels.
    PointwiseTileScalar,
    /// Any convolution, as a product from workgroup memory.
    ConvTile,
    /// One input channel for each output channel, from workgroup memory.
    DepthwiseTile,
    /// Depthwise and pointwise convolution, from workgroup memory.
    SeparableTile,
    /// Max and average pooling.
    Pool,
    /// Element-wise sum.
    Add,
    /// Element-wise sum into one of the two.
    Accumulate,
    /// Element-wise maximum with 0.
    Relu,
    /// Every element to the nearest number of a grid of 256.
    QuantizeDequantize,
    /// Factor and shift for every channel.
    BatchNorm,
    /// Mean of every plane.
    GlobalAvgPool,
    /// Linear layer.
    Linear,
    /// Mean of every plane and linear layer.
    Head,
    /// Copy of a box of up to four dimensions.
    Copy,
    /// A constant everywhere.
    Fill,
    /// One summand of a weighted sum.
    WeightedSum,
    /// Packed numbers as a value.
    Constant,
    /// Element-wise sum or product of values whose sizes differ.
    Broadcast,
    /// Product of two values.
    Gemm,
    /// Softmax along an axis.
    Softmax,
    /// Local response normalisation.
    Lrn,
}

impl Kernel {
    /// Every kernel.
    pub const ALL: [Kernel; 28] = [
        Kernel::Conv,
        Kernel::Depthwise,
        Kernel::Pointwise,
        Kernel::PointwiseScalar,
        Kernel::PointwiseWide,
        Kernel::SeparableSubgroup,
        Kernel::PointwiseTile,
        Kernel::PointwiseTileScalar,
        Kernel::ConvTile,
        Kernel::DepthwiseTile,
        Kernel::SeparableTile,
        Kernel::Pool,
        Kernel::Add,
        Kernel::Accumulate,
        Kernel::Relu,
        Kernel::QuantizeDequantize,
        Kernel::BatchNorm,
        Kernel::GlobalAvgPool,
        Kernel::Linear,
        Kernel::Head,
        Kernel::Copy,
        Kernel::Fill,
        Kernel::WeightedSum,
        Kernel::Constant,
        Kernel::Broadcast,
        Kernel::Gemm,
        Kernel::Softmax,
        Kernel::Lrn,
    ];

    /// The name of the WGSL file, without its ending; kernels that differ in the entry point share it.
    pub fn file(self) -> &'static str {
        self.parts().0
    }

    /// The text of the WGSL file, whose buffers hold float32.
    pub fn source(self) -> &'static str {
        self.parts().1
    }

    /// The entry point in it.
    pub fn entry(self) -> &'static str {
        self.parts().2
    }

    /// Threads of a workgroup.
    pub fn workgroup(self) -> usize {
        match self {
            Kernel::SeparableSubgroup => 8,
            Kernel::PointwiseWide => 16,
            Kernel::Head => 256,
            Kernel::Conv
            | Kernel::Depthwise
            | Kernel::Pointwise
            | Kernel::PointwiseScalar
            | Kernel::PointwiseTile
            | Kernel::PointwiseTileScalar
            | Kernel::ConvTile
            | Kernel::DepthwiseTile
            | Kernel::SeparableTile
            | Kernel::Pool
            | Kernel::Add
            | Kernel::Accumulate
            | Kernel::Relu
            | Kernel::QuantizeDequantize
            | Kernel::BatchNorm
            | Kernel::GlobalAvgPool
            | Kernel::Linear
            | Kernel::Copy
            | Kernel::Fill
            | Kernel::WeightedSum
            | Kernel::Constant
            | Kernel::Broadcast
            | Kernel::Gemm
            | Kernel::Softmax
            | Kernel::Lrn => 64,
        }
    }

    /// Whether its threads exchange values inside of subgroups.
    pub fn subgroups(self) -> bool {
        self == Kernel::SeparableSubgroup
    }

    /// What it binds between the sizes and the value that it writes.
    pub fn reads(self) -> &'static [Binding] {
        use Binding::{Value, Weights};
        match self {
            Kernel::Fill => &[],
            Kernel::Constant => &[Weights],
            Kernel::Gemm => &[Value, Value, Value],
            Kernel::Pool
            | Kernel::Relu
            | Kernel::QuantizeDequantize
            | Kernel::GlobalAvgPool
            | Kernel::Copy
            | Kernel::Softmax
            | Kernel::Lrn
            | Kernel::Accumulate => &[Value],
            Kernel::Conv
            | Kernel::Depthwise
            | Kernel::Pointwise
            | Kernel::PointwiseScalar
            | Kernel::PointwiseWide
            | Kernel::BatchNorm
            | Kernel::Linear
            | Kernel::Head => &[Value, Weights],
            Kernel::Add | Kernel::WeightedSum | Kernel::Broadcast => &[Value, Value],
            Kernel::SeparableSubgroup
            | Kernel::PointwiseTile
            | Kernel::PointwiseTileScalar
            | Kernel::ConvTile
            | Kernel::DepthwiseTile
            | Kernel::SeparableTile => &[Value, Weights, Value],
        }
    }

    fn parts(self) -> (&'static str, &'static str, &'static str) {
        macro_rules! wgsl {
            ($file:literal, $entry:literal) => {
                ($file, include_str!(concat!("../../shaders/", $file, ".wgsl")), $entry)
            };
        }
        match self {
            Kernel::Conv => wgsl!("conv", "main"),
            Kernel::Depthwise => wgsl!("depthwise", "main"),
            Kernel::Pointwise => wgsl!("pointwise", "aligned"),
            Kernel::PointwiseScalar => wgsl!("pointwise", "scalar"),
            Kernel::PointwiseWide => wgsl!("pointwise_wide", "main"),
            Kernel::SeparableSubgroup => wgsl!("separable_subgroup", "main"),
            Kernel::PointwiseTile => wgsl!("pointwise_tile", "aligned"),
            Kernel::PointwiseTileScalar => wgsl!("pointwise_tile", "scalar"),
            Kernel::ConvTile => wgsl!("conv_tile", "main"),
            Kernel::DepthwiseTile => wgsl!("depthwise_tile", "main"),
            Kernel::SeparableTile => wgsl!("separable_tile", "main"),
            Kernel::Pool => wgsl!("pool", "main"),
            Kernel::Add => wgsl!("add", "main"),
            Kernel::Accumulate => wgsl!("accumulate", "main"),
            Kernel::Relu => wgsl!("relu", "main"),
            Kernel::QuantizeDequantize => wgsl!("quantize_dequantize", "main"),
            Kernel::BatchNorm => wgsl!("batch_norm", "main"),
            Kernel::GlobalAvgPool => wgsl!("global_avg_pool", "main"),
            Kernel::Linear => wgsl!("linear", "main"),
            Kernel::Head => wgsl!("head", "main"),
            Kernel::Copy => wgsl!("copy", "main"),
            Kernel::Fill => wgsl!("fill", "main"),
            Kernel::WeightedSum => wgsl!("weighted_sum", "main"),
            Kernel::Constant => wgsl!("constant", "main"),
            Kernel::Broadcast => wgsl!("broadcast", "main"),
            Kernel::Gemm => wgsl!("gemm", "main"),
            Kernel::Softmax => wgsl!("softmax", "main"),
            Kernel::Lrn => wgsl!("lrn", "main"),
        }
    }
}
