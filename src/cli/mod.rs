//! The command line: arguments become library calls, and what comes of them becomes text, JSON and an exit status.
//!
//! Takes the arguments of the process; gives its [`ExitCode`]. One file holds one command: its arguments and the function
//! that runs it. `args` lists the commands and the options of all of them, `args_train` those of the training commands,
//! `progress` is the way to stdout and stderr, `load` turns what the user named into models and genotypes, `validation` is
//! what `validate` and the commands that export have in common.
//!
//! | status | meaning |
//! |---|---|
//! | 0 | done, and the result is right |
//! | 1 | done, and the result is not right: a validation that does not agree |
//! | 2 | bad usage, bad input, or something that failed; the message says which |
//! | 130, 143 | ended by SIGINT or SIGTERM, after a checkpoint where there is a run to go on with |

mod args;
#[cfg(feature = "train")]
mod args_train;
mod bench;
mod bench_infer;
#[cfg(feature = "train")]
mod bench_train;
#[cfg(feature = "train")]
mod build;
mod convert;
mod devices;
#[cfg(feature = "train")]
mod export;
mod feed;
mod inspect;
#[cfg(feature = "train")]
mod int8;
mod load;
#[cfg(feature = "train")]
mod pipeline;
mod plan;
mod progress;
mod run;
#[cfg(feature = "train")]
mod search;
#[cfg(feature = "train")]
mod seeds;
#[cfg(feature = "train")]
mod stage;
#[cfg(feature = "train")]
mod stop;
mod tensor_file;
mod tensors;
mod validate;
mod validation;

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;

use args::{Arguments, Command};
use progress::Console;

/// What a command that ran to its end found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// All is right.
    Right,
    /// The results do not agree.
    Wrong,
}

/// The program.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(usage) => {
            // Also the way of --help and --version, which go to stdout with status 0. Nobody is left to tell if that fails.
            let _ = usage.print();
            return ExitCode::from(u8::try_from(usage.exit_code()).unwrap_or(2));
        }
    };
    let console = Console::new(&arguments.common);
    match start(&arguments, &console) {
        Ok(Verdict::Right) => ExitCode::SUCCESS,
        Ok(Verdict::Wrong) => ExitCode::from(1),
        Err(error) => {
            console.failure(&error);
            ExitCode::from(status(&error))
        }
    }
}

/// The exit status for an error: that of the signal where one ended the run.
fn status(error: &anyhow::Error) -> u8 {
    #[cfg(feature = "train")]
    if let Some(signal) = stop::ended_by(error) {
        return 128 + signal;
    }
    #[cfg(not(feature = "train"))]
    let _ = error;
    2
}

fn start(arguments: &Arguments, console: &Console) -> Result<Verdict> {
    let common = &arguments.common;
    if let Some(threads) = common.threads {
        set_threads(threads)?;
    }
    match &arguments.command {
        #[cfg(feature = "train")]
        Command::Pipeline(args) => pipeline::run(args, common, console),
        #[cfg(feature = "train")]
        Command::Search(args) => search::run(args, common, console),
        #[cfg(feature = "train")]
        Command::Build(args) => build::run(args, common, console),
        Command::Validate(args) => validate::run(args, console),
        Command::Run(args) => run::run(args, console),
        Command::Plan(args) => plan::run(args, console),
        Command::Inspect(args) => inspect::run(args, console),
        Command::Bench(args) => bench::run(args, console),
        Command::Convert(args) => convert::run(args, console),
        Command::Devices(args) => devices::run(args, console),
    }
}

/// Fixes the number of threads of everything that computes on the CPU. It must come before anything does so.
fn set_threads(threads: usize) -> Result<()> {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global().context("--threads: cannot start the threads")
}
