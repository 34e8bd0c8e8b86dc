//! Convolutions of a walk, both ways. Those that read one value through one window are made together: the value is read once,
//! and its gradient is written once.
use burn::backend::{Flex, flex::FlexTensor};

use super::{
    backward::Back,
    forward::Walk,
    gradient::Gradient,
    graph::Member,
    record::{Conv, Record},
    value::Value,
};
use crate::ir::{Node, ParamId};
use crate::kernels::{
    Window,
    cpu::{
        combine::Combination, convolve_joined, convolve_joined_grads, convolve_rectified, convolve_rectified_grads,
        planes, vector,
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
    /// The convolution of `node`, the first of `members`, and with it the others: the values of all are there from then on.
    pub fn conv(&mut self, node: &Node, members: Vec<Member>, layer: &Layer) -> Result<(Value, Record), TrainError> {
        let &Layer { bias: bias_id, filter, window, groups, relu: [relu_in, relu_out] } = layer;
        let x = node.inputs[0];
        let read = self.parts(x, node)?;
        let outs = members.iter().map(|member| member.outs).sum();
        let shape = [outs, filter[0], filter[1], filter[2]];
        let param = |id: ParamId| self.pass.params[id.index()].clone();
        let weight = match members.as_slice() {
            [only] => planes::reshape(param(only.weight), shape),
            all => planes::tensor(all.iter().flat_map(|member| vector(&param(member.weight))).collect(), shape),
        };
        let bias = Operands(bias_id.map(param).into_iter().collect());
        let mut y = match (read.as_slice(), relu_in) {
            ([x], true) => convolve_rectified(x.clone(), weight.clone(), bias, window, groups),
            ([x], false) => Flex::convolve(x.clone(), weight.clone(), bias, window, groups),
            (all, _) => convolve_joined(all.to_vec(), weight.clone(), relu_in),
        };
        if relu_out {
            y = Flex::rectify(y);
        }
        let rectified = relu_out.then(|| y.clone());
        let mut start = 0;
        for member in &members {
            self.set(member.output, Value::Dense(y.narrow(1, start, member.outs)));
            start += member.outs;
        }
        let wanted_x = self.needs(x);
        let conv = Conv { x, read, weight, members, bias_id, window, groups, relu_in, rectified, wanted_x };
        Ok((self.value(node.output, node)?.clone(), Record::Conv(conv)))
    }
}

impl Back {
    /// From the gradient of the first member's output, and those of the others, which lie ready.
    pub fn conv(&mut self, conv: Conv, first: Combination) {
        let Conv { x, read, weight, members, bias_id, window, groups, relu_in, rectified, wanted_x } = conv;
        let wanted = Wanted { x: wanted_x, w: self.weights, bias: self.weights && bias_id.is_some() };
        let g = self.joined(&members, first);
        let pixel = window == Window::square(1, 1, 0, 1) && groups == 1 && rectified.is_none() && !wanted.bias;
        let grads = match (pixel, <[FlexTensor; 1]>::try_from(read)) {
            (false, Ok([read])) => written(read, weight, g.tensor(), rectified, window, groups, relu_in, wanted),
            (_, read) => {
                let read = read.map_or_else(|parts| parts, |[one]| vec![one]);
                convolve_joined_grads(read, weight, &g, relu_in, wanted)
            }
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

    /// That of the first member's output where no output of the graph depends on it, but on another member.
    pub fn beside_others(&self, record: &Record) -> Option<Gradient> {
        let Record::Conv(Conv { members, .. }) = record else { return None };
        let other = members.iter().skip(1).find_map(|member| self.peek(member.output))?;
        Some(Gradient::zeros(other.sum.size, members[0].outs))
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
    match relu_in {
        true => convolve_rectified_grads(read, weight, g, window, groups, wanted),
        false => Flex::convolve_grads(read, weight, g, window, groups, wanted),
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::{super::value::dims, *};
    use crate::ir::{Builder, Graph, Init, Op, Role, Shape, ValueId, Window as IrWindow};
    use crate::train::host::{Done, Input, Pass, forward};

    /// Convolutions of one image; the output is the mean of the last one.
    fn graph(outs: &[usize]) -> Graph {
        let mut b = Builder::new("test");
        let x = b.input("input", Shape::image(3, 8, 8));
        let convs: Vec<ValueId> = outs
            .iter()
            .enumerate()
            .map(|(i, &outs)| {
                let weight = b.param(format!("{i}"), None, &[outs, 3, 1, 1], Role::Weight, Init::Constant(0.0));
                b.node(format!("conv{i}"), Op::conv(weight, None, IrWindow::valid(1, 1), 1), &[x]).unwrap()
            })
            .collect();
        let mean = b.node("mean", Op::GlobalAvgPool, &[*convs.last().unwrap()]).unwrap();
        let rows = b.node("rows", Op::Flatten { axis: 1 }, &[mean]).unwrap();
        b.output("logits", rows);
        b.finish()
    }

    fn gradients(graph: &Graph, weights: &[Vec<f32>]) -> Vec<Option<Vec<f32>>> {
        let image: Vec<f32> = (0..2 * 3 * 64).map(|i| ((i * 37) % 101) as f32 / 50.0 - 1.0).collect();
        let params: Vec<FlexTensor> = weights.iter().map(|w| planes::tensor(w.clone(), [w.len()])).collect();
        let pass = Pass { graph, params: &params, train: true, weights: true, wanted: &[false], drop_path: 0.0 };
        let inputs = vec![Input::Image(planes::tensor(image, [2, 3, 8, 8]))];
        let Done { outputs, tape, .. } = forward(&pass, inputs, &mut ChaCha8Rng::seed_from_u64(0)).unwrap();
        let count = dims(&outputs[0]).iter().product();
        let g = planes::tensor((0..count).map(|i| 1.0 + i as f32).collect(), dims(&outputs[0]));
        tape.backward(vec![g]).params.iter().map(|grad| grad.as_ref().map(vector)).collect()
    }

    #[test]
    fn a_convolution_beside_others_has_the_gradient_that_it_has_alone() {
        let weights = |outs: usize| -> Vec<f32> { (0..outs * 3).map(|i| i as f32 / 7.0 - 0.5).collect() };
        let alone = gradients(&graph(&[5]), &[weights(5)]);
        let beside = gradients(&graph(&[4, 2, 5]), &[weights(4), weights(2), weights(5)]);
        let close = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 1e-5 * b.abs().max(1.0));
        let [alone, last] = [&alone[0], &beside[2]].map(|grad| grad.as_ref().expect("the output depends on it"));
        assert!(alone.iter().any(|v| *v != 0.0) && close(last, alone), "{last:?} for {alone:?}");
        for unread in &beside[..2] {
            assert!(unread.as_ref().is_none_or(|grad| grad.iter().all(|v| *v == 0.0)));
        }
    }
}
