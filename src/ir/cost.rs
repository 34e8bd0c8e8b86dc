//! What a graph costs: parameters and multiply-adds, per node and in sum, and the bytes of its values.
//!
//! Takes a graph; gives [`Cost`], per image. `macs` counts convolutions and linear layers. `mult_adds` adds 2 per batch-norm
//! output element and 1 per ReLU output element, which is the rule behind the published 586M and 597M of PC-DARTS.

use std::collections::{BTreeMap, HashSet};

use super::{Graph, Imported, Op, ValueId};

/// The price of one node for one image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NodeCost {
    /// Multiply-accumulates of convolutions and linear layers.
    pub macs: u64,
    /// The published rule: `macs` and the element-wise work of batch norm and ReLU.
    pub mult_adds: u64,
}

/// The price of a graph for one image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cost {
    /// Trainable elements that the chosen outputs depend on.
    pub params: u64,
    /// Trainable elements that only other outputs depend on: the auxiliary head.
    pub aux_params: u64,
    /// Multiply-accumulates of convolutions and linear layers.
    pub macs: u64,
    /// The published rule.
    pub mult_adds: u64,
    /// Bytes of all float32 values that the nodes make, each once.
    pub value_bytes: u64,
    /// How often each op occurs.
    pub ops: BTreeMap<&'static str, usize>,
}

/// The price of what `outputs` depend on; the other parameters count as auxiliary.
pub fn cost(graph: &Graph, outputs: &[ValueId]) -> Cost {
    let live = graph.reaching(outputs);
    let mut total = Cost::default();
    let mut counted = HashSet::new();
    for (node, _) in graph.nodes.iter().zip(&live).filter(|(_, live)| **live) {
        let price = node_cost(graph, &node.op, node.inputs.first().copied(), node.output);
        total.macs += price.macs;
        total.mult_adds += price.mult_adds;
        total.value_bytes += 4 * graph.shape(node.output).elements() as u64;
        *total.ops.entry(node.op.name()).or_default() += 1;
        counted.extend(node.op.params());
    }
    for (i, param) in graph.params.iter().enumerate().filter(|(_, p)| p.role.is_trainable()) {
        let main = counted.contains(&super::ParamId(i as u32));
        *(if main { &mut total.params } else { &mut total.aux_params }) += param.elements() as u64;
    }
    total
}

fn node_cost(graph: &Graph, op: &Op, input: Option<ValueId>, output: ValueId) -> NodeCost {
    let elements = graph.shape(output).elements() as u64;
    let matrix = |macs: u64| NodeCost { macs, mult_adds: macs };
    match op {
        Op::Conv { weight, relu_in, relu_out, .. } => {
            let per_output: usize = graph.param(*weight).shape[1..].iter().product();
            let mut price = matrix(elements * per_output as u64);
            let read = input.map_or(0, |v| graph.shape(v).elements() as u64);
            price.mult_adds += u64::from(*relu_in) * read + u64::from(*relu_out) * elements;
            price
        }
        Op::Linear { weight, .. } => matrix(elements * graph.param(*weight).shape[1] as u64),
        Op::Imported(Imported::Gemm { transpose: [a, _], .. }) => {
            matrix(elements * input.and_then(|v| graph.shape(v).dim(usize::from(!a))).unwrap_or(0) as u64)
        }
        Op::BatchNorm { .. } => NodeCost { macs: 0, mult_adds: 2 * elements },
        Op::Relu => NodeCost { macs: 0, mult_adds: elements },
        Op::Separable { units } => {
            let [_, h, w] = graph.shape(output).chw().unwrap_or_default();
            let [_, ih, iw] = input.and_then(|v| graph.shape(v).chw()).unwrap_or_default();
            let mut price = NodeCost::default();
            for unit in units {
                let [depthwise, pointwise] = [unit.depthwise, unit.pointwise].map(|id| graph.param(id));
                let macs = (h * w * (depthwise.elements() + pointwise.elements())) as u64;
                let rectified = ih * iw * depthwise.shape[0];
                price.macs += macs;
                price.mult_adds += macs + (rectified + 2 * h * w * pointwise.shape[0]) as u64;
            }
            price
        }
        Op::MaxPool(_)
        | Op::AvgPool { .. }
        | Op::GlobalAvgPool
        | Op::Flatten { .. }
        | Op::Add
        | Op::Concat { .. }
        | Op::Slice { .. }
        | Op::Pad { .. }
        | Op::WeightedSum { .. }
        | Op::ChannelShuffle { .. }
        | Op::Mix { .. }
        | Op::QuantizeDequantize(_)
        | Op::Imported(_)
        | Op::DropPath => NodeCost::default(),
    }
}
