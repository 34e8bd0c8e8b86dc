//! Figures about the architecture weights, for the logs of a search.
//!
//! Takes the softmaxed weights of a cell, and what its backtracking did; gives how decided the weights are, what they
//! lean to, and the figures of backtracking over an epoch. Writing the log is left to the loop.

use serde::{Deserialize, Serialize};

use super::arch::{ArchShape, CellValues};
use super::backtrack::Backtracked;

/// What the weights of one cell type say.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CellStats {
    /// Entropy of alpha in nats, mean over the edges: from ln(primitives), undecided, to 0.
    pub alpha_entropy: f64,
    /// The same for every edge.
    pub edge_entropy: Vec<f64>,
    /// Entropy of beta in nats divided by its largest possible value, mean over the nodes: from 1, undecided (or
    /// without edge normalisation), to 0.
    pub beta_entropy: f64,
    /// For every primitive, the number of edges on which it is the strongest, `none` aside. Many skip connections are
    /// the mark of a collapsing search.
    pub strongest: Vec<usize>,
    /// Weight of every primitive, mean over the edges.
    pub share: Vec<f64>,
}

/// What backtracking did to one cell type in one epoch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MoveStats {
    /// How many edges were to be backtracked each time.
    pub zeta: usize,
    /// How often there was backtracking.
    pub times: usize,
    /// For every edge, how often it was backtracked.
    pub edges: Vec<usize>,
    /// `||move|| / ||a' - a||` over the whole cell, mean over the times; 0 if there were none.
    pub move_ratio: f64,
    /// The same with the norms over the backtracked edges alone.
    pub edges_move_ratio: f64,
    /// Share of the moved entries that the cap has bound.
    pub capped: f64,
    /// Entries of alpha that were moved.
    pub entries: usize,
}

impl MoveStats {
    /// No backtracking yet in a cell of `shape`.
    pub fn new(shape: ArchShape) -> Self {
        let edges = vec![0; shape.edges()];
        Self { zeta: 0, times: 0, edges, move_ratio: 0.0, edges_move_ratio: 0.0, capped: 0.0, entries: 0 }
    }

    /// Counts one backtracking of the cell.
    pub fn add(&mut self, done: &Backtracked) {
        let ratio = |norm: f64| if norm > 0.0 { done.move_norm / norm } else { 0.0 };
        let mean = |old: f64, new: f64, times: usize| old + (new - old) / times as f64;
        self.zeta = done.zeta;
        self.times += 1;
        done.edges.iter().for_each(|&edge| self.edges[edge] += 1);
        self.move_ratio = mean(self.move_ratio, ratio(done.step_norm), self.times);
        self.edges_move_ratio = mean(self.edges_move_ratio, ratio(done.edges_step_norm), self.times);
        let entries = done.edges.len() * done.moves.len() / self.edges.len();
        let bound = self.capped * self.entries as f64 + done.capped as f64;
        self.entries += entries;
        self.capped = bound / self.entries.max(1) as f64;
    }
}

/// The figures for the softmaxed `weights` of one cell type.
pub fn stats(shape: ArchShape, weights: &CellValues) -> CellStats {
    let edges = shape.edges() as f64;
    let rows = || weights.alpha.chunks(shape.primitives());
    let edge_entropy: Vec<f64> = rows().map(entropy).collect();
    let nodes = (0..shape.nodes()).map(|node| &weights.beta[shape.edges_into(node)]);
    let beta_entropy = nodes.map(|row| entropy(row) / (row.len() as f64).ln()).sum::<f64>() / shape.nodes() as f64;
    let mut strongest = vec![0; shape.primitives()];
    let mut share = vec![0.0; shape.primitives()];
    for row in rows() {
        let best = shape.choices().reduce(|best, p| if row[p] > row[best] { p } else { best });
        best.into_iter().for_each(|p| strongest[p] += 1);
        share.iter_mut().zip(row).for_each(|(sum, &w)| *sum += f64::from(w) / edges);
    }
    CellStats { alpha_entropy: edge_entropy.iter().sum::<f64>() / edges, edge_entropy, beta_entropy, strongest, share }
}

/// Of weights that need not sum to 1.
fn entropy(row: &[f32]) -> f64 {
    let sum: f64 = row.iter().map(|&w| f64::from(w)).sum();
    let logs = row.iter().map(|&w| f64::from(w) / sum).filter(|p| *p > 0.0).map(|p| p * p.ln());
    // Not the negated sum: that is -0 for decided weights.
    0.0 - logs.sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::search::arch::Arch;

    fn weights(change: impl Fn(&mut CellValues)) -> CellValues {
        let mut arch = Arch::new(ArchShape::DARTS, true, 0);
        arch.values.parts_mut().into_iter().for_each(|part| part.fill(0.0));
        change(&mut arch.values.normal);
        arch.weights().normal
    }

    #[test]
    fn equal_weights_have_the_largest_entropy() {
        let found = stats(ArchShape::DARTS, &weights(|_| {}));
        assert!((found.alpha_entropy - 8f64.ln()).abs() < 1e-6, "{found:?}");
        assert!((found.beta_entropy - 1.0).abs() < 1e-6, "{found:?}");
        assert_eq!(found.strongest, [0, 14, 0, 0, 0, 0, 0, 0]);
        assert!(found.share.iter().all(|s| (s - 0.125).abs() < 1e-6), "{found:?}");
    }

    #[test]
    fn a_decided_search_has_none_and_its_winners_are_counted() {
        let found = stats(
            ArchShape::DARTS,
            &weights(|values| {
                for edge in 0..14 {
                    values.alpha[edge * 8 + if edge < 5 { 3 } else { 0 }] = 100.0;
                    values.alpha[edge * 8 + 7] = 60.0;
                }
                [0, 4, 5, 13].into_iter().for_each(|edge| values.beta[edge] = 200.0);
            }),
        );
        assert_eq!(found.beta_entropy, 0.0);
        assert!(found.edge_entropy.iter().chain([&found.alpha_entropy]).all(|e| (0.0..1e-12).contains(e)), "{found:?}");
        assert_eq!(found.strongest, [0, 0, 0, 5, 0, 0, 0, 9]);
        assert!((found.share[0] - 9.0 / 14.0).abs() < 1e-6 && (found.share[3] - 5.0 / 14.0).abs() < 1e-6, "{found:?}");
    }

    #[test]
    fn an_epoch_of_moves_is_summed_up() {
        let shape = ArchShape::new(1, 2, None).unwrap();
        let mut found = MoveStats::new(shape);
        for (edges, move_norm, capped) in [(vec![], 0.0, 0), (vec![1], 3.0, 2), (vec![0, 1], 6.0, 1)] {
            let done = Backtracked {
                zeta: edges.len(),
                edges,
                moves: vec![0.0; 4],
                move_norm,
                step_norm: 6.0,
                edges_step_norm: move_norm * 2.0,
                capped,
            };
            found.add(&done);
        }
        assert_eq!((found.zeta, found.times, found.edges), (2, 3, vec![1, 2]));
        assert!((found.move_ratio - 0.5).abs() < 1e-12 && (found.edges_move_ratio - 1.0 / 3.0).abs() < 1e-12);
        assert!((found.capped - 0.5).abs() < 1e-12);
    }
}
