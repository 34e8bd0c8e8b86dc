//! Matrix products, and biases in all the forms in which exporters write them.
//!
//! Takes Gemm and MatMul nodes by constant matrices; gives [`Op::Linear`]; other products are left to `arithmetic`. A
//! constant added behind a convolution or a product, if nothing else reads the result, becomes its bias.

use super::Reader;
use super::operator::Made;
use super::view::View;
use crate::ir::{Op, ParamId, Role, Tensor};
use crate::onnx::OnnxError;

impl<'a> Reader<'a> {
    /// `alpha * A * B + beta * C`.
    pub(super) fn gemm(&mut self, view: &View<'a>) -> Result<Made<'a>, OnnxError> {
        view.at_most(3)?;
        view.only(&["alpha", "beta", "broadcast", "transA", "transB"])?;
        let transpose = [view.int("transA", 0)? != 0, view.int("transB", 0)? != 0];
        let [alpha, beta] = [view.float("alpha", 1.0)?, view.float("beta", 1.0)?];
        if transpose[0] || !self.is_layer(view, transpose[1])? {
            return self.product(view, [alpha, beta], transpose);
        }
        let own = view.optional(2).map(|name| (name, beta));
        self.linear(view, !transpose[1], alpha, own)
    }

    /// Whether a Gemm multiplies by a constant and adds one number per column at most.
    fn is_layer(&self, view: &View<'a>, transposed: bool) -> Result<bool, OnnxError> {
        let weight = view.input(1)?;
        if !self.constants.contains(weight) {
            return Ok(false);
        }
        let sizes = self.constants.dims(view, weight)?;
        let Some(&columns) = sizes.get(usize::from(!transposed)) else { return Ok(true) };
        match view.optional(2) {
            Some(bias) if !self.constants.contains(bias) => Ok(false),
            Some(bias) => Ok(per_channel(&self.constants.dims(view, bias)?, columns, 0)),
            None => Ok(true),
        }
    }

    /// A matrix product.
    pub(super) fn matmul(&mut self, view: &View<'a>) -> Result<Made<'a>, OnnxError> {
        view.at_most(2)?;
        view.only(&[])?;
        match self.constants.contains(view.input(1)?) {
            true => self.linear(view, true, 1.0, None),
            false => self.product(view, [1.0, 1.0], [false, false]),
        }
    }

    fn linear(
        &mut self,
        view: &View<'a>,
        transpose: bool,
        factor: f32,
        own: Option<(&'a str, f32)>,
    ) -> Result<Made<'a>, OnnxError> {
        let x = self.variable(view, 0)?;
        let weight = self.matrix(view, view.input(1)?, transpose, factor)?;
        let sizes = self.constants.dims(view, view.input(1)?)?;
        let out = if transpose { sizes[1] } else { sizes[0] };
        let (bias, output) = self.bias(view, own, out, 0)?;
        Ok((output, self.emit(view, Op::Linear { weight, bias }, &[x])?))
    }

    /// The bias of a node with `channels` output channels and `spatial` dimensions behind them: its own constant times a
    /// factor, and what the one Add behind it adds. Gives the name of the final result too.
    pub(super) fn bias(
        &mut self,
        view: &View<'a>,
        own: Option<(&'a str, f32)>,
        channels: usize,
        spatial: usize,
    ) -> Result<(Option<ParamId>, &'a str), OnnxError> {
        let mut output = view.output()?;
        let mut parts: Vec<(&str, f32)> = Vec::new();
        if let Some((name, factor)) = own.filter(|(_, factor)| *factor != 0.0) {
            let sizes = self.constants.dims(view, name)?;
            // The bias of a convolution is [C]; that of a product may be anything that spreads over rows.
            if !(sizes == [channels] || spatial == 0 && per_channel(&sizes, channels, 0)) {
                let why = format!("bias `{name}` is {sizes:?}; supported is one number per channel, [{channels}]");
                return Err(view.unsupported(why));
            }
            parts.push((name, factor));
        }
        if let Some((add, name)) = self.added_constant(view, output, channels, spatial) {
            self.folded.insert(add);
            output = self.nodes[add].output.first().map_or(output, String::as_str);
            parts.push((name, 1.0));
        }
        let Some(&(name, factor)) = parts.first() else { return Ok((None, output)) };
        if parts.len() == 1 && factor == 1.0 && self.constants.dims(view, name)? == [channels] {
            return Ok((Some(self.param(view, name, Role::Bias)?), output));
        }
        let mut sum = vec![0.0; channels];
        for (name, factor) in &parts {
            let Tensor { data, .. } = self.constants.floats(view, name)?;
            for (total, x) in sum.iter_mut().zip(data.iter().cycle()) {
                *total += factor * x;
            }
        }
        let bias = self.changed(view, name, Role::Bias, Tensor { shape: vec![channels], data: sum })?;
        Ok((Some(bias), output))
    }

    /// The node that adds a constant per channel to `value` and is all that reads it, with the constant's name.
    fn added_constant(
        &self,
        view: &View<'a>,
        value: &str,
        channels: usize,
        spatial: usize,
    ) -> Option<(usize, &'a str)> {
        let &[index] = self.readers.get(value)?.as_slice() else { return None };
        let add = &self.nodes[index];
        if add.op_type != "Add" || self.outputs.contains(value) {
            return None;
        }
        let [a, b] = add.input.as_slice() else { return None };
        let name = if a == value { b } else { a };
        let sizes = self.constants.dims(view, name).ok()?;
        // Before operator set 7 an attribute said which axis [C] lies along.
        let legacy = add.attribute.iter().any(|a| a.name == "axis" && a.i == Some(1)) && sizes == [channels];
        (legacy || per_channel(&sizes, channels, spatial)).then_some((index, name))
    }
}

/// Whether a constant of these sizes, added to `[N, channels, ...]` with `spatial` more dimensions, adds one number per
/// channel (or one to all) and leaves the shape as it is.
fn per_channel(sizes: &[usize], channels: usize, spatial: usize) -> bool {
    if sizes.len() > spatial + 2 {
        return false;
    }
    let from_end = |i: usize| sizes.len() - 1 - i;
    sizes.iter().enumerate().all(|(i, n)| *n == 1 || (*n == channels && from_end(i) == spatial))
}
