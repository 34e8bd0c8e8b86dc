//! Names in the file. ONNX has one name space for inputs, outputs, initialisers and values, and another for nodes.
//!
//! Takes the names of the IR, where values, parameters and outputs are told apart by kind; gives names that clash with no
//! other. Values and nodes are called `/` and their path, which a parameter rarely is; where it is, the value gives way.

use crate::onnx::OnnxError;
use crate::onnx::names::Unique;

/// The names taken so far.
#[derive(Debug, Default)]
pub(super) struct Names {
    values: Unique,
    nodes: Unique,
}

impl Names {
    /// Takes a name that must stay as it is. `kind` is for the message.
    pub(super) fn reserve(&mut self, name: &str, kind: &str) -> Result<(), OnnxError> {
        if !self.values.reserve(name) {
            let why = format!("the {kind} has the name of another input, output or parameter; rename one of them");
            return Err(OnnxError::Value { value: name.into(), why });
        }
        Ok(())
    }

    /// A name for the value at `path`.
    pub(super) fn value(&mut self, path: &str) -> String {
        self.values.claim(&format!("/{path}"))
    }

    /// A name for an initialiser that the model itself does not have.
    pub(super) fn initializer(&mut self, name: &str) -> String {
        self.values.claim(name)
    }

    /// A name for the node at `path`.
    pub(super) fn node(&mut self, path: &str) -> String {
        self.nodes.claim(&format!("/{path}"))
    }
}
