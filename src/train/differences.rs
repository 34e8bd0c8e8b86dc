//! Gradients of the trainable module against finite differences: every primitive with its strides, the stems, the
//! factorised reduction, and whole searched cells with partial channels, mixing weights and odd sizes.
//!
//! The pieces go the way of every network: lowered, through the training passes, into a [`GraphModule`], and there by either
//! walk: on burn's tape, which has gradients of the images too, and the CPU's own, whose gradients stop before the images. The
//! slope along a random direction is compared with the gradient's component. Float32 and the kinks of ReLU and max pooling limit how
//! well a slope is known: directions across a kink are drawn again, since the slopes to both sides of it differ.

use burn::tensor::{Device, Tensor};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::module::{GraphModule, Mode, Value, download, upload};
use crate::genotype::Primitive;
use crate::ir::{Dim, Graph, Model, Weights, verify};
use crate::lower::testing::{factorized_reduce, primitive, searched_cell, stem};
use crate::lower::{SearchSpace, Stem};
use crate::passes::{TRAINING, apply};

/// Of a slope, relative to the norm of the gradient: directions have elements of size one, so that this is the size of a
/// slope too.
const TOLERANCE: f64 = 1e-2;
/// How far a difference reaches, relative to the size of the values; the one that serves best counts.
const STEPS: [f64; 4] = [5e-3, 1e-3, 2e-4, 5e-5];
/// Directions that are compared per tensor, and that are drawn for it at most.
const DIRECTIONS: usize = 2;
const DRAWS: usize = 200;
/// Images.
const BATCH: usize = 3;

/// A piece with values for its inputs and parameters; the loss is a fixed random mixture of its outputs.
struct Piece {
    module: GraphModule,
    /// Inputs, then parameters: name and values, which are moved, and whether a gradient is expected.
    tensors: Vec<(String, Vec<f32>, bool)>,
    inputs: usize,
    mixture: Vec<Vec<f32>>,
    way: Way,
}

/// Which of the module's two walks is looked at.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Way {
    Tape,
    Host,
}

impl Piece {
    fn new(graph: Graph, way: Way) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        let (model, _) = apply(TRAINING, verify(Model::initial(graph, 1)).unwrap()).unwrap();
        let graph = &model.graph;
        let mut tensors = Vec::new();
        for id in &graph.inputs {
            let value = graph.value(*id);
            let count = value.shape.with_batch(BATCH).iter().product();
            // Images away from zero, where ReLU has its kink; mixing weights of either sign, which a softmax does not give.
            let mut number = || rng.random_range(0.2f32..1.2) * if rng.random() { 1.0 } else { -1.0 };
            let wanted = way == Way::Tape || value.shape.0[0] != Dim::Batch;
            tensors.push((value.name.clone(), (0..count).map(|_| number()).collect(), wanted));
        }
        let inputs = tensors.len();
        for (param, weights) in graph.params.iter().zip(&model.weights.0) {
            // Scales and shifts do not stay at 1 and 0.
            let values = weights.data.iter().map(|w| w + rng.random_range(-0.3f32..0.3)).collect();
            tensors.push((param.name.clone(), values, param.role.is_trainable()));
        }
        let outputs =
            graph.outputs.iter().map(|o| graph.value(o.value).shape.with_batch(BATCH).iter().product::<usize>());
        let mixture = outputs.map(|n| (0..n).map(|_| rng.random_range(-1.0f32..1.0)).collect()).collect();
        Self { module: GraphModule::new(&model, &Device::flex()), tensors, inputs, mixture, way }
    }

    /// The outputs, with the gradients of the loss if they are wanted.
    fn run(&mut self, tensors: &[Vec<f32>], gradients: bool) -> (f64, Vec<Option<Vec<f32>>>) {
        let (inputs, params) = tensors.split_at(self.inputs);
        let graph = self.module.graph();
        let shaped =
            graph.params.iter().zip(params).map(|(p, data)| crate::ir::Tensor::new(p.shape.clone(), data.clone()));
        let weights = Weights(shaped.collect());
        self.module.load(&weights);
        let graph = self.module.graph();
        let leaf = |t: Tensor<1>| if gradients { t.autodiff().require_grad() } else { t };
        let leaves: Vec<Tensor<1>> = inputs.iter().map(|data| leaf(upload(data, self.module.device()))).collect();
        let value = |(id, leaf): (&crate::ir::ValueId, &Tensor<1>)| {
            let shape = &graph.value(*id).shape;
            match shape.0[0] {
                Dim::Batch => {
                    let dims: [usize; 4] = shape.with_batch(BATCH).try_into().unwrap();
                    Value::Image(leaf.clone().reshape(dims))
                }
                Dim::Fixed(_) => Value::Flat(leaf.clone()),
            }
        };
        let values = graph.inputs.iter().zip(&leaves).map(value).collect();
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        let mode = Mode::Train { weights: gradients, drop_path: 0.0, rng: &mut rng };
        let pass = match self.way {
            Way::Tape => self.module.on_device(values, mode),
            Way::Host => self.module.forward(values, mode),
        };
        let pass = pass.unwrap();
        let outputs: Vec<Vec<f32>> = pass.outputs.iter().map(|o| download(o.clone()).unwrap()).collect();
        let pairs = outputs.iter().flatten().zip(self.mixture.iter().flatten());
        let loss = pairs.map(|(y, m)| f64::from(*y) * f64::from(*m)).sum();
        if !gradients {
            return (loss, Vec::new());
        }
        let terms = pass.outputs.iter().zip(&self.mixture).map(|(output, mixture)| {
            let [n, width] = output.dims();
            (output.clone() * upload(mixture, self.module.device()).autodiff().reshape([n, width])).sum()
        });
        let mut tape = terms.reduce(|a, b| a + b).unwrap().backward();
        // Those of images are no concern of the module.
        let flat = pass.input_gradients(&mut tape);
        let of_inputs: Vec<_> =
            flat.into_iter().zip(&leaves).map(|(flat, leaf)| flat.or_else(|| leaf.grad_remove(&mut tape))).collect();
        let all = of_inputs.into_iter().chain(pass.gradients(&mut tape));
        (loss, all.map(|g| g.map(|g| download(g).unwrap())).collect())
    }

    fn values(&self) -> Vec<Vec<f32>> {
        self.tensors.iter().map(|(_, values, _)| values.clone()).collect()
    }

    /// Compares `gradients` with slopes; gives the worst difference relative to a gradient's norm.
    fn compare(&mut self, gradients: &[Option<Vec<f32>>]) -> Result<f64, String> {
        let values = self.values();
        let middle = self.run(&values, false).0;
        let mut rng = ChaCha8Rng::seed_from_u64(9);
        let mut worst = 0.0f64;
        for i in 0..self.tensors.len() {
            let (name, _, wanted) = self.tensors[i].clone();
            let gradient = match (&gradients[i], wanted) {
                (Some(gradient), true) => gradient,
                (None, false) => continue,
                (found, _) => return Err(format!("{name}: has a gradient: {}", found.is_some())),
            };
            let norm = gradient.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
            let size = (values[i].iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / values[i].len() as f64).sqrt();
            let (mut compared, mut disagreed) = (0, 0);
            for _ in 0..DRAWS {
                let direction: Vec<f32> = values[i].iter().map(|_| if rng.random() { 1.0 } else { -1.0 }).collect();
                let mut side = |h: f64| {
                    let mut moved = values.clone();
                    moved[i].iter_mut().zip(&direction).for_each(|(x, d)| *x += h as f32 * d);
                    (self.run(&moved, false).0 - middle) / h
                };
                // Slopes to both sides and at two distances: where they agree there is no kink between, nor one to each side
                // that make up for each other. A long step suffers from kinks, a short one from rounding.
                let slopes = |step: f64| [-2.0, -1.0, 1.0, 2.0].map(|times| side(times * step * size));
                let spread = |s: &[f64; 4]| s.iter().map(|x| (x - s[1]).abs()).fold(0.0, f64::max);
                let tried = STEPS.map(slopes);
                let best = tried.iter().min_by(|a, b| spread(a).total_cmp(&spread(b))).expect("there are steps");
                if spread(best) > TOLERANCE * norm {
                    continue;
                }
                let slope = (best[1] + best[2]) / 2.0;
                let found: f64 = gradient.iter().zip(&direction).map(|(g, d)| f64::from(*g) * f64::from(*d)).sum();
                let difference = (slope - found).abs() / norm;
                if difference > TOLERANCE || !difference.is_finite() {
                    // Between two kinks that are nearer than any step the slope is another one than around them. That is
                    // chance, once; a wrong gradient is wrong along nearly every direction.
                    disagreed += 1;
                    if disagreed > 1 {
                        return Err(format!("{name}: the slope is {slope}, the gradient's {found}, its norm {norm}"));
                    }
                    continue;
                }
                worst = worst.max(difference);
                compared += 1;
                if compared == DIRECTIONS + 2 * disagreed {
                    break;
                }
            }
            if compared < DIRECTIONS + 2 * disagreed {
                return Err(format!("{name}: only {compared} directions without a kink"));
            }
        }
        Ok(worst)
    }
}

fn check(what: &str, graph: Graph) {
    for way in [Way::Tape, Way::Host] {
        let mut piece = Piece::new(graph.clone(), way);
        let values = piece.values();
        let (_, gradients) = piece.run(&values, true);
        let worst = piece.compare(&gradients).unwrap_or_else(|why| panic!("{what}, {way:?}: {why}"));
        println!("{what}, {way:?}: {} tensors, worst difference {worst:.1e} of the norm", piece.tensors.len());
    }
}

/// What `none` has no gradient through: it is left out of the graph.
fn real() -> impl Iterator<Item = Primitive> {
    Primitive::ALL.into_iter().filter(|p| *p != Primitive::None)
}

#[test]
fn gradients_of_every_primitive_are_slopes() {
    for op in real() {
        for (stride, searching, size) in [
            (1, true, [6, 6]),
            (1, false, [5, 7]),
            (2, true, [6, 6]),
            (2, true, [7, 5]),
            (2, false, [6, 8]),
            (2, false, [5, 5]),
        ] {
            check(
                &format!("{op:?}, stride {stride}, {size:?}, searching: {searching}"),
                primitive(op, stride, searching, 4, size),
            );
        }
    }
}

#[test]
fn gradients_of_factorised_reductions_and_stems_are_slopes() {
    for size in [[6, 6], [7, 5], [6, 7], [3, 3]] {
        check(&format!("factorised reduction of {size:?}"), factorized_reduce([4, 6], size));
    }
    for (kind, size) in [(Stem::Cifar, [6, 5]), (Stem::ImageNet, [16, 16]), (Stem::ImageNet, [17, 21])] {
        check(&format!("{kind:?} stem, {size:?}"), stem(kind, 4, size));
    }
}

#[test]
fn gradients_of_searched_cells_are_slopes_for_inputs_weights_and_mixing_weights() {
    let sizes = [([false, false], [4, 4]), ([true, false], [6, 5]), ([false, true], [3, 4]), ([true, true], [4, 4])];
    // With a quarter of 8 channels a reduction has convolutions of two weights, whose slopes drown in rounding.
    for (partial_channels, edge_normalisation, sizes) in
        [(1, false, &sizes[..]), (2, true, &sizes), (4, true, &sizes[..1])]
    {
        for &(kind, size) in sizes {
            let primitives = Primitive::SEARCHED.to_vec();
            let space = SearchSpace { primitives, nodes: 2, partial_channels, edge_normalisation };
            let what = format!("cell, K = {partial_channels}, reduction now and before: {kind:?}, {size:?}");
            check(&what, searched_cell(&space, 8, kind, size));
        }
    }
}

#[test]
fn the_weight_of_none_has_no_gradient() {
    let space = SearchSpace { nodes: 1, ..SearchSpace::pc_darts(2) };
    for way in [Way::Tape, Way::Host] {
        let mut piece = Piece::new(searched_cell(&space, 4, [false, false], [4, 4]), way);
        let values = piece.values();
        let (_, gradients) = piece.run(&values, true);
        let alphas = gradients[2].as_ref().unwrap();
        assert_eq!(alphas.len(), 16);
        for (i, g) in alphas.iter().enumerate() {
            assert_eq!(*g == 0.0, i % 8 == 0, "{way:?}, entry {i}: {g}");
        }
    }
}

#[test]
fn a_wrong_gradient_is_found() {
    let mut piece = Piece::new(primitive(Primitive::SepConv3x3, 2, false, 4, [6, 6]), Way::Host);
    let values = piece.values();
    let (_, gradients) = piece.run(&values, true);
    piece.compare(&gradients).unwrap();
    for i in (0..gradients.len()).filter(|&i| gradients[i].is_some()) {
        let name = piece.tensors[i].0.clone();
        let all = gradients[i].as_ref().unwrap();
        let largest = (0..all.len()).max_by(|&a, &b| all[a].abs().total_cmp(&all[b].abs())).unwrap();
        type Change<'a> = &'a dyn Fn(&mut Vec<f32>);
        let changes: [(&str, Change); 3] = [
            ("one entry missing", &|g| g[largest] = 0.0),
            ("the wrong sign", &|g| g.iter_mut().for_each(|g| *g = -*g)),
            ("a fifth too long", &|g| g.iter_mut().for_each(|g| *g *= 1.2)),
        ];
        for (change, apply) in changes {
            let mut wrong = gradients.clone();
            apply(wrong[i].as_mut().unwrap());
            let why = piece.compare(&wrong).expect_err(&format!("{name}, {change}: not noticed"));
            assert!(why.starts_with(&name), "{name}, {change}: {why}");
        }
    }
}
