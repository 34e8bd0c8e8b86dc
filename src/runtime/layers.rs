//! Finds the layer that goes wrong: compares every value of a session with the reference, and looks for what is not finite.
//!
//! Takes the reference of a model, a session of it and inputs; gives one comparison for each node, the worst first.

use std::fmt;

use serde::Serialize;

use super::{Comparison, Reference, RuntimeError, Session, Tolerance, compare};
use crate::ir::{Op, Tensor};

/// How well one node's value agrees. The difference includes what the nodes before it contributed, back to the last one that
/// rounds to eight bits: behind it the reference goes on with what the session made. An element in the middle between two
/// codes becomes either, and that is a step for whatever reads it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LayerComparison {
    /// Path of the node.
    pub name: String,
    /// Name of its op.
    pub op: &'static str,
    /// Distance of neighbouring numbers, where the layer rounds to eight bits: it may be off by that.
    #[serde(skip)]
    pub step: Option<f32>,
    /// The figures.
    #[serde(flatten)]
    pub comparison: Comparison,
}

/// The first value of a run with elements that are NaN or infinite: what comes behind it has them from it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NonFinite {
    /// Path of the node, or name of the input.
    pub name: String,
    /// Name of the node's op, `input` for an input.
    pub op: String,
    /// How many elements.
    pub count: usize,
    /// Of how many.
    pub elements: usize,
}

impl NonFinite {
    /// What is not finite in `value`, if something is not.
    pub fn of(name: &str, op: &str, value: &Tensor) -> Option<Self> {
        let count = value.data.iter().filter(|x| !x.is_finite()).count();
        (count > 0).then(|| Self { name: name.into(), op: op.into(), count, elements: value.data.len() })
    }
}

impl fmt::Display for NonFinite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, op, count, elements } = self;
        write!(f, "`{name}` ({op}), where {count} of {elements} elements are NaN or infinite")
    }
}

/// Finds the first value that is not finite when `session` runs `inputs`, in the order of its program.
///
/// # Errors
/// As [`Session::run`].
pub fn first_non_finite(session: &mut Session, inputs: &[Tensor]) -> Result<Option<NonFinite>, RuntimeError> {
    let mut names = session.program().inputs.iter().map(|port| port.name.as_str()).zip(inputs);
    if let Some(found) = names.find_map(|(name, value)| NonFinite::of(name, "input", value)) {
        return Ok(Some(found));
    }
    let ops: Vec<String> = session.program().steps.iter().map(|step| step.op.clone()).collect();
    let (mut first, mut ops) = (None, ops.iter());
    session.run_all(inputs, &mut |name, value| {
        let op = ops.next().map_or("", String::as_str);
        first = first.take().or_else(|| NonFinite::of(name, op, &value));
    })?;
    Ok(first)
}

/// Runs the model of `reference` on `session` and on the reference, node by node, and compares every value. The worst
/// relative difference comes first; nodes with the same one stay in the order of the graph.
///
/// # Errors
/// As [`Session::run`]; [`RuntimeError::CompareShape`] if the session is one of another model.
pub fn compare_layers(
    reference: Reference,
    session: &mut Session,
    inputs: &[Tensor],
    tolerance: Tolerance,
) -> Result<Vec<LayerComparison>, RuntimeError> {
    let mut steps = reference.steps(inputs)?;
    let mut layers = Vec::new();
    session.run_all(inputs, &mut |name, got| {
        // A group of nodes shows the value of its last one.
        while let Some((node, expected)) = steps.step() {
            if node.name != name {
                continue;
            }
            let comparison = compare(name, &got, &expected, tolerance);
            let step = if let Op::QuantizeDequantize(grid) = node.op { Some(grid.scale) } else { None };
            if step.is_some() {
                steps.replace(node, &got);
            }
            let (name, op) = (name.into(), node.op.name());
            layers.push(comparison.map(|comparison| LayerComparison { name, op, step, comparison }));
            break;
        }
    })?;
    let mut layers = layers.into_iter().collect::<Result<Vec<_>, _>>()?;
    layers.sort_by(|a, b| b.comparison.max_rel.total_cmp(&a.comparison.max_rel));
    Ok(layers)
}
