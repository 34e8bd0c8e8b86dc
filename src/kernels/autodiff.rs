//! The kernels on an autodiff back end: run the inner back end's kernel and record how to go back.
//!
//! Takes and gives autodiff primitives. What a record keeps is the inputs that its gradient reads and nothing else; with
//! nothing tracked it keeps nothing. Leaves the arithmetic of the gradients to [`KernelGrads`] of the inner back end.
use std::{fmt, sync::Arc};

use burn::backend::{
    Autodiff, AutodiffBackend, Backend, FloatDType, Shape, TensorMetadata,
    autodiff::{
        checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
        grads::Gradients,
        ops::{Backward, NodeGuard, Ops, OpsKind},
    },
    ops::FloatTensorOps,
    tensor::FloatTensor,
};

use super::{
    Window,
    ops::{Grads, KernelGrads, KernelOps, Operands, Wanted},
};

/// From the output's gradient and which inputs want one, the gradient of each input.
type Rule<B> = dyn Fn(FloatTensor<B>, &[bool]) -> Vec<Option<FloatTensor<B>>> + Send + Sync;

/// An autodiff operation whose rule and saved tensors are in a closure, so that one record serves every kernel.
#[derive(Debug)]
struct Record;

struct Saved<B: Backend>(Arc<Rule<B>>);

impl<B: KernelGrads, C: CheckpointStrategy> KernelOps for Autodiff<B, C> {
    fn convolve(
        x: FloatTensor<Self>,
        w: FloatTensor<Self>,
        bias: Operands<Self>,
        window: Window,
        groups: usize,
    ) -> FloatTensor<Self> {
        let parents = guards::<B, C, 3>([&x, &w].into_iter().chain(&bias.0));
        let (x, w) = (x.into_primitive(), w.into_primitive());
        let inner_bias = Operands(bias.0.into_iter().map(|b| b.into_primitive()).collect());
        let (saved_x, saved_w) = (x.clone(), w.clone());
        let y = B::convolve(x, w, inner_bias, window, groups);
        record::<B, C, 3>(parents, y, move || {
            Saved::new(move |g, wanted| {
                let wanted = Wanted { x: wanted[0], w: wanted[1], bias: wanted[2] };
                let grads = B::convolve_grads(saved_x.clone(), saved_w.clone(), g, window, groups, wanted);
                grads.into_vec()
            })
        })
    }

    fn rectify(x: FloatTensor<Self>) -> FloatTensor<Self> {
        let parents = guards::<B, C, 1>([&x]);
        let y = B::rectify(x.into_primitive());
        let saved = y.clone();
        record::<B, C, 1>(parents, y, move || Saved::new(move |g, _| vec![Some(B::rectify_grad(saved.clone(), g))]))
    }

    fn normalise(
        x: FloatTensor<Self>,
        affine: Operands<Self>,
        eps: f32,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let parents = guards::<B, C, 3>([&x].into_iter().chain(&affine.0));
        let x = x.into_primitive();
        let affine: Vec<_> = affine.0.into_iter().map(|v| v.into_primitive()).collect();
        let scale = affine.first().cloned();
        let (y, mean, var) = B::normalise(x.clone(), Operands(affine), eps);
        let (saved_y, saved_mean, saved_var) = (y.clone(), mean.clone(), var.clone());
        let y = record::<B, C, 3>(parents, y, move || match scale {
            Some(scale) => Saved::new(move |g, _| {
                let (mean, var) = (saved_mean.clone(), saved_var.clone());
                let (x, scale, bias) = B::normalise_grads(x.clone(), scale.clone(), mean, var, eps, g);
                vec![Some(x), Some(scale), Some(bias)]
            }),
            // Without scale and bias the output is the normalised input, which the next operation keeps as well: keeping it
            // instead of x saves one activation. Seen from it the statistics are mean 0, variance 1.
            None => {
                drop(x);
                let device = saved_var.device();
                let shape = saved_var.shape();
                Saved::new(move |g, _| {
                    let variance = B::float_add_scalar(saved_var.clone(), eps.into());
                    let scale = B::float_recip(B::float_sqrt(variance));
                    let mean = B::float_zeros(shape.clone(), &device, FloatDType::F32);
                    let var = B::float_ones(shape.clone(), &device, FloatDType::F32);
                    let (x, _, _) = B::normalise_grads(saved_y.clone(), scale, mean, var, 0.0, g);
                    vec![Some(x)]
                })
            }
        });
        (y, Self::from_inner(mean), Self::from_inner(var))
    }

    fn scale_and_shift(x: FloatTensor<Self>, scale: FloatTensor<Self>, shift: FloatTensor<Self>) -> FloatTensor<Self> {
        let parents = guards::<B, C, 3>([&x, &scale, &shift]);
        let (x, scale) = (x.into_primitive(), scale.into_primitive());
        let y = B::scale_and_shift(x.clone(), scale.clone(), shift.into_primitive());
        record::<B, C, 3>(parents, y, move || {
            Saved::new(move |g, wanted| {
                let wanted = Wanted { x: wanted[0], w: wanted[1], bias: wanted[2] };
                B::scale_and_shift_grads(x.clone(), scale.clone(), g, wanted).into_vec()
            })
        })
    }

    fn pool_max(x: FloatTensor<Self>, window: Window) -> FloatTensor<Self> {
        let parents = guards::<B, C, 1>([&x]);
        let x = x.into_primitive();
        let shape = x.shape().dims();
        match Record.prepare::<C>(parents).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let (y, argmax) = B::pool_max_with_argmax(x, window);
                let rule = move |g, _: &[bool]| vec![Some(B::pool_max_grad(shape, argmax.clone(), g, window))];
                prep.finish(Saved::new(rule), y)
            }
            OpsKind::UnTracked(prep) => prep.finish(B::pool_max(x, window)),
        }
    }

    fn pool_avg(x: FloatTensor<Self>, window: Window, count_include_pad: bool) -> FloatTensor<Self> {
        let parents = guards::<B, C, 1>([&x]);
        let shape = x.shape().dims();
        let y = B::pool_avg(x.into_primitive(), window, count_include_pad);
        record::<B, C, 1>(parents, y, move || {
            Saved::new(move |g, _| vec![Some(B::pool_avg_grad(shape, g, window, count_include_pad))])
        })
    }

    fn mix(weights: FloatTensor<Self>, indices: Vec<usize>, xs: Operands<Self>) -> FloatTensor<Self> {
        // The number of parents is a compile-time constant: a few sizes, padded.
        match xs.0.len() {
            0..=3 => mix::<B, C, 4>(weights, indices, xs.0),
            4..=8 => mix::<B, C, 9>(weights, indices, xs.0),
            9..=16 => mix::<B, C, 17>(weights, indices, xs.0),
            17..=MANY => mix::<B, C, { MANY + 1 }>(weights, indices, xs.0),
            _ => {
                let mut first = xs.0;
                let rest = first.split_off(MANY);
                let (left, right) = indices.split_at(MANY);
                let first = Self::mix(weights.clone(), left.to_vec(), Operands(first));
                Self::float_add(first, Self::mix(weights, right.to_vec(), Operands(rest)))
            }
        }
    }

    fn shuffle(x: FloatTensor<Self>, groups: usize) -> FloatTensor<Self> {
        let parents = guards::<B, C, 1>([&x]);
        let channels = x.shape()[1];
        let y = B::shuffle(x.into_primitive(), groups);
        record::<B, C, 1>(parents, y, move || Saved::new(move |g, _| vec![Some(B::shuffle(g, channels / groups))]))
    }

    fn take_channels(x: FloatTensor<Self>, start: usize, count: usize) -> FloatTensor<Self> {
        let parents = guards::<B, C, 1>([&x]);
        let channels = x.shape()[1];
        let y = B::take_channels(x.into_primitive(), start, count);
        record::<B, C, 1>(parents, y, move || Saved::new(move |g, _| vec![Some(B::place_channels(g, start, channels))]))
    }

    fn join_channels(xs: Operands<Self>) -> FloatTensor<Self> {
        match xs.0.len() {
            0..=4 => join::<B, C, 4>(xs.0),
            5..=8 => join::<B, C, 8>(xs.0),
            9..=MANY => join::<B, C, MANY>(xs.0),
            _ => {
                let mut first = xs.0;
                let rest = first.split_off(MANY);
                let mut parts = vec![Self::join_channels(Operands(first))];
                parts.extend(rest);
                Self::join_channels(Operands(parts))
            }
        }
    }
}

/// The longest list one record takes; longer ones are split.
const MANY: usize = 40;

fn mix<B: KernelGrads, C: CheckpointStrategy, const N: usize>(
    weights: FloatTensor<Autodiff<B, C>>,
    indices: Vec<usize>,
    xs: Vec<FloatTensor<Autodiff<B, C>>>,
) -> FloatTensor<Autodiff<B, C>> {
    let parents = guards::<B, C, N>([&weights].into_iter().chain(&xs));
    let weights_tracked = weights.is_tracked();
    let weights = weights.into_primitive();
    let count = xs.len();
    let xs: Vec<_> = xs.into_iter().map(|x| x.into_primitive()).collect();
    // Only the gradient of the weights reads the inputs.
    let saved = if weights_tracked { xs.clone() } else { Vec::new() };
    let y = B::mix(weights.clone(), indices.clone(), Operands(xs));
    record::<B, C, N>(parents, y, move || {
        Saved::new(move |g, wanted| {
            let wanted_xs = &wanted[1..1 + count];
            let (first, rest) = B::mix_grads(weights.clone(), &indices, &saved, g, wanted[0], wanted_xs);
            [first].into_iter().chain(rest).collect()
        })
    })
}

fn join<B: KernelGrads, C: CheckpointStrategy, const N: usize>(
    xs: Vec<FloatTensor<Autodiff<B, C>>>,
) -> FloatTensor<Autodiff<B, C>> {
    let parents = guards::<B, C, N>(&xs);
    let counts: Vec<usize> = xs.iter().map(|x| x.shape()[1]).collect();
    let y = B::join_channels(Operands(xs.into_iter().map(|x| x.into_primitive()).collect()));
    record::<B, C, N>(parents, y, move || {
        Saved::new(move |g: FloatTensor<B>, wanted| {
            let mut start = 0;
            let parts = counts.iter().zip(wanted).map(|(&count, wanted)| {
                let part = wanted.then(|| B::take_channels(g.clone(), start, count));
                start += count;
                part
            });
            parts.collect()
        })
    })
}

impl<B: Backend, const N: usize> Backward<B, N> for Record {
    type State = Saved<B>;

    fn backward(self, ops: Ops<Self::State, N>, grads: &mut Gradients, _: &mut Checkpointer) {
        let g = grads.consume::<B>(&ops.node);
        let wanted = ops.parents.each_ref().map(|parent| parent.is_some());
        for (parent, grad) in ops.parents.into_iter().zip((ops.state.0)(g, &wanted)) {
            if let (Some(parent), Some(grad)) = (parent, grad) {
                grads.register::<B>(parent.id, grad);
            }
        }
    }
}

fn record<B: Backend, C: CheckpointStrategy, const N: usize>(
    parents: [NodeGuard; N],
    y: FloatTensor<B>,
    saved: impl FnOnce() -> Saved<B>,
) -> FloatTensor<Autodiff<B, C>> {
    match Record.prepare::<C>(parents).compute_bound().stateful() {
        OpsKind::Tracked(prep) => prep.finish(saved(), y),
        OpsKind::UnTracked(prep) => prep.finish(y),
    }
}

/// The nodes of the inputs, padded with an untracked leaf to the length burn wants at compile time.
fn guards<'a, B: Backend, C: CheckpointStrategy, const N: usize>(
    inputs: impl IntoIterator<Item = &'a FloatTensor<Autodiff<B, C>>>,
) -> [NodeGuard; N]
where
    FloatTensor<Autodiff<B, C>>: 'a,
{
    let mut inputs = inputs.into_iter().peekable();
    let device = inputs.peek().expect("an operation has inputs").device();
    let mut padding = None;
    std::array::from_fn(|_| match inputs.next() {
        Some(input) => input.node(),
        None => padding
            .get_or_insert_with(|| {
                let leaf = B::float_empty(Shape::new([1]), &device, FloatDType::F32);
                <Autodiff<B, C> as AutodiffBackend>::from_inner(leaf)
            })
            .node(),
    })
}

impl<B: Backend> Saved<B> {
    fn new(rule: impl Fn(FloatTensor<B>, &[bool]) -> Vec<Option<FloatTensor<B>>> + Send + Sync + 'static) -> Self {
        Self(Arc::new(rule))
    }
}

impl<B: Backend> Clone for Saved<B> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<B: Backend> fmt::Debug for Saved<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Saved")
    }
}

impl<B: Backend> Grads<B> {
    fn into_vec(self) -> Vec<Option<FloatTensor<B>>> {
        vec![self.x, self.w, self.bias]
    }
}
