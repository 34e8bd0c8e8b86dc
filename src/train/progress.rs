//! What a long computation tells while it runs.
//!
//! Takes nothing; gives the events that `fit` and the search send. Showing them is left to the command line.

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

/// Receives events.
pub type Observer<'a> = &'a mut dyn FnMut(Event);
