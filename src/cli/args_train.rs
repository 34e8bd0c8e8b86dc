//! The options of the commands that search and train.
//!
//! Takes the arguments of such a command; lays them over a configuration: files of `--config` first, in their order, then
//! `--set`, then the options with names of their own. What the keys mean is left to the configurations.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;

use super::args::above_zero;
use crate::data::Dataset;
use crate::train::ConfigError;
use crate::train::config_merge::Layers;
use crate::train::device::DeviceChoice;

/// What a configuration is made from.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Training")]
pub struct TrainOptions {
    /// Built-in configuration to start from
    #[arg(long, value_name = "NAME", value_parser = ["quick", "cifar10", "imagenet"])]
    pub preset: Option<String>,
    /// Images: CIFAR-10 or CIFAR-100 "binary version", or class folders train/CLASS with test/ or val/ beside
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// YAML file that sets values of the configuration; may be given several times, the last one wins
    #[arg(long, value_name = "FILE")]
    pub config: Vec<PathBuf>,
    /// Set one value of the configuration, such as weights.lr=0.05; wins over --config
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Channels of the first cells' nodes
    #[arg(long, value_name = "C", value_parser = above_zero)]
    pub channels: Option<usize>,
    /// Cells of the network
    #[arg(long, value_name = "N", value_parser = above_zero)]
    pub cells: Option<usize>,
    /// Classes; as many as the data has if absent
    #[arg(long, value_name = "N", value_parser = above_zero)]
    pub classes: Option<usize>,
    /// Images in a step
    #[arg(long, value_name = "N", value_parser = above_zero)]
    pub batch_size: Option<usize>,
    /// Epochs
    #[arg(long, value_name = "N")]
    pub epochs: Option<usize>,
    /// Use N training images only, class-balanced
    #[arg(long, value_name = "N", value_parser = above_zero)]
    pub subset: Option<usize>,
    /// Seed of all that is random
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Search 1 / K of the channels of every edge
    #[arg(long, value_name = "K", value_parser = above_zero)]
    pub partial_channels: Option<usize>,
    /// Device to train on: auto, cpu, cuda[:N], vulkan[:N] or metal[:N]
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub device: DeviceChoice,
}

impl TrainOptions {
    /// Lays what was given over `layers`; `threads` is the option of all commands. Options that were not given change nothing.
    ///
    /// # Errors
    /// A file that cannot be read, or a key that the configuration does not have, named with the option that set it.
    pub fn lay_over(&self, layers: &mut Layers, threads: Option<usize>) -> Result<(), ConfigError> {
        for path in &self.config {
            layers.file(path)?;
        }
        for assignment in &self.set {
            layers.set(assignment)?;
        }
        let counts = [
            ("--channels", "channels", self.channels),
            ("--cells", "cells", self.cells),
            ("--classes", "classes", self.classes),
            ("--batch-size", "batch_size", self.batch_size),
            ("--epochs", "epochs", self.epochs),
            ("--subset", "subset", self.subset),
            ("--partial-channels", "partial_channels", self.partial_channels),
            ("--threads", "threads", threads),
        ];
        for (flag, key, value) in counts {
            if let Some(value) = value {
                layers.flag(flag, key, value as u64)?;
            }
        }
        self.seed.map_or(Ok(()), |seed| layers.flag("--seed", "seed", seed))
    }
}

/// Checks that the number of classes asked for is that of the data.
///
/// # Errors
/// Both numbers, if they differ.
pub fn check_classes(asked: Option<usize>, data: &Dataset) -> Result<()> {
    match asked {
        Some(classes) if classes != data.classes.len() => {
            bail!("--classes {classes}: the data have {} classes; leave the option out", data.classes.len())
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::search::config::SearchConfig;
    use crate::train::config::TrainConfig;

    #[test]
    fn options_win_over_settings_and_settings_over_files() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("c.yaml");
        std::fs::write(&file, "epochs: 2\nchannels: 6\nseed: 1\n").unwrap();
        let options = TrainOptions {
            config: vec![file],
            set: vec!["channels=10".into(), "seed=2".into(), "weights.lr=0.5".into()],
            seed: Some(3),
            ..TrainOptions::default()
        };
        let mut layers = TrainConfig::layers("quick").unwrap();
        options.lay_over(&mut layers, Some(2)).unwrap();
        let (config, _) = TrainConfig::resolved(&layers).unwrap();
        assert_eq!((config.epochs, config.channels, config.seed, config.threads), (2, 10, 3, Some(2)));
        assert_eq!(config.weights.lr, 0.5);
    }

    #[test]
    fn an_option_that_means_nothing_to_a_stage_is_named() {
        let options = TrainOptions { partial_channels: Some(2), ..TrainOptions::default() };
        options.lay_over(&mut SearchConfig::layers("quick").unwrap(), None).unwrap();
        let error = options.lay_over(&mut TrainConfig::layers("quick").unwrap(), None).unwrap_err().to_string();
        assert!(error.contains("--partial-channels") && error.contains("partial_channels"), "{error}");
    }
}
