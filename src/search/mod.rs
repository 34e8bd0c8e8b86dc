//! The architecture search: its parameters, how they move, and what is read from them.
//!
//! Takes a configuration and gradients of the supernet; gives a choice of primitives and inputs for every node of both
//! cells.

pub mod adam;
pub mod arch;
pub mod backtrack;
mod batches;
pub mod config;
pub mod derive;
mod error;
pub mod record;
#[cfg(test)]
mod reference;
pub mod run;
pub mod second_order;
pub mod stats;
pub mod supernet;

pub use error::SearchError;
