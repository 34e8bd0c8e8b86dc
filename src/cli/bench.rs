//! `bench`: timings and memory of one stage.
//!
//! Takes the stage; hands over to its file.

use anyhow::Result;
use clap::{Args, Subcommand};

use super::Verdict;
use super::bench_infer::{self, InferArgs};
#[cfg(feature = "train")]
use super::bench_train::{self, BenchSearchArgs, BenchTrainArgs};
use super::progress::Console;

/// Measure timings and memory of one stage
#[derive(Debug, Args)]
pub struct BenchArgs {
    #[command(subcommand)]
    stage: Stage,
}

#[derive(Debug, Subcommand)]
enum Stage {
    #[cfg(feature = "train")]
    Search(BenchSearchArgs),
    #[cfg(feature = "train")]
    Train(BenchTrainArgs),
    Infer(InferArgs),
}

pub fn run(args: &BenchArgs, console: &Console) -> Result<Verdict> {
    match &args.stage {
        #[cfg(feature = "train")]
        Stage::Search(args) => bench_train::search(args, console),
        #[cfg(feature = "train")]
        Stage::Train(args) => bench_train::train(args, console),
        Stage::Infer(args) => bench_infer::run(args, console),
    }
}

/// The smallest of `sorted` that at least `share` (0 to 1) of them do not exceed; 0 if there are none.
pub fn quantile(sorted: &[f64], share: f64) -> f64 {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::quantile;

    #[test]
    fn quantiles_are_values_that_were_measured() {
        let sorted: Vec<f64> = (1..=20).map(f64::from).collect();
        for (share, expected) in [(0.0, 1.0), (0.5, 10.0), (0.95, 19.0), (1.0, 20.0)] {
            assert_eq!(quantile(&sorted, share), expected);
        }
        assert_eq!((quantile(&[3.0], 0.95), quantile(&[], 0.5)), (3.0, 0.0));
    }
}
