//! Operators on values that networks of our own do not have: sums and products of values of different shapes or with
//! constants, products of two values, softmax, response normalisation, filled and reshaped constants.
//!
//! Takes nodes; gives [`Imported`] ops, or the plain op where that is enough.

use super::operator::Made;
use super::view::View;
use super::{MAX_RANK, Reader};
use crate::ir::{Arithmetic, Dim, Imported, Op, Role, Shape, Tensor, ValueId};
use crate::onnx::OnnxError;
use crate::onnx::proto::attribute_type;

impl<'a> Reader<'a> {
    /// The value of input `index`; a constant becomes one.
    pub(super) fn operand(&mut self, view: &View<'a>, index: usize) -> Result<ValueId, OnnxError> {
        let name = view.input(index)?;
        if self.values.contains_key(name) || !self.constants.contains(name) {
            return self.variable(view, index);
        }
        let value = self.param(view, name, Role::Weight)?;
        self.constant(name, value.index(), Op::Imported(Imported::Constant(value)))
    }

    fn constant(&mut self, name: &str, param: usize, op: Op) -> Result<ValueId, OnnxError> {
        if let Some(known) = self.constant_values.get(&param) {
            return Ok(*known);
        }
        // Not the name itself: that of a node that vanished, such as Unsqueeze, may be the same in this file and not in ours.
        let node = self.node_names.claim(&format!("{}/value", super::view::path(name)));
        let value = self.builder.node(node, op, &[])?;
        self.value_names.push(None);
        self.constant_values.insert(param, value);
        Ok(value)
    }

    /// Add or Mul.
    pub(super) fn elementwise(&mut self, view: &View<'a>, arithmetic: Arithmetic) -> Result<ValueId, OnnxError> {
        view.at_most(2)?;
        view.only(&["axis", "broadcast", "consumed_inputs"])?;
        let first = self.operand(view, 0)?;
        let second = self.second_operand(view, first)?;
        let same = self.builder.shape(first) == self.builder.shape(second);
        let op = match arithmetic {
            Arithmetic::Add if same => Op::Add,
            Arithmetic::Add | Arithmetic::Multiply => Op::Imported(Imported::Elementwise(arithmetic)),
        };
        self.emit(view, op, &[first, second])
    }

    /// Before operator set 7 an attribute said along which axis of the first operand the second begins.
    fn second_operand(&mut self, view: &View<'a>, first: ValueId) -> Result<ValueId, OnnxError> {
        let Some(axis) = view.attribute("axis", attribute_type::INT)? else { return self.operand(view, 1) };
        let name = view.input(1)?;
        if !self.constants.contains(name) {
            return Err(view.unsupported("attribute `axis` is supported for a constant only"));
        }
        let rank = self.builder.shape(first).rank();
        let axis = view.index(axis.i.unwrap_or(0), rank, rank)?;
        let Tensor { mut shape, data } = self.constants.floats(view, name)?;
        let behind = rank.checked_sub(axis + shape.len());
        let behind = behind.ok_or_else(|| view.error(format!("`{name}` does not fit behind axis {axis}")))?;
        shape.extend(std::iter::repeat_n(1, behind));
        let value = self.changed(view, name, Role::Weight, Tensor { shape, data })?;
        self.constant(name, value.index(), Op::Imported(Imported::Constant(value)))
    }

    /// Sum of one or more values.
    pub(super) fn sum(&mut self, view: &View<'a>) -> Result<ValueId, OnnxError> {
        view.only(&["consumed_inputs"])?;
        let mut total = self.operand(view, 0)?;
        let last = view.proto.input.len() - 1;
        for index in 1..=last {
            let next = self.operand(view, index)?;
            let op = match self.builder.shape(total) == self.builder.shape(next) {
                true => Op::Add,
                false => Op::Imported(Imported::Elementwise(Arithmetic::Add)),
            };
            let name = if index == last { view.name.clone() } else { format!("{}/{index}", view.name) };
            let name = if index == last { name } else { self.node_names.claim(&name) };
            total = self.emit_as(view, name, op, &[total, next])?;
        }
        Ok(total)
    }

    /// A product of two values, or one that a linear layer cannot do.
    pub(super) fn product(
        &mut self,
        view: &View<'a>,
        [alpha, beta]: [f32; 2],
        transpose: [bool; 2],
    ) -> Result<Made<'a>, OnnxError> {
        let mut inputs = vec![self.operand(view, 0)?, self.operand(view, 1)?];
        if inputs.iter().any(|x| self.builder.shape(*x).rank() != 2) {
            let shapes: Vec<String> = inputs.iter().map(|x| self.builder.shape(*x).to_string()).collect();
            return Err(
                view.unsupported(format!("a product of {} is not supported, only of matrices", shapes.join(" and ")))
            );
        }
        if view.optional(2).is_some() {
            inputs.push(self.operand(view, 2)?);
        }
        let op = Op::Imported(Imported::Gemm { alpha, beta, transpose });
        Ok((view.output()?, self.emit(view, op, &inputs)?))
    }

    pub(super) fn softmax(&mut self, view: &View<'a>) -> Result<ValueId, OnnxError> {
        view.at_most(1)?;
        view.only(&["axis"])?;
        let x = self.variable(view, 0)?;
        let shape = self.builder.shape(x);
        let default = if self.opset < 13 { 1 } else { -1 };
        let axis = view.axis(Some(default), shape.rank(), false)?;
        // Before operator set 13 all axes from this one on were one.
        let behind = Shape(shape.0[axis + 1..].to_vec());
        if self.opset < 13 && behind.0.iter().any(|dim| *dim != Dim::Fixed(1)) {
            let why = format!("of {shape} over axis {axis} and those behind it is not supported; flatten it first");
            return Err(view.unsupported(why));
        }
        self.emit(view, Op::Imported(Imported::Softmax { axis }), &[x])
    }

    pub(super) fn lrn(&mut self, view: &View<'a>) -> Result<ValueId, OnnxError> {
        view.at_most(1)?;
        view.only(&["alpha", "beta", "bias", "size"])?;
        let x = self.variable(view, 0)?;
        let size = usize::try_from(view.int("size", 0)?).ok().filter(|size| (1..=1 << 20).contains(size));
        let size = size.ok_or_else(|| view.error("attribute `size` is missing, below 1 or above 2^20"))?;
        let (alpha, beta, bias) = (view.float("alpha", 1e-4)?, view.float("beta", 0.75)?, view.float("bias", 1.0)?);
        self.emit(view, Op::Imported(Imported::Lrn { size, alpha, beta, bias }), &[x])
    }

    /// ConstantOfShape of a constant shape.
    pub(super) fn filled(&mut self, view: &View<'a>) -> Result<(), OnnxError> {
        view.at_most(1)?;
        view.only(&["value"])?;
        let dims = self.known(view, view.input(0)?)?;
        let value = view.attribute("value", attribute_type::TENSOR)?.and_then(|a| a.t.as_ref());
        self.constants.fill(view, view.output()?, dims, value)
    }

    /// Unsqueeze of a constant: more dimensions of size 1.
    pub(super) fn unsqueeze(&mut self, view: &View<'a>) -> Result<(), OnnxError> {
        view.at_most(2)?;
        view.only(&["axes"])?;
        let name = view.input(0)?;
        let axes = self.axes(view)?.ok_or_else(|| view.error("`axes` is missing"))?;
        if self.values.contains_key(name) {
            return Err(view.unsupported("on a computed value it is not supported, only on a constant"));
        }
        let mut shape = self.constants.dims(view, name)?;
        let rank = shape.len() + axes.len();
        if rank > MAX_RANK {
            return Err(view.unsupported(format!("it makes {rank} dimensions; at most {MAX_RANK} are supported")));
        }
        let mut axes = axes.into_iter().map(|axis| view.index(axis, rank, rank)).collect::<Result<Vec<_>, _>>()?;
        axes.sort_unstable();
        axes.into_iter().for_each(|axis| shape.insert(axis.min(shape.len()), 1));
        self.constants.reshaped(view, view.output()?, name, &shape)
    }
}
