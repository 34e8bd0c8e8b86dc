//! The genotype rule: from architecture weights to the choice of a discrete cell.
//!
//! Takes the softmaxed weights of a cell; gives for every node its two strongest inputs with the best primitive on
//! each. The names of primitives and the genotype file are left to the module `genotype`.

use serde::{Deserialize, Serialize};

use super::SearchError;
use super::arch::{ArchShape, ArchValues, CellValues};

/// One edge that is kept.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Choice {
    /// The index of the primitive in the search space.
    pub primitive: usize,
    /// Where the edge comes from: 0 and 1 are the cell's inputs, 2 is the first node.
    pub input: usize,
    /// Softmaxed alpha times softmaxed beta.
    pub score: f32,
}

/// The choices of both cell types, per node, the stronger edge first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Derived {
    /// Of the normal cells.
    pub normal: Vec<[Choice; 2]>,
    /// Of the reduction cells.
    pub reduce: Vec<[Choice; 2]>,
}

/// Applies the rule to both cell types. `weights` are softmaxed, as [`super::arch::Arch::weights`] gives them.
///
/// The score of primitive `m` on edge `l` is `alpha[l, m] * beta[l]`. On an edge the primitive with the largest score
/// counts, `none` aside; into a node the two edges with the largest such scores are kept. Ties go to the lower index.
///
/// # Errors
/// [`SearchError::NotFinite`] or [`SearchError::Length`], because NaN has no order and another shape no meaning.
pub fn derive(shape: ArchShape, weights: &ArchValues) -> Result<Derived, SearchError> {
    weights.check(shape)?;
    Ok(Derived { normal: cell(shape, &weights.normal), reduce: cell(shape, &weights.reduce) })
}

fn cell(shape: ArchShape, weights: &CellValues) -> Vec<[Choice; 2]> {
    let best = |edge: usize, input: usize| {
        let row = &weights.alpha[edge * shape.primitives()..][..shape.primitives()];
        let score = |p: usize| row[p] * weights.beta[edge];
        let first = shape.choices().next().expect("an ArchShape has a primitive besides none");
        // Strictly larger: of equal scores the first stays.
        let primitive = shape.choices().fold(first, |best, p| if score(p) > score(best) { p } else { best });
        Choice { primitive, input, score: score(primitive) }
    };
    let node = |node: usize| {
        let edges = shape.edges_into(node).enumerate();
        let mut choices: Vec<Choice> = edges.map(|(input, edge)| best(edge, input)).collect();
        // The sort is stable, so equal edges keep their order.
        choices.sort_by(|a, b| b.score.total_cmp(&a.score));
        [choices[0], choices[1]]
    };
    (0..shape.nodes()).map(node).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::search::arch::Arch;
    use crate::search::reference::fixture;

    /// Primitive and input per node.
    fn pairs(nodes: &[[Choice; 2]]) -> Vec<[(usize, usize); 2]> {
        nodes.iter().map(|n| n.map(|c| (c.primitive, c.input))).collect()
    }

    /// One node (or more) of four primitives, the first of which is `none`.
    fn check(nodes: usize, alpha: &[[f32; 4]], beta: &[f32], expected: &[[(usize, usize); 2]]) {
        let shape = ArchShape::new(nodes, 4, Some(0)).unwrap();
        let values = CellValues { alpha: alpha.concat(), beta: beta.to_vec() };
        let derived = derive(shape, &ArchValues { normal: values.clone(), reduce: values }).unwrap();
        assert_eq!(pairs(&derived.normal), expected, "{alpha:?} {beta:?}");
        assert_eq!(derived.reduce, derived.normal);
    }

    #[test]
    fn the_strongest_edges_come_first_and_beta_counts() {
        let alpha = [[0.1, 0.2, 0.3, 0.4], [0.1, 0.6, 0.2, 0.1]];
        check(1, &alpha, &[0.5, 0.5], &[[(1, 1), (3, 0)]]);
        check(1, &alpha, &[0.7, 0.3], &[[(3, 0), (1, 1)]]);
    }

    #[test]
    fn none_is_never_chosen_and_does_not_strengthen_its_edge() {
        check(1, &[[0.97, 0.01, 0.01, 0.01], [0.4, 0.1, 0.3, 0.2]], &[0.5, 0.5], &[[(2, 1), (1, 0)]]);
    }

    #[test]
    fn ties_go_to_the_lower_primitive_and_the_lower_edge() {
        let flat = [0.25; 4];
        check(1, &[flat, flat], &[0.5, 0.5], &[[(1, 0), (1, 1)]]);
        let [weak, strong] = [[0.4, 0.2, 0.2, 0.2], [0.2, 0.2, 0.3, 0.3]];
        let alpha = [flat, flat, weak, strong, strong];
        let third = 1.0 / 3.0;
        check(2, &alpha, &[0.5, 0.5, third, third, third], &[[(1, 0), (1, 1)], [(2, 1), (2, 2)]]);
    }

    #[test]
    fn of_three_equal_edges_the_first_two_stay_in_their_order() {
        let flat = [0.25; 4];
        let [half, third] = [0.5, 1.0 / 3.0];
        let beta = [half, half, third, third, third];
        check(2, &[flat; 5], &beta, &[[(1, 0), (1, 1)], [(1, 0), (1, 1)]]);
        // The strongest comes first wherever it stands; the place behind it goes to the lower of the equal ones.
        let strong = [0.1, 0.1, 0.1, 0.7];
        for (place, expected) in [(2, [(3, 0), (1, 1)]), (3, [(3, 1), (1, 0)]), (4, [(3, 2), (1, 0)])] {
            let mut alpha = [flat; 5];
            alpha[place] = strong;
            check(2, &alpha, &beta, &[[(1, 0), (1, 1)], expected]);
        }
    }

    #[test]
    fn scores_are_compared_and_not_their_factors() {
        // 0.5 * 0.25 on one edge, 0.25 * 0.5 on the other: exactly equal, so the lower edge comes first.
        check(1, &[[0.25, 0.25, 0.25, 0.25], [0.25, 0.25, 0.5, 0.0]], &[0.5, 0.25], &[[(1, 0), (2, 1)]]);
        check(1, &[[0.25, 0.25, 0.5, 0.0], [0.25, 0.25, 0.25, 0.25]], &[0.25, 0.5], &[[(2, 0), (1, 1)]]);
    }

    #[test]
    fn none_is_never_chosen_wherever_it_stands() {
        for none in 0..3 {
            let shape = ArchShape::new(1, 3, Some(none)).unwrap();
            let row: Vec<f32> = (0..3).map(|p| if p == none { 0.8 } else { 0.1 }).collect();
            let values = CellValues { alpha: [row.clone(), row].concat(), beta: vec![0.5, 0.5] };
            let derived = derive(shape, &ArchValues { normal: values.clone(), reduce: values }).unwrap();
            let first = if none == 0 { 1 } else { 0 };
            assert_eq!(pairs(&derived.normal), [[(first, 0), (first, 1)]]);
        }
    }

    /// Few distinct values, so that ties are everywhere.
    #[test]
    fn the_rule_holds_for_any_weights_and_ties() {
        let shape = ArchShape::DARTS;
        let mut state = 1u32;
        let mut draw = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (1 + (state >> 24) % 3) as f32 / 4.0
        };
        for _ in 0..200 {
            let mut values = ArchValues::zeros(shape);
            values.parts_mut().into_iter().flatten().for_each(|x| *x = draw());
            let derived = derive(shape, &values).unwrap();
            for (nodes, values) in [(&derived.normal, &values.normal), (&derived.reduce, &values.reduce)] {
                for (node, choices) in nodes.iter().enumerate() {
                    // Every candidate of the node, in the order of edges and primitives, the strongest first.
                    let first_edge = shape.edges_into(node).start;
                    let score = |input: usize, p: usize| {
                        values.alpha[(first_edge + input) * 8 + p] * values.beta[first_edge + input]
                    };
                    let mut all: Vec<(usize, usize)> =
                        (0..node + 2).flat_map(|input| (1..8).map(move |p| (p, input))).collect();
                    all.sort_by(|&(p, i), &(q, j)| score(j, q).total_cmp(&score(i, p)).then((i, p).cmp(&(j, q))));
                    let second = all.iter().find(|(_, input)| *input != all[0].1).unwrap();
                    assert_eq!(choices.map(|c| (c.primitive, c.input)), [all[0], *second], "node {node}");
                }
            }
        }
    }

    #[test]
    fn without_a_none_every_primitive_can_be_chosen() {
        let shape = ArchShape::new(1, 2, None).unwrap();
        let values = CellValues { alpha: vec![0.9, 0.1, 0.2, 0.8], beta: vec![1.0, 1.0] };
        let derived = derive(shape, &ArchValues { normal: values.clone(), reduce: values }).unwrap();
        assert_eq!(pairs(&derived.normal), [[(0, 0), (1, 1)]]);
    }

    #[test]
    fn a_diverged_search_gives_no_genotype() {
        let mut values = ArchValues::zeros(ArchShape::DARTS);
        values.normal.beta[3] = f32::NAN;
        assert!(matches!(derive(ArchShape::DARTS, &values), Err(SearchError::NotFinite { edge: 3, .. })));
    }

    #[test]
    fn parity_of_the_genotype_with_pytorch() {
        let Some(fixture) = fixture("supernet") else { return };
        let names = [
            "none",
            "max_pool_3x3",
            "avg_pool_3x3",
            "skip_connect",
            "sep_conv_3x3",
            "sep_conv_5x5",
            "dil_conv_3x3",
            "dil_conv_5x5",
        ];
        let values = ArchValues { normal: fixture.cell("after/", "normal"), reduce: fixture.cell("after/", "reduce") };
        let arch = Arch { shape: ArchShape::DARTS, edge_normalisation: true, values };
        let derived = derive(arch.shape, &arch.weights()).unwrap();
        let list = |nodes: &[[Choice; 2]]| {
            let edges = nodes.iter().flatten().map(|c| format!("('{}', {})", names[c.primitive], c.input));
            edges.collect::<Vec<_>>().join(", ")
        };
        let (normal, reduce) = (list(&derived.normal), list(&derived.reduce));
        let found = format!(
            "Genotype(normal=[{normal}], normal_concat=range(2, 6), reduce=[{reduce}], reduce_concat=range(2, 6))"
        );
        assert_eq!(found, fixture.metadata("peer_genotype_after"));
    }
}
