//! Stacks cells into a network: stem, cells with two reductions, classifier, auxiliary head.
//!
//! Takes a [`Network`] and its [`Cells`]; gives the training graph with the outputs `logits` and, if asked for,
//! `aux_logits`.

use super::cell::{CellFrame, Filling, cell};
use super::layers::{Layers, Scope};
use super::{Cells, LowerError, Network, SearchSpace, Stem};
use crate::ir::{Builder, Graph, IrError, Op, Shape, ValueId, Window};

/// Lowers a network for training.
///
/// # Errors
/// Settings out of range, a genotype that does not check, an image too small for the network.
pub fn lower(network: &Network, cells: Cells) -> Result<Graph, LowerError> {
    check(network, cells)?;
    let (name, affine) = match cells {
        Cells::Fixed(genotype) => (genotype.name.clone(), true),
        Cells::Search(_) => ("supernet".to_owned(), false),
    };
    let mut layers = Layers { graph: Builder::new(name), affine };
    let [h, w] = network.image;
    let image = layers.input("input", Shape::image(3, h, w));
    let [normal, reduce] = fillings(&mut layers, cells);
    let (mut s0, mut s1) = match network.stem {
        Stem::Cifar => cifar_stem(&mut layers, image, 3 * network.channels)?,
        Stem::ImageNet => imagenet_stem(&mut layers, image, imagenet_stem_channels(network, cells))?,
    };
    let mut channels = network.channels;
    let mut reduction_before = network.stem == Stem::ImageNet;
    let mut auxiliary = None;
    for i in 0..network.cells {
        let reduction = network.is_reduction(i);
        if reduction {
            channels *= 2;
        }
        let at = format!("cells.{i}");
        let frame = CellFrame { scope: Scope::new(&at, &at), channels, reduction, reduction_before };
        let out = cell(&mut layers, &frame, if reduction { reduce } else { normal }, [s0, s1])?;
        (s0, s1) = (s1, out);
        reduction_before = reduction;
        if network.auxiliary && i == 2 * network.cells / 3 {
            auxiliary = Some(auxiliary_head(&mut layers, network, out)?);
        }
    }
    let at = |name: &str| Scope::new(name, name);
    let pooled = layers.graph.node("pool", Op::GlobalAvgPool, &[s1])?;
    let flat = layers.graph.node("flatten", Op::Flatten { axis: 1 }, &[pooled])?;
    let logits = layers.linear(&at("classifier"), flat, network.classes)?;
    layers.graph.output("logits", logits);
    if let Some(logits) = auxiliary {
        layers.graph.output("aux_logits", logits);
    }
    Ok(layers.graph.finish())
}

fn check(network: &Network, cells: Cells) -> Result<(), LowerError> {
    let wrong = |key, why: String| Err(LowerError::Network { key, why });
    if network.cells == 0 {
        return wrong("cells", "a network needs at least 1 cell".into());
    }
    if network.classes < 2 {
        return wrong("classes", format!("{} classes; at least 2 are needed", network.classes));
    }
    if network.channels == 0 || !network.channels.is_multiple_of(2) {
        return wrong("channels", format!("{} channels; an even number from 2 on is needed", network.channels));
    }
    match cells {
        Cells::Fixed(genotype) => genotype.check()?,
        Cells::Search(SearchSpace { partial_channels: k, .. }) => {
            if *k == 0 || !network.channels.is_multiple_of(2 * k) {
                let why = format!(
                    "{k} does not divide half of the {} channels; choose K so that 2 K divides `channels`",
                    network.channels
                );
                return wrong("partial_channels", why);
            }
        }
    }
    Ok(())
}

/// What fills normal and reduction cells; declares the architecture inputs of a supernet.
fn fillings<'a>(layers: &mut Layers, cells: Cells<'a>) -> [Filling<'a>; 2] {
    match cells {
        Cells::Fixed(genotype) => [Filling::One(&genotype.normal), Filling::One(&genotype.reduce)],
        Cells::Search(space) => {
            let rows = space.edges();
            let alphas = ["alphas_normal", "alphas_reduce"]
                .map(|name| layers.input(name, Shape::fixed(&[rows, space.primitives.len()])));
            let betas = ["betas_normal", "betas_reduce"]
                .map(|name| space.edge_normalisation.then(|| layers.input(name, Shape::fixed(&[rows]))));
            [0, 1].map(|i| Filling::Mixed { space, alphas: alphas[i], betas: betas[i] })
        }
    }
}

pub(super) fn cifar_stem(layers: &mut Layers, image: ValueId, out: usize) -> Result<(ValueId, ValueId), IrError> {
    let y = layers.conv(&Scope::new("stem/conv", "stem.0"), image, out, Window::same(3, 1, 1), 1)?;
    let y = layers.batch_norm(&Scope::new("stem/norm", "stem.1"), y, true)?;
    Ok((y, y))
}

/// PC-DARTS gives the ImageNet stem 3 C channels while it searches and C in the final network.
fn imagenet_stem_channels(network: &Network, cells: Cells) -> usize {
    match cells {
        Cells::Fixed(_) => network.channels,
        Cells::Search(_) => 3 * network.channels,
    }
}

pub(super) fn imagenet_stem(layers: &mut Layers, image: ValueId, out: usize) -> Result<(ValueId, ValueId), IrError> {
    let half = Window::same(3, 2, 1);
    let at = |name: &str, alias: &str| Scope::new(name, alias);
    let y = layers.conv(&at("stem0/conv1", "stem0.0"), image, out / 2, half, 1)?;
    let y = layers.batch_norm(&at("stem0/norm1", "stem0.1"), y, true)?;
    let y = layers.relu(&at("stem0/relu", ""), y)?;
    let y = layers.conv(&at("stem0/conv2", "stem0.3"), y, out, half, 1)?;
    let s0 = layers.batch_norm(&at("stem0/norm2", "stem0.4"), y, true)?;
    let y = layers.relu(&at("stem1/relu", ""), s0)?;
    let y = layers.conv(&at("stem1/conv", "stem1.1"), y, out, half, 1)?;
    let s1 = layers.batch_norm(&at("stem1/norm", "stem1.2"), y, true)?;
    Ok((s0, s1))
}

/// The head that gives the middle of the network a loss of its own in training.
fn auxiliary_head(layers: &mut Layers, network: &Network, x: ValueId) -> Result<ValueId, LowerError> {
    let at = Scope::new("auxiliary_head", "auxiliary_head");
    let (stride, second_norm) = match network.stem {
        Stem::Cifar => (3, true),
        Stem::ImageNet => (2, false),
    };
    let window = Window::valid(5, stride);
    let [_, h, w] = layers.chw(x);
    let fits = |size: usize| window.output(size, 0) == Some(2);
    if !fits(h) || !fits(w) {
        let why = format!(
            "its pooling needs feature maps that shrink to 2x2, these are {h}x{w}; train without it (`--set auxiliary_weight=0`) or with another image size"
        );
        return Err(LowerError::Network { key: "auxiliary head", why });
    }
    let y = layers.relu(&at.child("relu1", ""), x)?;
    let pool = Op::AvgPool { window, count_include_pad: false };
    let y = layers.graph.node(at.child("pool", "").path(), pool, &[y])?;
    let y = layers.pointwise(&at.child("conv1", "features.2"), y, 128, 1)?;
    let y = layers.norm(&at.child("norm1", "features.3"), y)?;
    let y = layers.relu(&at.child("relu2", ""), y)?;
    let mut y = layers.conv(&at.child("conv2", "features.5"), y, 768, Window::valid(2, 1), 1)?;
    if second_norm {
        y = layers.norm(&at.child("norm2", "features.6"), y)?;
    }
    let y = layers.relu(&at.child("relu3", ""), y)?;
    let flat = layers.graph.node(at.child("flatten", "").path(), Op::Flatten { axis: 1 }, &[y])?;
    Ok(layers.linear(&at.child("classifier", "classifier"), flat, network.classes)?)
}
