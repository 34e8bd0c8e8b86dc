//! `idarts-compile`: architecture search by IDARTS, compiled to verified ONNX.
pub mod cli;
pub mod data;
pub mod genotype;
pub mod ir;
#[cfg(feature = "train")]
pub mod kernels;
pub mod lower;
pub mod onnx;
pub mod passes;
pub mod runtime;
#[cfg(feature = "train")]
pub mod search;
#[cfg(feature = "train")]
pub mod train;
