//! What can go wrong in the search.
//!
//! Takes nothing; gives [`SearchError`].

use crate::train::ConfigError;

/// Why a search cannot start, go on or give a result.
#[derive(Debug, thiserror::Error)]
pub enum SearchError {
    /// The configuration is refused.
    #[error(transparent)]
    Config(Box<ConfigError>),
    /// The search space names a primitive that is none.
    #[error("primitives: `{name}`: {why}")]
    Primitive {
        /// The name.
        name: String,
        /// What would do.
        why: String,
    },
    /// The supernet cannot be built.
    #[error(transparent)]
    Lower(#[from] crate::lower::LowerError),
    /// A step failed.
    #[error(transparent)]
    Train(#[from] crate::train::TrainError),
    /// A cell that cannot be searched.
    #[error("a cell of {nodes} nodes with {primitives} primitives leaves nothing to choose: {rule}")]
    Shape {
        /// Intermediate nodes.
        nodes: usize,
        /// Primitives per edge.
        primitives: usize,
        /// What must hold.
        rule: &'static str,
    },
    /// Architecture values of another cell, from a checkpoint or another bug.
    #[error("{what} has {found} values, but a cell of this search has {expected}: it belongs to another search space")]
    Length {
        /// Which values, such as `alpha of the normal cell`.
        what: &'static str,
        /// How many there are.
        found: usize,
        /// How many there must be.
        expected: usize,
    },
    /// The search diverged.
    #[error("{what} is {value} on edge {edge}")]
    NotFinite {
        /// Which values, such as `alpha of the normal cell`.
        what: &'static str,
        /// The edge, from 0.
        edge: usize,
        /// The value.
        value: f32,
    },
}

impl From<ConfigError> for SearchError {
    fn from(error: ConfigError) -> Self {
        Self::Config(Box::new(error))
    }
}
