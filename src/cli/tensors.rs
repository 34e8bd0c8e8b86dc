//! Tensors for a model's inputs, and of its outputs.
//!
//! Takes seeds and whole tensors; gives the inputs of single runs of a fixed number of images, and joins
//! the outputs of those runs. Running is left to `validation` and `run`.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

use crate::ir::{Graph, Tensor};

/// Standard normal inputs for every input of `graph`, for `rows` images; `run` numbers the draws of one seed.
pub fn random_inputs(graph: &Graph, rows: usize, seed: u64, run: u64) -> Vec<Tensor> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(run);
    let shapes = graph.inputs.iter().map(|v| graph.shape(*v).with_batch(rows));
    shapes
        .map(|shape| {
            let elements = shape.iter().product();
            Tensor::new(shape, StandardNormal.sample_iter(&mut rng).take(elements).collect())
        })
        .collect()
}

/// The rows from `start` on, `rows` of them; where `tensor` ends, zeros follow.
pub fn slice_rows(tensor: &Tensor, start: usize, rows: usize) -> Tensor {
    let width: usize = tensor.shape.iter().skip(1).product();
    let from = (start * width).min(tensor.data.len());
    let to = ((start + rows) * width).min(tensor.data.len());
    let mut data = tensor.data[from..to].to_vec();
    data.resize(rows * width, 0.0);
    let mut shape = tensor.shape.clone();
    if let Some(first) = shape.first_mut() {
        *first = rows;
    }
    Tensor::new(shape, data)
}

/// Appends the first `keep` rows of each output of a run over `rows` images. An output without such rows is kept whole.
pub fn append_rows(all: &mut Vec<Tensor>, outputs: Vec<Tensor>, rows: usize, keep: usize) {
    let part = outputs.into_iter().map(|t| if t.shape.first() == Some(&rows) { slice_rows(&t, 0, keep) } else { t });
    if all.is_empty() {
        all.extend(part);
        return;
    }
    for (whole, part) in all.iter_mut().zip(part) {
        if let (Some(height), Some(more)) = (whole.shape.first_mut(), part.shape.first()) {
            *height += more;
            whole.data.extend(part.data);
        }
    }
}

/// The place of the largest element; the first of several.
pub fn argmax(row: &[f32]) -> usize {
    (1..row.len()).fold(0, |best, i| if row[i] > row[best] { i } else { best })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_that_are_cut_and_joined_are_the_rows_again() {
        let whole = Tensor::new([5, 3], (0..15).map(|i| i as f32).collect());
        let mut joined = Vec::new();
        for start in [0, 2, 4] {
            append_rows(&mut joined, vec![slice_rows(&whole, start, 2)], 2, 2.min(5 - start));
        }
        assert_eq!(joined, [whole]);
    }

    #[test]
    fn random_inputs_are_a_function_of_seed_and_run() {
        let mut b = crate::ir::Builder::new("g");
        let x = b.input("input", crate::ir::Shape::image(3, 4, 4));
        b.output("out", x);
        let graph = b.finish();
        let draw = |seed, run| random_inputs(&graph, 2, seed, run);
        assert_eq!(draw(1, 0), draw(1, 0));
        assert_eq!(draw(1, 0)[0].shape, [2, 3, 4, 4]);
        assert!(draw(1, 0) != draw(1, 1) && draw(1, 0) != draw(2, 0));
    }
}
