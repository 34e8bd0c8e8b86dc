//! Adam for the architecture parameters.
//!
//! Takes raw values and their gradient; changes the values as PyTorch's `Adam` does: the L2 term is added to the
//! gradient, both moments are corrected for their start at 0. Clipping the gradient and freezing are left to the
//! caller.

use serde::{Deserialize, Serialize};

use super::arch::{ArchShape, ArchValues};

/// The constants of Adam.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdamConstants {
    /// Learning rate; eta1 of the paper.
    pub lr: f64,
    /// Decay of the first and of the second moment.
    pub betas: [f64; 2],
    /// Added to the root of the second moment.
    pub eps: f64,
    /// L2 term.
    pub weight_decay: f64,
}

/// Adam with its moments.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArchAdam {
    /// The constants.
    pub constants: AdamConstants,
    /// Steps made.
    pub steps: u64,
    /// Decayed mean of the gradients.
    pub first: ArchValues,
    /// Decayed mean of their squares.
    pub second: ArchValues,
}

impl ArchAdam {
    /// No steps made, moments 0.
    pub fn new(shape: ArchShape, constants: AdamConstants) -> Self {
        Self { constants, steps: 0, first: ArchValues::zeros(shape), second: ArchValues::zeros(shape) }
    }

    /// One step down `gradient`, which has the shape of `values`.
    pub fn step(&mut self, values: &mut ArchValues, gradient: &ArchValues) {
        self.steps += 1;
        let AdamConstants { lr, betas: [b1, b2], eps, weight_decay } = self.constants;
        let steps = self.steps as f64;
        let step_size = (lr / (1.0 - b1.powf(steps))) as f32;
        let correction = (1.0 - b2.powf(steps)).sqrt() as f32;
        let (decay, eps) = (weight_decay as f32, eps as f32);
        let (keep1, take1, keep2, take2) = (b1 as f32, (1.0 - b1) as f32, b2 as f32, (1.0 - b2) as f32);
        let moments = self.first.parts_mut().into_iter().zip(self.second.parts_mut());
        for ((values, gradient), (first, second)) in values.parts_mut().into_iter().zip(gradient.parts()).zip(moments) {
            debug_assert_eq!((values.len(), gradient.len()), (first.len(), second.len()));
            for (((x, g), m), v) in values.iter_mut().zip(gradient).zip(first).zip(second) {
                let g = g + decay * *x;
                *m = keep1 * *m + take1 * g;
                *v = keep2 * *v + take2 * g * g;
                *x -= step_size * (*m / (v.sqrt() / correction + eps));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::search::reference::fixture;

    const CONSTANTS: AdamConstants = AdamConstants { lr: 6e-4, betas: [0.5, 0.999], eps: 1e-8, weight_decay: 1e-3 };

    /// Changes only the first alpha of the normal cell, from 1, by the given gradients.
    fn run(constants: AdamConstants, gradients: &[f32]) -> f32 {
        let shape = ArchShape::DARTS;
        let mut adam = ArchAdam::new(shape, constants);
        let mut values = ArchValues::zeros(shape);
        values.normal.alpha[0] = 1.0;
        for &g in gradients {
            let mut gradient = ArchValues::zeros(shape);
            gradient.normal.alpha[0] = g;
            adam.step(&mut values, &gradient);
        }
        assert!(values.parts().into_iter().flatten().skip(1).all(|&x| x == 0.0), "values without a gradient moved");
        values.normal.alpha[0]
    }

    #[test]
    fn steps_have_the_values_of_the_formula() {
        let plain = AdamConstants { lr: 0.1, weight_decay: 0.0, ..CONSTANTS };
        // The first step is the learning rate, whatever the size of the gradient.
        assert!((run(plain, &[0.002]) - 0.9).abs() < 1e-6);
        // m = (0.5, -0.25), divided by 0.75: -1/3; v = (1, 1) / 1000 nearly: its corrected root is 1.
        assert!((run(plain, &[1.0, -1.0]) - (0.9 + 0.1 / 3.0)).abs() < 1e-6);
        // The L2 term alone pulls towards 0.
        assert!((run(AdamConstants { weight_decay: 0.5, ..plain }, &[0.0]) - 0.9).abs() < 1e-6);
    }

    #[test]
    fn a_resumed_run_goes_on_as_if_it_had_not_stopped() {
        let shape = ArchShape::DARTS;
        let mut adam = ArchAdam::new(shape, CONSTANTS);
        let mut values = ArchValues::zeros(shape);
        let mut gradient = ArchValues::zeros(shape);
        gradient.normal.alpha.iter_mut().enumerate().for_each(|(i, g)| *g = (i as f32 - 50.0) / 37.0);
        adam.step(&mut values, &gradient);
        let mut resumed: ArchAdam = serde_json::from_str(&serde_json::to_string(&adam).unwrap()).unwrap();
        let mut resumed_values = values.clone();
        adam.step(&mut values, &gradient);
        resumed.step(&mut resumed_values, &gradient);
        assert_eq!((resumed, resumed_values), (adam, values));
    }

    #[test]
    fn parity_of_one_step_with_pytorch() {
        let Some(fixture) = fixture("supernet") else { return };
        let read = |prefix: &str| ArchValues {
            normal: fixture.cell(prefix, "normal"),
            reduce: fixture.cell(prefix, "reduce"),
        };
        let (mut values, gradient, expected) = (read("weight/"), read("valid/grad/"), read("after/"));
        ArchAdam::new(ArchShape::DARTS, CONSTANTS).step(&mut values, &gradient);
        for (found, expected) in values.parts().into_iter().flatten().zip(expected.parts().into_iter().flatten()) {
            assert!((found - expected).abs() < 1e-8, "{found} instead of {expected}");
        }
    }
}
