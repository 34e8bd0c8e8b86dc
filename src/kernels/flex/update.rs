//! Updates of small tensors in one pass each: a network has a thousand of them, and an operation of burn's costs more than
//! their arithmetic.
//!
//! Takes flat CPU tensors; gives new ones, by the same arithmetic as burn's operations one after the other.
use burn::backend::flex::FlexTensor;

use super::buffer::{into_tensor, vector};

/// How a step of SGD moves along gradients.
#[derive(Clone, Copy, Debug)]
pub struct Descent {
    /// What gradients are multiplied by first.
    pub clip: f32,
    /// Times the parameter, added to the gradient.
    pub weight_decay: f32,
    /// Times the buffer, before the gradient is added to it.
    pub momentum: f32,
    /// What the buffer is multiplied by and taken away from the parameter.
    pub rate: f32,
}

/// The parameter and the momentum buffer behind a step; without a buffer it is the first one.
pub fn descend(
    param: &FlexTensor,
    gradient: &FlexTensor,
    buffer: Option<&FlexTensor>,
    descent: Descent,
) -> [FlexTensor; 2] {
    let Descent { clip, weight_decay, momentum, rate } = descent;
    let (mut param, mut next) = (vector(param), vector(gradient));
    if clip < 1.0 {
        next.iter_mut().for_each(|g| *g *= clip);
    }
    next.iter_mut().zip(&param).for_each(|(g, p)| *g += p * weight_decay);
    if let Some(buffer) = buffer {
        next.iter_mut().zip(vector(buffer)).for_each(|(g, old)| *g += old * momentum);
    }
    param.iter_mut().zip(&next).for_each(|(p, step)| *p -= step * rate);
    [param, next].map(flat)
}

/// `old * keep + new * (1 - keep)`, the way running statistics follow.
pub fn follow(old: &FlexTensor, new: &FlexTensor, keep: [f32; 2]) -> FlexTensor {
    let mut values = vector(old);
    values.iter_mut().zip(vector(new)).for_each(|(old, new)| *old = *old * keep[0] + new * keep[1]);
    flat(values)
}

/// The sum of squares of all elements, in f64.
pub fn square_sum(values: &FlexTensor) -> f64 {
    vector(values).iter().map(|&v| f64::from(v) * f64::from(v)).sum()
}

fn flat(values: Vec<f32>) -> FlexTensor {
    let count = values.len();
    into_tensor(values.into_iter().collect(), [count])
}
