//! The second-order gradient of the architecture (DARTS, Eq. 7 and 8).
//!
//! Takes a batch for the weights and one for the architecture; gives the gradient of the loss that the weights would have
//! on the second batch after a step on the first:
//!
//! ```text
//! w' = w - lr (momentum buffer + dL_train/dw + weight_decay w)          at w, alpha
//! gradient = dL_valid/dalpha (w') - lr (G(w + r v) - G(w - r v)) / 2 r  with v = dL_valid/dw (w'), r = h / ||v||
//! ```
//!
//! G is dL_train/dalpha, h the configuration's `arch.finite_difference`; beta is treated as alpha is. The difference stands
//! for the product of the mixed second derivative with v, so that a step costs four passes instead of one. None of them
//! leaves a trace: the weights come back with every bit, and the running statistics stay, since four passes of one step, at
//! weights that are not the network's, would outweigh the step of the weights itself. Moving the architecture by the
//! gradient is left to `run`.

use burn::tensor::Tensor;

use super::SearchError;
use super::arch::{Arch, ArchValues};
use super::config::SearchConfig;
use super::supernet::{ArchPass, Supernet};
use crate::data::Batch;
use crate::train::TrainError;
use crate::train::optim::{Sgd, global_norm};

/// The step of the weights that is looked ahead by.
#[derive(Debug, Clone, Copy)]
pub struct Unroll<'a> {
    /// The optimiser of the weights, for its constants and its momentum buffers.
    pub sgd: &'a Sgd,
    /// Learning rate of the weights.
    pub lr: f64,
    /// The batch of the step.
    pub batch: &'a Batch,
    /// h: the distance of the finite difference from w, as a norm over all weights.
    pub finite_difference: f64,
}

impl<'a> Unroll<'a> {
    /// The step that will follow, where the configuration's method looks ahead.
    pub fn of(config: &SearchConfig, sgd: &'a Sgd, lr: f64, batch: &'a Batch) -> Option<Self> {
        config.second_order().then_some(Self { sgd, lr, batch, finite_difference: config.arch.finite_difference })
    }

    /// The gradient of the raw architecture values on `valid`, with the loss and the logits of that batch at w'.
    ///
    /// # Errors
    /// A device that fails, or a loss or a gradient that is no finite number.
    pub fn gradient(&self, supernet: &mut Supernet, valid: Batch, arch: &Arch) -> Result<ArchPass, SearchError> {
        let step = supernet.step(self.batch.clone(), arch, true)?;
        let gradients = step.pass.gradients(&mut step.loss.backward());
        drop(step);
        let ahead = self.sgd.ahead(&mut supernet.module, &gradients, self.lr);

        let step = with_weights(supernet, ahead, |supernet| supernet.step_of_both(valid, arch))?;
        let mut gradients = step.loss.backward();
        let mut gradient = step.architecture_part(arch, &mut gradients)?;
        let direction = step.pass.gradients(&mut gradients);
        let (loss, logits) = (step.loss_value, step.logits);
        drop((step.pass, gradients));

        let norm = global_norm(&direction)?;
        if !norm.is_finite() {
            let what = format!("the norm of the gradient behind the unrolled step is {norm}");
            return Err(TrainError::Diverged { what }.into());
        }
        // Where the loss does not depend on the weights, it does not depend on alpha through them either.
        if norm > 0.0 {
            let r = self.finite_difference / norm;
            let plus = self.train_gradient(supernet, arch, &direction, r)?;
            let minus = self.train_gradient(supernet, arch, &direction, -r)?;
            let factor = self.lr / (2.0 * r);
            for ((target, plus), minus) in gradient.parts_mut().into_iter().zip(plus.parts()).zip(minus.parts()) {
                for ((target, plus), minus) in target.iter_mut().zip(plus).zip(minus) {
                    *target -= (factor * (f64::from(*plus) - f64::from(*minus))) as f32;
                }
            }
        }
        // Softmax is at the same alpha in all three gradients, so its derivative can come last.
        Ok(ArchPass { gradient: arch.backward(&gradient), loss, logits })
    }

    /// The gradient of the training loss with respect to the softmaxed values at w + r v.
    fn train_gradient(
        &self,
        supernet: &mut Supernet,
        arch: &Arch,
        direction: &[Option<Tensor<1>>],
        r: f64,
    ) -> Result<ArchValues, SearchError> {
        let moved = supernet.module.trainable().map(|(id, w)| match &direction[id.index()] {
            Some(v) => w.clone() + v.clone() * r,
            None => w.clone(),
        });
        let moved = moved.collect();
        with_weights(supernet, moved, |supernet| supernet.step(self.batch.clone(), arch, false))?
            .architecture_gradient(arch)
    }
}

/// What `pass` gives with `weights`, in the order of `GraphModule::trainable`, in the place of the supernet's own.
fn with_weights<T>(supernet: &mut Supernet, weights: Vec<Tensor<1>>, pass: impl FnOnce(&Supernet) -> T) -> T {
    let slots = supernet.module.trainable().zip(weights);
    let own: Vec<Tensor<1>> = slots.map(|((_, slot), weights)| std::mem::replace(slot, weights)).collect();
    let result = pass(supernet);
    supernet.module.trainable().zip(own).for_each(|((_, slot), own)| *slot = own);
    result
}

#[cfg(test)]
mod tests;
