//! The numbers of the PyTorch reference: logits, losses and gradients of the static networks and the supernet, on the
//! device that IDARTS_TEST_DEVICE names (default: cpu).
#![cfg(feature = "train")]

mod common;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use burn::tensor::Tensor;
use idarts_compile::genotype::Genotype;
use idarts_compile::ir::{self, Model, Verified, verify};
use idarts_compile::lower::{Cells, Network, SearchSpace, Stem, lower};
use idarts_compile::passes::{TRAINING, apply};
use idarts_compile::train::loss::cross_entropy;
use idarts_compile::train::module::{GraphModule, Mode, Value, download, upload};
use idarts_compile::train::weights::{assign, read};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use safetensors::SafeTensors;

/// Absolute, for logits and losses.
const ABSOLUTE: f64 = 1e-4;
/// Relative to the norm of the tensor, for gradients.
const RELATIVE: f64 = 1e-3;

#[test]
fn parity_of_the_static_cifar_network() {
    check_static("static_cifar.safetensors", Stem::Cifar, 5, 10, "PC_DARTS_cifar");
}

#[test]
fn parity_of_the_static_imagenet_network() {
    check_static("static_imagenet.safetensors", Stem::ImageNet, 4, 20, "PC_DARTS_image");
}

#[test]
fn parity_of_the_supernet() {
    check_supernet("supernet.safetensors", Stem::Cifar, 4, 10);
}

#[test]
fn parity_of_the_imagenet_supernet() {
    check_supernet("supernet_imagenet.safetensors", Stem::ImageNet, 2, 20);
}

fn check_static(file: &str, stem: Stem, cells: usize, classes: usize, genotype: &str) {
    let (Some(fixture), Some(device)) = (Fixture::open(file), common::device("cpu")) else { return };
    let images = &fixture.tensors["images"];
    let network =
        Network { stem, channels: 8, cells, classes, image: [images.shape[2], images.shape[3]], auxiliary: true };
    let genotype = Genotype::shipped(genotype).expect("shipped");
    let model = fixture.model(lower(&network, Cells::Fixed(&genotype)).unwrap());
    let module = GraphModule::new(&model, &device);
    let labels = fixture.labels("labels");

    let pass = module.forward(vec![fixture.images(&module, "images")], Mode::Eval).unwrap();
    fixture.close("eval/logits", download(pass.outputs[0].clone()).unwrap());

    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let mode = Mode::Train { weights: true, drop_path: 0.0, rng: &mut rng };
    let pass = module.forward(vec![fixture.images(&module, "images")], mode).unwrap();
    fixture.close("train/logits", download(pass.outputs[0].clone()).unwrap());
    fixture.close("train/aux_logits", download(pass.outputs[1].clone()).unwrap());
    let loss = |i: usize| cross_entropy(pass.outputs[i].clone(), &labels, 0.0);
    let loss = loss(0) + loss(1) * 0.4;
    fixture.close("train/loss", download(loss.clone()).unwrap());
    let gradients = pass.gradients(&mut loss.backward());
    fixture.gradients("train/grad/", &model, &gradients);
}

fn check_supernet(file: &str, stem: Stem, partial_channels: usize, classes: usize) {
    let (Some(fixture), Some(device)) = (Fixture::open(file), common::device("cpu")) else { return };
    let images = &fixture.tensors["valid/images"];
    let image = [images.shape[2], images.shape[3]];
    let network = Network { stem, channels: 16, cells: 8, classes, image, auxiliary: false };
    let space = SearchSpace::pc_darts(partial_channels);
    let model = fixture.model(lower(&network, Cells::Search(&space)).unwrap());
    let module = GraphModule::new(&model, &device);
    let pass = |part: &str, weights: bool| {
        let raw: Vec<Tensor<1>> = ["alphas_normal", "alphas_reduce", "betas_normal", "betas_reduce"]
            .iter()
            .map(|n| upload(&fixture.tensors[&format!("weight/{n}")].data, module.device()).autodiff().require_grad())
            .collect();
        let alphas = raw[..2].iter().map(|a| softmax(a, &[8; 14]));
        let betas = raw[2..].iter().map(|b| softmax(b, &[2, 3, 4, 5]));
        let soft: Vec<Tensor<1>> = alphas.chain(betas).collect();
        let mut inputs = vec![fixture.images(&module, &format!("{part}/images"))];
        inputs.extend(soft.iter().map(|values| Value::Flat(values.clone().detach().require_grad())));
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        let pass = module.forward(inputs, Mode::Train { weights, drop_path: 0.0, rng: &mut rng }).unwrap();
        fixture.close(&format!("{part}/logits"), download(pass.outputs[0].clone()).unwrap());
        let loss = cross_entropy(pass.outputs[0].clone(), &fixture.labels(&format!("{part}/labels")), 0.0);
        fixture.close(&format!("{part}/loss"), download(loss.clone()).unwrap());
        let mut gradients = loss.backward();
        let of_soft = pass.input_gradients(&mut gradients).into_iter().skip(1);
        let arch: Vec<Vec<f32>> = raw
            .iter()
            .zip(soft)
            .zip(of_soft)
            .map(|((raw, soft), of_soft)| {
                // The way back through the softmax.
                let mut gradients = (soft * of_soft.unwrap().autodiff()).sum().backward();
                download(raw.grad_remove(&mut gradients).unwrap()).unwrap()
            })
            .collect();
        (pass.gradients(&mut gradients), arch)
    };
    let (weights, arch) = pass("valid", false);
    assert!(weights.iter().all(Option::is_none), "the architecture pass must not track weights");
    for (name, got) in ["alphas_normal", "alphas_reduce", "betas_normal", "betas_reduce"].iter().zip(arch) {
        fixture.relative(&format!("valid/grad/{name}"), &got);
    }
}

/// The softmax of each of the consecutive groups of `sizes`.
fn softmax(raw: &Tensor<1>, sizes: &[usize]) -> Tensor<1> {
    let parts = raw.clone().split_with_sizes(sizes.to_vec(), 0);
    Tensor::cat(parts.into_iter().map(|p| burn::tensor::activation::softmax(p, 0)).collect(), 0)
}

/// A fixture file: its float tensors, its labels and its path.
struct Fixture {
    path: std::path::PathBuf,
    tensors: BTreeMap<String, ir::Tensor>,
    labels: HashMap<String, Vec<i64>>,
}

impl Fixture {
    fn open(name: &str) -> Option<Self> {
        let path = common::fixture(name)?;
        let bytes = std::fs::read(&path).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let ints = |data: &[u8]| data.as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b)).collect();
        let labels = file.tensors().into_iter().filter(|(n, _)| n.ends_with("labels"));
        let labels = labels.map(|(n, t)| (n, ints(t.data()))).collect();
        Some(Self { tensors: read(&path).unwrap(), path, labels })
    }

    /// `graph` with the fixture's weights, as the training passes leave it.
    fn model(&self, graph: ir::Graph) -> Verified<Model> {
        let mut model = Model::initial(graph, 0);
        let arch = |name: &str| name.starts_with("alphas") || name.starts_with("betas");
        let weights = self.tensors.iter().filter_map(|(n, t)| Some((n.strip_prefix("weight/")?, t)));
        let weights = weights.filter(|(n, _)| !arch(n)).map(|(n, t)| (n.to_owned(), t.clone()));
        assign(&mut model, weights.collect(), Path::new(&self.path)).unwrap();
        apply(TRAINING, verify(model).unwrap()).unwrap().0
    }

    fn images(&self, module: &GraphModule, name: &str) -> Value {
        let t = &self.tensors[name];
        module.images(t.data.clone(), t.shape.as_slice().try_into().unwrap())
    }

    fn labels(&self, name: &str) -> Vec<i64> {
        self.labels[name].clone()
    }

    fn close(&self, name: &str, got: Vec<f32>) {
        let want = &self.tensors[name].data;
        assert_eq!(want.len(), got.len(), "{name}");
        let worst = want.iter().zip(&got).map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max);
        println!("{name}: worst absolute difference {worst:.2e}");
        assert!(worst <= ABSOLUTE, "{name}: {worst:.3e} > {ABSOLUTE:.0e}");
    }

    fn relative(&self, name: &str, got: &[f32]) -> f64 {
        let want = &self.tensors[name].data;
        assert_eq!(want.len(), got.len(), "{name}");
        let norm = |v: &mut dyn Iterator<Item = f64>| -> f64 { v.map(|x| x * x).sum::<f64>().sqrt() };
        let size = norm(&mut want.iter().map(|&x| f64::from(x)));
        let difference = norm(&mut want.iter().zip(got).map(|(&a, &b)| f64::from(a) - f64::from(b))) / size.max(1e-12);
        assert!(difference <= RELATIVE, "{name}: {difference:.3e} > {RELATIVE:.0e} of a norm of {size:.3e}");
        difference
    }

    fn gradients(&self, prefix: &str, model: &Model, gradients: &[Option<Tensor<1>>]) {
        let (mut worst, mut seen) = ((0.0, String::new()), 0);
        for (param, gradient) in model.graph.params.iter().zip(gradients).filter(|(p, _)| p.role.is_trainable()) {
            let name = format!("{prefix}{}", param.alias.as_deref().unwrap());
            let gradient = gradient.clone().unwrap_or_else(|| panic!("{name}: no gradient"));
            let difference = self.relative(&name, &download(gradient).unwrap());
            seen += 1;
            if difference > worst.0 {
                worst = (difference, name);
            }
        }
        println!("{prefix}: {seen} gradients, worst relative difference {:.2e} ({})", worst.0, worst.1);
        assert_eq!(seen, self.tensors.keys().filter(|n| n.starts_with(prefix)).count());
    }
}
