//! Backtracking of alpha by beta (IDARTS, Eq. 5-14).
//!
//! Takes raw alpha and beta before and after an optimiser step, and the gradient of raw beta before weight decay; gives
//! the moves of alpha. The paper leaves several points open: each is a switch of [`Backtracking`], the variants say
//! what it means, and the first variant is the one that is used unless told otherwise. Computed in float64. When an
//! epoch starts, what the step is and where the figures are logged is left to the search loop.
//!
//! `a`, `b` stand for raw alpha and beta before the step, `a'`, `b'` for those after it, `g` for the gradient of `b`,
//! `l` for an edge, `m` for a primitive. Beta and the optimiser's moments stay as they are; the next step starts from
//! the moved alpha.

use serde::{Deserialize, Serialize};

use super::arch::{ArchShape, CellValues};

/// What backtracking does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Backtracking {
    /// T: the first epoch with backtracking, from 0.
    pub start: usize,
    /// Backtracked share of the edges, per epoch since the start (Eq. 14).
    pub lambda: f64,
    /// The weight of backtracking (Eq. 5). With 0 the search is PC-DARTS, bit for bit.
    pub eta2: f64,
    /// How the number of backtracked edges runs.
    pub zeta: Zeta,
    /// Which edges are backtracked first.
    pub order: Order,
    /// What the edges are ranked by.
    pub rank: Rank,
    /// What one move is.
    pub reading: Reading,
    /// What stands for alpha in the edge reading.
    pub alpha: Alpha,
    /// The factor of the moves.
    pub eta: Eta,
    /// Which way alpha is moved.
    pub sign: Sign,
    /// How often.
    pub cadence: Cadence,
    /// The ratio of the changes of beta and alpha, which stands for their derivative, is kept within this of 0.
    pub ratio_limit: f64,
    /// Divisors are kept at least this far from 0.
    pub guard: f64,
    /// Whether the size of each move is kept within eta1, the size of one optimiser step.
    pub cap: bool,
}

/// How zeta, the number of backtracked edges, runs over the epochs t (Eq. 14). S is the number of epochs, L that of
/// edges.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Zeta {
    /// `floor((t - T) lambda L)`: "zeta will be increased during searching".
    Growing,
    /// `floor((S - T) lambda L)` from the start: the formula as printed.
    Constant,
}

/// Which edges come first in the ranking; ties go to the lower index (Eq. 13).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// Those with the smallest weight.
    Ascending,
    /// Those with the largest.
    Descending,
}

/// What the edges are ranked by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rank {
    /// `|b'|`.
    Raw,
    /// `b'` softmaxed over the edges into each node.
    Softmax,
}

/// What one move is before the factor eta; `ratio[l, m]` is `(b'_l - b_l) / (a'[l, m] - a[l, m])`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reading {
    /// The shape of Eq. 12: `gamma_l a[l, m]` with `gamma_l = g_l sum_m ratio[l, m] / a[l, m]`.
    Edge,
    /// The chain rule, in which the division by alpha of Eq. 6 cancels: `g_l ratio[l, m]`.
    Element,
}

/// What stands for alpha in the division and the product of [`Reading::Edge`]; the ratio is one of raw values with
/// both, because `g` is the gradient of raw beta and the move is one of raw alpha. [`Reading::Element`] has no alpha.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Alpha {
    /// `a`, the parameters that Eq. 12 updates.
    Raw,
    /// `a` softmaxed over the primitives of the edge, which is what Eq. 1 calls alpha.
    Softmax,
}

/// The factor eta of the moves; eta1 is the learning rate of alpha.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Eta {
    /// `eta1 eta2`, as printed below Eq. 12.
    Product,
    /// `eta2` alone.
    Eta2,
}

/// Which way alpha is moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sign {
    /// The moves are added, as in Eq. 12.
    Ascent,
    /// The moves are subtracted, so that in the chain-rule reading they go down the loss.
    Descent,
}

/// How often alpha is backtracked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cadence {
    /// After every architecture step.
    Step,
    /// After the last architecture step of an epoch, by the changes of that step.
    Epoch,
}

/// Raw values of one cell around one optimiser step, `[edges, primitives]` and `[edges]`.
#[derive(Debug, Clone, Copy)]
pub struct Around<'a> {
    /// `a`.
    pub alpha: &'a [f64],
    /// `a'`.
    pub alpha_after: &'a [f64],
    /// `b`.
    pub beta: &'a [f64],
    /// `b'`.
    pub beta_after: &'a [f64],
    /// `g`.
    pub beta_gradient: &'a [f64],
}

/// What one backtracking did to one cell type.
#[derive(Debug, Clone, PartialEq)]
pub struct Backtracked {
    /// How many edges were to be backtracked.
    pub zeta: usize,
    /// The backtracked edges, ascending.
    pub edges: Vec<usize>,
    /// What is added to alpha, `[edges, primitives]`; 0 on the other edges.
    pub moves: Vec<f64>,
    /// Norm of the moves.
    pub move_norm: f64,
    /// Norm of `a' - a` over all edges.
    pub step_norm: f64,
    /// Norm of `a' - a` over the backtracked edges alone.
    pub edges_step_norm: f64,
    /// On how many entries of the backtracked edges the cap has bound.
    pub capped: usize,
}

impl Backtracking {
    /// How many of `edges` edges are backtracked in `epoch` of `epochs`; none before the start.
    pub fn zeta(&self, epoch: usize, epochs: usize, edges: usize) -> usize {
        if epoch < self.start {
            return 0;
        }
        let span = match self.zeta {
            Zeta::Growing => epoch - self.start,
            Zeta::Constant => epochs.saturating_sub(self.start),
        };
        // The products that are meant to be whole must not fall below by rounding.
        let zeta = (span as f64 * self.lambda * edges as f64 + 1e-9).floor();
        (zeta as usize).min(edges)
    }

    /// Whether alpha is backtracked after architecture step `step` of `steps` of an epoch, both counted from 0.
    pub fn due(&self, step: usize, steps: usize) -> bool {
        match self.cadence {
            Cadence::Step => true,
            Cadence::Epoch => step + 1 == steps,
        }
    }

    /// The moves of `zeta` edges of a cell; `eta1` is the learning rate of alpha.
    pub fn moves(&self, shape: ArchShape, zeta: usize, eta1: f64, around: Around) -> Backtracked {
        let primitives = shape.primitives();
        let eta = match self.eta {
            Eta::Product => eta1 * self.eta2,
            Eta::Eta2 => self.eta2,
        };
        let signed = match self.sign {
            Sign::Ascent => eta,
            Sign::Descent => -eta,
        };
        let edges = self.select(shape, zeta, around.beta_after);
        let mut moves = vec![0.0; around.alpha.len()];
        let mut capped = 0;
        for &edge in &edges {
            let row = edge * primitives..(edge + 1) * primitives;
            for (to, step) in moves[row].iter_mut().zip(self.edge(primitives, edge, around)) {
                let wanted = signed * step;
                *to = if self.cap { wanted.clamp(-eta1, eta1) } else { wanted };
                capped += usize::from(*to != wanted);
            }
        }
        let steps: Vec<f64> =
            around.alpha_after.iter().zip(around.alpha).map(|(after, before)| after - before).collect();
        let rows = edges.iter().flat_map(|e| &steps[e * primitives..][..primitives]);
        let (move_norm, step_norm, edges_step_norm) = (norm(&moves), norm(&steps), norm(rows));
        Backtracked { zeta, edges, moves, move_norm, step_norm, edges_step_norm, capped }
    }

    /// Moves the raw alpha of one cell type: `after` as the optimiser left it, `before` as it was before the step.
    pub fn apply(
        &self,
        shape: ArchShape,
        zeta: usize,
        eta1: f64,
        before: &CellValues,
        after: &mut CellValues,
        beta_gradient: &[f32],
    ) -> Backtracked {
        let wide = |values: &[f32]| values.iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
        let around = Around {
            alpha: &wide(&before.alpha),
            alpha_after: &wide(&after.alpha),
            beta: &wide(&before.beta),
            beta_after: &wide(&after.beta),
            beta_gradient: &wide(beta_gradient),
        };
        let backtracked = self.moves(shape, zeta, eta1, around);
        for (alpha, &step) in after.alpha.iter_mut().zip(&backtracked.moves) {
            // Adding 0 would turn -0 into 0, and what is not moved must keep every bit.
            if step != 0.0 {
                *alpha = (f64::from(*alpha) + step) as f32;
            }
        }
        backtracked
    }

    /// The first `zeta` edges of the ranking, ascending by index.
    fn select(&self, shape: ArchShape, zeta: usize, beta: &[f64]) -> Vec<usize> {
        let keys: Vec<f64> = match self.rank {
            Rank::Raw => beta.iter().map(|b| b.abs()).collect(),
            Rank::Softmax => (0..shape.nodes()).flat_map(|node| softmax(&beta[shape.edges_into(node)])).collect(),
        };
        let mut edges: Vec<usize> = (0..shape.edges()).collect();
        // Stable, so that ties keep the order of the indices in both directions.
        match self.order {
            Order::Ascending => edges.sort_by(|&x, &y| keys[x].total_cmp(&keys[y])),
            Order::Descending => edges.sort_by(|&x, &y| keys[y].total_cmp(&keys[x])),
        }
        edges.truncate(zeta);
        edges.sort_unstable();
        edges
    }

    /// The moves of one edge before the factor.
    fn edge(&self, primitives: usize, edge: usize, around: Around) -> Vec<f64> {
        let row = edge * primitives..(edge + 1) * primitives;
        let (before, after) = (&around.alpha[row.clone()], &around.alpha_after[row]);
        let change = around.beta_after[edge] - around.beta[edge];
        let limit = self.ratio_limit;
        let ratio = before.iter().zip(after).map(|(b, a)| (change / self.guarded(a - b)).clamp(-limit, limit));
        let gradient = around.beta_gradient[edge];
        let alpha = match (self.reading, self.alpha) {
            (Reading::Element, _) => return ratio.map(|r| gradient * r).collect(),
            (Reading::Edge, Alpha::Raw) => before.to_vec(),
            (Reading::Edge, Alpha::Softmax) => softmax(before),
        };
        let gamma = gradient * ratio.zip(&alpha).map(|(r, &a)| r / self.guarded(a)).sum::<f64>();
        alpha.iter().map(|a| gamma * a).collect()
    }

    /// `x`, or the guard with its sign if `x` is nearer to 0; 0 counts as positive.
    fn guarded(&self, x: f64) -> f64 {
        let size = x.abs().max(self.guard);
        if x < 0.0 { -size } else { size }
    }
}

fn softmax(row: &[f64]) -> Vec<f64> {
    let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = row.iter().map(|x| (x - max).exp()).sum();
    row.iter().map(|x| (x - max).exp() / sum).collect()
}

fn norm<'a>(values: impl IntoIterator<Item = &'a f64>) -> f64 {
    values.into_iter().map(|x| x * x).sum::<f64>().sqrt()
}

#[cfg(test)]
mod in_a_search;
#[cfg(test)]
mod settings;
#[cfg(test)]
mod tests;
