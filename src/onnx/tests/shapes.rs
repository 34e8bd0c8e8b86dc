//! Targets of Reshape that the file computes from shapes, as exporters write `x.view(x.size(0), -1)`.

#![cfg(test)]

use super::file::{bytes, file, floats, int, ints, longs, node, tensor, value, with_input, with_opset};
use crate::ir::{Tensor, verify};
use crate::onnx::proto::{ModelProto, NodeProto, TensorProto, data_type};
use crate::onnx::read;
use crate::runtime::Reference;

const FLAT: &str = "[N, 144] = flatten(%x) {axis 1}";

/// Constants that the cases use: single numbers by their names, lists.
fn constants() -> Vec<TensorProto> {
    let single = |name: &str, n: i64| TensorProto { dims: Vec::new(), ..longs(name, &[n]) };
    vec![
        single("zero", 0),
        single("one", 1),
        single("two", 2),
        single("three", 3),
        longs("l0", &[0]),
        longs("l1", &[1]),
        longs("l4", &[4]),
        longs("l144", &[144]),
        longs("minus", &[-1]),
        longs("l123", &[1, 2, 3]),
        longs("l02", &[0, 2]),
        longs("empty", &[]),
    ]
}

fn gather(from: &str, place: &str, to: &str) -> NodeProto {
    node("Gather", &format!("{from} {place}"), to, vec![])
}

fn list_of(number: &str, to: &str) -> NodeProto {
    node("Unsqueeze", &format!("{number} l0"), to, vec![])
}

fn join(lists: &str, to: &str) -> NodeProto {
    node("Concat", lists, to, vec![int("axis", 0)])
}

fn shape() -> NodeProto {
    node("Shape", "x", "s", vec![])
}

/// The nodes, and a Reshape of `x` to the list `t` behind them.
fn reshaped(mut nodes: Vec<NodeProto>) -> ModelProto {
    nodes.push(node("Reshape", "x t", "y", vec![]));
    file(nodes, constants())
}

/// The textual IR of what `y` is.
fn line(file: &ModelProto) -> String {
    let model = verify(read(&bytes(file), "test.onnx").unwrap_or_else(|e| panic!("{e}"))).unwrap();
    let text = model.graph.to_string();
    let line = text.lines().find(|l| l.starts_with("  %y: ")).unwrap_or_else(|| panic!("no %y in {text}"));
    line["  %y: ".len()..].to_owned()
}

fn refused(file: &ModelProto, message: &str) {
    let error = read(&bytes(file), "test.onnx").expect_err(message).to_string();
    assert!(error.contains(message), "`{error}` does not say `{message}`");
}

/// `[batch]` as `b`, by Shape and Gather.
fn batch() -> Vec<NodeProto> {
    vec![shape(), gather("s", "zero", "n"), list_of("n", "b")]
}

fn with(mut nodes: Vec<NodeProto>, more: Vec<NodeProto>) -> Vec<NodeProto> {
    nodes.extend(more);
    nodes
}

#[test]
fn targets_computed_from_shapes_flatten() {
    let cases = [
        ("batch and the rest", with(batch(), vec![join("b minus", "t")])),
        ("batch and a number", with(batch(), vec![join("b l144", "t")])),
        ("zero and the rest", vec![join("l0 minus", "t")]),
        (
            "the product of the other sizes",
            with(
                batch(),
                vec![
                    gather("s", "one", "c"),
                    gather("s", "two", "h"),
                    gather("s", "three", "w"),
                    node("Mul", "c h", "ch", vec![]),
                    node("Mul", "ch w", "chw", vec![]),
                    list_of("chw", "rest"),
                    join("b rest", "t"),
                ],
            ),
        ),
        (
            "a part of the shape and its product",
            vec![
                shape(),
                node("Slice", "s l1 l4", "chw", vec![]),
                node("ReduceProd", "chw", "rest", vec![ints("axes", &[0]), int("keepdims", 1)]),
                join("minus rest", "t"),
            ],
        ),
        (
            "casts, sums and quotients",
            with(
                batch(),
                vec![
                    node("Cast", "b", "b64", vec![int("to", 7)]),
                    node("Mul", "b64 l144", "all", vec![]),
                    node("Div", "all b", "rest", vec![]),
                    node("Add", "rest one", "more", vec![]),
                    node("Sub", "more one", "same", vec![]),
                    node("Identity", "b64", "rows", vec![]),
                    join("rows same", "t"),
                ],
            ),
        ),
        (
            "all elements by the batch",
            with(
                batch(),
                vec![
                    node("Size", "x", "all", vec![]),
                    node("Div", "all n", "rest", vec![]),
                    list_of("rest", "r"),
                    join("b r", "t"),
                ],
            ),
        ),
        (
            "a filled list, squeezed and reshaped",
            vec![
                shape(),
                node("Slice", "s l0 l1 l0 l1", "b", vec![]),
                node("Squeeze", "b l0", "n", vec![]),
                node("Reshape", "n minus", "again", vec![]),
                node("ConstantOfShape", "l1", "filled", vec![tensor("value", longs("", &[144]))]),
                node("Reshape", "filled empty", "one144", vec![]),
                list_of("one144", "rest"),
                join("again rest", "t"),
            ],
        ),
        (
            "sizes by a list of places",
            vec![
                shape(),
                gather("s", "l123", "chw"),
                node("ReduceProd", "chw", "n", vec![int("keepdims", 0)]),
                list_of("n", "rest"),
                node("Shape", "chw", "three_sizes", vec![]),
                node("Sub", "three_sizes l4", "left", vec![]),
                join("left rest", "t"),
            ],
        ),
    ];
    for (name, nodes) in cases {
        assert_eq!(line(&reshaped(nodes)), FLAT, "{name}");
    }
    // Part of a shape by attributes; a fixed batch is a number like others.
    let nodes = || {
        vec![
            node("Shape", "x", "b", vec![int("end", 1)]),
            node("Shape", "x", "chw", vec![int("start", -3)]),
            node("ReduceProd", "chw", "rest", vec![]),
            join("b rest", "t"),
        ]
    };
    assert_eq!(line(&reshaped(nodes())), FLAT);
    let fixed = with_input(&["5", "4", "6", "6"], reshaped(nodes()));
    assert_eq!(line(&fixed), "[5, 144] = flatten(%x) {axis 1}");
    let old = vec![
        shape(),
        node("Slice", "s", "b", vec![ints("starts", &[0]), ints("ends", &[1]), ints("axes", &[0])]),
        join("b minus", "t"),
    ];
    assert_eq!(line(&with_opset(9, reshaped(old))), FLAT);
}

#[test]
fn targets_computed_from_shapes_may_change_nothing() {
    let mut nodes = vec![shape(), node("Reshape", "x s", "r", vec![])];
    nodes.push(node("Relu", "r", "y", vec![]));
    assert_eq!(line(&file(nodes, constants())), "[N, 4, 6, 6] = relu(%x)");
}

#[test]
fn bounds_may_be_computed_from_sizes() {
    let nodes = vec![
        shape(),
        gather("s", "two", "h"),
        node("Div", "h two", "half", vec![]),
        list_of("half", "end"),
        node("Slice", "x l0 end l02", "y", vec![]),
    ];
    refused(&file(nodes.clone(), constants()), "starts, ends, axes and steps are not of one length");
    let mut right = nodes;
    right[4] = node("Slice", "x l0 end axis", "y", vec![]);
    let mut constants = constants();
    constants.push(longs("axis", &[2]));
    assert_eq!(line(&file(right, constants)), "[N, 4, 3, 6] = slice(%x) {axis 2 from 0 take 3 step 1}");
}

#[test]
fn a_channel_shuffle_may_compute_its_sizes() {
    let nodes = with(
        batch(),
        vec![
            gather("s", "one", "c"),
            gather("s", "two", "h"),
            gather("s", "three", "w"),
            node("Div", "c two", "half", vec![]),
            list_of("two", "g"),
            list_of("half", "p"),
            list_of("h", "hh"),
            list_of("w", "ww"),
            join("b g p hh ww", "split"),
            node("Reshape", "x split", "a", vec![]),
            node("Transpose", "a", "u", vec![ints("perm", &[0, 2, 1, 3, 4])]),
            list_of("h", "hh2"),
            list_of("w", "ww2"),
            join("b minus hh2 ww2", "back"),
            node("Reshape", "u back", "y", vec![int("allowzero", 0)]),
        ],
    );
    let file = file(nodes, constants());
    assert_eq!(line(&file), "[N, 4, 6, 6] = channel_shuffle(%x) {groups 2}");
}

#[test]
fn means_over_height_and_width_are_global_pooling() {
    let pooled = "[N, 4, 1, 1] = global_avg_pool(%x)";
    let mean = |attributes| file(vec![node("ReduceMean", "x", "y", attributes)], vec![]);
    assert_eq!(line(&mean(vec![ints("axes", &[2, 3]), int("keepdims", 1)])), pooled);
    assert_eq!(line(&mean(vec![ints("axes", &[-1, -2])])), pooled);
    let flat = mean(vec![ints("axes", &[2, 3]), int("keepdims", 0)]);
    assert_eq!(line(&flat), "[N, 4] = flatten(%y/mean) {axis 1}");
    let list = file(vec![node("ReduceMean", "x a", "y", vec![])], vec![longs("a", &[2, -1])]);
    assert_eq!(line(&with_opset(18, list)), pooled);
    refused(&mean(vec![ints("axes", &[1])]), "over axes [1]; supported are height and width");
    refused(&mean(vec![]), "over axes []");
    refused(&mean(vec![ints("axes", &[2, 4])]), "axis 4 is outside");
}

#[test]
fn a_mirror_in_front_of_a_max_pool_is_its_padding() {
    let mirrored = |pads: &[i64], kernel: &[i64], strides: &[i64]| {
        let pad = node("Pad", "x p", "border", vec![super::file::text("mode", "reflect")]);
        let pool = node("MaxPool", "border", "y", vec![ints("kernel_shape", kernel), ints("strides", strides)]);
        file(vec![pad, pool], vec![longs("p", pads)])
    };
    let around = [0, 0, 1, 1, 0, 0, 1, 1];
    let file = mirrored(&around, &[3, 3], &[2, 2]);
    assert_eq!(line(&file), "[N, 4, 3, 3] = max_pool(%x) {3x3 stride 2x2 pad [1, 1, 1, 1]}");
    let model = verify(read(&bytes(&file), "test.onnx").unwrap()).unwrap();
    let x = Tensor::new([1, 4, 6, 6], (0..144).map(|i| -(i as f32)).collect());
    let y = Reference::new(&model).run(&[x]).unwrap().remove(0);
    assert_eq!(y.data[..3], [0.0, -1.0, -3.0]);
    let why = "mode `reflect` is supported in front of a max pool whose windows hold what they mirror";
    refused(&mirrored(&around, &[2, 2], &[1, 1]), why);
    refused(&mirrored(&[0, 1, 1, 1, 0, 0, 1, 1], &[3, 3], &[1, 1]), why);
    let mut read_twice = mirrored(&around, &[3, 3], &[1, 1]);
    read_twice.graph.as_mut().unwrap().node.push(node("Relu", "border", "z", vec![]));
    read_twice.graph.as_mut().unwrap().output.push(value("z", &[]));
    refused(&read_twice, why);
}

#[test]
fn what_depends_on_the_batch_in_other_ways_is_refused_by_node() {
    let long = |n: usize| TensorProto { dims: vec![n as i64], ..longs("many", &vec![1; n]) };
    let made = |more: Vec<NodeProto>| reshaped(with(batch(), more));
    let cases = [
        (made(vec![node("Mul", "b b", "t", vec![])]), "node `t` (Mul): of batch and batch it depends on the batch"),
        (made(vec![node("Add", "b one", "t", vec![])]), "node `t` (Add): of batch and 1 it depends on the batch"),
        (made(vec![node("Div", "b two", "t", vec![])]), "node `t` (Div): of batch and 2 it depends on the batch"),
        (made(vec![node("Div", "one l0", "t", vec![])]), "node `t` (Div): it divides by 0"),
        (made(vec![node("Sub", "l123 l02", "t", vec![])]), "lists of 3 and of 2 numbers do not fit each other"),
        (made(vec![node("Mul", "b two", "d", vec![]), join("d minus", "t")]), "to [2 * batch, -1] is not supported"),
        (made(vec![join("minus b", "t")]), "from [N, 4, 6, 6] to [-1, batch] is not supported"),
        (made(vec![gather("s", "l144", "t")]), "node `t` (Gather): an index is outside of the 4 numbers"),
        (made(vec![gather("s", "b", "t")]), "node `t` (Gather): its indices must be known"),
        (made(vec![gather("x", "zero", "t")]), "node `t` (Gather): on what the network computes it is not supported"),
        (made(vec![join("n b", "t")]), "node `t` (Concat): it joins lists, and one of its inputs is a single number"),
        (made(vec![node("Squeeze", "s l0", "t", vec![])]), "node `t` (Squeeze): it takes away an axis of 4 numbers"),
        (
            made(vec![node("Cast", "b", "t", vec![int("to", 1)])]),
            "node `t` (Cast): input 0 `b` is computed from shapes",
        ),
        (made(vec![node("Relu", "b", "t", vec![])]), "node `t` (Relu): input 0 `b` is computed from shapes"),
        (
            made(vec![node("ConstantOfShape", "b", "t", vec![])]),
            "node `t` (ConstantOfShape): `b` depends on the batch, which is known when the model runs",
        ),
        (made(vec![node("Reshape", "s l02", "t", vec![])]), "4 integers as [0, 2]; supported are lists"),
        (made(vec![node("Mul", "big big", "t", vec![])]), "is beyond 64 bits"),
        (made(vec![node("NonZero", "s", "t", vec![])]), "node `t` (NonZero): this operator is not supported"),
        (made(vec![join("many many", "t")]), "node `t` (Concat): it makes 80 numbers; a list of sizes has at most 64"),
        (made(vec![node("Shape", "nowhere", "t", vec![])]), "input 0 `nowhere` is made by no earlier node"),
        (
            made(vec![shape(), gather("s", "l0", "b2"), join("b2 minus", "t")]),
            "its output `s` is already made by something else",
        ),
    ];
    for (mut file, message) in cases {
        let constants = &mut file.graph.as_mut().unwrap().initializer;
        constants.extend([long(40), longs("big", &[i64::MAX])]);
        refused(&file, message);
    }
    let mut output = file(vec![shape(), gather("s", "zero", "y")], constants());
    refused(&output, "value `y`: an output that is a constant, or computed from shapes alone");
    output.graph.as_mut().unwrap().node.pop();
    let rows = vec![node("Conv", "x w", "y", vec![]), node("Shape", "y", "s", vec![]), gather("s", "two", "t")];
    let mut rows = with_input(&["N", "4", "6"], file(rows, [constants(), vec![floats("w", &[4, 4, 3])]].concat()));
    rows.graph.as_mut().unwrap().node.push(node("Reshape", "y t", "z", vec![]));
    rows.graph.as_mut().unwrap().output.push(value("z", &[]));
    refused(&rows, "the shapes of rows [N, C, W] are not supported");
}

#[test]
fn the_codes_of_quantised_constants_are_no_integers_to_compute_with() {
    let codes = TensorProto { data_type: data_type::INT32, int32_data: vec![7; 2], ..longs("q", &[]) };
    let codes = TensorProto { dims: vec![2], int64_data: Vec::new(), ..codes };
    let half = TensorProto { dims: Vec::new(), float_data: vec![0.5], raw_data: None, ..floats("half", &[]) };
    let nodes = vec![node("DequantizeLinear", "q half", "v", vec![]), node("Mul", "v v", "t", vec![])];
    let mut file = reshaped(nodes);
    file.graph.as_mut().unwrap().initializer.extend([codes, half]);
    refused(&file, "`t` must be an initialiser or come from a Constant node");
}
