//! The end of a classifier: a linear layer, alone or with the global average pool before it.
//!
//! Takes a [`Group`] around a linear layer; gives its one dispatch.

use super::{Emitter, Kernel, threads};
use crate::ir::{Op, ParamId, Tensor};
use crate::passes::group::Group;
use crate::runtime::program::{Dispatch, Source, fold};

/// Inputs of a linear layer whose means fit into the memory of a workgroup, as the header of the kernel has it.
pub(super) const INPUTS: usize = 2048;

/// Outputs of one workgroup that makes means.
const OUTPUTS: usize = 64;

impl Emitter<'_> {
    pub(super) fn head(&mut self, group: &Group) -> Dispatch {
        let graph = self.graph;
        let node = &graph.nodes[group.node.index()];
        let Op::Linear { weight, bias } = node.op else { unreachable!("a group around a linear layer holds one") };
        let get = |id: ParamId| -> &Tensor { self.weights.get(id) };
        let (weight, bias) = (get(weight), bias.map(get));
        let (packed, bias_at) = self.pack.linear(weight, bias);
        let ((outputs, inputs), write) = ((weight.shape[0], weight.shape[1]), self.place(node.output));
        let rows = self.elements(node.output) / outputs.max(1);
        let Some([pool, _]) = group.mean else {
            let sizes = [rows * outputs.div_ceil(4), inputs, outputs, bias_at];
            return threads(Kernel::Linear, &sizes, vec![self.read(node, 0), packed], write);
        };
        let pool = &graph.nodes[pool.index()];
        let [.., h, w] = self.nchw(pool.inputs[0]);
        let groups = rows * outputs.div_ceil(OUTPUTS);
        let sizes = [groups, inputs, h * w, outputs, bias_at];
        let reads: Vec<Source> = vec![self.read(pool, 0), packed];
        Dispatch { workgroups: fold(groups), ..threads(Kernel::Head, &sizes, reads, write) }
    }
}
