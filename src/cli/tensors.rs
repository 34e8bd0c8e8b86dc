//! Tensors for a model's inputs, and of its outputs.
//!
//! Takes safetensors files, seeds and whole tensors; gives the inputs of single runs of a fixed number of images, and joins
//! the outputs of those runs. Running is left to `validation` and `run`.

use std::path::Path;

use anyhow::{Context, Result, bail};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};

use crate::ir::{Graph, Tensor};

/// Named tensors of one file.
pub struct TensorFile {
    file: String,
    tensors: Vec<(String, Tensor)>,
}

impl TensorFile {
    /// Reads the float tensors of a safetensors file.
    ///
    /// # Errors
    /// The file cannot be read, or is no safetensors file.
    pub fn read(path: &Path) -> Result<Self> {
        let file = path.display().to_string();
        let bytes = std::fs::read(path).with_context(|| format!("cannot read {file}"))?;
        let parsed = SafeTensors::deserialize(&bytes)
            .with_context(|| format!("{file} is no readable safetensors file (is it complete?)"))?;
        let mut tensors: Vec<(String, Tensor)> =
            parsed.tensors().into_iter().filter_map(|(name, view)| Some((name, floats(&view)?))).collect();
        tensors.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(Self { file, tensors })
    }

    /// The tensor called like the first of `names` that the file has.
    pub fn find(&self, names: &[&str]) -> Option<Tensor> {
        let named = |name: &&str| self.tensors.iter().find(|(known, _)| known == name);
        names.iter().find_map(named).map(|(_, tensor)| tensor.clone())
    }

    /// As [`Self::find`]; the only tensor of the file may have any name.
    ///
    /// # Errors
    /// There is none, with the tensors there are.
    pub fn get(&self, names: &[&str]) -> Result<Tensor> {
        if let Some(tensor) = self.find(names) {
            return Ok(tensor);
        }
        match &self.tensors[..] {
            [(_, only)] => Ok(only.clone()),
            [] => bail!("{}: no tensor of type F32 or F64; it needs `{}`", self.file, names.join("` or `")),
            several => {
                let have: Vec<&str> = several.iter().map(|(name, _)| name.as_str()).collect();
                bail!("{}: no tensor `{}`; it has {}", self.file, names.join("` or `"), have.join(", "))
            }
        }
    }
}

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

fn floats(view: &TensorView) -> Option<Tensor> {
    let bytes = view.data();
    let data = match view.dtype() {
        Dtype::F32 => bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
        Dtype::F64 => {
            let wide = |b: &[u8]| f64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]);
            bytes.chunks_exact(8).map(|b| wide(b) as f32).collect()
        }
        _ => return None,
    };
    Some(Tensor::new(view.shape(), data))
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

    #[test]
    fn a_tensor_is_found_by_name_and_a_single_one_by_being_alone() {
        let file = |names: &[&str]| TensorFile {
            file: "f".into(),
            tensors: names.iter().map(|n| (n.to_string(), Tensor::new([1], vec![1.0]))).collect(),
        };
        assert!(file(&["images", "logits"]).get(&["input", "images"]).is_ok());
        assert!(file(&["x"]).get(&["input", "images"]).is_ok());
        let error = file(&["x", "y"]).get(&["input", "images"]).unwrap_err().to_string();
        assert_eq!(error, "f: no tensor `input` or `images`; it has x, y");
    }
}
