//! QuantizeLinear and DequantizeLinear: pairs of them around values, and constants that are stored as integers.
//!
//! Takes the nodes; a pair becomes one [`Op::QuantizeDequantize`], uint8 as the int8 grid of the same numbers; a constant that
//! is dequantised stays one constant, whose elements `constant` multiplies out. Integers that something else reads are
//! refused: operators on integers are not supported.

use super::Reader;
use super::constant::Scaling;
use super::view::View;
use crate::ir::{Grid, Op, ValueId};
use crate::onnx::OnnxError;
use crate::onnx::proto::data_type;

/// A value as integers, which only a DequantizeLinear may read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Quantized {
    value: ValueId,
    scale: f32,
    zero: i32,
    signed: bool,
}

impl<'a> Reader<'a> {
    /// Keeps what the node quantises until its DequantizeLinear comes.
    pub(super) fn quantize(&mut self, view: &View<'a>) -> Result<(), OnnxError> {
        view.at_most(3)?;
        view.only(&["axis", "saturate"])?;
        let value = self.variable(view, 0)?;
        let scale = self.one_scale(view)?;
        let zero = view.optional(2).map(|name| self.constants.codes(view, name)).transpose()?;
        let (signed, zero) = match zero {
            Some((data_type::INT8, codes)) => (true, codes),
            Some((data_type::UINT8, codes)) => (false, codes),
            None => (false, vec![0]),
            Some((other, _)) => {
                let why = format!("to {}; supported are int8 and uint8", data_type::name(other));
                return Err(view.unsupported(why));
            }
        };
        let &[zero] = zero.as_slice() else { return Err(view.unsupported("a zero point for each channel")) };
        let output = view.output()?;
        if self.quantized.insert(output, Quantized { value, scale, zero, signed }).is_some() {
            return Err(view.error(format!("its output `{output}` is already made by something else")));
        }
        Ok(())
    }

    /// The value that a pair of nodes makes; nothing for a constant, which from now on has the name of its numbers as well.
    pub(super) fn dequantize(&mut self, view: &View<'a>) -> Result<Option<ValueId>, OnnxError> {
        view.at_most(3)?;
        view.only(&["axis"])?;
        let name = view.input(0)?;
        if self.constants.contains(name) {
            let scaling = self.scaling(view, name)?;
            self.constants.dequantize(view, view.output()?, name, scaling)?;
            return Ok(None);
        }
        let Some(&Quantized { value, scale, zero, signed }) = self.quantized.get(name) else {
            return Err(view.unsupported(format!("`{name}` is neither a constant nor made by QuantizeLinear")));
        };
        let own = view.optional(2).map(|name| self.constants.codes(view, name)).transpose()?;
        let own = own.map_or_else(|| vec![0], |(_, codes)| codes);
        if self.one_scale(view)? != scale || own != [zero] {
            return Err(view.unsupported("its scale or zero point is not that of the QuantizeLinear before it"));
        }
        let code = if signed { zero } else { zero - 128 };
        let zero_point =
            i8::try_from(code).map_err(|_| view.error(format!("the zero point {zero} is out of range")))?;
        self.emit(view, Op::QuantizeDequantize(Grid { scale, zero_point }), &[value]).map(Some)
    }

    /// The scale of a whole value.
    fn one_scale(&self, view: &View<'a>) -> Result<f32, OnnxError> {
        let scales = self.constants.floats(view, view.input(1)?)?.data;
        let &[scale] = scales.as_slice() else {
            let why = format!("{} scales for a computed value; supported is one for all of it", scales.len());
            return Err(view.unsupported(why));
        };
        match (Grid { scale, zero_point: 0 }).is_usable() {
            true => Ok(scale),
            false => Err(view.error(format!("the scale {scale} is no normal number above 0"))),
        }
    }

    /// How the integers of constant `name` become numbers.
    fn scaling(&self, view: &View<'a>, name: &str) -> Result<Scaling, OnnxError> {
        let dims = self.constants.dims(view, name)?;
        let scales = self.constants.floats(view, view.input(1)?)?;
        let zeros = match view.optional(2) {
            Some(zero) => self.constants.codes(view, zero)?.1,
            None => vec![0; scales.data.len()],
        };
        let axis = match scales.data.len() {
            1 => 0,
            _ => view.axis(Some(1), dims.len(), false)?,
        };
        let fits = scales.shape.len() <= 1 && [1, dims.get(axis).copied().unwrap_or(1)].contains(&scales.data.len());
        if !fits || zeros.len() != scales.data.len() {
            let why = format!(
                "{:?} scales and {} zero points for a constant {dims:?}; supported is one, or one for each index of an axis",
                scales.shape,
                zeros.len()
            );
            return Err(view.unsupported(why));
        }
        Ok(Scaling { scales: scales.data, zeros, axis })
    }
}
