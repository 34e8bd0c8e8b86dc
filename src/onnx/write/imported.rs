//! What came from models of other programs, as the nodes it came from.
//!
//! Takes nodes; adds theirs. A channel shuffle is three: ONNX has no operator for it.

use super::Writer;
use super::node::{Translation, float, int, ints};
use crate::ir::{Arithmetic, Dim, Imported, Node, Shape};

/// The operator of `op` with its attributes.
pub(super) fn translate(op: &Imported) -> Translation {
    match op {
        // The initialiser itself is read; the node is not written.
        Imported::Constant(_) => ("Identity", Vec::new()),
        Imported::Elementwise(Arithmetic::Add) => ("Add", Vec::new()),
        Imported::Elementwise(Arithmetic::Multiply) => ("Mul", Vec::new()),
        Imported::Gemm { alpha, beta, transpose } => {
            let [a, b] = transpose.map(i64::from);
            ("Gemm", vec![float("alpha", *alpha), float("beta", *beta), int("transA", a), int("transB", b)])
        }
        Imported::Softmax { axis } => ("Softmax", vec![int("axis", *axis as i64)]),
        Imported::Lrn { size, alpha, beta, bias } => {
            let numbers = [float("alpha", *alpha), float("beta", *beta), float("bias", *bias)];
            ("LRN", numbers.into_iter().chain([int("size", *size as i64)]).collect())
        }
    }
}

impl Writer<'_> {
    /// Writes a shuffle of `groups`: channels as a matrix, transposed, and as channels again. Gives the name of the result.
    pub(super) fn channel_shuffle(&mut self, node: &Node, groups: usize) -> String {
        let graph = &self.model.graph;
        let shape = graph.shape(node.output).clone();
        let path = graph.value(node.output).name.clone();
        let of_axis = |axis: usize| shape.dim(axis).unwrap_or(1);
        let [c, h, w] = [1, 2, 3].map(of_axis);
        // 0 keeps the batch whatever it is.
        let split = [0, groups, c / groups, h, w].map(|n| n as i64);
        let joined = [0, c, h, w].map(|n| n as i64);
        let matrix = |rows: usize, columns: usize| {
            Shape([shape.0[0]].into_iter().chain([rows, columns, h, w].map(Dim::Fixed)).collect())
        };
        let read = vec![self.name(node.inputs[0]), self.integers(&split)];
        let made = self.names.value(&format!("{path}/split"));
        self.push(&format!("{}/split", node.name), "Reshape", read, &made, Vec::new(), &matrix(groups, c / groups));
        let turned = self.names.value(&format!("{path}/transposed"));
        let swap = vec![ints("perm", [0, 2, 1, 3, 4])];
        let name = format!("{}/transpose", node.name);
        self.push(&name, "Transpose", vec![made], &turned, swap, &matrix(c / groups, groups));
        let result = self.result_name(node.output, &path);
        let read = vec![turned, self.integers(&joined)];
        self.push(&node.name, "Reshape", read, &result, Vec::new(), &shape);
        result
    }
}
