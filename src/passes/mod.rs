//! Passes: rewrites of a model that keep what it computes.
//!
//! Takes a [`Verified`] model; gives another one. A pipeline is a plain list of passes; the driver verifies after each and
//! names the pass in the error. Each pass lives in its own file with its tests. No pass touches files or devices.

mod cse;
mod dead_code;
mod fold_bn;
mod fuse_activations;
pub mod group;
mod merge_reduce;
mod mix;
pub mod plan;
pub mod quantize;
mod separable;
mod strip_training;

use crate::ir::{IrError, Model, Verified, verify};

/// One rewrite.
#[derive(Clone, Copy)]
pub struct Pass {
    /// What `-v` and errors call it.
    pub name: &'static str,
    run: fn(&mut Model) -> usize,
}

/// What one pass did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// The pass.
    pub pass: &'static str,
    /// How many rewrites fired.
    pub rewrites: usize,
    /// Nodes left.
    pub nodes: usize,
}

/// A pass broke the graph.
#[derive(Debug, thiserror::Error)]
#[error("after the pass `{pass}`: {source}")]
pub struct PassError {
    /// The pass.
    pub pass: &'static str,
    /// What the verifier found.
    pub source: IrError,
}

/// Removes drop path and the auxiliary output.
pub const STRIP_TRAINING: Pass = Pass { name: "strip-training", run: strip_training::run };
/// Computes equal things once.
pub const CSE: Pass = Pass { name: "common-subexpressions", run: cse::run };
/// A factorised reduction becomes one 2x2 convolution.
pub const MERGE_REDUCE: Pass = Pass { name: "merge-reduce", run: merge_reduce::run };
/// Batch norms move into the convolutions before them.
pub const FOLD_BN: Pass = Pass { name: "fold-batch-norm", run: fold_bn::run };
/// ReLUs move into convolutions.
pub const FUSE_ACTIVATIONS: Pass = Pass { name: "fuse-activations", run: fuse_activations::run };
/// Removes what no output needs.
pub const DEAD_CODE: Pass = Pass { name: "dead-code", run: dead_code::run };

/// ReLU, depthwise, pointwise and batch norm become one unit.
pub const SEPARABLE: Pass = Pass { name: "separable", run: separable::fuse };
/// Units that read one value become one node.
pub const BATCH_UNITS: Pass = Pass { name: "batch-units", run: separable::batch };
/// Sums and moves of channels become one node.
pub const MIX: Pass = Pass { name: "mix", run: mix::run };

/// For training: what several edges compute alike is computed once, and what belongs together is one node.
pub const TRAINING: &[Pass] = &[
    // First: edges that read one value share its slice and pools, so that the later passes see who else reads a value.
    CSE,
    DEAD_CODE,
    SEPARABLE,
    // The second units of a primitive read what the first made, so all units must be there.
    BATCH_UNITS,
    // After the units have taken theirs: what reads a ReLU besides is a convolution.
    FUSE_ACTIVATIONS,
    // The slices that batching leaves behind are taken up by the sums that read them.
    MIX,
    CSE,
    DEAD_CODE,
];

/// For export: the folded network of plain operators.
pub const EXPORT: &[Pass] = &[
    STRIP_TRAINING,
    // Before the later passes, so that they do not rewrite the auxiliary head.
    DEAD_CODE,
    // Before folding, so that the batch norm behind a factorised reduction finds one convolution.
    MERGE_REDUCE,
    FOLD_BN,
    CSE,
    // Last: the rewrites leave the replaced nodes and parameters behind.
    DEAD_CODE,
];

/// For export with batch norms kept apart.
pub const EXPORT_KEEP_BN: &[Pass] = &[STRIP_TRAINING, DEAD_CODE, MERGE_REDUCE, CSE, DEAD_CODE];

/// For our own runtime: as exported, then activations move into the convolutions that read or make them.
pub const RUNTIME: &[Pass] = &[MERGE_REDUCE, FOLD_BN, CSE, DEAD_CODE, FUSE_ACTIVATIONS, DEAD_CODE];

/// Runs a pipeline, verifying after each pass.
///
/// # Errors
/// When a pass leaves a graph that the verifier refuses: a bug in that pass.
pub fn apply(pipeline: &[Pass], model: Verified<Model>) -> Result<(Verified<Model>, Vec<Applied>), PassError> {
    let mut model = model;
    let mut report = Vec::with_capacity(pipeline.len());
    for pass in pipeline {
        let mut inner = model.into_inner();
        let rewrites = (pass.run)(&mut inner);
        model = verify(inner).map_err(|source| PassError { pass: pass.name, source })?;
        report.push(Applied { pass: pass.name, rewrites, nodes: model.graph.nodes.len() });
    }
    Ok((model, report))
}

/// Test models shared by the passes' own tests.
#[cfg(test)]
pub(crate) mod testing {
    use super::*;
    use crate::ir::{Builder, Init, Op, ParamId, Role, Shape, ValueId};

    /// A verified model built by `f`, with a 6-channel 8x8 input and random weights and statistics.
    pub fn model(f: impl FnOnce(&mut Builder, ValueId) -> ValueId) -> Verified<Model> {
        let mut b = Builder::new("test");
        let x = b.input("input", Shape::image(6, 8, 8));
        let y = f(&mut b, x);
        b.output("logits", y);
        verify(Model::initial(b.finish(), 7)).unwrap()
    }

    /// A weight parameter with random contents.
    pub fn weight(b: &mut Builder, name: &str, shape: &[usize]) -> ParamId {
        b.param(name, None, shape, Role::Weight, Init::Uniform { bound: 0.5 })
    }

    /// A batch norm with contents that are neither 0 nor 1.
    pub fn batch_norm(b: &mut Builder, name: &str, x: ValueId, affine: bool) -> ValueId {
        let c = b.shape(x).dim(1).unwrap();
        let mut p =
            |suffix: &str, role, value| b.param(format!("{name}.{suffix}"), None, &[c], role, Init::Constant(value));
        let scale = affine.then(|| p("scale", Role::Scale, 1.5));
        let shift = affine.then(|| p("shift", Role::Shift, -0.25));
        let mean = p("mean", Role::RunningMean, 0.3);
        let var = p("var", Role::RunningVar, 2.0);
        b.node(name, Op::BatchNorm { scale, shift, mean, var, epsilon: 1e-5 }, &[x]).unwrap()
    }

    /// Runs one pass and verifies.
    pub fn run(pass: Pass, model: Verified<Model>) -> (Verified<Model>, usize) {
        let (model, report) = apply(&[pass, DEAD_CODE], model).unwrap();
        (model, report[0].rewrites)
    }

    /// The op names in order.
    pub fn ops(model: &Model) -> Vec<&'static str> {
        model.graph.nodes.iter().map(|n| n.op.name()).collect()
    }
}
