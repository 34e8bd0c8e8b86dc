//! Operators that only move elements: Concat, Slice, Pad, Flatten, Reshape.
//!
//! Takes their bounds, as attributes or as constants, whichever the operator set has; gives ops with bounds that fit the
//! shapes.

use super::integers::Number;
use super::operator::Made;
use super::view::View;
use super::{MAX_ELEMENTS, MAX_RANK, Reader};
use crate::ir::{Dim, Op, Range, Shape, ValueId};
use crate::onnx::OnnxError;
use crate::onnx::proto::NodeProto;

/// Bounds of a Slice along one axis, as ONNX means them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) axis: i64,
    pub(super) start: i64,
    pub(super) end: i64,
    pub(super) step: i64,
}

impl<'a> Reader<'a> {
    /// Concat of computed values.
    pub(super) fn concat(&mut self, view: &View<'a>) -> Result<ValueId, OnnxError> {
        view.only(&["axis"])?;
        let inputs = (0..view.proto.input.len()).map(|i| self.variable(view, i)).collect::<Result<Vec<_>, _>>()?;
        let rank = inputs.first().map_or(0, |x| self.builder.shape(*x).rank());
        let axis = view.axis(None, rank, false)?;
        self.emit(view, Op::Concat { axis }, &inputs)
    }

    /// Flatten to a matrix.
    pub(super) fn flatten(&mut self, view: &View<'a>) -> Result<ValueId, OnnxError> {
        view.at_most(1)?;
        view.only(&["axis"])?;
        let x = self.variable(view, 0)?;
        let axis = view.axis(Some(1), self.builder.shape(x).rank(), true)?;
        self.emit(view, Op::Flatten { axis }, &[x])
    }

    /// Reshape by a constant, if it flattens images to rows, changes nothing, or begins a channel shuffle. Gives the name of
    /// the final result too; nothing for a constant, which becomes another.
    pub(super) fn reshape(&mut self, view: &View<'a>) -> Result<Option<Made<'a>>, OnnxError> {
        view.at_most(2)?;
        view.only(&["allowzero"])?;
        let name = view.input(0)?;
        if self.constants.contains(name) && !self.values.contains_key(name) {
            return self.reshape_constant(view, name).map(|()| None);
        }
        self.reshape_value(view).map(Some)
    }

    fn reshape_constant(&mut self, view: &View<'a>, name: &str) -> Result<(), OnnxError> {
        let (dims, target) = (self.constants.dims(view, name)?, self.known(view, view.input(1)?)?);
        let keep_zero = view.int("allowzero", 0)? != 0;
        let shape = sizes_of(&dims, &target, keep_zero)
            .ok_or_else(|| view.error(format!("`{name}` of sizes {dims:?} has no form of sizes {target:?}")))?;
        self.constants.reshaped(view, view.output()?, name, &shape)
    }

    fn reshape_value(&mut self, view: &View<'a>) -> Result<Made<'a>, OnnxError> {
        let x = self.variable(view, 0)?;
        let target = self.numbers(view, view.input(1)?)?;
        let shape = self.builder.shape(x);
        let keep_zero = view.int("allowzero", 0)? != 0;
        if reshapes_to(shape, &target, &shape.0, keep_zero) {
            return Ok((view.output()?, x));
        }
        let rows = shape.0.first().copied().unwrap_or(Dim::Fixed(1));
        let columns = Shape(shape.0.iter().skip(1).copied().collect()).elements();
        if shape.rank() >= 1 && reshapes_to(shape, &target, &[rows, Dim::Fixed(columns)], keep_zero) {
            return Ok((view.output()?, self.emit(view, Op::Flatten { axis: 1 }, &[x])?));
        }
        if let Some((groups, rest)) = self.shuffle(view, x, &target) {
            self.folded.extend(rest);
            let last = View::new(&self.nodes[rest[1]], &mut self.node_names);
            return Ok((last.output()?, self.emit(&last, Op::ChannelShuffle { groups }, &[x])?));
        }
        let shape = self.builder.shape(x);
        let target: Vec<String> = target.iter().map(Number::to_string).collect();
        let why = format!(
            "from {shape} to [{}] is not supported; supported is flattening all but the first dimension",
            target.join(", ")
        );
        Err(view.unsupported(why))
    }

    /// The groups of the channel shuffle that this Reshape of `x` to `target` begins: a Transpose of groups and channels and
    /// a Reshape back, which nothing else reads between; and where these two are.
    fn shuffle(&mut self, view: &View<'a>, x: ValueId, target: &[Number]) -> Option<(usize, [usize; 2])> {
        let shape = self.builder.shape(x).clone();
        let [c, h, w] = shape.chw()?;
        let groups =
            usize::try_from(target.get(1)?.factor).ok().filter(|groups| *groups > 0 && c.is_multiple_of(*groups))?;
        let split = [shape.0[0], Dim::Fixed(groups), Dim::Fixed(c / groups), Dim::Fixed(h), Dim::Fixed(w)];
        let only_reader = |value: &str| match (self.readers.get(value)?.as_slice(), self.outputs.contains(value)) {
            (&[reader], false) => Some(reader),
            _ => None,
        };
        let swap = only_reader(view.output().ok()?)?;
        let transpose = &self.nodes[swap];
        let perm = transpose.attribute.iter().find(|a| a.name == "perm")?;
        let join = only_reader(transpose.output.first()?)?;
        let back = &self.nodes[join];
        let turns = transpose.op_type == "Transpose" && perm.ints == [0, 2, 1, 3, 4] && back.op_type == "Reshape";
        self.fold_ahead(join);
        let joined = self.numbers(view, back.input.get(1)?).ok()?;
        let turned = Shape(vec![shape.0[0], Dim::Fixed(c / groups), Dim::Fixed(groups), Dim::Fixed(h), Dim::Fixed(w)]);
        // With `allowzero` a 0 is a size, which no image has.
        let allowzero =
            |node: &NodeProto| node.attribute.iter().any(|a| a.name == "allowzero" && a.i.unwrap_or(0) != 0);
        let plain = back.attribute.iter().all(|a| a.name == "allowzero");
        let fits = turns && plain && reshapes_to(&shape, target, &split, allowzero(view.proto));
        (fits && reshapes_to(&turned, &joined, &shape.0, allowzero(back))).then_some((groups, [swap, join]))
    }

    /// Slice with constant bounds.
    pub(super) fn slice(&mut self, view: &View<'a>) -> Result<ValueId, OnnxError> {
        let x = self.variable(view, 0)?;
        let bounds = self.slice_bounds(view)?;
        let shape = self.builder.shape(x).clone();
        let mut ranges = Vec::new();
        for bounds in &bounds {
            let axis = view.index(bounds.axis, shape.rank(), shape.rank())?;
            match shape.0[axis] {
                Dim::Fixed(size) => ranges.push(range(axis, size, bounds)),
                Dim::Batch if bounds.start == 0 && bounds.end >= i64::from(i32::MAX) && bounds.step == 1 => {}
                Dim::Batch => return Err(view.unsupported("the batch cannot be cut")),
            }
        }
        if ranges.is_empty() {
            return Ok(x);
        }
        self.emit(view, Op::Slice { ranges }, &[x])
    }

    /// Pad with a constant, or with a mirror that belongs to the max pool behind it. Gives the name of the final result too.
    pub(super) fn pad(&mut self, view: &View<'a>) -> Result<Made<'a>, OnnxError> {
        view.at_most(4)?;
        let by_attribute = self.opset < 11;
        view.only(if by_attribute { &["mode", "pads", "value"] } else { &["mode"] })?;
        let mode = view.text("mode", "constant")?;
        if !["constant", "reflect"].contains(&mode) {
            return Err(view.unsupported(format!("mode `{mode}` is not supported, only `constant`")));
        }
        let x = self.variable(view, 0)?;
        let rank = self.builder.shape(x).rank();
        let (amounts, value, axes) = if by_attribute {
            (view.ints("pads")?.map(<[i64]>::to_vec), view.float("value", 0.0)?, None)
        } else {
            let value = view.optional(2).map(|name| self.constants.floats(view, name)).transpose()?;
            let value = value.map_or(Some(0.0), |t| <[f32; 1]>::try_from(t.data).ok().map(|[x]| x));
            let value = value.ok_or_else(|| view.error("the constant must be one number"))?;
            let axes = view.optional(3).map(|name| self.known(view, name)).transpose()?;
            (view.optional(1).map(|name| self.known(view, name)).transpose()?, value, axes)
        };
        let amounts = amounts.ok_or_else(|| view.error("`pads` is missing"))?;
        let axes = axes.unwrap_or_else(|| (0..rank as i64).collect());
        if amounts.len() != 2 * axes.len() {
            return Err(view.error(format!("{} pads for {} axes; there must be two each", amounts.len(), axes.len())));
        }
        if let Some(bad) = amounts.iter().find(|n| !(0..=MAX_ELEMENTS as i64).contains(n)) {
            return Err(view.unsupported(format!("a pad of {bad} is not supported; use Slice to cut")));
        }
        let mut pads = vec![[0; 2]; rank];
        for (i, axis) in axes.iter().enumerate() {
            let axis = view.index(*axis, rank, rank)?;
            pads[axis] = [amounts[i] as usize, amounts[axes.len() + i] as usize];
        }
        if mode == "reflect" {
            return self.mirrored_pool(view, x, &pads);
        }
        Ok((view.output()?, self.emit(view, Op::Pad { pads, value }, &[x])?))
    }

    /// What a Slice cuts, axis by axis; no step is 0.
    pub(super) fn slice_bounds(&self, view: &View<'a>) -> Result<Vec<Bounds>, OnnxError> {
        view.at_most(5)?;
        view.only(if self.opset < 10 { &["axes", "ends", "starts"] } else { &[] })?;
        let missing = |word: &str| view.error(format!("`{word}` is missing"));
        let starts = self.bounds(view, "starts", 1)?.ok_or_else(|| missing("starts"))?;
        let ends = self.bounds(view, "ends", 2)?.ok_or_else(|| missing("ends"))?;
        let axes = self.bounds(view, "axes", 3)?.unwrap_or_else(|| (0..starts.len() as i64).collect());
        let steps = if self.opset < 10 { None } else { self.bounds(view, "steps", 4)? };
        let steps = steps.unwrap_or_else(|| vec![1; starts.len()]);
        if [ends.len(), axes.len(), steps.len()] != [starts.len(); 3] {
            return Err(view.error("starts, ends, axes and steps are not of one length"));
        }
        if steps.contains(&0) {
            return Err(view.error("a step is 0"));
        }
        let along = |i: usize| Bounds { axis: axes[i], start: starts[i], end: ends[i], step: steps[i] };
        Ok((0..starts.len()).map(along).collect())
    }

    /// A list that is an attribute before operator set 10 and input `index` from then on.
    fn bounds(&self, view: &View<'a>, name: &str, index: usize) -> Result<Option<Vec<i64>>, OnnxError> {
        if self.opset >= 10 {
            return view.optional(index).map(|name| self.known(view, name)).transpose();
        }
        match view.ints(name)? {
            Some(list) if list.len() > MAX_RANK => Err(view.error(format!("attribute `{name}` is too long"))),
            list => Ok(list.map(<[i64]>::to_vec)),
        }
    }
}

/// The part of an axis of `size` elements that ONNX bounds mean: negative ones count from the end, too large ones are
/// clamped.
pub(super) fn range(axis: usize, size: usize, bounds: &Bounds) -> Range {
    let (start, end) = (bounds.start, bounds.end);
    let (n, step) = (size as i64, bounds.step.clamp(-(size as i64).max(1), (size as i64).max(1)));
    let from_front = |bound: i64| if bound < 0 { bound.saturating_add(n) } else { bound };
    let (low, high) = if step > 0 { (0, n) } else { (-1, n - 1) };
    // Running backwards the first element may not be -1, the end may.
    let start = from_front(start).max(0).min(high);
    let end = from_front(end).max(low).min(high.max(low));
    let len = if step > 0 { end - start + step - 1 } else { start - end - step - 1 }.div_euclid(step.abs()).max(0);
    if len == 0 {
        return Range { axis, start: 0, len: 0, step: 1 };
    }
    Range { axis, start: start as usize, len: len as usize, step: step as isize }
}

/// The sizes that reshaping a constant of `dims` to `target` gives; nothing if its elements do not fit them.
fn sizes_of(dims: &[usize], target: &[i64], keep_zero: bool) -> Option<Vec<usize>> {
    let count: usize = dims.iter().product();
    let mut sizes = Vec::with_capacity(target.len());
    for (i, size) in target.iter().enumerate() {
        sizes.push(match size {
            // What is left, once the others are known.
            -1 => 1,
            0 if !keep_zero => *dims.get(i)?,
            size => usize::try_from(*size).ok()?,
        });
    }
    let known = sizes.iter().try_fold(1usize, |product, size| product.checked_mul(*size))?;
    let mut open = target.iter().zip(&mut sizes).filter(|(target, _)| **target == -1);
    match (open.next(), open.next()) {
        (None, _) => (known == count).then_some(sizes),
        (Some((_, rest)), None) if known > 0 && count.is_multiple_of(known) => {
            *rest = count / known;
            Some(sizes)
        }
        _ => None,
    }
}

/// Whether reshaping `from` to `target` gives `wanted`. 0 in a target keeps the dimension, -1 takes what is left.
fn reshapes_to(from: &Shape, target: &[Number], wanted: &[Dim], keep_zero: bool) -> bool {
    if target.len() != wanted.len() || target.iter().filter(|t| **t == Number::known(-1)).count() > 1 {
        return false;
    }
    // The element counts of `from` and `wanted` are equal, so -1 fits wherever all others do.
    target.iter().zip(wanted).enumerate().all(|(i, (t, want))| match (t.batch, t.factor, want) {
        (false, -1, _) => true,
        (false, 0, _) => !keep_zero && from.0.get(i) == Some(want),
        (false, n, Dim::Fixed(size)) => n == *size as i64,
        (true, 1, Dim::Batch) => true,
        (true, _, _) | (false, _, Dim::Batch) => false,
    })
}

#[cfg(test)]
mod tests {
    use super::{Bounds, range, sizes_of};
    use crate::ir::Range;

    #[test]
    fn constants_take_sizes_of_as_many_elements() {
        type Case<'a> = (&'a [usize], &'a [i64], bool, Option<&'a [usize]>);
        let cases: [Case; 9] = [
            (&[4, 1, 6], &[4, 6], false, Some(&[4, 6])),
            (&[4, 6], &[-1, 3], false, Some(&[8, 3])),
            (&[4, 6], &[0, 2, -1], false, Some(&[4, 2, 3])),
            (&[4, 6], &[0, 6], true, None),
            (&[4, 6], &[5, -1], false, None),
            (&[4, 6], &[-1, -1], false, None),
            (&[4, 6], &[4, 6, 0], false, None),
            (&[4, 6], &[-2, 12], false, None),
            (&[4, 6], &[i64::MAX, i64::MAX], false, None),
        ];
        for (dims, target, keep_zero, expected) in cases {
            assert_eq!(sizes_of(dims, target, keep_zero).as_deref(), expected, "{dims:?} to {target:?}");
        }
    }

    #[test]
    fn slice_bounds_follow_the_onnx_rules() {
        let (min, max) = (i64::MIN, i64::MAX);
        let cases = [
            // (size, start, end, step) -> (start, len, step)
            (10, 0, 10, 1, 0, 10, 1),
            (10, 1, -1, 1, 1, 8, 1),
            (10, 1, 1000, 2, 1, 5, 2),
            (10, -3, max, 1, 7, 3, 1),
            (10, -1000, 4, 1, 0, 4, 1),
            (10, 1000, 2000, 1, 0, 0, 1),
            (10, 5, 5, 1, 0, 0, 1),
            (10, 20, 0, -1, 9, 9, -1),
            (10, 20, 0, -4, 9, 3, -4),
            (10, 9, min, -1, 9, 10, -1),
            (10, -1, -11, -1, 9, 10, -1),
            (10, -2, -1000, -3, 8, 3, -3),
            (10, 0, 5, -1, 0, 0, 1),
            (10, 3, max, max, 3, 1, 10),
            (10, 3, min, min, 3, 1, -10),
            (1, 0, min, -1, 0, 1, -1),
            (0, 0, max, 1, 0, 0, 1),
            (0, max, min, -1, 0, 0, 1),
            (0, max, min, min, 0, 0, 1),
        ];
        for (size, from, to, by, start, len, step) in cases {
            let expected = Range { axis: 2, start, len, step };
            let bounds = Bounds { axis: 2, start: from, end: to, step: by };
            assert_eq!(range(2, size, &bounds), expected, "{from}:{to}:{by} of {size}");
        }
    }
}
