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
    fn the_genotype_is_the_one_of_pytorch() {
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
