//! Batch norms on the way forward: statistics of the batch or running ones, written out or left to the readers.
use std::sync::Arc;

use super::{
    Statistics,
    forward::Walk,
    record::Record,
    value::{Norm, Normal, Value},
};
use crate::ir::{Node, ParamId, ValueId};
use crate::kernels::cpu::norm;
use crate::train::module::unbiased;

/// Where the layers of one batch norm lie.
pub struct NormLayer<'a> {
    pub scale: Option<ParamId>,
    pub shift: Option<ParamId>,
    pub mean: ParamId,
    pub var: ParamId,
    pub epsilon: f32,
    pub statistics: &'a [[f32; 2]],
    /// Values a channel's statistics are of.
    pub count: usize,
}

impl Walk<'_> {
    /// Adds the channels of a batch norm to `norm` and notes its statistics.
    pub fn norm(&mut self, layer: &NormLayer, norm: &mut Norm) {
        let contents = |id: Option<ParamId>| id.map(|id| self.contents(id));
        let (scale, shift) = (contents(layer.scale), contents(layer.shift));
        if !self.pass.train {
            let running = self.contents(layer.mean).into_iter().zip(self.contents(layer.var));
            for (c, (mean, var)) in running.enumerate() {
                let inverse = norm::inverse_deviation(var, layer.epsilon);
                norm.push(mean, inverse, scale.as_ref().map_or(1.0, |s| s[c]), shift.as_ref().map_or(0.0, |s| s[c]));
            }
            return;
        }
        for (c, [mean, var]) in layer.statistics.iter().enumerate() {
            let inverse = norm::inverse_deviation(*var, layer.epsilon);
            norm.push(*mean, inverse, scale.as_ref().map_or(1.0, |s| s[c]), shift.as_ref().map_or(0.0, |s| s[c]));
        }
        let unbiased = unbiased(layer.count);
        self.statistics.push(Statistics {
            mean_id: layer.mean,
            var_id: layer.var,
            mean: layer.statistics.iter().map(|[mean, _]| *mean).collect(),
            var: layer.statistics.iter().map(|[_, var]| *var * unbiased).collect(),
        });
    }

    /// The normalised value: as it is where its readers can normalise it themselves, else written out.
    pub fn normalised(&self, node: &Node, x: ValueId, normal: Normal, ids: [Option<ParamId>; 2]) -> (Value, Record) {
        if self.lazy[node.output.index()] {
            return (Value::Normal(normal.clone()), Record::Norm { x, of: normal, ids });
        }
        let y = normal.tensor();
        if ids != [None, None] {
            return (Value::Dense(y), Record::Norm { x, of: normal, ids });
        }
        // Without scale and shift the result is the normalised value, which others keep as well: kept instead of z it saves
        // one tensor. Seen from it the mean is 0, and the gradient is divided by the deviation once only.
        let mut norm = Norm::default();
        normal.norm.inverse.iter().for_each(|&inverse| norm.push(0.0, 1.0, inverse, 0.0));
        let of = Normal { z: y.clone(), norm: Arc::new(norm) };
        (Value::Dense(y), Record::Norm { x, of, ids })
    }
}
