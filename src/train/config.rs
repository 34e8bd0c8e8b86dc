//! The configuration of retraining, and the parts that the search's configuration shares.
//!
//! Takes layered YAML (`config_merge`) over one of the presets; gives a checked [`TrainConfig`] with the messages of
//! its rescaling. The presets are data files beside this one; their comments say what each value means. Running what is
//! configured is left to the fit loop.

use serde::{Deserialize, Serialize};

use super::config_check::{End, above_zero, absent_or_above_zero, fault, positive, within};
use super::config_error::ConfigError;
use super::config_merge::{Fault, Layers};
use super::recipe::{Recipe, Scaling};
use super::schedule::{Schedule, Shape, WarmUp};

/// Every value of a retraining run (algorithm section 4).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// What learning rates and epoch numbers are written for.
    pub recipe: Recipe,
    /// Stem and head.
    pub network: Network,
    /// Channels of the first cells' nodes.
    pub channels: usize,
    /// Cells.
    pub cells: usize,
    /// Classes; as many as the data has if absent.
    pub classes: Option<usize>,
    /// Height and width in pixels; the data's own if absent.
    pub image_size: Option<usize>,
    /// Epochs; 0 keeps the starting weights.
    pub epochs: usize,
    /// Images per step.
    pub batch_size: usize,
    /// Of the starting weights, the order and the augmentation of the images, and drop path.
    pub seed: u64,
    /// Training images, class-balanced; all if absent.
    pub subset: Option<usize>,
    /// Threads; as many as there are cores if absent.
    pub threads: Option<usize>,
    /// The optimiser of the weights.
    pub weights: SgdConfig,
    /// Drop-path probability at the end of the run.
    pub drop_path: f64,
    /// Weight of the auxiliary head's loss; 0 for no head.
    pub auxiliary_weight: f64,
    /// Share of the target probability that is spread over all classes.
    pub label_smoothing: f64,
    /// Of the training images.
    pub augmentation: Augmentation,
}

/// The stem and head of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Network {
    /// One 3x3 convolution; for images of about 32 pixels.
    Cifar,
    /// Three 3x3 convolutions of stride 2; for images of about 224 pixels.
    Imagenet,
}

/// Stochastic gradient descent with momentum, as PyTorch does it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SgdConfig {
    /// Learning rate at the start.
    pub lr: f64,
    /// Where the cosine ends.
    pub lr_min: f64,
    /// Momentum.
    pub momentum: f64,
    /// L2 term added to the gradient.
    pub weight_decay: f64,
    /// Largest norm of all gradients together; no clipping if absent.
    pub clip: Option<f64>,
    /// The curve of the learning rate.
    pub schedule: Curve,
    /// Epochs in the tail of the linear curve.
    pub tail_epochs: usize,
    /// Epochs of warm-up.
    pub warmup_epochs: usize,
}

/// The name of a learning-rate curve; see [`Shape`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Curve {
    /// Half a cosine.
    Cosine,
    /// A line with a tail.
    Linear,
}

/// How training images are varied; `data` has the recipes themselves.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Augmentation {
    /// How the network's input is cut out of an image.
    pub frame: Frame,
    /// Pixels of border for [`Frame::PadCrop`].
    pub pad: usize,
    /// Mirror left and right with probability one half.
    pub flip: bool,
    /// Strengths for brightness, contrast, saturation and hue; no jitter if absent.
    pub colour_jitter: Option<[f64; 4]>,
    /// Side of the hidden square in pixels; none if absent.
    pub cutout: Option<usize>,
}

/// How the network's input is cut out of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Frame {
    /// The image as it is.
    Whole,
    /// A random part of the image with a border.
    PadCrop,
    /// A random rectangle scaled to the image size of the configuration.
    RandomResized,
}

const PRESETS: [(&str, &str); 3] = [
    ("cifar10", include_str!("presets/cifar10.yaml")),
    ("imagenet", include_str!("presets/imagenet.yaml")),
    ("quick", include_str!("presets/quick.yaml")),
];

impl TrainConfig {
    /// The layers to lay files and options over, from `cifar10`, `imagenet` or `quick`.
    ///
    /// # Errors
    /// [`ConfigError::UnknownPreset`].
    pub fn layers(preset: &str) -> Result<Layers, ConfigError> {
        Layers::from_presets("train", &PRESETS, preset)
    }

    /// The checked configuration, scaled to its batch size and epochs (`recipe` says how), and the messages about that
    /// for the log. The result is its own recipe, so that recording and reading it again changes nothing.
    ///
    /// # Errors
    /// A value of the wrong type, or one that breaks a rule, with the source that gave it.
    pub fn resolved(layers: &Layers) -> Result<(Self, Vec<String>), ConfigError> {
        let mut config: Self = layers.build()?;
        config.check().map_err(|fault| layers.blame(fault))?;
        let run = Recipe { batch_size: config.batch_size, epochs: config.epochs };
        let mut scaling = Scaling::new(layers, config.recipe, run);
        config.weights.scale(&mut scaling);
        // Without epochs there is nothing to write the values for.
        config.recipe = Recipe { epochs: run.epochs.max(1), ..run };
        Ok((config, scaling.finish()))
    }

    /// The learning rate of every epoch.
    pub fn schedule(&self) -> Schedule {
        self.weights.schedule(self.epochs, WarmUp::ToCurve)
    }

    fn check(&self) -> Result<(), Fault> {
        above_zero([
            ("recipe.batch_size", self.recipe.batch_size),
            ("recipe.epochs", self.recipe.epochs),
            ("channels", self.channels),
            ("cells", self.cells),
            ("batch_size", self.batch_size),
        ])?;
        absent_or_above_zero([
            ("classes", self.classes),
            ("image_size", self.image_size),
            ("subset", self.subset),
            ("threads", self.threads),
        ])?;
        self.weights.check()?;
        within("drop_path", self.drop_path, 0.0, 1.0, End::Excluded)?;
        within("auxiliary_weight", self.auxiliary_weight, 0.0, f64::MAX, End::Included)?;
        within("label_smoothing", self.label_smoothing, 0.0, 1.0, End::Excluded)?;
        self.augmentation.check(self.image_size)
    }
}

impl SgdConfig {
    /// The learning rate of every one of `epochs` epochs.
    pub fn schedule(&self, epochs: usize, warmup: WarmUp) -> Schedule {
        let shape = match self.schedule {
            Curve::Cosine => Shape::Cosine,
            Curve::Linear => Shape::Linear { tail: self.tail_epochs },
        };
        Schedule { lr: self.lr, lr_min: self.lr_min, epochs, shape, warmup_epochs: self.warmup_epochs, warmup }
    }

    /// Scales the rates and epoch numbers, which stand in the section `weights`.
    pub fn scale(&mut self, scaling: &mut Scaling) {
        scaling.rate("weights.lr", &mut self.lr);
        scaling.rate("weights.lr_min", &mut self.lr_min);
        scaling.epoch("weights.tail_epochs", &mut self.tail_epochs);
        scaling.epoch("weights.warmup_epochs", &mut self.warmup_epochs);
    }

    /// Checks the values, which stand in the section `weights`.
    ///
    /// # Errors
    /// The first value that makes no sense.
    pub fn check(&self) -> Result<(), Fault> {
        positive("weights.lr", self.lr)?;
        within("weights.lr_min", self.lr_min, 0.0, self.lr, End::Included)?;
        within("weights.momentum", self.momentum, 0.0, 1.0, End::Excluded)?;
        within("weights.weight_decay", self.weight_decay, 0.0, f64::MAX, End::Included)?;
        self.clip.map_or(Ok(()), |clip| positive("weights.clip", clip))
    }
}

impl Augmentation {
    /// Checks the values, which stand in the section `augmentation`.
    ///
    /// # Errors
    /// The first value that makes no sense.
    pub fn check(&self, image_size: Option<usize>) -> Result<(), Fault> {
        absent_or_above_zero([("augmentation.cutout", self.cutout)])?;
        if self.frame == Frame::RandomResized && image_size.is_none() {
            return Err(fault("augmentation.frame", "random-resized", "that needs a size: give image_size in pixels"));
        }
        let jitter = self.colour_jitter.unwrap_or_default();
        if !jitter.iter().all(|s| (0.0..=100.0).contains(s)) || jitter[3] > 0.5 {
            let rule = "it must be four strengths of 0 or more, the last (hue) at most 0.5";
            return Err(fault("augmentation.colour_jitter", format!("{jitter:?}"), rule));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::train::config_merge::record;

    fn resolve(preset: &str, settings: &[&str]) -> (TrainConfig, String) {
        let mut layers = TrainConfig::layers(preset).unwrap();
        settings.iter().for_each(|s| layers.set(s).unwrap());
        let (config, messages) = TrainConfig::resolved(&layers).unwrap();
        (config, messages.join("\n"))
    }

    #[test]
    fn the_cifar_preset_is_the_published_recipe() {
        let (config, messages) = resolve("cifar10", &[]);
        assert_eq!((config.cells, config.channels, config.epochs, config.batch_size), (20, 36, 600, 128));
        assert_eq!((config.drop_path, config.auxiliary_weight, config.label_smoothing), (0.3, 0.4, 0.0));
        assert_eq!(
            (config.weights.weight_decay, config.weights.clip, config.augmentation.cutout),
            (3e-4, Some(5.0), Some(16))
        );
        assert!((config.schedule().rate(300) - 0.0125).abs() < 1e-12);
        assert_eq!(messages, "");
    }

    #[test]
    fn the_imagenet_preset_is_the_published_recipe() {
        let (config, messages) = resolve("imagenet", &[]);
        assert_eq!((config.cells, config.channels, config.epochs, config.batch_size), (14, 48, 250, 1024));
        assert_eq!((config.drop_path, config.auxiliary_weight, config.label_smoothing), (0.0, 0.4, 0.1));
        assert_eq!((config.image_size, config.augmentation.colour_jitter), (Some(224), Some([0.4, 0.4, 0.4, 0.2])));
        let rates = config.schedule();
        assert!((rates.rate(0) - 0.1).abs() < 1e-12 && (rates.rate(249) - 0.5 / 1225.0).abs() < 1e-12);
        assert_eq!(messages, "");
    }

    #[test]
    fn rates_scale_with_the_batch_and_epoch_numbers_with_the_epochs() {
        let (config, messages) = resolve("imagenet", &["batch_size=256", "epochs=100"]);
        assert_eq!((config.weights.lr, config.weights.warmup_epochs, config.weights.tail_epochs), (0.125, 2, 2));
        assert_eq!(messages.lines().count(), 3, "{messages}");
        assert!(messages.contains("weights.lr is 0.125 instead of 0.5, because the batch size is 256 instead of 1024"));
        let (config, messages) = resolve("imagenet", &["weights.lr=0.3", "batch_size=256"]);
        assert_eq!((config.weights.lr, messages.as_str()), (0.3, ""));
    }

    #[test]
    fn no_epochs_are_a_run_too() {
        let (config, _) = resolve("imagenet", &["epochs=0"]);
        assert_eq!((config.epochs, config.weights.warmup_epochs), (0, 0));
        let mut layers = TrainConfig::layers("cifar10").unwrap();
        layers.text(Path::new("config.yaml"), &record(&config, "").unwrap()).unwrap();
        assert_eq!(TrainConfig::resolved(&layers).unwrap(), (config, vec![]));
    }

    #[test]
    fn values_that_make_no_sense_are_refused() {
        for (setting, part) in [
            ("drop_path=1", "`drop_path` is 1, but it must be 0 or more and below 1"),
            ("auxiliary_weight=-0.1", "`auxiliary_weight` is -0.1, but it must be 0 or more, and finite"),
            ("weights.clip=0", "`weights.clip` is 0, but it must be above 0"),
            ("subset=0", "`subset` is 0, but it must be at least 1"),
            ("network=mnist", "`network` cannot be mnist: unknown variant `mnist`, expected `cifar` or `imagenet`"),
            ("seed=x", "`seed` cannot be x: invalid type"),
        ] {
            let mut layers = TrainConfig::layers("quick").unwrap();
            layers.set(setting).unwrap();
            let message = TrainConfig::resolved(&layers).unwrap_err().to_string();
            assert!(message.contains(part) && message.contains("--set"), "{setting}: {message}");
        }
    }

    #[test]
    fn an_unknown_preset_is_answered_with_the_known_ones() {
        let message = TrainConfig::layers("cifar").unwrap_err().to_string();
        assert_eq!(
            message,
            "there is no preset `cifar` of the train configuration: the presets are cifar10, imagenet, quick"
        );
    }
}
