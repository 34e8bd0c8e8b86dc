//! `idarts-compile`: architecture search by IDARTS, compiled to verified ONNX.
pub mod ir;
pub mod search;
pub mod train;
