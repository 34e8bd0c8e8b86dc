//! The host reference: a plain interpreter of the graph in evaluation mode.
//!
//! Takes a verified model and input tensors; gives the outputs, or every value in turn. It shares no code with the shaders.
//! Every node computes in float64; its result is rounded to float32, so that the error is one rounding a node, or with
//! [`Precision::Double`] it is not. Speed comes second: it runs planes in parallel and nothing more.

mod fused;
mod imported;
mod layout;
mod math;
mod wide;

use super::RuntimeError;
use super::inputs::check_inputs;
use crate::ir::{Graph, Model, Node, Op, Tensor, ValueId, Verified, Weights};

pub use self::wide::Precision;
use self::wide::Wide;

/// A model that can be run on the host.
#[derive(Debug, Clone, Copy)]
pub struct Reference<'a> {
    model: &'a Model,
    precision: Precision,
}

impl<'a> Reference<'a> {
    /// The reference of `model`.
    pub fn new(model: &'a Verified<Model>) -> Self {
        Self { model, precision: Precision::Single }
    }

    /// The reference of `model` that rounds its values as `precision` says.
    pub fn with_precision(model: &'a Verified<Model>, precision: Precision) -> Self {
        Self { model, precision }
    }

    /// Runs the model; the batch size is that of the inputs. Gives the graph outputs in order.
    ///
    /// # Errors
    /// When the inputs are not those of the graph.
    pub fn run(&self, inputs: &[Tensor]) -> Result<Vec<Tensor>, RuntimeError> {
        self.run_all(inputs, &mut |_, _| {})
    }

    /// As [`Reference::run`], and shows every node with its value as soon as it is made.
    ///
    /// # Errors
    /// When the inputs are not those of the graph.
    pub fn run_all(
        &self,
        inputs: &[Tensor],
        visit: &mut dyn FnMut(&Node, &Tensor),
    ) -> Result<Vec<Tensor>, RuntimeError> {
        let mut steps = self.steps(inputs)?;
        while let Some((node, value)) = steps.step() {
            visit(node, &value);
        }
        Ok(steps.finish())
    }

    /// Starts a run that the caller drives node by node.
    ///
    /// # Errors
    /// When the inputs are not those of the graph.
    pub fn steps(&self, inputs: &[Tensor]) -> Result<Steps<'a>, RuntimeError> {
        let graph = &self.model.graph;
        check_inputs(graph.inputs.iter().map(|v| (graph.value(*v).name.as_str(), graph.shape(*v))), inputs, None)?;
        let mut values = vec![None; graph.values.len()];
        for (id, tensor) in graph.inputs.iter().zip(inputs) {
            values[id.index()] = Some(Wide::from(tensor));
        }
        let mut readers: Vec<usize> = graph.consumers().iter().map(Vec::len).collect();
        for output in &graph.outputs {
            readers[output.value.index()] += 1;
        }
        Ok(Steps { graph, weights: &self.model.weights, precision: self.precision, values, readers, next: 0 })
    }
}

/// A run in progress. Values are dropped when their last reader has run.
#[derive(Debug)]
pub struct Steps<'a> {
    graph: &'a Graph,
    weights: &'a Weights,
    precision: Precision,
    values: Vec<Option<Wide>>,
    readers: Vec<usize>,
    next: usize,
}

impl<'a> Steps<'a> {
    /// Runs the next node and gives it with its value; `None` when all have run.
    pub fn step(&mut self) -> Option<(&'a Node, Tensor)> {
        let node = self.graph.nodes.get(self.next)?;
        self.next += 1;
        let result = {
            let inputs: Vec<&Wide> = node.inputs.iter().map(|v| self.value(*v)).collect();
            evaluate(&node.op, &inputs, self.weights).at(self.precision)
        };
        for input in &node.inputs {
            self.readers[input.index()] -= 1;
            if self.readers[input.index()] == 0 {
                self.values[input.index()] = None;
            }
        }
        Some((node, self.values[node.output.index()].insert(result).rounded()))
    }

    /// Makes `value` the result of `node`, which has run: the nodes behind it read that.
    pub fn replace(&mut self, node: &Node, value: &Tensor) {
        self.values[node.output.index()] = Some(Wide::from(value));
    }

    /// Runs what is left and gives the graph outputs in order.
    pub fn finish(mut self) -> Vec<Tensor> {
        while self.step().is_some() {}
        self.graph.outputs.iter().map(|o| self.value(o.value).rounded()).collect()
    }

    fn value(&self, id: ValueId) -> &Wide {
        self.values[id.index()].as_ref().expect("verified: made before it is read, kept until its last reader")
    }
}

fn evaluate(op: &Op, inputs: &[&Wide], weights: &Weights) -> Wide {
    let Some(&x) = inputs.first() else { return imported::constant(op, weights) };
    match op {
        Op::Conv { weight, bias, window, groups, relu_in, relu_out } => {
            let rectified = relu_in.then(|| math::relu(x));
            let bias = bias.map(|b| weights.get(b));
            let y = math::conv(rectified.as_ref().unwrap_or(x), weights.get(*weight), bias, window, *groups);
            if *relu_out { math::relu(&y) } else { y }
        }
        Op::BatchNorm { scale, shift, mean, var, epsilon } => {
            let get = |id: &Option<_>| id.map(|id| weights.get(id));
            math::batch_norm(x, get(scale), get(shift), weights.get(*mean), weights.get(*var), *epsilon)
        }
        Op::Relu => math::relu(x),
        Op::MaxPool(window) => math::max_pool(x, window),
        Op::AvgPool { window, count_include_pad } => math::avg_pool(x, window, *count_include_pad),
        Op::GlobalAvgPool => math::global_avg_pool(x),
        Op::Flatten { axis } => {
            let (rows, columns) = x.shape.split_at(*axis);
            Wide::new([rows.iter().product::<usize>(), columns.iter().product()], x.data.clone())
        }
        Op::Linear { weight, bias } => math::linear(x, weights.get(*weight), bias.map(|b| weights.get(b))),
        Op::Add => math::add(x, inputs[1]),
        Op::Concat { axis } => layout::concat(inputs, *axis),
        Op::Slice { ranges } => layout::slice(x, ranges),
        Op::Pad { pads, value } => layout::pad(x, pads, *value),
        Op::WeightedSum { indices } => math::weighted_sum(x, &inputs[1..], indices),
        Op::ChannelShuffle { groups } => layout::channel_shuffle(x, *groups),
        Op::Separable { units } => fused::separable(x, units, weights),
        Op::Mix { channels, terms } => fused::mix(inputs, *channels, terms),
        Op::QuantizeDequantize(grid) => {
            Wide::new(x.shape.clone(), x.data.iter().map(|v| f64::from(grid.nearest(*v as f32))).collect())
        }
        Op::DropPath => x.clone(),
        Op::Imported(op) => imported::evaluate(op, inputs, weights),
    }
}
