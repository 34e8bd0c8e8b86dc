//! The architecture parameters alpha and beta.
//!
//! Takes the shape of a cell and a seed; gives the raw values (logits), their softmaxed form, which the supernet takes
//! as inputs, and the way back: gradients of the softmaxed values become gradients of the raw ones. One set of values
//! serves all normal cells, another all reduction cells. The optimiser is `adam`; what is read from the values,
//! `derive` and `stats`.

use std::ops::Range;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;
use serde::{Deserialize, Serialize};

use super::SearchError;

/// Every cell has two inputs: the results of the two cells before it.
pub const CELL_INPUTS: usize = 2;

/// The standard deviation of the values at the start.
const START: f32 = 1e-3;

/// What a searched cell looks like. Node `i` has an edge from each of the two cell inputs and of the nodes before it;
/// edges are numbered node by node and, within a node, input by input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArchShape {
    nodes: usize,
    primitives: usize,
    none: Option<usize>,
}

/// One number per edge and primitive, and one per edge, for one cell type: raw values, softmaxed ones, gradients or
/// moments.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CellValues {
    /// `[edges, primitives]`, row-major.
    pub alpha: Vec<f32>,
    /// `[edges]`.
    pub beta: Vec<f32>,
}

/// [`CellValues`] for both cell types.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArchValues {
    /// Of the normal cells.
    pub normal: CellValues,
    /// Of the reduction cells.
    pub reduce: CellValues,
}

/// The architecture parameters of a search.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Arch {
    /// The shape of both cell types.
    pub shape: ArchShape,
    /// Whether edges are weighted by beta (PC-DARTS); without, every edge weighs 1 and beta stays 0 (DARTS).
    pub edge_normalisation: bool,
    /// The raw values.
    pub values: ArchValues,
}

impl ArchShape {
    /// The cell of the DARTS papers: 4 nodes, 8 primitives, the first of which is `none`.
    pub const DARTS: Self = Self { nodes: 4, primitives: 8, none: Some(0) };

    /// A cell of `nodes` intermediate nodes and `primitives` primitives per edge; `none` is the index of the primitive
    /// that gives zeros and is never chosen.
    ///
    /// # Errors
    /// [`SearchError::Shape`] if there is no node or nothing to choose.
    pub fn new(nodes: usize, primitives: usize, none: Option<usize>) -> Result<Self, SearchError> {
        let wrong = |rule| SearchError::Shape { nodes, primitives, rule };
        if nodes == 0 {
            return Err(wrong("there must be a node"));
        }
        if none.is_some_and(|none| none >= primitives) {
            return Err(wrong("the primitive `none` must be one of them"));
        }
        if primitives == usize::from(none.is_some()) {
            return Err(wrong("there must be a primitive besides `none`"));
        }
        Ok(Self { nodes, primitives, none })
    }

    /// Intermediate nodes.
    pub fn nodes(&self) -> usize {
        self.nodes
    }

    /// Primitives per edge.
    pub fn primitives(&self) -> usize {
        self.primitives
    }

    /// Edges of a cell: 14 for 4 nodes.
    pub fn edges(&self) -> usize {
        self.first_edge(self.nodes)
    }

    /// The edges into `node`. The position of an edge in this range is its input: 0 and 1 are the cell's inputs, 2 is
    /// the first node.
    pub fn edges_into(&self, node: usize) -> Range<usize> {
        self.first_edge(node)..self.first_edge(node + 1)
    }

    /// The primitives that a genotype may have, by index: all but `none`.
    pub fn choices(&self) -> impl Iterator<Item = usize> + use<> {
        let none = self.none;
        (0..self.primitives).filter(move |&p| Some(p) != none)
    }

    /// The index of `none`, if it is among the primitives.
    pub fn none(&self) -> Option<usize> {
        self.none
    }

    fn first_edge(&self, node: usize) -> usize {
        // 2 + 3 + 4 + ... edges lead into the nodes before.
        node * (2 * CELL_INPUTS + node).saturating_sub(1) / 2
    }
}

impl CellValues {
    /// All zeros.
    pub fn zeros(shape: ArchShape) -> Self {
        Self { alpha: vec![0.0; shape.edges() * shape.primitives()], beta: vec![0.0; shape.edges()] }
    }

    /// All numbers: alpha, then beta.
    pub fn iter(&self) -> impl Iterator<Item = &f32> {
        self.alpha.iter().chain(&self.beta)
    }
}

impl ArchValues {
    /// All zeros.
    pub fn zeros(shape: ArchShape) -> Self {
        Self { normal: CellValues::zeros(shape), reduce: CellValues::zeros(shape) }
    }

    /// The Euclidean norm of all values together.
    pub fn norm(&self) -> f64 {
        let squares = self.normal.iter().chain(self.reduce.iter()).map(|&x| f64::from(x).powi(2));
        squares.sum::<f64>().sqrt()
    }

    /// Scales all values so that their norm is at most `limit`, as PyTorch's `clip_grad_norm_` does; gives the norm
    /// before.
    pub fn clip(&mut self, limit: f64) -> f64 {
        let norm = self.norm();
        let scale = limit / (norm + 1e-6);
        if scale < 1.0 {
            for values in self.parts_mut() {
                values.iter_mut().for_each(|x| *x *= scale as f32);
            }
        }
        norm
    }

    /// Checks that the values are those of cells of `shape` and all finite.
    ///
    /// # Errors
    /// [`SearchError::Length`] or [`SearchError::NotFinite`], naming the part.
    pub fn check(&self, shape: ArchShape) -> Result<(), SearchError> {
        for (what, values, per_edge) in [
            ("alpha of the normal cell", &self.normal.alpha, shape.primitives()),
            ("alpha of the reduction cell", &self.reduce.alpha, shape.primitives()),
            ("beta of the normal cell", &self.normal.beta, 1),
            ("beta of the reduction cell", &self.reduce.beta, 1),
        ] {
            let expected = shape.edges() * per_edge;
            if values.len() != expected {
                return Err(SearchError::Length { what, found: values.len(), expected });
            }
            if let Some(i) = values.iter().position(|x| !x.is_finite()) {
                return Err(SearchError::NotFinite { what, edge: i / per_edge, value: values[i] });
            }
        }
        Ok(())
    }

    /// Alpha and beta of the normal, then of the reduction cells.
    pub fn parts_mut(&mut self) -> [&mut Vec<f32>; 4] {
        [&mut self.normal.alpha, &mut self.normal.beta, &mut self.reduce.alpha, &mut self.reduce.beta]
    }

    /// Alpha and beta of the normal, then of the reduction cells.
    pub fn parts(&self) -> [&Vec<f32>; 4] {
        [&self.normal.alpha, &self.normal.beta, &self.reduce.alpha, &self.reduce.beta]
    }
}

impl Arch {
    /// Values from a normal distribution with standard deviation 0.001, fixed by `seed`.
    pub fn new(shape: ArchShape, edge_normalisation: bool, seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut draw = |count| (0..count).map(|_| START * rng.sample::<f32, _>(StandardNormal)).collect();
        let mut cell = || {
            let alpha = draw(shape.edges() * shape.primitives());
            let beta: Vec<f32> = draw(shape.edges());
            CellValues { alpha, beta: if edge_normalisation { beta } else { vec![0.0; shape.edges()] } }
        };
        let values = ArchValues { normal: cell(), reduce: cell() };
        Self { shape, edge_normalisation, values }
    }

    /// The weights that the supernet multiplies with: alpha softmaxed over the primitives of each edge, beta over the
    /// edges into each node, or 1 without edge normalisation.
    pub fn weights(&self) -> ArchValues {
        let cell = |values: &CellValues| CellValues {
            alpha: values.alpha.chunks(self.shape.primitives()).flat_map(softmax).collect(),
            beta: if self.edge_normalisation {
                self.nodes().flat_map(|edges| softmax(&values.beta[edges])).collect()
            } else {
                vec![1.0; values.beta.len()]
            },
        };
        ArchValues { normal: cell(&self.values.normal), reduce: cell(&self.values.reduce) }
    }

    /// Turns the gradient of [`Self::weights`] into the gradient of the raw values. Without edge normalisation the
    /// gradient of beta is 0.
    pub fn backward(&self, gradient: &ArchValues) -> ArchValues {
        let weights = self.weights();
        let cell = |soft: &CellValues, gradient: &CellValues| {
            let rows = soft.alpha.chunks(self.shape.primitives());
            let alpha = rows.zip(gradient.alpha.chunks(self.shape.primitives()));
            CellValues {
                alpha: alpha.flat_map(|(s, g)| softmax_backward(s, g)).collect(),
                beta: if self.edge_normalisation {
                    self.nodes().flat_map(|e| softmax_backward(&soft.beta[e.clone()], &gradient.beta[e])).collect()
                } else {
                    vec![0.0; soft.beta.len()]
                },
            }
        };
        ArchValues { normal: cell(&weights.normal, &gradient.normal), reduce: cell(&weights.reduce, &gradient.reduce) }
    }

    fn nodes(&self) -> impl Iterator<Item = Range<usize>> {
        let shape = self.shape;
        (0..shape.nodes()).map(move |node| shape.edges_into(node))
    }
}

/// `exp(x - max) / sum`, in the order in which PyTorch computes it.
pub fn softmax(row: &[f32]) -> Vec<f32> {
    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let powers: Vec<f32> = row.iter().map(|x| (x - max).exp()).collect();
    let sum: f32 = powers.iter().sum();
    powers.into_iter().map(|x| x / sum).collect()
}

/// The gradient of the logits of `soft`, from the gradient of `soft`.
fn softmax_backward(soft: &[f32], gradient: &[f32]) -> Vec<f32> {
    let mean: f32 = soft.iter().zip(gradient).map(|(s, g)| s * g).sum();
    soft.iter().zip(gradient).map(|(s, g)| s * (g - mean)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edges_are_numbered_node_by_node() {
        let shape = ArchShape::DARTS;
        assert_eq!(shape.edges(), 14);
        let ranges: Vec<_> = (0..4).map(|node| shape.edges_into(node)).collect();
        assert_eq!(ranges, [0..2, 2..5, 5..9, 9..14]);
        assert_eq!(ArchShape::new(5, 3, None).map(|s| s.edges()).ok(), Some(20));
        assert_eq!(shape.choices().collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6, 7]);
    }

    #[test]
    fn a_cell_without_choices_is_refused() {
        for (nodes, primitives, none, valid) in [
            (1, 1, None, true),
            (1, 2, Some(1), true),
            (0, 8, Some(0), false),
            (4, 0, None, false),
            (4, 1, Some(0), false),
            (4, 8, Some(8), false),
        ] {
            assert_eq!(ArchShape::new(nodes, primitives, none).is_ok(), valid, "{nodes} {primitives} {none:?}");
        }
    }

    #[test]
    fn the_seed_fixes_the_start_and_its_spread_is_a_thousandth() {
        let arch = Arch::new(ArchShape::DARTS, true, 7);
        assert_eq!(arch, Arch::new(ArchShape::DARTS, true, 7));
        assert_ne!(arch, Arch::new(ArchShape::DARTS, true, 8));
        assert_ne!(arch.values.normal, arch.values.reduce);
        arch.values.check(arch.shape).unwrap();
        let spread = arch.values.norm() / (2.0 * 126f64).sqrt();
        assert!((spread - 1e-3).abs() < 2e-4, "{spread}");
    }

    #[test]
    fn weights_sum_to_one_over_an_edge_and_over_the_edges_into_a_node() {
        let mut arch = Arch::new(ArchShape::DARTS, true, 1);
        arch.values.reduce.alpha[3] = 90.0;
        arch.values.normal.beta[0] = -200.0;
        let weights = arch.weights();
        for cell in [&weights.normal, &weights.reduce] {
            let rows = cell.alpha.chunks(8).chain((0..4).map(|n| &cell.beta[arch.shape.edges_into(n)]));
            for row in rows {
                assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-6, "{row:?}");
            }
        }
        assert_eq!(weights.normal.beta[..2], [0.0, 1.0]);
    }

    #[test]
    fn softmax_has_the_values_of_the_formula() {
        let found = softmax(&[0.0, 2f32.ln(), 5f32.ln()]);
        for (f, e) in found.iter().zip([0.125, 0.25, 0.625]) {
            assert!((f - e).abs() < 1e-6, "{found:?}");
        }
    }

    #[test]
    fn without_edge_normalisation_every_edge_weighs_one_and_beta_has_no_gradient() {
        let arch = Arch::new(ArchShape::DARTS, false, 1);
        assert_eq!(arch.weights().normal.beta, [1.0; 14]);
        let mut gradient = ArchValues::zeros(arch.shape);
        gradient.parts_mut().into_iter().for_each(|part| part.fill(2.0));
        let raw = arch.backward(&gradient);
        assert_eq!(
            (raw.normal.beta, raw.reduce.beta, arch.values.normal.beta),
            (vec![0.0; 14], vec![0.0; 14], vec![0.0; 14])
        );
    }

    #[test]
    fn the_gradient_is_that_of_finite_differences() {
        let shape = ArchShape::new(2, 3, Some(0)).unwrap();
        let mut arch = Arch::new(shape, true, 3);
        arch.values.parts_mut().into_iter().for_each(|part| part.iter_mut().for_each(|x| *x *= 700.0));
        // A loss that is linear in the weights, so that its gradient is the table of factors.
        let factor = |i: usize| ((i * 7919) % 23) as f32 / 11.0 - 1.0;
        let loss = |arch: &Arch| -> f64 {
            let weights = arch.weights();
            let all = weights.parts().into_iter().flatten().enumerate();
            all.map(|(i, w)| f64::from(*w) * f64::from(factor(i))).sum()
        };
        let mut gradient = ArchValues::zeros(shape);
        gradient.parts_mut().into_iter().flatten().enumerate().for_each(|(i, g)| *g = factor(i));
        let found: Vec<f32> = arch.backward(&gradient).parts().into_iter().flatten().copied().collect();
        for (i, found) in found.iter().enumerate() {
            let mut shifted = [arch.clone(), arch.clone()];
            for (arch, step) in shifted.iter_mut().zip([1e-2, -1e-2]) {
                *arch.values.parts_mut().into_iter().flatten().nth(i).unwrap() += step;
            }
            let expected = (loss(&shifted[0]) - loss(&shifted[1])) / 2e-2;
            assert!((f64::from(*found) - expected).abs() < 1e-4, "value {i}: {found} instead of {expected}");
        }
    }

    #[test]
    fn clipping_keeps_the_direction_and_reports_the_norm() {
        let mut values = ArchValues::zeros(ArchShape::DARTS);
        (values.normal.alpha[0], values.reduce.beta[13]) = (3.0, -4.0);
        let unchanged = values.clone();
        assert_eq!((values.clip(5.1), &values), (5.0, &unchanged));
        assert_eq!(values.clip(1.0), 5.0);
        assert!((values.norm() - 1.0).abs() < 1e-6);
        assert!((values.normal.alpha[0] + 0.75 * values.reduce.beta[13]).abs() < 1e-6);
    }

    #[test]
    fn values_of_another_cell_or_that_diverged_are_refused() {
        let shape = ArchShape::DARTS;
        let mut values = ArchValues::zeros(ArchShape::new(3, 8, Some(0)).unwrap());
        let message = values.check(shape).unwrap_err().to_string();
        assert!(message.contains("alpha of the normal cell has 72 values") && message.contains("112"), "{message}");
        values = ArchValues::zeros(shape);
        values.reduce.alpha[17] = f32::NAN;
        let message = values.check(shape).unwrap_err().to_string();
        assert!(message.contains("alpha of the reduction cell is NaN on edge 2"), "{message}");
    }

    #[test]
    fn a_checkpoint_gives_back_every_bit() {
        let arch = Arch::new(ArchShape::DARTS, true, 11);
        let read: Arch = serde_json::from_str(&serde_json::to_string(&arch).unwrap()).unwrap();
        let bits = |arch: &Arch| arch.values.parts().into_iter().flatten().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert_eq!((bits(&read), &read), (bits(&arch), &arch));
    }
}
