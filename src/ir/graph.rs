//! The graph itself: nodes, values, inputs, outputs, and the few edits that passes need.
//!
//! Takes ops and shapes; gives [`Graph`]. Checking it is left to `verify`, making it to `build`.

use std::collections::HashSet;

use super::{Op, Param, ParamId, Shape};

/// Names one value of a graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(pub u32);

/// Names one node of a graph: its place in [`Graph::nodes`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u32);

impl ValueId {
    /// The index into [`Graph::values`].
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl NodeId {
    /// The index into [`Graph::nodes`].
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// One tensor that flows through the graph.
#[derive(Debug, Clone, PartialEq)]
pub struct Value {
    /// Unique within the graph; for the output of a node the node's path.
    pub name: String,
    /// Shape, outermost dimension first.
    pub shape: Shape,
}

/// One operation: reads `inputs`, makes `output`.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// A path that a person can follow, such as `cells.3/node1/edge0/sep_conv_3x3/depthwise`. Unique.
    pub name: String,
    /// What it computes.
    pub op: Op,
    /// The values it reads, in the order that the op defines.
    pub inputs: Vec<ValueId>,
    /// The value it makes.
    pub output: ValueId,
}

/// A named result of the graph.
#[derive(Debug, Clone, PartialEq)]
pub struct Output {
    /// The name users see (`logits`, `aux_logits`).
    pub name: String,
    /// The value.
    pub value: ValueId,
}

/// A computation: see the module documentation for its meaning.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Graph {
    /// What the graph is called in files and messages.
    pub name: String,
    /// Every tensor, indexed by [`ValueId`].
    pub values: Vec<Value>,
    /// The operations in an order in which each value is made before it is read.
    pub nodes: Vec<Node>,
    /// Parameter descriptions, indexed by [`ParamId`].
    pub params: Vec<Param>,
    /// The values that the caller provides, in order.
    pub inputs: Vec<ValueId>,
    /// The values that the caller gets, in order.
    pub outputs: Vec<Output>,
}

impl Graph {
    /// The value named by `id`.
    pub fn value(&self, id: ValueId) -> &Value {
        &self.values[id.index()]
    }

    /// The shape of the value named by `id`.
    pub fn shape(&self, id: ValueId) -> &Shape {
        &self.values[id.index()].shape
    }

    /// The parameter named by `id`.
    pub fn param(&self, id: ParamId) -> &Param {
        &self.params[id.index()]
    }

    /// The output called `name`, if there is one.
    pub fn output(&self, name: &str) -> Option<ValueId> {
        self.outputs.iter().find(|o| o.name == name).map(|o| o.value)
    }

    /// For each value the node that makes it; `None` for graph inputs.
    pub fn producers(&self) -> Vec<Option<NodeId>> {
        let mut made = vec![None; self.values.len()];
        for (i, node) in self.nodes.iter().enumerate() {
            made[node.output.index()] = Some(NodeId(i as u32));
        }
        made
    }

    /// For each value the nodes that read it (once per reading input), in order.
    pub fn consumers(&self) -> Vec<Vec<NodeId>> {
        let mut read = vec![Vec::new(); self.values.len()];
        for (i, node) in self.nodes.iter().enumerate() {
            for input in &node.inputs {
                read[input.index()].push(NodeId(i as u32));
            }
        }
        read
    }

    /// Whether `value` is an output of the graph.
    pub fn is_output(&self, value: ValueId) -> bool {
        self.outputs.iter().any(|o| o.value == value)
    }

    /// Whether some value is rounded to eight bits.
    pub fn is_quantized(&self) -> bool {
        self.nodes.iter().any(|node| matches!(node.op, Op::QuantizeDequantize(_)))
    }

    /// Makes every reader of `old`, the outputs included, read `new` instead.
    pub fn replace_uses(&mut self, old: ValueId, new: ValueId) {
        for node in &mut self.nodes {
            for input in &mut node.inputs {
                if *input == old {
                    *input = new;
                }
            }
        }
        for output in &mut self.outputs {
            if output.value == old {
                output.value = new;
            }
        }
    }

    /// The nodes from which at least one of `roots` can be reached, by index.
    pub fn reaching(&self, roots: &[ValueId]) -> Vec<bool> {
        let mut wanted: HashSet<ValueId> = roots.iter().copied().collect();
        let mut live = vec![false; self.nodes.len()];
        for (i, node) in self.nodes.iter().enumerate().rev() {
            if wanted.contains(&node.output) {
                live[i] = true;
                wanted.extend(node.inputs.iter().copied());
            }
        }
        live
    }
}
