//! `idarts-compile`: architecture search by IDARTS, compiled to verified ONNX.
pub mod ir;
pub mod passes;
pub mod runtime;
