//! The reference's values: float64, rounded to float32 after each node or not at all.
//!
//! Takes and gives tensors; the kernels beside this file compute on [`Wide`].

use crate::ir::Tensor;

/// Whether the values between nodes are float32, as those of every other back end are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// Each node computes in float64 and its result is rounded to float32.
    Single,
    /// Nothing is rounded before the end: the judge where two float32 results differ.
    Double,
}

/// A tensor of float64.
#[derive(Debug, Clone, PartialEq)]
pub struct Wide {
    pub shape: Vec<usize>,
    pub data: Vec<f64>,
}

impl Wide {
    pub fn new(shape: impl Into<Vec<usize>>, data: Vec<f64>) -> Self {
        Self { shape: shape.into(), data }
    }

    pub fn from(tensor: &Tensor) -> Self {
        Self { shape: tensor.shape.clone(), data: tensor.data.iter().map(|x| f64::from(*x)).collect() }
    }

    /// The nearest float32 numbers.
    pub fn rounded(&self) -> Tensor {
        Tensor::new(self.shape.clone(), self.data.iter().map(|x| *x as f32).collect())
    }

    /// As numbers that a node hands on with `precision`.
    pub fn at(mut self, precision: Precision) -> Self {
        if precision == Precision::Single {
            self.data.iter_mut().for_each(|x| *x = f64::from(*x as f32));
        }
        self
    }
}
