//! What a long computation tells while it runs.
//!
//! Takes nothing; gives the events that `fit` and the search send, and takes back whether to go on. Showing them is left to
//! the command line.

use std::ops::ControlFlow;

/// Something happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A line for the reader.
    Message(String),
    /// A line that the reader should not overlook.
    Warning(String),
    /// An epoch begins that has this many steps.
    EpochStart {
        /// From 0.
        epoch: usize,
        /// Of the whole run.
        epochs: usize,
        /// Steps of this epoch, evaluation included.
        steps: usize,
        /// Steps of it that were made before this process.
        done: usize,
    },
    /// One step is done.
    Step {
        /// Loss of the batch, if the step has one.
        loss: Option<f64>,
    },
    /// The epoch is over; a line with its figures.
    EpochEnd {
        /// From 0.
        epoch: usize,
        /// The figures, for people.
        line: String,
    },
}

/// Receives events. `Break` in answer to one asks for an end: the step in hand is finished, a checkpoint written where
/// there is a folder for it, and the computation ends with `Interrupted`.
pub type Observer<'a> = &'a mut dyn FnMut(Event) -> ControlFlow<()>;

/// Tells what needs no answer: whether to end is asked again at the next step.
pub fn tell(observer: Observer, event: Event) {
    let _ = observer(event);
}

/// The observer of whoever does not want to know.
pub fn ignore(_: Event) -> ControlFlow<()> {
    ControlFlow::Continue(())
}
