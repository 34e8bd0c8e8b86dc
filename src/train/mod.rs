//! Training: the configuration of a run and its learning-rate schedules.

pub mod config;
pub mod config_check;
mod config_error;
mod config_keys;
mod config_locate;
pub mod config_merge;
pub mod recipe;
pub mod schedule;

pub use config_error::{ConfigError, Place};
