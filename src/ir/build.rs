//! Builds a graph node by node, inferring each shape as it goes.
//!
//! Takes ops and input values; gives ids to go on with and, at the end, the [`Graph`]. The order of nodes is the order
//! of the calls, so a built graph is in evaluation order by construction.

use super::shape::infer;
use super::{Graph, Init, IrError, Node, Op, Output, Param, ParamId, Role, Shape, Value, ValueId};

/// A graph under construction.
#[derive(Debug, Default)]
pub struct Builder {
    graph: Graph,
}

impl Builder {
    /// An empty graph called `name`.
    pub fn new(name: impl Into<String>) -> Self {
        Self { graph: Graph { name: name.into(), ..Graph::default() } }
    }

    /// Adds a graph input.
    pub fn input(&mut self, name: impl Into<String>, shape: Shape) -> ValueId {
        let id = self.value(name.into(), shape);
        self.graph.inputs.push(id);
        id
    }

    /// Adds a parameter. `alias` is its name in a PyTorch DARTS state_dict.
    pub fn param(
        &mut self,
        name: impl Into<String>,
        alias: Option<String>,
        shape: &[usize],
        role: Role,
        init: Init,
    ) -> ParamId {
        let id = ParamId(self.graph.params.len() as u32);
        self.graph.params.push(Param { name: name.into(), alias, shape: shape.to_vec(), role, init, codes: None });
        id
    }

    /// Adds a node and gives the value it makes.
    ///
    /// # Errors
    /// When the shapes do not fit the op.
    pub fn node(&mut self, name: impl Into<String>, op: Op, inputs: &[ValueId]) -> Result<ValueId, IrError> {
        let name = name.into();
        let shapes: Vec<&Shape> = inputs.iter().map(|v| self.graph.shape(*v)).collect();
        let shape = infer(&name, &op, &shapes, &self.graph.params)?;
        let output = self.value(name.clone(), shape);
        self.graph.nodes.push(Node { name, op, inputs: inputs.to_vec(), output });
        Ok(output)
    }

    /// Marks `value` as the output called `name`.
    pub fn output(&mut self, name: impl Into<String>, value: ValueId) {
        self.graph.outputs.push(Output { name: name.into(), value });
    }

    /// The shape of a value made so far.
    pub fn shape(&self, id: ValueId) -> &Shape {
        self.graph.shape(id)
    }

    /// Ends the construction.
    pub fn finish(self) -> Graph {
        self.graph
    }

    fn value(&mut self, name: String, shape: Shape) -> ValueId {
        let id = ValueId(self.graph.values.len() as u32);
        self.graph.values.push(Value { name, shape });
        id
    }
}
