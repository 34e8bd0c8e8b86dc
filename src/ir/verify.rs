//! The verifier. A graph that passed it, and only such a graph, can be compiled, trained or exported.
//!
//! Properties checked, in this order:
//! 1. every id (value, parameter) is in range;
//! 2. names of values, nodes, parameters and outputs are not empty and unique in their kind;
//! 3. every value is a graph input or made by exactly one node, and is made before it is read;
//! 4. the shape of every value is what the op's rule gives for its inputs and parameters;
//! 5. every graph output is an existing value, and there is at least one output and one input;
//! 6. every parameter has contents of its shape, all finite, and made of its codes if it has some.

use std::collections::HashSet;
use std::ops::Deref;

use super::shape::infer;
use super::{Graph, IrError, Shape, Weights};

/// A graph with the contents of its parameters.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Model {
    /// The computation.
    pub graph: Graph,
    /// Contents of the parameters, indexed as [`Graph::params`].
    pub weights: Weights,
    /// What travels with the model into files: key and text, in order (classes, mean, genotype, seed, ...).
    pub metadata: Vec<(String, String)>,
}

impl Model {
    /// A model with the starting weights of `seed` and no metadata.
    pub fn initial(graph: Graph, seed: u64) -> Self {
        let weights = Weights::initial(&graph, seed);
        Self { graph, weights, metadata: Vec::new() }
    }

    /// The metadata text under `key`.
    pub fn meta(&self, key: &str) -> Option<&str> {
        self.metadata.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }
}

/// Proof that [`verify`] accepted the thing inside. It gives no mutable access: who changes it must verify again.
#[derive(Debug, Clone, PartialEq)]
pub struct Verified<T>(T);

impl<T> Deref for Verified<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> Verified<T> {
    /// Gives up the proof to change the thing.
    pub fn into_inner(self) -> T {
        self.0
    }
}

/// Checks every property listed in the module header.
///
/// # Errors
/// The first property that does not hold, with the node, value or parameter.
pub fn verify(model: Model) -> Result<Verified<Model>, IrError> {
    graph(&model.graph)?;
    weights(&model)?;
    Ok(Verified(model))
}

fn graph(g: &Graph) -> Result<(), IrError> {
    unique("value", g.values.iter().map(|v| v.name.as_str()))?;
    unique("node", g.nodes.iter().map(|n| n.name.as_str()))?;
    unique("parameter", g.params.iter().map(|p| p.name.as_str()))?;
    unique("output", g.outputs.iter().map(|o| o.name.as_str()))?;
    let mut made = vec![false; g.values.len()];
    for input in &g.inputs {
        match made.get_mut(input.index()) {
            Some(m) if !*m => *m = true,
            Some(_) => return Err(broken("graph", "an input is listed twice")),
            None => return Err(broken("graph", "an input id is out of range")),
        }
    }
    for node in &g.nodes {
        let place = format!("node `{}`", node.name);
        for input in &node.inputs {
            if !made.get(input.index()).copied().unwrap_or(false) {
                return Err(broken(&place, "it reads a value before it is made"));
            }
        }
        if node.op.params().iter().any(|p| p.index() >= g.params.len()) {
            return Err(broken(&place, "it names a parameter that does not exist"));
        }
        let shapes: Vec<&Shape> = node.inputs.iter().map(|v| g.shape(*v)).collect();
        let shape = infer(&node.name, &node.op, &shapes, &g.params)?;
        match made.get_mut(node.output.index()) {
            Some(m) if !*m => *m = true,
            _ => return Err(broken(&place, "its output is out of range or already made")),
        }
        if *g.shape(node.output) != shape {
            let why = format!("its output is recorded as {} and is {shape}", g.shape(node.output));
            return Err(broken(&place, &why));
        }
    }
    if let Some(i) = made.iter().position(|m| !m) {
        return Err(broken(&format!("value `{}`", g.values[i].name), "no node makes it"));
    }
    if g.inputs.is_empty() || g.outputs.is_empty() {
        return Err(broken("graph", "it needs at least one input and one output"));
    }
    if g.outputs.iter().any(|o| o.value.index() >= g.values.len()) {
        return Err(broken("graph", "an output names a value that does not exist"));
    }
    Ok(())
}

fn weights(model: &Model) -> Result<(), IrError> {
    let (params, tensors) = (&model.graph.params, &model.weights.0);
    if params.len() != tensors.len() {
        let why = format!("{} parameters have {} tensors of contents", params.len(), tensors.len());
        return Err(broken("weights", &why));
    }
    for (param, tensor) in params.iter().zip(tensors) {
        let place = format!("parameter `{}`", param.name);
        if tensor.shape != param.shape || tensor.data.len() != param.elements() {
            return Err(broken(&place, &format!("its shape is {:?}, its contents {:?}", param.shape, tensor.shape)));
        }
        if let Some(i) = tensor.data.iter().position(|x| !x.is_finite()) {
            let why = format!(
                "element {i} is {}, not a finite number; the model diverged or the file is damaged",
                tensor.data[i]
            );
            return Err(IrError::NotFinite { param: param.name.clone(), why });
        }
        let Some(codes) = &param.codes else { continue };
        let usable = codes.scales.iter().all(|scale| scale.is_normal() && *scale > 0.0);
        if param.shape.first() != Some(&codes.scales.len()) || !usable {
            return Err(broken(&place, "its codes need a normal scale above 0 for each index of the first axis"));
        }
        if let Err(i) = codes.exact(&tensor.data) {
            return Err(broken(&place, &format!("element {i} is {}, which is none of its codes", tensor.data[i])));
        }
    }
    Ok(())
}

fn unique<'a>(kind: &str, names: impl Iterator<Item = &'a str>) -> Result<(), IrError> {
    let mut seen = HashSet::new();
    for name in names {
        if name.is_empty() {
            return Err(broken(kind, "its name is empty"));
        }
        if !seen.insert(name) {
            return Err(broken(&format!("{kind} `{name}`"), "the name is used twice"));
        }
    }
    Ok(())
}

fn broken(place: &str, why: &str) -> IrError {
    IrError::Invariant { place: place.into(), why: why.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{Builder, Codes, Grid, Init, Op, Role, ValueId, Width, Window};

    fn model() -> Model {
        let mut b = Builder::new("test");
        let x = b.input("input", Shape::image(3, 8, 8));
        let w = b.param("conv.weight", None, &[4, 3, 3, 3], Role::Weight, Init::Uniform { bound: 0.2 });
        let y = b.node("conv", Op::conv(w, None, Window::same(3, 1, 1), 1), &[x]).unwrap();
        let z = b.node("relu", Op::Relu, &[y]).unwrap();
        b.output("out", z);
        Model::initial(b.finish(), 1)
    }

    fn check(change: impl FnOnce(&mut Model), message: &str) {
        let mut m = model();
        change(&mut m);
        let error = verify(m).expect_err(message).to_string();
        assert!(error.contains(message), "`{error}` does not say `{message}`");
    }

    #[test]
    fn a_built_graph_is_accepted() {
        verify(model()).unwrap();
    }

    #[test]
    fn each_broken_property_is_found() {
        check(|m| m.graph.nodes.swap(0, 1), "before it is made");
        check(|m| m.graph.nodes[1].name = "conv".into(), "used twice");
        check(|m| m.graph.values[1].name = String::new(), "empty");
        check(|m| m.graph.nodes[0].inputs.clear(), "takes 1 inputs, got 0");
        check(|m| m.graph.values[1].shape = Shape::image(5, 8, 8), "is recorded as");
        check(|m| m.graph.params[0].shape = vec![4, 2, 3, 3], "must be [4, 3, 3, 3]");
        check(|m| m.graph.nodes[1].output = ValueId(9), "out of range");
        check(|m| drop(m.graph.nodes.pop()), "no node makes it");
        check(|m| m.graph.outputs.clear(), "at least one input and one output");
        check(|m| m.graph.outputs[0].value = ValueId(9), "does not exist");
        check(|m| drop(m.weights.0.pop()), "have 0 tensors");
        check(|m| m.weights.0[0].data[5] = f32::NAN, "element 5 is NaN");
        check(|m| m.weights.0[0].data.truncate(5), "its shape is");
        let grid = Grid { scale: 0.0, zero_point: 0 };
        check(|m| m.graph.nodes[1].op = Op::QuantizeDequantize(grid), "the scale 0 must be");
        let codes = |scales: &[f32]| Some(Codes { scales: scales.to_vec(), width: Width::Int8 });
        check(|m| m.graph.params[0].codes = codes(&[1.0; 3]), "its codes need");
        check(|m| m.graph.params[0].codes = codes(&[1.0, 1.0, -1.0, 1.0]), "its codes need");
        check(|m| m.graph.params[0].codes = codes(&[1.0; 4]), "which is none of its codes");
    }
}
