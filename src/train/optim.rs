//! SGD with momentum, weight decay and clipping by the global norm, as PyTorch computes them.
//!
//! Takes gradients as a pass leaves them; changes the parameters of a [`GraphModule`]. Schedules are in `schedule`.

use burn::backend::{Flex, flex::FlexTensor};
use burn::tensor::Tensor;
use rayon::prelude::*;

use super::TrainError;
use super::module::{GraphModule, download, host};
use crate::ir::ParamId;
use crate::kernels::cpu::update::{self, Descent};

/// The optimiser's settings and its momentum buffers, one per parameter of the module.
#[derive(Debug)]
pub struct Sgd {
    momentum: f64,
    weight_decay: f64,
    clip: Option<f64>,
    buffers: Vec<Option<Tensor<1>>>,
}

impl Sgd {
    /// No momentum yet. `clip` is the largest global norm of a gradient.
    pub fn new(momentum: f64, weight_decay: f64, clip: Option<f64>) -> Self {
        Self { momentum, weight_decay, clip, buffers: Vec::new() }
    }

    /// The momentum of every parameter of the module, for a checkpoint; absent where there was no gradient yet.
    pub fn buffers(&self) -> &[Option<Tensor<1>>] {
        &self.buffers
    }

    /// Goes on with the momentum of a checkpoint.
    pub fn restore(&mut self, buffers: Vec<Option<Tensor<1>>>) {
        self.buffers = buffers;
    }

    /// One step with learning rate `lr`: g = clip(g) + weight_decay p; buffer = momentum buffer + g; p = p - lr buffer.
    /// Gives the gradient's global norm before clipping.
    ///
    /// # Errors
    /// When the norm cannot be read from the device, or is not a finite number.
    pub fn step(
        &mut self,
        module: &mut GraphModule,
        gradients: Vec<Option<Tensor<1>>>,
        lr: f64,
    ) -> Result<f64, TrainError> {
        let norm = global_norm(&gradients)?;
        if !norm.is_finite() {
            return Err(TrainError::Diverged { what: format!("the gradient's norm is {norm}") });
        }
        // PyTorch's clip_grad_norm_: the factor is max / (norm + 1e-6), at most 1.
        let factor = self.clip.map_or(1.0, |max| (max / (norm + 1e-6)).min(1.0));
        self.buffers.resize(gradients.len(), None);
        let mut moves: Vec<_> = Vec::new();
        for (id, param) in module.trainable() {
            if let Some(gradient) = gradients[id.index()].clone() {
                moves.push((id, param, gradient, self.buffers[id.index()].take()));
            }
        }
        let this = &*self;
        let step = |(id, param, gradient, old): (ParamId, &mut Tensor<1>, Tensor<1>, Option<Tensor<1>>)| {
            let buffer = match this.on_host(param, &gradient, old.as_ref(), factor, lr) {
                Some([moved, buffer]) => {
                    *param = moved;
                    buffer
                }
                None => {
                    let gradient = if factor < 1.0 { gradient * factor } else { gradient };
                    let buffer = this.direction(param, gradient, old);
                    *param = param.clone() - buffer.clone() * lr;
                    buffer
                }
            };
            (id, buffer)
        };
        // On the CPU each parameter's step is by itself; a device takes them one after the other.
        let on_host = moves.first().is_some_and(|(_, param, ..)| host(param).is_some());
        let buffers: Vec<_> = match on_host {
            true => moves.into_par_iter().with_min_len(16).map(step).collect(),
            false => moves.into_iter().map(step).collect(),
        };
        for (id, buffer) in buffers {
            self.buffers[id.index()] = Some(buffer);
        }
        Ok(norm)
    }

    /// The parameter and its buffer behind a step, in one pass, where all of them are on the CPU.
    fn on_host(
        &self,
        param: &Tensor<1>,
        gradient: &Tensor<1>,
        buffer: Option<&Tensor<1>>,
        factor: f64,
        lr: f64,
    ) -> Option<[Tensor<1>; 2]> {
        let buffer = match buffer {
            Some(buffer) => Some(host(buffer)?),
            None => None,
        };
        let descent = Descent {
            clip: factor as f32,
            weight_decay: self.weight_decay as f32,
            momentum: self.momentum as f32,
            rate: lr as f32,
        };
        let moved = update::descend(&host(param)?, &host(gradient)?, buffer.as_ref(), descent);
        Some(moved.map(Tensor::from_primitive::<Flex>))
    }

    /// The trainable parameters that a step with learning rate `lr` would lead to, in the order of
    /// [`GraphModule::trainable`]: p - lr (momentum buffer + g + weight_decay p). Neither the module nor the buffers
    /// change, and nothing is clipped: this is the step that second-order DARTS looks ahead by.
    pub fn ahead(&self, module: &mut GraphModule, gradients: &[Option<Tensor<1>>], lr: f64) -> Vec<Tensor<1>> {
        let moved = |(id, param): (ParamId, &mut Tensor<1>)| {
            let Some(gradient) = gradients[id.index()].clone() else { return param.clone() };
            let direction = self.direction(param, gradient, self.buffers.get(id.index()).cloned().flatten());
            param.clone() - direction * lr
        };
        module.trainable().map(moved).collect()
    }

    /// The momentum behind a gradient: what a step goes along.
    fn direction(&self, param: &Tensor<1>, gradient: Tensor<1>, buffer: Option<Tensor<1>>) -> Tensor<1> {
        let gradient = gradient + param.clone() * self.weight_decay;
        match buffer {
            Some(buffer) => buffer * self.momentum + gradient,
            None => gradient,
        }
    }
}

/// The Euclidean norm over all gradients.
///
/// # Errors
/// When it cannot be read from the device.
pub fn global_norm(gradients: &[Option<Tensor<1>>]) -> Result<f64, TrainError> {
    let on_host: Option<Vec<FlexTensor>> = gradients.iter().flatten().map(host).collect();
    if let Some(all) = on_host {
        return Ok(all.iter().map(update::square_sum).sum::<f64>().sqrt());
    }
    let squares: Vec<Tensor<1>> = gradients.iter().flatten().map(|g| g.clone().square().sum()).collect();
    if squares.is_empty() {
        return Ok(0.0);
    }
    let sums = download(Tensor::cat(squares, 0))?;
    Ok(sums.iter().map(|&s| f64::from(s)).sum::<f64>().sqrt())
}
