//! The operations of imported models, each in float64.
//!
//! Takes and gives tensors as the other files here.

use super::wide::Wide;
use crate::ir::{Arithmetic, Imported, Op, Weights};

/// The value of a node without inputs, which is a constant.
pub fn constant(op: &Op, weights: &Weights) -> Wide {
    match op.params().first() {
        Some(value) => Wide::from(weights.get(*value)),
        None => Wide::new([0], Vec::new()),
    }
}

pub fn evaluate(op: &Imported, inputs: &[&Wide], weights: &Weights) -> Wide {
    match op {
        Imported::Constant(value) => Wide::from(weights.get(*value)),
        Imported::Elementwise(Arithmetic::Add) => elementwise(inputs[0], inputs[1], |a, b| a + b),
        Imported::Elementwise(Arithmetic::Multiply) => elementwise(inputs[0], inputs[1], |a, b| a * b),
        Imported::Gemm { alpha, beta, transpose } => gemm(inputs, *alpha, *beta, *transpose),
        Imported::Softmax { axis } => softmax(inputs[0], *axis),
        Imported::Lrn { size, alpha, beta, bias } => {
            lrn(inputs[0], *size, f64::from(*alpha), f64::from(*beta), f64::from(*bias))
        }
    }
}

fn elementwise(a: &Wide, b: &Wide, of: impl Fn(f64, f64) -> f64) -> Wide {
    let rank = a.shape.len().max(b.shape.len());
    let size = |x: &Wide, i: usize| (i + x.shape.len()).checked_sub(rank).map_or(1, |i| x.shape[i]);
    let shape: Vec<usize> = (0..rank).map(|i| if size(a, i) == 1 { size(b, i) } else { size(a, i) }).collect();
    let place = |x: &Wide, flat: usize| {
        let (mut rest, mut place, mut stride) = (flat, 0, 1);
        for i in (0..rank).rev() {
            let n = size(x, i);
            place += if n == 1 { 0 } else { rest % shape[i] * stride };
            rest /= shape[i];
            stride *= n;
        }
        place
    };
    let count = shape.iter().product();
    let data = (0..count).map(|i| of(a.data[place(a, i)], b.data[place(b, i)])).collect();
    Wide::new(shape, data)
}

fn gemm(inputs: &[&Wide], alpha: f32, beta: f32, [of_a, of_b]: [bool; 2]) -> Wide {
    let (a, b) = (inputs[0], inputs[1]);
    let size = |x: &Wide, transposed: bool| {
        let [rows, columns] = [x.shape[0], x.shape[1]];
        if transposed { [columns, rows] } else { [rows, columns] }
    };
    let ([rows, inner], [_, columns]) = (size(a, of_a), size(b, of_b));
    let at = |x: &Wide, transposed: bool, i: usize, j: usize| {
        let (i, j) = if transposed { (j, i) } else { (i, j) };
        x.data[i * x.shape[1] + j]
    };
    let places = (0..rows).flat_map(|i| (0..columns).map(move |j| (i, j)));
    let products = places.map(|(i, j)| {
        let dot: f64 = (0..inner).map(|k| at(a, of_a, i, k) * at(b, of_b, k, j)).sum();
        f64::from(alpha) * dot
    });
    let zeros = Wide::new([1], vec![0.0]);
    let spread =
        elementwise(&Wide::new([rows, columns], vec![0.0; rows * columns]), inputs.get(2).unwrap_or(&&zeros), |_, c| c);
    let data = products.zip(spread.data).map(|(dot, c)| dot + f64::from(beta) * c).collect();
    Wide::new([rows, columns], data)
}

fn softmax(x: &Wide, axis: usize) -> Wide {
    let (len, inner) = (x.shape[axis], x.shape[axis + 1..].iter().product::<usize>());
    let mut data = vec![0.0; x.data.len()];
    let lines = (0..x.data.len() / (len * inner).max(1)).flat_map(|o| (0..inner).map(move |i| o * len * inner + i));
    for start in lines {
        let line = || (0..len).map(|k| start + k * inner);
        let largest = line().map(|i| x.data[i]).fold(f64::NEG_INFINITY, f64::max);
        let power = |i: usize| (x.data[i] - largest).exp();
        let sum: f64 = line().map(power).sum();
        line().for_each(|i| data[i] = power(i) / sum);
    }
    Wide::new(x.shape.clone(), data)
}

fn lrn(x: &Wide, size: usize, alpha: f64, beta: f64, bias: f64) -> Wide {
    let (channels, pixels) = (x.shape[1], x.shape[2] * x.shape[3]);
    let before = (size - 1) / 2;
    let at = |i: usize| {
        let c = i / pixels % channels;
        let first = c.saturating_sub(before);
        let squares = (first..(c + size - before).min(channels)).map(|k| x.data[i - c * pixels + k * pixels].powi(2));
        let mean = alpha / size as f64 * squares.sum::<f64>();
        x.data[i] / (bias + mean).powf(beta)
    };
    Wide::new(x.shape.clone(), (0..x.data.len()).map(at).collect())
}
