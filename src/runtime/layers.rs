//! Finds the layer that goes wrong: compares every value of a session with the reference.
//!
//! Takes a model, a session of it and inputs; gives one comparison for each node, the worst first.

use serde::Serialize;

use super::{Comparison, Reference, RuntimeError, Session, Tolerance, compare};
use crate::ir::{Model, Op, Tensor, Verified};

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

/// Runs `model` on `session` and on the reference, node by node, and compares every value. The worst relative difference
/// comes first; nodes with the same one stay in the order of the graph.
///
/// # Errors
/// As [`Session::run`]; [`RuntimeError::CompareShape`] if the session is one of another model.
pub fn compare_layers(
    model: &Verified<Model>,
    session: &mut Session,
    inputs: &[Tensor],
    tolerance: Tolerance,
) -> Result<Vec<LayerComparison>, RuntimeError> {
    let mut steps = Reference::new(model).steps(inputs)?;
    let mut layers = Vec::new();
    session.run_all(inputs, &mut |name, got| {
        // A group of nodes shows the value of its last one.
        while let Some((node, expected)) = steps.step() {
            if node.name != name {
                continue;
            }
            let comparison = compare(name, &got, expected, tolerance);
            let step = if let Op::QuantizeDequantize(grid) = node.op { Some(grid.scale) } else { None };
            if step.is_some() {
                steps.replace(node, got);
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
