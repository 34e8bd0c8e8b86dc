//! What a search writes down: the lines of its logs, its warnings, and its genotype.
//!
//! Takes the architecture's values and the figures of an epoch; gives `metrics.jsonl` and `arch.jsonl` line by line, a
//! warning when operations without parameters take over, and the [`Genotype`] with where it comes from.

use serde::Serialize;

use super::SearchError;
use super::arch::{Arch, ArchValues};
use super::config::SearchConfig;
use super::derive::{Choice, derive};
use super::stats::{CellStats, MoveStats};
use crate::data::Dataset;
use crate::genotype::{Cell, Edge, Genotype, Primitive, Provenance};

/// One line of `metrics.jsonl`.
#[derive(Debug, Serialize)]
pub struct EpochLine {
    /// From 0.
    pub epoch: usize,
    /// Learning rate of the weights.
    pub lr: f64,
    /// Mean loss of the weights' steps.
    pub train_loss: f64,
    /// Accuracy of the weights' steps.
    pub train_top1: f64,
    /// Mean loss of the architecture's steps.
    pub arch_loss: Option<f64>,
    /// Accuracy of the architecture's steps.
    pub arch_top1: Option<f64>,
    /// On the architecture's images without augmentation, after the epoch.
    pub valid_loss: f64,
    /// Likewise.
    pub valid_top1: f64,
    /// Mean over the steps, before clipping.
    pub gradient_norm: f64,
    /// Images of both kinds of steps per second of training.
    pub images_per_s: f64,
    /// The most memory that the process has held so far.
    pub peak_mib: Option<u64>,
    /// Seconds since the start of the run.
    pub wall_s: f64,
}

/// One line of `arch.jsonl`.
#[derive(Debug, Serialize)]
pub struct ArchLine<'a> {
    /// From 0.
    pub epoch: usize,
    /// Raw alpha and beta.
    pub values: &'a ArchValues,
    /// How many edges are backtracked.
    pub zeta: usize,
    /// Figures of the normal cell.
    pub normal: &'a CellStats,
    /// Figures of the reduction cell.
    pub reduce: &'a CellStats,
    /// What backtracking did, in the normal and in the reduction cell.
    pub backtracking: &'a [MoveStats],
    /// Edges of the genotype's normal and reduction cell that are skip connections.
    pub skips: [usize; 2],
    /// Those that have no parameters: skip connections and pools.
    pub parameter_free: [usize; 2],
    /// The genotype of this moment, as Python literal.
    pub genotype: String,
}

/// From this many skip connections in the normal cell on, a search is taken to collapse.
const MANY_SKIPS: usize = 4;

impl std::fmt::Display for EpochLine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "loss {:.4}, train top-1 {:.2} %, validation top-1 {:.2} %, {:.0} images/s",
            self.train_loss,
            100.0 * self.train_top1,
            100.0 * self.valid_top1,
            self.images_per_s
        )
    }
}

/// How many edges of a cell are skip connections, and how many have no parameters.
pub fn parameter_free(cell: &Cell) -> [usize; 2] {
    let edges = || cell.nodes.iter().flatten();
    let skips = edges().filter(|e| e.primitive == Primitive::SkipConnect).count();
    let pools = edges().filter(|e| matches!(e.primitive, Primitive::MaxPool3x3 | Primitive::AvgPool3x3)).count();
    [skips, skips + pools]
}

/// What is wrong with a normal cell of which so many edges are skip connections, and so many have no parameters.
pub fn collapse([skips, free]: [usize; 2], cell: &Cell) -> Option<String> {
    let edges = cell.nodes.len() * 2;
    if skips >= MANY_SKIPS {
        let advice = "the search may collapse; a longer arch.frozen_until or a lower arch.lr may help";
        return Some(format!("{skips} of {edges} edges of the normal cell are skip connections: {advice}"));
    }
    (4 * free >= 3 * edges).then(|| {
        format!(
            "{free} of {edges} edges of the normal cell have no parameters (pools and skip connections): the weights may \
             be too young to compare, a longer arch.frozen_until may help"
        )
    })
}

/// The genotype that the architecture's values stand for, with where it comes from.
///
/// # Errors
/// Values that are none of this search's cells.
pub fn genotype(
    arch: &Arch,
    primitives: &[Primitive],
    config: &SearchConfig,
    data: &Dataset,
    valid_top1: Option<f64>,
) -> Result<Genotype, SearchError> {
    let derived = derive(arch.shape, &arch.weights())?;
    let method = serde_json::to_value(config.method).ok().and_then(|v| v.as_str().map(str::to_owned));
    let provenance = Provenance {
        method: method.clone(),
        dataset: Some(data.name.clone()),
        seed: Some(config.seed),
        epochs: Some(config.epochs),
        valid_top1,
        tool: Some(concat!("idarts-compile ", env!("CARGO_PKG_VERSION")).into()),
        ..Provenance::default()
    };
    let name = format!("{}_{}_seed{}", method.as_deref().unwrap_or("search").replace('-', "_"), data.name, config.seed);
    let cell = |nodes: &[[Choice; 2]]| cell(nodes, primitives);
    Ok(Genotype { name, normal: cell(&derived.normal), reduce: cell(&derived.reduce), provenance })
}

fn cell(nodes: &[[Choice; 2]], primitives: &[Primitive]) -> Cell {
    let edge = |choice: Choice| Edge { primitive: primitives[choice.primitive], input: choice.input };
    Cell { nodes: nodes.iter().map(|node| node.map(edge)).collect(), concat: (2..nodes.len() + 2).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A cell of four nodes whose eight edges are, in order, of these primitives.
    fn cell(primitives: [Primitive; 8]) -> Cell {
        let edge = |p: &Primitive| Edge { primitive: *p, input: 0 };
        let nodes = primitives.chunks(2).map(|pair| [edge(&pair[0]), edge(&pair[1])]).collect();
        Cell { nodes, concat: vec![2, 3, 4, 5] }
    }

    #[test]
    fn a_cell_is_warned_of_by_its_skips_and_by_what_has_no_parameters() {
        use Primitive::{AvgPool3x3 as Avg, MaxPool3x3 as Max, SepConv3x3 as Sep, SkipConnect as Skip};
        for (primitives, counts, warning) in [
            ([Sep, Sep, Sep, Sep, Sep, Sep, Sep, Sep], [0, 0], None),
            ([Skip, Skip, Skip, Max, Avg, Sep, Sep, Sep], [3, 5], None),
            ([Skip, Skip, Skip, Skip, Sep, Sep, Sep, Sep], [4, 4], Some("4 of 8 edges of the normal cell are skip")),
            ([Max, Max, Max, Max, Avg, Avg, Sep, Sep], [0, 6], Some("6 of 8 edges of the normal cell have no param")),
        ] {
            let cell = cell(primitives);
            let found = parameter_free(&cell);
            assert_eq!(found, counts, "{primitives:?}");
            match (collapse(found, &cell), warning) {
                (None, None) => {}
                (Some(text), Some(start)) => {
                    assert!(text.starts_with(start) && text.contains("arch.frozen_until"), "{text}");
                }
                (found, _) => panic!("{primitives:?}: {found:?}"),
            }
        }
    }
}
