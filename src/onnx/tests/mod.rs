//! Tests of writer and reader: what they share is the sample model here, which holds every op that is written.

mod candle;
mod external;
mod file;
mod foreign;
mod imported;
mod independent;
mod mutation;
mod quantized;
mod refused;
mod round_trip;
mod shapes;

use crate::ir::{Builder, Init, Model, Op, ParamId, Range, Role, Shape, Verified, Window, verify};

/// A small network in the manner of a DARTS cell.
pub(super) fn sample() -> Verified<Model> {
    let mut b = Builder::new("sample");
    let mut model = Model::initial(sample_graph(&mut b), 7);
    for (param, tensor) in model.graph.params.iter().zip(&mut model.weights.0) {
        if param.role == Role::RunningVar {
            tensor.data.iter_mut().enumerate().for_each(|(i, x)| *x = 1.0 + i as f32 / 8.0);
        }
    }
    model.metadata =
        vec![("classes".into(), "[\"a\",\"b\"]".into()), ("seed".into(), "7".into()), ("a".into(), "".into())];
    verify(model).unwrap()
}

fn sample_graph(b: &mut Builder) -> crate::ir::Graph {
    let x = b.input("input", Shape::image(3, 9, 9));
    let w = weight(b, "stem.weight", &[8, 3, 3, 3]);
    let stem = b.node("stem/conv", Op::conv(w, None, Window::same(3, 1, 1), 1), &[x]).unwrap();
    let [scale, shift, mean, var] = ["weight", "bias", "running_mean", "running_var"]
        .into_iter()
        .zip([Role::Scale, Role::Shift, Role::RunningMean, Role::RunningVar])
        .map(|(word, role)| b.param(format!("stem.bn.{word}"), None, &[8], role, Init::Uniform { bound: 1.0 }))
        .collect::<Vec<_>>()
        .try_into()
        .unwrap();
    let bn = Op::BatchNorm { scale: Some(scale), shift: Some(shift), mean, var, epsilon: 1e-5 };
    let s = b.node("stem/bn", bn, &[stem]).unwrap();

    // Two convolutions share the ReLU before them; the second has one behind as well.
    let w = weight(b, "edge0.depthwise", &[8, 1, 3, 3]);
    let window = Window::same(3, 2, 2);
    let edge0 = b.node("node0/edge0/depthwise", conv(w, None, window, 8, true, false), &[s]).unwrap();
    let w = weight(b, "edge1.weight", &[8, 8, 1, 1]);
    let bias = b.param("edge1.bias", None, &[8], Role::Bias, Init::Uniform { bound: 0.5 });
    let window = Window::new([1, 1], [2, 2], [0, 0], [1, 1]);
    let edge1 = b.node("node0/edge1/pointwise", conv(w, Some(bias), window, 1, true, true), &[s]).unwrap();
    let dropped = b.node("node0/edge1/drop_path", Op::DropPath, &[edge1]).unwrap();
    let node0 = b.node("node0/add", Op::Add, &[edge0, dropped]).unwrap();

    let window = Window { padding: [1, 0, 1, 2], ..Window::same(3, 2, 1) };
    let max = b.node("node1/max_pool", Op::MaxPool(window), &[s]).unwrap();
    let average = Op::AvgPool { window: Window::same(3, 2, 1), count_include_pad: false };
    let average = b.node("node1/avg_pool", average, &[s]).unwrap();
    let [mean, var] = [("mean", Role::RunningMean), ("var", Role::RunningVar)]
        .map(|(word, role)| b.param(format!("node1.{word}"), None, &[8], role, Init::Uniform { bound: 1.0 }));
    let plain = Op::BatchNorm { scale: None, shift: None, mean, var, epsilon: 1e-3 };
    let average = b.node("node1/bn", plain, &[average]).unwrap();

    let cut = |start| Op::Slice { ranges: [2, 3].map(|axis| Range { axis, start, len: 4, step: 1 }).to_vec() };
    let first = b.node("node2/slice", cut(0), &[max]).unwrap();
    let second = b.node("node2/slice1", cut(1), &[average]).unwrap();
    let back = Op::Slice { ranges: vec![Range { axis: 1, start: 7, len: 8, step: -1 }] };
    let back = b.node("node2/back", back, &[second]).unwrap();
    let pad = Op::Pad { pads: vec![[0, 0], [0, 0], [0, 1], [1, 0]], value: 0.0 };
    let sides: Vec<_> = [first, back]
        .into_iter()
        .enumerate()
        .map(|(i, v)| b.node(format!("node2/pad{i}"), pad.clone(), &[v]).unwrap())
        .collect();
    let node2 = b.node("node2/add", Op::Add, &[sides[0], sides[1]]).unwrap();

    let out = b.node("concat", Op::Concat { axis: 1 }, &[node0, node2]).unwrap();
    let relu = b.node("relu", Op::Relu, &[out]).unwrap();
    let pooled = b.node("pool", Op::GlobalAvgPool, &[relu]).unwrap();
    let flat = b.node("flatten", Op::Flatten { axis: 1 }, &[pooled]).unwrap();
    let w = weight(b, "classifier.weight", &[5, 16]);
    let logits = b.node("classifier", Op::Linear { weight: w, bias: None }, &[flat]).unwrap();
    b.output("logits", logits);
    std::mem::take(b).finish()
}

fn weight(b: &mut Builder, name: &str, shape: &[usize]) -> ParamId {
    b.param(name, None, shape, Role::Weight, Init::Uniform { bound: 0.5 })
}

fn conv(weight: ParamId, bias: Option<ParamId>, window: Window, groups: usize, relu_in: bool, relu_out: bool) -> Op {
    Op::Conv { weight, bias, window, groups, relu_in, relu_out }
}
