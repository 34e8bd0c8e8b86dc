//! `idarts-compile`: architecture search by IDARTS, compiled to verified ONNX.
pub mod genotype;
pub mod ir;
#[cfg(feature = "train")]
pub mod kernels;
pub mod lower;
pub mod passes;
#[cfg(feature = "train")]
pub mod train;
