//! Convolutions of a walk, both ways. Those that read one value through one window are made together: the value is read once,
//! and its gradient is written once.
use burn::backend::{Flex, flex::FlexTensor};

use super::{
    backward::Back,
    forward::Walk,
    graph::Member,
    record::{Conv, Record},
    unsupported,
    value::{Value, dims},
};
use crate::ir::{Node, ParamId};
use crate::kernels::{
    Window,
    cpu::{
        combine::Combination, convolve_gradient_grads, convolve_rectified, convolve_rectified_grads, planes, vector,
    },
    ops::{Grads, KernelGrads, KernelOps, Operands, Wanted},
};
use crate::train::TrainError;

/// How a convolution reads and writes.
pub struct Layer {
    pub bias: Option<ParamId>,
    /// Channels of a filter, its height and width.
    pub filter: [usize; 3],
    pub window: Window,
    pub groups: usize,
    /// Whether there is a ReLU before it and behind it.
    pub relu: [bool; 2],
}

impl Walk<'_> {
    /// The convolution of `node`, the first of `members`, and with it the others, whose values are there from then on.
    pub fn conv(&mut self, node: &Node, members: Vec<Member>, layer: &Layer) -> Result<(Value, Record), TrainError> {
        let &Layer { bias: bias_id, filter, window, groups, relu: [relu_in, relu_out] } = layer;
        let x = node.inputs[0];
        let read = self.dense(x, node)?;
        let outs = members.iter().map(|member| member.outs).sum();
        let shape = [outs, filter[0], filter[1], filter[2]];
        let param = |id: ParamId| self.pass.params[id.index()].clone();
        let weight = match members.as_slice() {
            [only] => planes::reshape(param(only.weight), shape),
            all => planes::tensor(all.iter().flat_map(|member| vector(&param(member.weight))).collect(), shape),
        };
        let bias = Operands(bias_id.map(param).into_iter().collect());
        let mut y = match relu_in {
            true => convolve_rectified(read.clone(), weight.clone(), bias, window, groups),
            false => Flex::convolve(read.clone(), weight.clone(), bias, window, groups),
        };
        if relu_out {
            y = Flex::rectify(y);
        }
        let rectified = relu_out.then(|| y.clone());
        let mut start = members.first().ok_or_else(|| unsupported(&node.name, "it has no weights"))?.outs;
        for member in &members[1..] {
            self.set(member.output, Value::Dense(y.narrow(1, start, member.outs)));
            start += member.outs;
        }
        let first = if members.len() > 1 { y.narrow(1, 0, members[0].outs) } else { y };
        let wanted_x = self.needs(x);
        let conv = Conv { x, read, weight, members, bias_id, window, groups, relu_in, rectified, wanted_x };
        Ok((Value::Dense(first), Record::Conv(conv)))
    }
}

impl Back {
    /// From the gradient of the first member's output, and those of the others, which lie ready.
    pub fn conv(&mut self, conv: Conv, first: Combination) {
        let Conv { x, read, weight, members, bias_id, window, groups, relu_in, rectified, wanted_x } = conv;
        let wanted = Wanted { x: wanted_x, w: self.weights, bias: self.weights && bias_id.is_some() };
        let g = self.joined(&members, first);
        let pixel = window == Window::square(1, 1, 0, 1) && groups == 1 && rectified.is_none() && !wanted.bias;
        let grads = match pixel {
            true => convolve_gradient_grads(read, weight, &g, relu_in, wanted),
            false => written(read, weight, g.tensor(), rectified, window, groups, relu_in, wanted),
        };
        if let Some(dw) = grads.w {
            let mut start = 0;
            for member in &members {
                self.param(member.weight, dw.narrow(0, start, member.outs));
                start += member.outs;
            }
        }
        if let Some((id, grad)) = bias_id.zip(grads.bias) {
            self.param(id, grad);
        }
        if let Some(dx) = grads.x {
            self.give(x, dx);
        }
    }

    /// The gradients of all members' outputs as one.
    fn joined(&mut self, members: &[Member], first: Combination) -> Combination {
        let [Member { outs, .. }, others @ ..] = members else { return first };
        if others.is_empty() {
            return first;
        }
        let mut all = Combination::zeros(first.size, members.iter().map(|member| member.outs).sum());
        all.add_all(&first, 0);
        let mut start = *outs;
        for member in others {
            if let Some(gradient) = self.take(member.output) {
                all.add_all(&gradient.sum, start);
            }
            start += member.outs;
        }
        all
    }
}

#[allow(clippy::too_many_arguments, reason = "a struct of them would only move the list")]
fn written(
    read: FlexTensor,
    weight: FlexTensor,
    g: FlexTensor,
    rectified: Option<FlexTensor>,
    window: Window,
    groups: usize,
    relu_in: bool,
    wanted: Wanted,
) -> Grads<Flex> {
    let g = match rectified {
        Some(y) => Flex::rectify_grad(y, g),
        None => g,
    };
    debug_assert_eq!(dims(&g)[1], dims(&weight)[0]);
    match relu_in {
        true => convolve_rectified_grads(read, weight, g, window, groups, wanted),
        false => Flex::convolve_grads(read, weight, g, window, groups, wanted),
    }
}
