//! The configuration of a search.
//!
//! Takes layered YAML (`train::config_merge`) over one of the presets; gives a checked [`SearchConfig`] with the
//! messages of its rescaling. The presets are data files beside this one; their comments say what each value means. A
//! preset also says which values another method has. Running what is configured is left to the search loop.

use serde::{Deserialize, Serialize};
use serde_yaml::Value;

use super::SearchError;
use super::adam::AdamConstants;
use super::arch::ArchShape;
use super::backtrack::{Backtracking, Zeta};
use crate::train::ConfigError;
use crate::train::config::{Augmentation, Network, SgdConfig};
use crate::train::config_check::{End, above_zero, absent_or_above_zero, fault, positive, within};
use crate::train::config_merge::{Fault, Layers};
use crate::train::recipe::{Recipe, Scaling};
use crate::train::schedule::{Schedule, WarmUp};

/// Every value of a search (algorithm sections 1 to 3).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SearchConfig {
    /// What learning rates and epoch numbers are written for.
    pub recipe: Recipe,
    /// What is done in a step.
    pub method: Method,
    /// The stem.
    pub network: Network,
    /// C: channels of the first cells' nodes.
    pub channels: usize,
    /// Cells.
    pub cells: usize,
    /// Intermediate nodes per cell.
    pub nodes: usize,
    /// The primitives of every edge by name, in this order.
    pub primitives: Vec<String>,
    /// K: one K-th of the channels goes through the primitives.
    pub partial_channels: usize,
    /// Whether edges are weighted by beta.
    pub edge_normalisation: bool,
    /// Classes; as many as the data has if absent.
    pub classes: Option<usize>,
    /// Height and width in pixels; the data's own if absent.
    pub image_size: Option<usize>,
    /// S: epochs.
    pub epochs: usize,
    /// Images per step, for the weights and for alpha and beta.
    pub batch_size: usize,
    /// Of the starting values, the split, the order and the augmentation of the images.
    pub seed: u64,
    /// Training images before the split, class-balanced; all if absent.
    pub subset: Option<usize>,
    /// Who gets which part of the images.
    pub split: Split,
    /// Threads; as many as there are cores if absent.
    pub threads: Option<usize>,
    /// The optimiser of the weights.
    pub weights: SgdConfig,
    /// The optimiser of alpha and beta.
    pub arch: ArchConfig,
    /// Backtracking, for method `idarts` only.
    pub backtracking: Backtracking,
    /// Of the images for the weights and of those for alpha and beta.
    pub augmentation: Augmentation,
}

/// What is done in a step of the search.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// First order, with backtracking of alpha by beta.
    Idarts,
    /// First order.
    PcDarts,
    /// First order; the presets switch partial channels and edge normalisation off.
    Darts,
    /// Second order; the presets switch partial channels and edge normalisation off.
    #[serde(rename = "darts-2nd")]
    Darts2nd,
}

/// Disjoint shares of the images of every class.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Split {
    /// For the weights.
    pub weights: f64,
    /// For alpha and beta.
    pub arch: f64,
}

/// The optimiser of alpha and beta.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArchConfig {
    /// eta1: learning rate.
    pub lr: f64,
    /// Decay of the first and of the second moment.
    pub betas: [f64; 2],
    /// Added to the root of the second moment.
    pub eps: f64,
    /// L2 term.
    pub weight_decay: f64,
    /// Largest norm of the gradients of all alpha and beta together; no clipping if absent.
    pub clip: Option<f64>,
    /// The first epoch in which alpha and beta move.
    pub frozen_until: usize,
    /// r times the norm of the direction, in the second-order gradient.
    pub finite_difference: f64,
}

const PRESETS: [(&str, &str); 3] = [
    ("cifar10", include_str!("presets/cifar10.yaml")),
    ("imagenet", include_str!("presets/imagenet.yaml")),
    ("quick", include_str!("presets/quick.yaml")),
];

/// The primitive that gives zeros and is never chosen.
const NONE: &str = "none";

/// Far above what is useful, and far below what makes the number of edges overflow.
const MOST_NODES: usize = 64;

/// The key of a preset that is no key of the configuration: values by method.
const METHODS: &str = "methods";

impl SearchConfig {
    /// The layers to lay files and options over, from `cifar10`, `imagenet` or `quick`.
    ///
    /// # Errors
    /// [`ConfigError::UnknownPreset`].
    pub fn layers(preset: &str) -> Result<Layers, ConfigError> {
        let mut layers = Layers::from_presets("search", &PRESETS, preset)?;
        layers.take(METHODS);
        Ok(layers)
    }

    /// The checked configuration with the values of its method, scaled to its batch size and epochs (`train::recipe`
    /// says how), and the messages about that for the log. The result is its own recipe, so that recording and reading
    /// it again changes nothing.
    ///
    /// Lambda scales so that zeta is where it is in the recipe at the same relative progress: a growing zeta has the
    /// recipe's last value in the last epoch, a constant one the recipe's value.
    ///
    /// # Errors
    /// A value of the wrong type, or one that breaks a rule, with the source that gave it.
    pub fn resolved(layers: &Layers) -> Result<(Self, Vec<String>), ConfigError> {
        let asked: Self = layers.build()?;
        let layers = &with_method(layers, asked.method)?;
        let mut config: Self = layers.build()?;
        config.check().map_err(|fault| layers.blame(fault))?;
        let run = Recipe { batch_size: config.batch_size, epochs: config.epochs };
        let mut scaling = Scaling::new(layers, config.recipe, run);
        let written: Self = layers.build_until(scaling.epochs_layer())?;
        config.weights.scale(&mut scaling);
        scaling.epoch("arch.frozen_until", &mut config.arch.frozen_until);
        if config.backtracks() {
            scaling.epoch("backtracking.start", &mut config.backtracking.start);
            config.scale_lambda(&written, &mut scaling);
        }
        config.recipe = run;
        config.check().map_err(|fault| layers.blame(fault))?;
        config.remark(&mut scaling);
        Ok((config, scaling.finish()))
    }

    /// Whether alpha is backtracked at all.
    pub fn backtracks(&self) -> bool {
        self.method == Method::Idarts
    }

    /// Whether the architecture gradient is of second order.
    pub fn second_order(&self) -> bool {
        self.method == Method::Darts2nd
    }

    /// The shape of a searched cell.
    ///
    /// # Errors
    /// There is nothing to choose; not for a configuration that was checked.
    pub fn shape(&self) -> Result<ArchShape, SearchError> {
        let none = self.primitives.iter().position(|name| name == NONE);
        ArchShape::new(self.nodes, self.primitives.len(), none)
    }

    /// How many of `edges` edges are backtracked in `epoch`; always 0 for other methods than `idarts`.
    pub fn zeta(&self, epoch: usize, edges: usize) -> usize {
        if self.backtracks() { self.backtracking.zeta(epoch, self.epochs, edges) } else { 0 }
    }

    /// The learning rate of the weights in every epoch.
    pub fn schedule(&self) -> Schedule {
        self.weights.schedule(self.epochs, WarmUp::ToStart)
    }

    fn scale_lambda(&mut self, written: &Self, scaling: &mut Scaling) {
        if !scaling.follows_epochs("backtracking.lambda") {
            return;
        }
        let last = match self.backtracking.zeta {
            Zeta::Growing => 1,
            Zeta::Constant => 0,
        };
        let span = |epochs: usize, start: usize| epochs.saturating_sub(start + last);
        let from = span(written.recipe.epochs, written.backtracking.start);
        let to = span(self.epochs, self.backtracking.start);
        if from == to || from == 0 || to == 0 {
            return;
        }
        let old = self.backtracking.lambda;
        self.backtracking.lambda = old * from as f64 / to as f64;
        let new = self.backtracking.lambda;
        scaling.note(format!(
            "backtracking.lambda is {new} instead of {old}, so that zeta takes the same course in {} epochs as in {}",
            self.epochs, written.recipe.epochs
        ));
    }

    /// Notes what is possible but hardly meant.
    fn remark(&self, scaling: &mut Scaling) {
        let epochs = self.epochs;
        if self.arch.frozen_until >= epochs {
            scaling.note(format!(
                "alpha and beta do not move: arch.frozen_until is {} and there are {epochs} epochs",
                self.arch.frozen_until
            ));
        }
        // Zeta never falls, so the last epoch tells.
        let edges = self.shape().map_or(0, |shape| shape.edges());
        if self.backtracks() && self.zeta(epochs - 1, edges) == 0 {
            scaling.note(format!(
                "backtracking moves nothing: zeta stays 0 in {epochs} epochs with backtracking.start {} and lambda {}",
                self.backtracking.start, self.backtracking.lambda
            ));
        }
        let darts = matches!(self.method, Method::Darts | Method::Darts2nd);
        if darts && (self.partial_channels != 1 || self.edge_normalisation) {
            scaling.note(format!(
                "this is not DARTS as published: partial_channels is {} and edge_normalisation is {}",
                self.partial_channels, self.edge_normalisation
            ));
        }
    }

    fn check(&self) -> Result<(), Fault> {
        above_zero([
            ("recipe.batch_size", self.recipe.batch_size),
            ("recipe.epochs", self.recipe.epochs),
            ("channels", self.channels),
            ("cells", self.cells),
            ("nodes", self.nodes),
            ("partial_channels", self.partial_channels),
            ("epochs", self.epochs),
            ("batch_size", self.batch_size),
        ])?;
        absent_or_above_zero([
            ("classes", self.classes),
            ("image_size", self.image_size),
            ("subset", self.subset),
            ("threads", self.threads),
        ])?;
        if self.nodes > MOST_NODES {
            return Err(fault("nodes", self.nodes, format!("more than {MOST_NODES} cannot be searched")));
        }
        if !self.channels.is_multiple_of(self.partial_channels) {
            let rule = format!("it must divide channels, which is {}", self.channels);
            return Err(fault("partial_channels", self.partial_channels, rule));
        }
        if self.backtracks() && !self.edge_normalisation {
            let rule = "method idarts backtracks by beta, which only edge normalisation has: choose another method";
            return Err(fault("edge_normalisation", false, rule));
        }
        let twice = self.primitives.iter().enumerate().find(|(i, name)| self.primitives[..*i].contains(name));
        if let Some((_, name)) = twice {
            return Err(fault("primitives", self.primitives.join(", "), format!("`{name}` may be there only once")));
        }
        if !self.primitives.iter().any(|name| name != NONE) {
            let rule = "there must be a primitive besides none";
            return Err(fault("primitives", format!("[{}]", self.primitives.join(", ")), rule));
        }
        within("split.weights", self.split.weights, f64::MIN_POSITIVE, 1.0, End::Included)?;
        within("split.arch", self.split.arch, f64::MIN_POSITIVE, 1.0, End::Included)?;
        if self.split.weights + self.split.arch > 1.0 + 1e-9 {
            let rule = format!("with split.weights, {}, that is more than all images", self.split.weights);
            return Err(fault("split.arch", self.split.arch, rule));
        }
        self.weights.check()?;
        self.arch.check()?;
        let backtracking = &self.backtracking;
        within("backtracking.lambda", backtracking.lambda, 0.0, f64::MAX, End::Included)?;
        within("backtracking.eta2", backtracking.eta2, 0.0, f64::MAX, End::Included)?;
        positive("backtracking.ratio_limit", backtracking.ratio_limit)?;
        positive("backtracking.guard", backtracking.guard)?;
        self.augmentation.check(self.image_size)
    }
}

impl ArchConfig {
    /// The constants of Adam.
    pub fn adam(&self) -> AdamConstants {
        AdamConstants { lr: self.lr, betas: self.betas, eps: self.eps, weight_decay: self.weight_decay }
    }

    fn check(&self) -> Result<(), Fault> {
        positive("arch.lr", self.lr)?;
        within("arch.betas", self.betas[0], 0.0, 1.0, End::Excluded)?;
        within("arch.betas", self.betas[1], 0.0, 1.0, End::Excluded)?;
        positive("arch.eps", self.eps)?;
        within("arch.weight_decay", self.weight_decay, 0.0, f64::MAX, End::Included)?;
        positive("arch.finite_difference", self.finite_difference)?;
        self.clip.map_or(Ok(()), |clip| positive("arch.clip", clip))
    }
}

/// The layers with the values of `method` under all sources.
fn with_method(layers: &Layers, method: Method) -> Result<Layers, ConfigError> {
    let mut layers = layers.clone();
    let broken = |e: serde_yaml::Error| ConfigError::Preset { preset: layers.name(), message: e.to_string() };
    let name = serde_yaml::to_value(method).map_err(broken)?;
    let methods = Layers::from_presets("search", &PRESETS, layers.name())?.take(METHODS);
    if let Some(values) = methods.as_ref().and_then(|m: &Value| m.get(&name)) {
        layers.amend(values)?;
    }
    Ok(layers)
}

#[cfg(test)]
mod tests;
