//! SIGINT and SIGTERM: an end after the step in hand.
//!
//! Takes the signals of the system; gives whether one came. While a stage runs, the first asks it to write a checkpoint and
//! end; a second one, and one outside of stages, ends the process at once. The exit status is the shell's for a signal: 128
//! plus its number.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use anyhow::{Context, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use crate::search::SearchError;
use crate::train::TrainError;

/// Whether an end was asked for.
#[derive(Debug, Clone)]
pub struct Stop {
    signal: Arc<AtomicUsize>,
    /// Whether the next signal ends the process at once.
    at_once: Arc<AtomicBool>,
}

/// What the process listens with, if it does.
static LISTENING: OnceLock<Stop> = OnceLock::new();

impl Stop {
    /// Listens from now on.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn listen() -> Result<Self> {
        if let Some(stop) = LISTENING.get() {
            return Ok(stop.clone());
        }
        let stop = Self { signal: Arc::new(AtomicUsize::new(0)), at_once: Arc::new(AtomicBool::new(true)) };
        for signal in [SIGINT, SIGTERM] {
            let listen = || -> std::io::Result<()> {
                // In this order: the first signal of a stage finds `at_once` unset, and sets it.
                flag::register_conditional_shutdown(signal, 128 + signal, stop.at_once.clone())?;
                flag::register(signal, stop.at_once.clone())?;
                flag::register_usize(signal, stop.signal.clone(), signal as usize)?;
                Ok(())
            };
            listen().context("cannot listen to signals")?;
        }
        Ok(LISTENING.get_or_init(|| stop).clone())
    }

    /// Whether a stage runs that can end by itself.
    pub fn in_stage(&self, running: bool) {
        self.at_once.store(!running, Ordering::Relaxed);
    }

    /// The signal that came, if one did.
    pub fn signal(&self) -> Option<u8> {
        u8::try_from(self.signal.load(Ordering::Relaxed)).ok().filter(|&signal| signal > 0)
    }
}

/// The signal that ended a run, if that is what the error says.
pub fn ended_by(error: &anyhow::Error) -> Option<u8> {
    let ended = error.chain().any(|cause| {
        let searching = cause.downcast_ref::<SearchError>();
        let training = match searching {
            Some(SearchError::Train(error)) => Some(error),
            _ => cause.downcast_ref::<TrainError>(),
        };
        matches!(training, Some(TrainError::Interrupted { .. }))
    });
    LISTENING.get().filter(|_| ended).and_then(Stop::signal)
}
