//! Passes over the graph IR.
pub mod plan;
