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

/// `old * shares[0] + new * shares[1]`, the way running statistics follow.
pub fn follow(old: &FlexTensor, new: &FlexTensor, shares: [f32; 2]) -> FlexTensor {
    let mut values = vector(old);
    values.iter_mut().zip(vector(new)).for_each(|(old, new)| *old = *old * shares[0] + new * shares[1]);
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

#[cfg(test)]
mod tests {
    use burn::{
        backend::Flex,
        tensor::{Device, Tensor, TensorData},
    };

    use super::*;

    fn tensor(seed: usize) -> Tensor<1> {
        let values = (0..1000).map(|i| ((i * 37 + seed * 101) % 211) as f32 / 97.0 - 1.1).collect();
        Tensor::from_data(TensorData::new(values, [1000]), &Device::flex())
    }

    fn primitive(tensor: &Tensor<1>) -> FlexTensor {
        tensor.clone().try_into_primitive::<Flex>().expect("a tensor of the CPU back end")
    }

    fn bits(tensor: &FlexTensor) -> Vec<u32> {
        vector(tensor).into_iter().map(f32::to_bits).collect()
    }

    #[test]
    fn a_step_has_the_bits_of_the_same_operations_one_after_the_other() {
        let [param, gradient, buffer] = [1, 2, 3].map(tensor);
        let descent = Descent { clip: 0.3, weight_decay: 3e-4, momentum: 0.9, rate: 0.025 };
        for (clip, buffer) in [(0.3, Some(&buffer)), (1.0, Some(&buffer)), (0.3, None)] {
            let descent = Descent { clip, ..descent };
            let scaled = if clip < 1.0 { gradient.clone() * clip } else { gradient.clone() };
            let decayed = scaled + param.clone() * 3e-4f32;
            let next = buffer.map_or(decayed.clone(), |buffer| buffer.clone() * 0.9f32 + decayed);
            let moved = param.clone() - next.clone() * 0.025f32;
            let got = descend(&primitive(&param), &primitive(&gradient), buffer.map(primitive).as_ref(), descent);
            assert_eq!(
                got.map(|tensor| bits(&tensor)),
                [moved, next].map(|tensor| bits(&primitive(&tensor))),
                "{clip}"
            );
        }
    }

    #[test]
    fn running_statistics_and_squares_are_those_of_the_operations() {
        let [old, new] = [4, 5].map(tensor);
        let want = old.clone() * 0.9f32 + new.clone() * 0.1f32;
        assert_eq!(bits(&follow(&primitive(&old), &primitive(&new), [0.9, 0.1])), bits(&primitive(&want)));
        let want: f64 = vector(&primitive(&old)).iter().map(|&v| f64::from(v).powi(2)).sum();
        assert!((square_sum(&primitive(&old)) - want).abs() < 1e-9 * want);
    }
}
