//! Small networks for the table of test cases.
//!
//! Takes a builder; adds a separable unit with a sum, a convolution with a sum, a cell, or a network of most ops to it.

use super::param;
use crate::ir::{Builder, Op, Role, Shape, ValueId, Window};

/// A separable unit and the sum of its result and of a rectified second input.
pub fn unit(b: &mut Builder, window: Window, [c, h, w]: [usize; 3], filters: usize, relu_in: bool) {
    let x = b.input("image", Shape::image(c, h, w));
    let [kh, kw] = window.kernel;
    let weight = param(b, "depthwise.weight", &[c, 1, kh, kw], Role::Weight);
    let op = Op::Conv { weight, bias: None, window, groups: c, relu_in, relu_out: false };
    let y = b.node("depthwise", op, &[x]).unwrap();
    let weight = param(b, "pointwise.weight", &[filters, c, 1, 1], Role::Weight);
    let bias = param(b, "pointwise.bias", &[filters], Role::Bias);
    let y = b.node("pointwise", Op::conv(weight, Some(bias), Window::valid(1, 1), 1), &[y]).unwrap();
    let shape = b.shape(y).clone();
    let other = b.input("other", shape);
    let other = b.node("relu", Op::Relu, &[other]).unwrap();
    let y = b.node("add", Op::Add, &[y, other]).unwrap();
    b.output("out", y);
}

/// A convolution without bias and the sum of its result and of a second input.
pub fn sum(b: &mut Builder, window: Window, [c, h, w]: [usize; 3], filters: usize, groups: usize) {
    let x = b.input("image", Shape::image(c, h, w));
    let [kh, kw] = window.kernel;
    let weight = param(b, "weight", &[filters, c / groups, kh, kw], Role::Weight);
    let op = Op::Conv { weight, bias: None, window, groups, relu_in: true, relu_out: false };
    let y = b.node("conv", op, &[x]).unwrap();
    let shape = b.shape(y).clone();
    let other = b.input("other", shape);
    let y = b.node("add", Op::Add, &[other, y]).unwrap();
    b.output("out", y);
}

/// Two values of `channels` x 3 x 3, and both behind each other.
pub fn parts(b: &mut Builder, channels: usize) {
    let x = b.input("image", Shape::image(channels, 3, 3));
    let relu = b.node("relu", Op::Relu, &[x]).unwrap();
    let pool = b.node("pool", Op::MaxPool(Window::valid(1, 1)), &[x]).unwrap();
    let y = b.node("concat", Op::Concat { axis: 1 }, &[relu, pool]).unwrap();
    b.output("out", y);
}

/// Units, a pool and a skip connection whose sums are concatenated and read by each other, as in a cell of DARTS.
pub fn cell(b: &mut Builder) {
    let x = b.input("image", Shape::image(6, 8, 8));
    let separable = |b: &mut Builder, name: &str, x: ValueId| {
        let weight = param(b, format!("{name}.depthwise"), &[12, 1, 3, 3], Role::Weight);
        let window = Window::same(3, 1, 1);
        let op = Op::Conv { weight, bias: None, window, groups: 12, relu_in: true, relu_out: false };
        let y = b.node(format!("{name}/depthwise"), op, &[x]).unwrap();
        let weight = param(b, format!("{name}.pointwise"), &[12, 12, 1, 1], Role::Weight);
        b.node(format!("{name}/pointwise"), Op::conv(weight, None, Window::valid(1, 1), 1), &[y]).unwrap()
    };
    let weight = param(b, "preprocess", &[12, 6, 1, 1], Role::Weight);
    let start = b.node("start", Op::conv(weight, None, Window::valid(1, 1), 1), &[x]).unwrap();
    let mut states = vec![start];
    for i in 0..4 {
        let from = states[i / 2];
        let last = states[states.len() - 1];
        let unit = separable(b, &format!("{i}"), last);
        let other = match i {
            0 => start,
            1 => b.node("pool", Op::MaxPool(Window::same(3, 1, 1)), &[from]).unwrap(),
            _ => separable(b, &format!("{i}b"), from),
        };
        states.push(b.node(format!("{i}/add"), Op::Add, &[other, unit]).unwrap());
    }
    let joined = b.node("concat", Op::Concat { axis: 1 }, &states[1..]).unwrap();
    let weight = param(b, "next", &[16, 48, 1, 1], Role::Weight);
    let y = b.node("next", Op::conv(weight, None, Window::valid(1, 1), 1), &[joined]).unwrap();
    b.output("next", y);
    b.output("joined", joined);
}

/// A small network with branches, a skip connection and two outputs, in which buffers are reused.
pub fn network(b: &mut Builder) {
    let x = b.input("image", Shape::image(3, 9, 9));
    let stem_weight = param(b, "stem.weight", &[8, 3, 3, 3], Role::Weight);
    let stem = b.node("stem", Op::conv(stem_weight, None, Window::same(3, 1, 1), 1), &[x]).unwrap();
    let mut states = [stem, stem];
    for cell in 0..3 {
        let channels = b.shape(states[1]).dim(1).unwrap();
        let name = |part: &str| format!("cells.{cell}/{part}");
        let depthwise = param(b, name("depthwise.weight"), &[channels, 1, 3, 3], Role::Weight);
        let depthwise = Op::Conv {
            weight: depthwise,
            bias: None,
            window: Window::same(3, 1, 1),
            groups: channels,
            relu_in: true,
            relu_out: false,
        };
        let d = b.node(name("depthwise"), depthwise, &[states[1]]).unwrap();
        let pointwise = param(b, name("pointwise.weight"), &[8, channels, 1, 1], Role::Weight);
        let bias = param(b, name("pointwise.bias"), &[8], Role::Bias);
        let p = b.node(name("pointwise"), Op::conv(pointwise, Some(bias), Window::valid(1, 1), 1), &[d]).unwrap();
        let mean = param(b, name("mean"), &[8], Role::RunningMean);
        let var = param(b, name("var"), &[8], Role::RunningVar);
        let norm = Op::BatchNorm { scale: None, shift: None, mean, var, epsilon: 1e-5 };
        let n = b.node(name("norm"), norm, &[p]).unwrap();
        let m = b.node(name("pool"), Op::MaxPool(Window::same(3, 1, 1)), &[n]).unwrap();
        let r = b.node(name("relu"), Op::Relu, &[n]).unwrap();
        let drop = b.node(name("drop"), Op::DropPath, &[m]).unwrap();
        let sum = b.node(name("add"), Op::Add, &[drop, r]).unwrap();
        let joined = b.node(name("concat"), Op::Concat { axis: 1 }, &[sum, m]).unwrap();
        let shuffled = b.node(name("shuffle"), Op::ChannelShuffle { groups: 4 }, &[joined]).unwrap();
        states = [states[1], shuffled];
    }
    let mean = b.node("mean", Op::GlobalAvgPool, &[states[1]]).unwrap();
    let flat = b.node("flatten", Op::Flatten { axis: 1 }, &[mean]).unwrap();
    let weight = param(b, "classifier.weight", &[10, 16], Role::Weight);
    let bias = param(b, "classifier.bias", &[10], Role::Bias);
    let logits = b.node("classifier", Op::Linear { weight, bias: Some(bias) }, &[flat]).unwrap();
    b.output("logits", logits);
    b.output("features", states[1]);
}
