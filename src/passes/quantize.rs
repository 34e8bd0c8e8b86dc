//! Post-training quantisation: values and parameters are rounded to what eight bits can hold, as a runtime that computes on
//! integers needs them.
//!
//! Takes a network for export and, for the values that [`measured`] names, the interval of what they are; gives the network
//! with [`Op::QuantizeDequantize`] behind every value that an operator on integers reads, with int8 weights (symmetric, a
//! scale for each output channel) and int32 biases. Measuring the intervals is left to the caller.
//!
//! A value is quantised if something else than a ReLU reads it: a runtime takes a ReLU and the rounding behind it together, so
//! that the one rounding after the ReLU, with all codes for what is above zero, is enough. Where both a ReLU and others read
//! a value it is rounded once; what only selects among its elements (ReLU, max pooling, slices) stays on its grid, so that
//! rounding its result changes nothing. Outputs of the graph are not rounded.

use std::collections::HashMap;

use crate::ir::{
    Codes, Graph, Grid, IrError, Model, Node, Op, ParamId, Tensor, Value, ValueId, Verified, Width, verify,
};

/// What the elements of a value lie between.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    /// The smallest that is to be told from smaller ones.
    pub low: f32,
    /// The largest.
    pub high: f32,
}

/// Why a network cannot be quantised.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum QuantizeError {
    /// It is quantised.
    #[error("node `{node}`: the network is quantised already")]
    Again {
        /// The first node that rounds.
        node: String,
    },
    /// Several nodes read one parameter, whose scale can be that of one of them only.
    #[error("parameter `{param}` is read by several nodes, which quantisation does not support")]
    Shared {
        /// The parameter.
        param: String,
    },
    /// The interval of a value is missing or no interval.
    #[error("value `{value}`: {why}")]
    Interval {
        /// The value.
        value: String,
        /// What is wrong with it.
        why: String,
    },
    /// The result is no valid network: a bug in this pass.
    #[error("after quantisation: {0}")]
    Ir(#[from] IrError),
}

/// Where the grid of a value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    /// It stays as it is.
    Exact,
    /// From its interval.
    Measured,
    /// From this value, whose elements it has.
    Like(ValueId),
}

/// The values whose intervals quantisation needs, in the order of their ids.
pub fn measured(graph: &Graph) -> Vec<ValueId> {
    let sources = sources(graph);
    let ids = (0..graph.values.len() as u32).map(ValueId);
    ids.filter(|id| sources[id.index()] == Source::Measured).collect()
}

/// Quantises `model`; `intervals` has one for each value that [`measured`] names.
///
/// # Errors
/// The model is quantised already, shares parameters between nodes, or an interval is missing or not finite.
pub fn quantize(
    model: Verified<Model>,
    intervals: &HashMap<ValueId, Interval>,
) -> Result<Verified<Model>, QuantizeError> {
    if let Some(node) = model.graph.nodes.iter().find(|node| matches!(node.op, Op::QuantizeDequantize(_))) {
        return Err(QuantizeError::Again { node: node.name.clone() });
    }
    let grids = grids(&model.graph, intervals)?;
    let mut model = model.into_inner();
    check_parameters(&model.graph)?;
    for node in model.graph.nodes.clone() {
        let grid = node.inputs.first().and_then(|x| grids[x.index()]);
        if let (Op::Conv { weight, bias, .. } | Op::Linear { weight, bias }, Some(grid)) = (&node.op, grid) {
            parameters(&mut model, *weight, *bias, grid.scale);
        }
    }
    round_values(&mut model.graph, &grids);
    Ok(verify(model)?)
}

/// The grid of each value that is rounded.
fn grids(graph: &Graph, intervals: &HashMap<ValueId, Interval>) -> Result<Vec<Option<Grid>>, QuantizeError> {
    let mut grids: Vec<Option<Grid>> = vec![None; graph.values.len()];
    let sources = sources(graph);
    // In the order in which values are made: one that is like another comes behind it.
    let made = graph.nodes.iter().map(|node| node.output);
    for id in graph.inputs.iter().copied().chain(made) {
        grids[id.index()] = match sources[id.index()] {
            Source::Exact => None,
            Source::Like(other) => grids[other.index()],
            Source::Measured => {
                let error = |why: String| QuantizeError::Interval { value: graph.value(id).name.clone(), why };
                let Some(Interval { low, high }) = intervals.get(&id).copied() else {
                    return Err(error("its interval was not measured".into()));
                };
                if !(low.is_finite() && high.is_finite() && low <= high) {
                    return Err(error(format!("{low} to {high} is no interval")));
                }
                Some(Grid::covering(low, high))
            }
        };
    }
    Ok(grids)
}

fn sources(graph: &Graph) -> Vec<Source> {
    let mut sources = vec![Source::Exact; graph.values.len()];
    for (id, readers) in graph.consumers().iter().enumerate() {
        if readers.iter().any(|reader| reads_codes(&graph.nodes[reader.index()].op)) {
            sources[id] = Source::Measured;
        }
    }
    for node in &graph.nodes {
        let (Some(x), place) = (node.inputs.first(), node.output.index()) else { continue };
        if sources[place] == Source::Measured && sources[x.index()] != Source::Exact && selects(&node.op) {
            sources[place] = Source::Like(*x);
        }
    }
    sources
}

/// Whether the op has a form on integers.
fn reads_codes(op: &Op) -> bool {
    match op {
        Op::Conv { .. }
        | Op::Linear { .. }
        | Op::MaxPool(_)
        | Op::AvgPool { .. }
        | Op::GlobalAvgPool
        | Op::Flatten { .. }
        | Op::Add
        | Op::Concat { .. }
        | Op::Slice { .. }
        | Op::Pad { .. } => true,
        Op::Relu
        | Op::BatchNorm { .. }
        | Op::WeightedSum { .. }
        | Op::ChannelShuffle { .. }
        | Op::Separable { .. }
        | Op::Mix { .. }
        | Op::QuantizeDequantize(_)
        | Op::Imported(_)
        | Op::DropPath => false,
    }
}

/// Whether each element of the result is an element of the one input, or zero.
fn selects(op: &Op) -> bool {
    match op {
        Op::Relu | Op::MaxPool(_) | Op::Flatten { .. } | Op::Slice { .. } => true,
        Op::Pad { value, .. } => *value == 0.0,
        Op::Conv { .. }
        | Op::Linear { .. }
        | Op::AvgPool { .. }
        | Op::GlobalAvgPool
        | Op::Add
        | Op::Concat { .. }
        | Op::BatchNorm { .. }
        | Op::WeightedSum { .. }
        | Op::ChannelShuffle { .. }
        | Op::Separable { .. }
        | Op::Mix { .. }
        | Op::QuantizeDequantize(_)
        | Op::Imported(_)
        | Op::DropPath => false,
    }
}

fn check_parameters(graph: &Graph) -> Result<(), QuantizeError> {
    let mut readers = vec![0; graph.params.len()];
    for node in graph.nodes.iter().filter(|node| matches!(node.op, Op::Conv { .. } | Op::Linear { .. })) {
        node.op.params().iter().for_each(|id| readers[id.index()] += 1);
    }
    match readers.iter().position(|count| *count > 1) {
        Some(i) => Err(QuantizeError::Shared { param: graph.params[i].name.clone() }),
        None => Ok(()),
    }
}

/// Rounds a weight to codes for each output channel, and its bias to products of these scales and that of the input.
fn parameters(model: &mut Model, weight: ParamId, bias: Option<ParamId>, input: f32) {
    let [_, largest_bias] = Width::Int32.bounds().map(|code| code as f32);
    let filters = &model.weights.0[weight.index()];
    let rows = filters.data.chunks((filters.data.len() / filters.shape[0].max(1)).max(1));
    let scale = |(channel, row): (usize, &[f32])| {
        let largest = row.iter().fold(0f32, |largest, w| largest.max(w.abs()));
        let offset = bias.map_or(0.0, |id| model.weights.get(id).data[channel].abs());
        // A bias that is huge beside its weights needs a larger scale to be a code; the products of a channel of zeros have
        // none of their own. Neither scale nor product may vanish.
        let least = (offset / largest_bias / input).max(f32::MIN_POSITIVE * 4.0 / input.min(1.0));
        (largest / 127.0).max(least)
    };
    let scales: Vec<f32> = rows.enumerate().map(scale).collect();
    let products = scales.iter().map(|scale| scale * input).collect();
    set(model, weight, Codes { scales, width: Width::Int8 });
    if let Some(bias) = bias {
        set(model, bias, Codes { scales: products, width: Width::Int32 });
    }
}

/// Rounds a parameter to the nearest codes.
fn set(model: &mut Model, id: ParamId, codes: Codes) {
    let Tensor { data, .. } = &mut model.weights.0[id.index()];
    *data = codes.numbers(&codes.nearest(data));
    model.graph.params[id.index()].codes = Some(codes);
}

/// Puts the rounding of each value behind what makes it; all nodes read the rounded value.
fn round_values(graph: &mut Graph, grids: &[Option<Grid>]) {
    let mut rounded: Vec<ValueId> = (0..graph.values.len() as u32).map(ValueId).collect();
    let mut nodes = Vec::with_capacity(2 * graph.nodes.len());
    let old = std::mem::take(&mut graph.nodes);
    let (values, inputs) = (&mut graph.values, &graph.inputs);
    let mut taken: Vec<String> = old.iter().map(|node| node.name.clone()).collect();
    taken.extend(values.iter().map(|value| value.name.clone()));
    let mut round = |nodes: &mut Vec<Node>, id: ValueId| {
        let Some(grid) = grids[id.index()] else { return id };
        let value = &values[id.index()];
        let mut name = format!("{}/int8", value.name);
        while taken.contains(&name) {
            name.push('_');
        }
        taken.push(name.clone());
        let output = ValueId(values.len() as u32);
        values.push(Value { name: name.clone(), shape: value.shape.clone() });
        nodes.push(Node { name, op: Op::QuantizeDequantize(grid), inputs: vec![id], output });
        output
    };
    for &input in inputs {
        rounded[input.index()] = round(&mut nodes, input);
    }
    for mut node in old {
        node.inputs.iter_mut().for_each(|x| *x = rounded[x.index()]);
        let output = node.output;
        nodes.push(node);
        rounded[output.index()] = round(&mut nodes, output);
    }
    graph.nodes = nodes;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{Builder, Role, Window};
    use crate::passes::testing::{model, ops, weight};

    fn conv(b: &mut Builder, name: &str, x: ValueId, kernel: usize) -> ValueId {
        let w = weight(b, &format!("{name}.weight"), &[6, 6, kernel, kernel]);
        let init = crate::ir::Init::Uniform { bound: 0.5 };
        let bias = b.param(format!("{name}.bias"), None, &[6], Role::Bias, init);
        b.node(name, Op::conv(w, Some(bias), Window::same(kernel, 1, 1), 1), &[x]).unwrap()
    }

    /// The name and grid of each value that is rounded, with intervals that grow with the id.
    fn quantized(model: Verified<Model>) -> (Verified<Model>, Vec<(String, Grid)>) {
        let interval = |id: ValueId| (id, Interval { low: -1.0, high: 1.0 + id.0 as f32 });
        let intervals = measured(&model.graph).into_iter().map(interval).collect();
        let model = quantize(model, &intervals).unwrap();
        let grids = model.graph.nodes.iter().filter_map(|node| match node.op {
            Op::QuantizeDequantize(grid) => Some((model.graph.value(node.inputs[0]).name.clone(), grid)),
            _ => None,
        });
        let grids = grids.collect();
        (model, grids)
    }

    fn names(graph: &Graph) -> Vec<&str> {
        measured(graph).into_iter().map(|id| graph.value(id).name.as_str()).collect()
    }

    #[test]
    fn a_relu_and_the_rounding_behind_it_are_one_and_the_output_stays_exact() {
        let before = model(|b, x| {
            let y = conv(b, "a", x, 3);
            let y = b.node("relu", Op::Relu, &[y]).unwrap();
            conv(b, "b", y, 1)
        });
        assert_eq!(names(&before.graph), ["input", "relu"]);
        let (after, _) = quantized(before);
        assert_eq!(ops(&after), ["quantize_dequantize", "conv", "relu", "quantize_dequantize", "conv"]);
    }

    #[test]
    fn what_selects_elements_of_a_rounded_value_stays_on_its_grid() {
        let before = model(|b, x| {
            let y = conv(b, "a", x, 3);
            let r = b.node("relu", Op::Relu, &[y]).unwrap();
            let p = b.node("pool", Op::MaxPool(Window::same(3, 1, 1)), &[y]).unwrap();
            let q = conv(b, "b", r, 1);
            let s = b.node("add", Op::Add, &[p, q]).unwrap();
            let c = b.node("concat", Op::Concat { axis: 1 }, &[s, y]).unwrap();
            let g = b.node("mean", Op::GlobalAvgPool, &[c]).unwrap();
            b.node("flatten", Op::Flatten { axis: 1 }, &[g]).unwrap()
        });
        assert_eq!(names(&before.graph), ["input", "a", "b", "add", "concat", "mean"]);
        let (after, grids) = quantized(before);
        let grid = |name: &str| grids.iter().find(|(n, _)| n == name).unwrap().1;
        assert_eq!(grid("relu"), grid("a"));
        assert_eq!(grid("pool"), grid("a"));
        assert_ne!(grid("add"), grid("a"));
        // Every reader of a rounded value reads it rounded.
        let consumers = after.graph.consumers();
        for node in after.graph.nodes.iter().filter(|n| matches!(n.op, Op::QuantizeDequantize(_))) {
            assert_eq!(consumers[node.inputs[0].index()].len(), 1, "{}", node.name);
        }
    }

    #[test]
    fn weights_have_a_scale_for_each_channel_and_biases_the_products() {
        let before = model(|b, x| conv(b, "a", x, 3)).into_inner();
        let mut changed = before.clone();
        // A channel of zeros, and one whose bias is huge beside its weights.
        changed.weights.0[0].data[..54].fill(0.0);
        changed.weights.0[0].data[54..108].iter_mut().for_each(|w| *w *= 1e-9);
        let (after, grids) = quantized(verify(changed.clone()).unwrap());
        let [w, b] = [0, 1].map(|i| after.graph.params[i].codes.clone().unwrap());
        assert_eq!((w.width, b.width), (Width::Int8, Width::Int32));
        for c in 0..6 {
            assert_eq!(b.scales[c], w.scales[c] * grids[0].1.scale, "channel {c}");
            let rows = [&changed.weights.0[0].data, &after.weights.0[0].data].map(|d| &d[c * 54..][..54]);
            let largest = rows[0].iter().fold(0f32, |m, x| m.max(x.abs()));
            if c > 1 {
                assert_eq!(w.scales[c], largest / 127.0, "channel {c}");
            }
            for (x, y) in rows[0].iter().zip(rows[1]) {
                assert!((x - y).abs() <= 0.5001 * w.scales[c], "channel {c}: {x} became {y}");
            }
            let [x, y] = [&changed, &*after].map(|m| m.weights.0[1].data[c]);
            assert!((x - y).abs() <= 0.5001 * b.scales[c] + x.abs() * 1e-6, "bias {c}: {x} became {y}");
            assert!((x - y).abs() <= 1e-3, "bias {c}: {x} became {y}");
        }
    }

    #[test]
    fn what_cannot_be_quantised_is_named() {
        let check = |model: Verified<Model>, change: fn(&mut Interval), message: &str| {
            let mut interval = Interval { low: -1.0, high: 1.0 };
            change(&mut interval);
            let intervals = measured(&model.graph).into_iter().map(|id| (id, interval)).collect();
            let error = quantize(model, &intervals).expect_err(message).to_string();
            assert!(error.contains(message), "`{error}` does not say `{message}`");
        };
        let plain = || model(|b, x| conv(b, "a", x, 3));
        check(plain(), |i| i.low = f32::NAN, "value `input`: NaN to 1 is no interval");
        check(plain(), |i| i.high = f32::INFINITY, "-1 to inf is no interval");
        check(plain(), |i| i.high = -2.0, "-1 to -2 is no interval");
        check(quantized(plain()).0, |_| (), "node `input/int8`: the network is quantised already");
        let error = quantize(plain(), &HashMap::new()).unwrap_err().to_string();
        assert!(error.contains("was not measured"), "{error}");
        let shared = model(|b, x| {
            let w = weight(b, "w", &[6, 6, 1, 1]);
            let op = Op::conv(w, None, Window::valid(1, 1), 1);
            let y = b.node("a", op.clone(), &[x]).unwrap();
            b.node("b", op, &[y]).unwrap()
        });
        check(shared, |_| (), "parameter `w` is read by several nodes");
    }
}
