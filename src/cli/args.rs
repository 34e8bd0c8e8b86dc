//! The commands there are and the options of all of them.
//!
//! Takes the arguments of the process; gives [`Arguments`]. The arguments of one command stand in the command's own file;
//! a new command is a file, a variant of [`Command`] and an arm in `cli::start`.

use clap::{Args, Parser, Subcommand};

use super::bench::BenchArgs;
#[cfg(feature = "train")]
use super::build::BuildArgs;
use super::convert::ConvertArgs;
use super::devices::DevicesArgs;
use super::inspect::InspectArgs;
#[cfg(feature = "train")]
use super::pipeline::PipelineArgs;
use super::plan::PlanArgs;
use super::run::RunArgs;
#[cfg(feature = "train")]
use super::search::SearchArgs;
use super::validate::ValidateArgs;

/// Search CNN architectures by IDARTS, compile them to static networks, retrain, export verified ONNX.
///
/// Exit status: 0 done and right; 1 done and not right (a validation that does not agree); 2 bad usage or bad input.
#[derive(Debug, Parser)]
#[command(name = "idarts-compile", version, arg_required_else_help = true, max_term_width = 120)]
pub struct Arguments {
    #[command(flatten)]
    pub common: Common,
    #[command(subcommand)]
    pub command: Command,
}

/// What can be done.
#[derive(Debug, Subcommand)]
pub enum Command {
    #[cfg(feature = "train")]
    Pipeline(PipelineArgs),
    #[cfg(feature = "train")]
    Search(SearchArgs),
    #[cfg(feature = "train")]
    Build(BuildArgs),
    Validate(ValidateArgs),
    Run(RunArgs),
    Plan(PlanArgs),
    Inspect(InspectArgs),
    Bench(BenchArgs),
    Convert(ConvertArgs),
    Devices(DevicesArgs),
}

/// The options of all commands.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Options of all commands")]
pub struct Common {
    /// Print the result as one JSON object, the last line of stdout
    #[arg(long, global = true)]
    pub json: bool,
    /// Say more on stderr: what the passes rewrote, every layer
    #[arg(short, long, global = true)]
    pub verbose: bool,
    /// Say nothing on stderr but errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// CPU threads; as many as there are cores if absent
    #[arg(long, global = true, value_name = "N", value_parser = above_zero)]
    pub threads: Option<usize>,
}

/// A whole number above 0.
pub fn above_zero(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("it must be at least 1".into()),
        Ok(n) => Ok(n),
        Err(_) => Err("write a whole number above 0".into()),
    }
}

/// A finite number of 0 or more.
pub fn not_negative(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(x) if x.is_finite() && x >= 0.0 => Ok(x),
        _ => Err("write a number of 0 or more, such as 1e-4".into()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn options_of_all_commands_may_stand_before_and_behind_the_command() {
        for line in [["prog", "--json", "devices", "-q"], ["prog", "-q", "devices", "--json"]] {
            let common = Arguments::try_parse_from(line).expect("valid").common;
            assert!(common.json && common.quiet && !common.verbose);
        }
        assert!(Arguments::try_parse_from(["prog", "devices", "-q", "-v"]).is_err());
    }

    #[test]
    fn numbers_out_of_range_are_refused() {
        for text in ["0", "-1", "x", "1.5"] {
            assert!(above_zero(text).is_err(), "{text}");
        }
        for text in ["-1e-9", "nan", "inf", ""] {
            assert!(not_negative(text).is_err(), "{text}");
        }
        assert_eq!((above_zero("7"), not_negative("1e-3")), (Ok(7), Ok(1e-3)));
    }
}
