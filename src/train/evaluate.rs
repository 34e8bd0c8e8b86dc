//! Loss and accuracy of a module over a loader.
//!
//! Takes a module in its current state; gives sums over all images, without a tape.

use serde::{Deserialize, Serialize};

use super::loss::{cross_entropy, hits};
use super::module::{GraphModule, Mode, Value, download};
use super::progress::{Event, Observer};
use super::{TrainError, finite};
use crate::data::Loader;

/// Figures over a set of images.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Mean cross entropy.
    pub loss: f64,
    /// Share of images whose label has the largest logit, 0 to 1.
    pub top1: f64,
    /// Share of images whose label is among the five largest logits, 0 to 1.
    pub top5: f64,
    /// Number of images.
    pub images: usize,
}

/// Sums that become an [`Evaluation`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Tally {
    loss: f64,
    top1: usize,
    top5: usize,
    images: usize,
}

impl Tally {
    /// Counts one batch with its mean loss and its logits.
    pub fn add(&mut self, loss: f64, logits: &[f32], labels: &[i64]) {
        self.loss += loss * labels.len() as f64;
        self.top1 += hits(logits, labels, 1);
        self.top5 += hits(logits, labels, 5);
        self.images += labels.len();
    }

    /// The means so far.
    pub fn mean(&self) -> Evaluation {
        let n = self.images.max(1) as f64;
        let share = |hits: usize| hits as f64 / n;
        Evaluation { loss: self.loss / n, top1: share(self.top1), top5: share(self.top5), images: self.images }
    }
}

/// Evaluates `module` on the first epoch of `loader`. `extra` are the graph inputs behind the image. `None` if the observer
/// asked for an end before all images were seen.
///
/// # Errors
/// An image that cannot be read, a device that fails, a loss that is no number.
pub fn evaluate(
    module: &GraphModule,
    loader: &Loader,
    extra: &[Value],
    observer: Observer,
) -> Result<Option<Evaluation>, TrainError> {
    let mut tally = Tally::default();
    for batch in loader.epoch(0) {
        let batch = batch?;
        let shape = [batch.len, 3, batch.height, batch.width];
        let mut inputs = vec![module.images(batch.images, shape)];
        inputs.extend_from_slice(extra);
        let logits = module.forward(inputs, Mode::Eval)?.outputs.swap_remove(0);
        let loss = finite(download(cross_entropy(logits.clone(), &batch.labels, 0.0))?, "the validation loss")?;
        tally.add(loss, &download(logits)?, &batch.labels);
        if observer(Event::Step { loss: None }).is_break() {
            return Ok(None);
        }
    }
    Ok(Some(tally.mean()))
}
