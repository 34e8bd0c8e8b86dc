//! `idarts-compile`: architecture search by IDARTS, compiled to verified ONNX.
#[cfg(feature = "train")]
pub mod kernels;
