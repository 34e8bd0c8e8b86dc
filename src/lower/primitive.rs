//! Expands one primitive into layers: the only place that knows what `sep_conv_3x3` is.
//!
//! Takes a primitive, its input and stride; gives its output value, with as many channels as the input.

use super::LowerError;
use super::layers::{Layers, Scope};
use crate::genotype::Primitive;
use crate::ir::{Op, ValueId, Window};

/// Where a primitive stands decides two details of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Setting {
    /// Among the candidates of a mixed edge: every pool is followed by a batch norm.
    Candidate,
    /// On an edge of a found cell: pools stand alone.
    Found,
}

/// Adds the layers of `primitive` at `at`.
///
/// # Errors
/// `none` has no layers: it is the absence of an edge.
pub(super) fn expand(
    layers: &mut Layers,
    at: &Scope,
    primitive: Primitive,
    x: ValueId,
    stride: usize,
    setting: Setting,
) -> Result<ValueId, LowerError> {
    let pool = |layers: &mut Layers, op: Op| {
        let y = layers.graph.node(at.child("pool", "").path(), op, &[x])?;
        match setting {
            Setting::Candidate => layers.norm(&at.child("norm", "1"), y),
            Setting::Found => Ok(y),
        }
    };
    let window = Window::same(3, stride, 1);
    let value = match primitive {
        Primitive::None => {
            let why = "cannot stand in a network: it means that there is no edge";
            return Err(LowerError::Primitive { place: at.path().into(), primitive, why });
        }
        Primitive::MaxPool3x3 => pool(layers, Op::MaxPool(window))?,
        Primitive::AvgPool3x3 => pool(layers, Op::AvgPool { window, count_include_pad: false })?,
        Primitive::SkipConnect if stride == 1 => x,
        Primitive::SkipConnect => {
            let channels = layers.channels(x);
            layers.factorized_reduce(at, x, channels)?
        }
        Primitive::SepConv3x3 => sep_conv(layers, at, x, 3, stride)?,
        Primitive::SepConv5x5 => sep_conv(layers, at, x, 5, stride)?,
        Primitive::SepConv7x7 => sep_conv(layers, at, x, 7, stride)?,
        Primitive::DilConv3x3 => separable(layers, at, x, Window::same(3, stride, 2), 1, 1)?,
        Primitive::DilConv5x5 => separable(layers, at, x, Window::same(5, stride, 2), 1, 1)?,
        Primitive::Conv7x1x7 => {
            let c = layers.channels(x);
            let y = layers.relu(&at.child("relu", ""), x)?;
            let row = Window::new([1, 7], [1, stride], [0, 3], [1, 1]);
            let y = layers.conv(&at.child("conv_1x7", "op.1"), y, c, row, 1)?;
            let column = Window::new([7, 1], [stride, 1], [3, 0], [1, 1]);
            let y = layers.conv(&at.child("conv_7x1", "op.2"), y, c, column, 1)?;
            layers.norm(&at.child("norm", "op.3"), y)?
        }
    };
    Ok(value)
}

/// Two separable units, the stride in the first.
fn sep_conv(layers: &mut Layers, at: &Scope, x: ValueId, kernel: usize, stride: usize) -> Result<ValueId, LowerError> {
    let y = separable(layers, at, x, Window::same(kernel, stride, 1), 1, 1)?;
    separable(layers, at, y, Window::same(kernel, 1, 1), 2, 5)
}

/// ReLU, depthwise, pointwise, batch norm: unit `number`, whose first convolution is layer `op.{layer}` in PyTorch.
fn separable(
    layers: &mut Layers,
    at: &Scope,
    x: ValueId,
    window: Window,
    number: usize,
    layer: usize,
) -> Result<ValueId, LowerError> {
    let place = |name: &str, layer: Option<usize>| {
        at.child(format!("{name}{number}"), layer.map(|l| format!("op.{l}")).unwrap_or_default())
    };
    let c = layers.channels(x);
    let y = layers.relu(&place("relu", None), x)?;
    let y = layers.depthwise(&place("depthwise", Some(layer)), y, window)?;
    let y = layers.pointwise(&place("pointwise", Some(layer + 1)), y, c, 1)?;
    Ok(layers.norm(&place("norm", Some(layer + 2)), y)?)
}
