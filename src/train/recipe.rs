//! Rescaling of a recipe that is run with another batch size or another number of epochs.
//!
//! Takes the layered configuration; gives scaled values and one message per change. A configuration says in its section
//! `recipe` for which batch size and which number of epochs its values are written. If `batch_size` or `epochs` differ
//! from that, the learning rates of the weights scale with the batch size, and epoch numbers with the epochs (rounded,
//! halves up). A value that a later source gives than the recipe it belongs to is taken as it is: `--epochs 10 --set
//! arch.frozen_until=5` means 5. Which values scale is left to the stage's configuration.

use serde::{Deserialize, Serialize};

use super::config_merge::{Layer, Layers};

/// What the values of a configuration are written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Images per step.
    pub batch_size: usize,
    /// Epochs of the run.
    pub epochs: usize,
}

/// The scaling of one configuration, with the messages so far.
#[derive(Debug)]
pub struct Scaling<'a> {
    layers: &'a Layers,
    written: Recipe,
    run: Recipe,
    messages: Vec<String>,
}

impl<'a> Scaling<'a> {
    /// From values written for `written` to a run with `run`. Both have no zeros.
    pub fn new(layers: &'a Layers, written: Recipe, run: Recipe) -> Self {
        Self { layers, written, run, messages: Vec::new() }
    }

    /// The source that gave the number of epochs of the recipe.
    pub fn epochs_layer(&self) -> Layer {
        self.layers.layer("recipe.epochs")
    }

    /// Whether the run's number of epochs differs from the recipe's and `key` follows it.
    pub fn follows_epochs(&self, key: &str) -> bool {
        self.run.epochs != self.written.epochs && self.layers.layer(key) <= self.epochs_layer()
    }

    /// Scales the learning rate at `key` in proportion to the batch size.
    pub fn rate(&mut self, key: &str, rate: &mut f64) {
        let (from, to) = (self.written.batch_size, self.run.batch_size);
        if from == to || *rate == 0.0 || self.layers.layer(key) > self.layers.layer("recipe.batch_size") {
            return;
        }
        let scaled = *rate * to as f64 / from as f64;
        self.note(format!("{key} is {scaled} instead of {rate}, because the batch size is {to} instead of {from}"));
        *rate = scaled;
    }

    /// Scales the epoch number, or number of epochs, at `key`.
    pub fn epoch(&mut self, key: &str, epoch: &mut usize) {
        if !self.follows_epochs(key) {
            return;
        }
        let (from, to) = (self.written.epochs, self.run.epochs);
        let scaled = (*epoch as f64 * to as f64 / from as f64).round() as usize;
        if scaled != *epoch {
            self.note(format!("{key} is {scaled} instead of {epoch}, because there are {to} epochs instead of {from}"));
            *epoch = scaled;
        }
    }

    /// Adds a message for the log.
    pub fn note(&mut self, message: String) {
        self.messages.push(message);
    }

    /// The messages, in the order of the changes.
    pub fn finish(self) -> Vec<String> {
        self.messages
    }
}
