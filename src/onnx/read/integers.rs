//! Integers computed from shapes: how exporters spell the target of a Reshape.
//!
//! Takes nodes such as Shape, Gather and Concat whose inputs are constants, shapes or numbers made of these; gives lists of
//! [`Number`]s. All sizes but the batch are known, so what such nodes compute is known too, or is the batch times something
//! known. A list without the batch becomes a constant like those of the file; one with the batch can only be the target of a
//! Reshape. The rules of one operator each are in `integer_rules`.
//!
//! A list is as short as `constant` lets one be, so that work and memory grow with the number of nodes alone.

use super::Reader;
use super::constant::MAX_LIST;
use super::integer_rules::{concat, gather, pairs, product, reshape, slice, squeeze, unsqueeze};
use super::view::View;
use crate::ir::Dim;
use crate::onnx::OnnxError;
use crate::onnx::proto::{attribute_type, data_type};

/// The operators that are computed here where what they read is integers, for messages.
pub(super) const FOLDED: &str = "Add, Cast, Concat, ConstantOfShape, Div, Gather, Identity, Mul, ReduceProd, Reshape, Shape, \
                                 Size, Slice, Squeeze, Sub, Unsqueeze";

/// How many nodes behind the first Reshape of a channel shuffle the arithmetic of the second may lie.
const LOOK_AHEAD: usize = 32;

/// A number, or the batch times it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Number {
    pub(super) factor: i64,
    pub(super) batch: bool,
}

/// Numbers in a row, or a single one without dimensions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct List {
    pub(super) numbers: Vec<Number>,
    pub(super) scalar: bool,
}

impl Number {
    pub(super) fn known(factor: i64) -> Self {
        Self { factor, batch: false }
    }

    /// `factor` times the batch; no batches at all are nothing.
    pub(super) fn batches(factor: i64) -> Self {
        Self { factor, batch: factor != 0 }
    }

    fn of(dim: &Dim) -> Self {
        match dim {
            Dim::Batch => Self::batches(1),
            Dim::Fixed(n) => Self::known(*n as i64),
        }
    }
}

impl std::fmt::Display for Number {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match (self.batch, self.factor) {
            (false, n) => write!(f, "{n}"),
            (true, 1) => write!(f, "batch"),
            (true, n) => write!(f, "{n} * batch"),
        }
    }
}

impl List {
    pub(super) fn row(numbers: Vec<Number>) -> Self {
        Self { numbers, scalar: false }
    }

    pub(super) fn single(number: Number) -> Self {
        Self { numbers: vec![number], scalar: true }
    }

    /// The numbers, if none depends on the batch.
    pub(super) fn known(&self) -> Option<Vec<i64>> {
        self.numbers.iter().map(|n| (!n.batch).then_some(n.factor)).collect()
    }
}

impl<'a> Reader<'a> {
    /// Computes the node if it makes integers of integers or shapes; false if it does something else.
    pub(super) fn fold(&mut self, view: &View<'a>) -> Result<bool, OnnxError> {
        let Some(list) = self.computed(view)? else { return Ok(false) };
        let output = view.output()?;
        if list.numbers.len() > MAX_LIST {
            let why =
                format!("it makes {} numbers; a list of bounds or sizes has at most {MAX_LIST}", list.numbers.len());
            return Err(view.unsupported(why));
        }
        if self.values.contains_key(output) || self.integers.contains_key(output) {
            return Err(view.error(format!("its output `{output}` is already made by something else")));
        }
        match list.known() {
            Some(known) => self.constants.list(view, output, known, list.scalar)?,
            None if self.constants.contains(output) => {
                return Err(view.error(format!("its output `{output}` is already made by something else")));
            }
            None => drop(self.integers.insert(output, list)),
        }
        Ok(true)
    }

    /// Computes what it can of the nodes before node `end`, the next ones: a channel shuffle is recognised by two Reshapes at
    /// once, and the target of the second may be computed between them.
    pub(super) fn fold_ahead(&mut self, end: usize) {
        for i in end.saturating_sub(LOOK_AHEAD)..end {
            let made = |name: &String| self.constants.contains(name) || self.integers.contains_key(name.as_str());
            let node = &self.nodes[i];
            let known = !node.input.is_empty() && node.input.iter().all(made);
            let new = !node.output.first().is_none_or(made) && node.op_type != "Constant";
            if self.live[i] && known && new && super::file::is_standard(&node.domain) {
                // What cannot be computed is an error when its turn comes.
                let view = View { proto: node, name: String::new() };
                if self.fold(&view).is_ok_and(|folded| folded) {
                    self.folded.insert(i);
                }
            }
        }
    }

    /// The numbers called `name`, which may depend on the batch.
    pub(super) fn numbers(&self, view: &View<'a>, name: &str) -> Result<Vec<Number>, OnnxError> {
        match self.integers.get(name) {
            Some(list) => Ok(list.numbers.clone()),
            None => Ok(self.constants.integers(view, name)?.into_iter().map(Number::known).collect()),
        }
    }

    /// The integers called `name`, which must not depend on the batch.
    pub(super) fn known(&self, view: &View<'a>, name: &str) -> Result<Vec<i64>, OnnxError> {
        if self.integers.contains_key(name) {
            let why = "depends on the batch, which is known when the model runs; supported is that for Reshape only";
            return Err(view.unsupported(format!("`{name}` {why}")));
        }
        self.constants.integers(view, name)
    }

    /// What the node makes, if all that it reads as data is integers.
    fn computed(&self, view: &View<'a>) -> Result<Option<List>, OnnxError> {
        let read = match view.proto.op_type.as_str() {
            "Shape" | "Size" => return self.measured(view).map(Some),
            "ConstantOfShape" => return self.repeated(view),
            "Identity" if !self.integers.contains_key(view.input(0)?) => return Ok(None),
            "Cast" | "Gather" | "Identity" | "ReduceProd" | "Reshape" | "Slice" | "Squeeze" | "Unsqueeze" => 1,
            "Add" | "Sub" | "Mul" | "Div" => 2,
            "Concat" => view.proto.input.len(),
            _ => return Ok(None),
        };
        let lists = (0..read).map(|i| self.list(view, view.input(i)?)).collect::<Result<Option<Vec<_>>, _>>()?;
        let Some(mut lists) = lists.filter(|lists| !lists.is_empty()) else { return Ok(None) };
        let operator = view.proto.op_type.as_str();
        Ok(match operator {
            "Concat" => Some(concat(view, &lists)?),
            "Add" | "Sub" | "Mul" | "Div" => Some(pairs(view, operator, &lists)?),
            "Gather" => Some(gather(view, &lists[0], &self.list(view, view.input(1)?)?)?),
            "Slice" => Some(slice(view, &lists[0], &self.slice_bounds(view)?)?),
            "Reshape" => Some(reshape(view, &lists[0], &self.known(view, view.input(1)?)?)?),
            "ReduceProd" => Some(product(view, &lists[0], self.axes(view)?)?),
            "Squeeze" => Some(squeeze(view, lists.swap_remove(0), self.axes(view)?)?),
            "Unsqueeze" => unsqueeze(view, &lists[0], self.axes(view)?)?,
            "Cast" => self.integer_cast(view, lists.swap_remove(0))?,
            _ => lists.pop(),
        })
    }

    /// Shape, perhaps a part of it, or Size.
    fn measured(&self, view: &View<'a>) -> Result<List, OnnxError> {
        view.at_most(1)?;
        let name = view.input(0)?;
        let sizes: Vec<Number> = if let Some(list) = self.integers.get(name) {
            let length = Number::known(list.numbers.len() as i64);
            if list.scalar { Vec::new() } else { vec![length] }
        } else if !self.values.contains_key(name) && self.constants.contains(name) {
            self.constants.dims(view, name)?.into_iter().map(|n| Number::known(n as i64)).collect()
        } else {
            let value = self.variable(view, 0)?;
            if !self.rows.is_empty() {
                return Err(view.unsupported("the shapes of rows [N, C, W] are not supported, only those of images"));
            }
            self.builder.shape(value).0.iter().map(Number::of).collect()
        };
        if view.proto.op_type == "Size" {
            view.only(&[])?;
            return product(view, &List::row(sizes), None).map(|all| List { scalar: true, ..all });
        }
        view.only(&["start", "end"])?;
        let bound = |name, default| {
            let given = view.int(name, default)?;
            let from_front = if given < 0 { given.saturating_add(sizes.len() as i64) } else { given };
            Ok::<usize, OnnxError>(from_front.clamp(0, sizes.len() as i64) as usize)
        };
        let (start, end) = (bound("start", 0)?, bound("end", i64::MAX)?);
        Ok(List::row(sizes.get(start..end).unwrap_or_default().to_vec()))
    }

    /// ConstantOfShape of an integer; of floats it is read elsewhere.
    fn repeated(&self, view: &View<'a>) -> Result<Option<List>, OnnxError> {
        let value = view.attribute("value", attribute_type::TENSOR)?.and_then(|a| a.t.as_ref());
        let Some(value) = value.filter(|t| [data_type::INT64, data_type::INT32].contains(&t.data_type)) else {
            return Ok(None);
        };
        view.at_most(1)?;
        view.only(&["value"])?;
        let fill = match super::constant::short_list("value", value)?.as_slice() {
            [fill] => Number::known(*fill),
            _ => return Err(view.error("attribute `value` must be one number")),
        };
        match self.known(view, view.input(0)?)?.as_slice() {
            [] => Ok(Some(List::single(fill))),
            [count] if (0..=MAX_LIST as i64).contains(count) => Ok(Some(List::row(vec![fill; *count as usize]))),
            sizes => {
                let why = format!("integers of shape {sizes:?}; supported are lists of at most {MAX_LIST}");
                Err(view.unsupported(why))
            }
        }
    }

    fn integer_cast(&self, view: &View<'a>, list: List) -> Result<Option<List>, OnnxError> {
        let to = view.int("to", 0)?;
        let narrow = to == i64::from(data_type::INT32);
        if !narrow && to != i64::from(data_type::INT64) {
            return Ok(None);
        }
        view.only(&["to", "saturate", "round_mode"])?;
        match list.numbers.iter().find(|n| narrow && i32::try_from(n.factor).is_err()) {
            Some(n) => Err(view.unsupported(format!("{n} is beyond int32"))),
            None => Ok(Some(list)),
        }
    }

    /// The integers called `name`, if it is a list of integers or a single one.
    fn list(&self, view: &View<'a>, name: &str) -> Result<Option<List>, OnnxError> {
        if let Some(list) = self.integers.get(name) {
            return Ok(Some(list.clone()));
        }
        let Some(scalar) = self.constants.is_list(name) else { return Ok(None) };
        let numbers = self.constants.integers(view, name)?.into_iter().map(Number::known).collect();
        Ok(Some(List { numbers, scalar }))
    }

    /// The axes of the node: an attribute or its second input, by the operator set.
    pub(super) fn axes(&self, view: &View<'a>) -> Result<Option<Vec<i64>>, OnnxError> {
        match view.optional(1) {
            Some(axes) => self.known(view, axes).map(Some),
            None => Ok(view.ints("axes")?.map(<[i64]>::to_vec)),
        }
    }
}
