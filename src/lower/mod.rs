//! Lowering: a genotype or a search space becomes an [`ir::Graph`](crate::ir::Graph).
//!
//! Takes a [`Network`] (stem, depth, width, classes, image size) and what fills its cells ([`Cells`]); gives the graph for
//! training: batch norms apart, drop path on the edges, the auxiliary head as a second output. Everything is expanded
//! once, faithfully to the PyTorch modules (one ReLU per ReLU module call, so that the published cost rule can be
//! counted); sharing, folding and fusing are left to `passes`.
//!
//! A primitive is expanded in `primitive`, a cell is wired in `cell`, a network is stacked in `network`. Parameters get
//! their name, and the name of the same tensor in a PyTorch DARTS state_dict, in `layers`.

mod cell;
mod layers;
mod network;
mod primitive;
#[cfg(all(test, feature = "train"))]
pub(crate) mod testing;

use crate::genotype::{Genotype, Primitive};
use crate::ir::IrError;

pub use network::lower;

/// The two ways a network begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stem {
    /// One 3x3 convolution at full resolution: small images.
    Cifar,
    /// Three strided 3x3 convolutions, an eighth of the resolution: large images.
    ImageNet,
}

/// The frame around the cells.
#[derive(Debug, Clone, PartialEq)]
pub struct Network {
    /// How the network begins.
    pub stem: Stem,
    /// Channels C of the first cells; doubled at each of the two reductions (after 1/3 and 2/3 of the cells).
    pub channels: usize,
    /// Number of cells.
    pub cells: usize,
    /// Number of classes.
    pub classes: usize,
    /// Height and width of the images, in pixels.
    pub image: [usize; 2],
    /// Whether the auxiliary head (a second output, `aux_logits`) is there.
    pub auxiliary: bool,
}

impl Network {
    /// Whether cell `i` halves the resolution.
    pub fn is_reduction(&self, i: usize) -> bool {
        i == self.cells / 3 || i == 2 * self.cells / 3
    }
}

/// What a search chooses from.
#[derive(Debug, Clone, PartialEq)]
pub struct SearchSpace {
    /// The candidates of each edge, in the order of the architecture weights.
    pub primitives: Vec<Primitive>,
    /// Intermediate nodes of a cell; node `i` has `i + 2` incoming edges.
    pub nodes: usize,
    /// K: the first C / K channels go through the mixed operation, the others bypass it. 1 for DARTS.
    pub partial_channels: usize,
    /// Whether each edge is weighted by beta (PC-DARTS) or edges are simply added (DARTS).
    pub edge_normalisation: bool,
}

impl SearchSpace {
    /// The space of PC-DARTS and IDARTS with the given K.
    pub fn pc_darts(partial_channels: usize) -> Self {
        Self { primitives: Primitive::SEARCHED.to_vec(), nodes: 4, partial_channels, edge_normalisation: true }
    }

    /// The space of DARTS: all channels, edges added.
    pub fn darts() -> Self {
        Self { edge_normalisation: false, ..Self::pc_darts(1) }
    }

    /// Edges of a cell: 14 for four nodes.
    pub fn edges(&self) -> usize {
        (0..self.nodes).map(|i| i + 2).sum()
    }
}

/// What fills the cells of a network.
#[derive(Debug, Clone, Copy)]
pub enum Cells<'a> {
    /// A found architecture: affine batch norms, drop path.
    Fixed(&'a Genotype),
    /// Every candidate at once, weighted by the graph inputs `alphas_normal`, `alphas_reduce` (`[edges, primitives]`, already
    /// softmaxed) and `betas_normal`, `betas_reduce` (`[edges]`, already normalised): batch norms without parameters.
    Search(&'a SearchSpace),
}

/// Why a network cannot be lowered.
#[derive(Debug, thiserror::Error)]
pub enum LowerError {
    /// A setting of the network is out of range.
    #[error("{key}: {why}")]
    Network {
        /// The setting (`channels`, `cells`, ...), as on the command line.
        key: &'static str,
        /// What is wrong and what would do.
        why: String,
    },
    /// A cell names a primitive that cannot be there.
    #[error("{place}: the primitive `{primitive}` {why}")]
    Primitive {
        /// The cell and edge.
        place: String,
        /// The primitive.
        primitive: Primitive,
        /// Why it cannot be there.
        why: &'static str,
    },
    /// The genotype is not one.
    #[error(transparent)]
    Genotype(#[from] crate::genotype::GenotypeError),
    /// The image is too small for the network, or lowering made a mistake.
    #[error(transparent)]
    Ir(#[from] IrError),
}
