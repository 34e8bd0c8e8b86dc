//! One node as the operators see it: inputs and attributes with their types checked, and the words for its errors.
//!
//! Takes a [`NodeProto`]; gives values or errors that name the node and its operator.

use crate::onnx::OnnxError;
use crate::onnx::names::Unique;
use crate::onnx::proto::{AttributeProto, NodeProto, attribute_type};

/// A node with the name that it has in the IR.
pub(super) struct View<'a> {
    pub(super) proto: &'a NodeProto,
    pub(super) name: String,
}

/// A name of the file as a path: the leading `/` is the root.
pub(super) fn path(name: &str) -> &str {
    match name.strip_prefix('/') {
        Some(rest) if !rest.is_empty() => rest,
        _ => name,
    }
}

impl<'a> View<'a> {
    /// A nameless node is called like its output.
    pub(super) fn new(proto: &'a NodeProto, names: &mut Unique) -> Self {
        let output = || proto.output.first().map_or("", String::as_str);
        let own = if proto.name.is_empty() { output() } else { &proto.name };
        let name = if own.is_empty() { &proto.op_type } else { own };
        Self { proto, name: names.claim(path(name)) }
    }

    /// The node breaks a rule of its operator.
    pub(super) fn error(&self, why: impl Into<String>) -> OnnxError {
        OnnxError::Node { node: self.name.clone(), op: self.proto.op_type.clone(), why: why.into() }
    }

    /// The node is right and we cannot do it.
    pub(super) fn unsupported(&self, why: impl Into<String>) -> OnnxError {
        OnnxError::Unsupported { node: self.name.clone(), op: self.proto.op_type.clone(), why: why.into() }
    }

    /// The name of the first output.
    pub(super) fn output(&self) -> Result<&'a str, OnnxError> {
        let first = self.proto.output.first().map(String::as_str);
        first.filter(|name| !name.is_empty()).ok_or_else(|| self.error("it has no output"))
    }

    /// The name of input `index`, if the node has it.
    pub(super) fn optional(&self, index: usize) -> Option<&'a str> {
        self.proto.input.get(index).map(String::as_str).filter(|name| !name.is_empty())
    }

    /// The name of input `index`.
    pub(super) fn input(&self, index: usize) -> Result<&'a str, OnnxError> {
        self.optional(index).ok_or_else(|| self.error(format!("it has no input {index}")))
    }

    /// Checks that the node has at most `count` inputs.
    pub(super) fn at_most(&self, count: usize) -> Result<(), OnnxError> {
        match self.proto.input.len() {
            n if n > count => Err(self.error(format!("it has {n} inputs; the operator takes at most {count}"))),
            _ => Ok(()),
        }
    }

    /// Refuses attributes that are not among `known`: ignoring one could change the result.
    pub(super) fn only(&self, known: &[&str]) -> Result<(), OnnxError> {
        match self.proto.attribute.iter().find(|a| !known.contains(&a.name.as_str())) {
            Some(a) => Err(self.unsupported(format!("attribute `{}` is not known", a.name))),
            None => Ok(()),
        }
    }

    /// The attribute called `name`, of a type that must be `kind`.
    pub(super) fn attribute(&self, name: &str, kind: i32) -> Result<Option<&'a AttributeProto>, OnnxError> {
        let found = self.proto.attribute.iter().find(|a| a.name == name);
        match found {
            // Before file format 2 the type was not written.
            Some(a) if a.r#type != kind && a.r#type != 0 => {
                Err(self.error(format!("attribute `{name}` has type {}, not {kind}", a.r#type)))
            }
            found => Ok(found),
        }
    }

    /// An integer attribute.
    pub(super) fn int(&self, name: &str, default: i64) -> Result<i64, OnnxError> {
        Ok(self.attribute(name, attribute_type::INT)?.map_or(default, |a| a.i.unwrap_or(0)))
    }

    /// A list of integers.
    pub(super) fn ints(&self, name: &str) -> Result<Option<&'a [i64]>, OnnxError> {
        Ok(self.attribute(name, attribute_type::INTS)?.map(|a| a.ints.as_slice()))
    }

    /// A float attribute, which must be finite.
    pub(super) fn float(&self, name: &str, default: f32) -> Result<f32, OnnxError> {
        let x = self.attribute(name, attribute_type::FLOAT)?.map_or(default, |a| a.f.unwrap_or(0.0));
        if x.is_finite() { Ok(x) } else { Err(self.error(format!("attribute `{name}` is {x}"))) }
    }

    /// A text attribute.
    pub(super) fn text(&self, name: &str, default: &'static str) -> Result<&'a str, OnnxError> {
        let Some(a) = self.attribute(name, attribute_type::STRING)? else { return Ok(default) };
        std::str::from_utf8(a.s.as_deref().unwrap_or(&[]))
            .map_err(|_| self.error(format!("attribute `{name}` is not UTF-8 text")))
    }

    /// The attribute `axis` as an index into `rank` dimensions (or, with `end`, one beyond the last).
    pub(super) fn axis(&self, default: Option<i64>, rank: usize, end: bool) -> Result<usize, OnnxError> {
        let given = self.attribute("axis", attribute_type::INT)?.map(|a| a.i.unwrap_or(0));
        let axis = given.or(default).ok_or_else(|| self.error("attribute `axis` is missing"))?;
        self.index(axis, rank + usize::from(end), rank)
    }

    /// `axis` counted from the front; negative ones count from the end of `rank` dimensions.
    pub(super) fn index(&self, axis: i64, limit: usize, rank: usize) -> Result<usize, OnnxError> {
        let forward = if axis < 0 { axis.checked_add(rank as i64) } else { Some(axis) };
        forward
            .and_then(|a| usize::try_from(a).ok())
            .filter(|a| *a < limit)
            .ok_or_else(|| self.error(format!("axis {axis} is outside of the {rank} dimensions")))
    }
}
