//! The supernet: its graph, its trainable module, and passes over a batch of images.
//!
//! Takes the configuration, the data's sizes and the architecture's values; gives losses, gradients and evaluations. The
//! order of steps is left to `run`, how alpha and beta move to `arch`, `adam` and `backtrack`.

use std::str::FromStr;

use burn::tensor::{Device, Gradients, Tensor};

use super::SearchError;
use super::arch::{Arch, ArchValues};
use super::config::SearchConfig;
use crate::data::Batch;
use crate::genotype::Primitive;
use crate::ir::{Model, verify};
use crate::lower::{Cells, Network, SearchSpace, Stem, lower};
use crate::passes;
use crate::train::config;
use crate::train::converging;
use crate::train::loss::cross_entropy;
use crate::train::module::{GraphModule, Mode, Pass, Value, download, upload};

/// A supernet on a device.
pub struct Supernet {
    /// The trainable module.
    pub module: GraphModule,
    space: SearchSpace,
}

/// What a pass over one batch gives before its gradients are taken.
pub struct Step {
    /// The pass, with the tracked weights.
    pub pass: Pass,
    /// Mean cross entropy, on the device.
    pub loss: Tensor<1>,
    /// The same on the host; finite.
    pub loss_value: f64,
    /// `[N, classes]`, on the host.
    pub logits: Vec<f32>,
}

/// What a step of the architecture is made from.
pub struct ArchPass {
    /// The gradient of the raw values, before clipping and weight decay.
    pub gradient: ArchValues,
    /// Mean cross entropy of the batch; finite.
    pub loss: f64,
    /// `[N, classes]`.
    pub logits: Vec<f32>,
}

impl Supernet {
    /// Lowers the supernet for `classes` classes and images of `image` pixels and puts it on `device`, with the weights of
    /// the configuration's seed.
    ///
    /// # Errors
    /// A primitive that is none, or sizes that do not make a network.
    pub fn new(config: &SearchConfig, classes: usize, image: [usize; 2], device: &Device) -> Result<Self, SearchError> {
        let space = space(config)?;
        let network = Network {
            stem: match config.network {
                config::Network::Cifar => Stem::Cifar,
                config::Network::Imagenet => Stem::ImageNet,
            },
            channels: config.channels,
            cells: config.cells,
            classes,
            image,
            auxiliary: false,
        };
        let graph = lower(&network, Cells::Search(&space))?;
        let model = verify(Model::initial(graph, config.seed)).map_err(crate::lower::LowerError::from)?;
        let (model, _) = passes::apply(passes::TRAINING, model).map_err(crate::train::TrainError::from)?;
        Ok(Self { module: GraphModule::new(&model, device), space })
    }

    /// The candidates of an edge.
    pub fn primitives(&self) -> &[Primitive] {
        &self.space.primitives
    }

    /// The architecture's values as graph inputs, in the order of the graph; without a tape.
    pub fn inputs(&self, arch: &Arch) -> Vec<Value> {
        self.tensors(arch).into_iter().map(Value::Flat).collect()
    }

    /// A training pass over `batch`: with gradients of the weights, or else of the architecture.
    ///
    /// # Errors
    /// A device that fails, or a loss that is no finite number.
    pub fn step(&self, batch: Batch, arch: &Arch, weights: bool) -> Result<Step, SearchError> {
        self.tracked(batch, arch, Wanted { weights, arch: !weights })
    }

    /// The same with the gradients of both.
    ///
    /// # Errors
    /// As [`Self::step`].
    pub fn step_of_both(&self, batch: Batch, arch: &Arch) -> Result<Step, SearchError> {
        self.tracked(batch, arch, Wanted { weights: true, arch: true })
    }

    /// The first-order gradient of the architecture on `batch`; the running statistics move, as in every training pass.
    ///
    /// # Errors
    /// As [`Self::step`].
    pub fn first_order(&mut self, batch: Batch, arch: &Arch) -> Result<ArchPass, SearchError> {
        let step = self.step(batch, arch, false)?;
        let gradient = arch.backward(&step.architecture_gradient(arch)?);
        self.module.update_statistics(&step.pass);
        Ok(ArchPass { gradient, loss: step.loss_value, logits: step.logits })
    }

    fn tracked(&self, batch: Batch, arch: &Arch, wanted: Wanted) -> Result<Step, SearchError> {
        let mut tensors = self.tensors(arch);
        if wanted.arch {
            tensors = tensors.into_iter().map(|t| t.autodiff().require_grad()).collect();
        }
        let images = self.module.images(batch.images, [batch.len, 3, batch.height, batch.width]);
        let inputs = std::iter::once(images).chain(tensors.into_iter().map(Value::Flat)).collect();
        // The supernet has no drop path, so nothing is drawn from this generator.
        let mut rng = crate::train::generator(0, "supernet", 0);
        let pass =
            self.module.forward(inputs, Mode::Train { weights: wanted.weights, drop_path: 0.0, rng: &mut rng })?;
        let logits = pass.outputs[0].clone();
        let loss = cross_entropy(logits.clone(), &batch.labels, 0.0);
        let what =
            if wanted.weights && !wanted.arch { "the training loss" } else { "the loss in the architecture's step" };
        let loss_value = converging(download(loss.clone())?, logits.dims()[1], what)?;
        Ok(Step { pass, loss, loss_value, logits: download(logits)? })
    }

    fn tensors(&self, arch: &Arch) -> Vec<Tensor<1>> {
        let soft = arch.weights();
        let [alphas, betas] = parts(&soft);
        let betas = betas.into_iter().filter(|_| self.space.edge_normalisation);
        alphas.into_iter().chain(betas).map(|values| upload(values, self.module.device())).collect()
    }
}

impl Step {
    /// The gradient of the loss with respect to the softmaxed architecture values, on the host.
    ///
    /// # Errors
    /// A device that fails.
    pub fn architecture_gradient(&self, arch: &Arch) -> Result<ArchValues, SearchError> {
        self.architecture_part(arch, &mut self.loss.backward())
    }

    /// The same, out of the gradients of a pass that tracked more.
    ///
    /// # Errors
    /// A device that fails.
    pub fn architecture_part(&self, arch: &Arch, gradients: &mut Gradients) -> Result<ArchValues, SearchError> {
        // The images come first among the graph's inputs.
        let inputs = self.pass.input_gradients(gradients).into_iter().skip(1);
        let mut gradient = ArchValues::zeros(arch.shape);
        let ArchValues { normal, reduce } = &mut gradient;
        let targets = [&mut normal.alpha, &mut reduce.alpha, &mut normal.beta, &mut reduce.beta];
        for (target, values) in targets.into_iter().zip(inputs) {
            // A kind of cell that the network does not have leaves no gradient.
            if let Some(values) = values {
                *target = download(values)?;
            }
        }
        Ok(gradient)
    }
}

/// Whose gradients a pass keeps a tape for.
struct Wanted {
    weights: bool,
    arch: bool,
}

/// The search space that the configuration describes.
fn space(config: &SearchConfig) -> Result<SearchSpace, SearchError> {
    let primitives = config.primitives.iter().map(|name| {
        Primitive::from_str(name).map_err(|e| SearchError::Primitive { name: name.clone(), why: e.to_string() })
    });
    Ok(SearchSpace {
        primitives: primitives.collect::<Result<_, _>>()?,
        nodes: config.nodes,
        partial_channels: config.partial_channels,
        edge_normalisation: config.edge_normalisation,
    })
}

fn parts(values: &ArchValues) -> [[&Vec<f32>; 2]; 2] {
    let ArchValues { normal, reduce } = values;
    [[&normal.alpha, &reduce.alpha], [&normal.beta, &reduce.beta]]
}
