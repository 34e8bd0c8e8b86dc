//! Several searches that differ in their seed.
//!
//! Takes a plan and seeds; runs one search after another, each in a folder of its own, and gives the accuracies with mean and
//! deviation. The result is the genotype of the best final accuracy on the architecture's images: the test images are not
//! looked at, and neither is the best epoch.

use std::fmt::{self, Display};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::progress::Console;
use super::search::{SearchPlan, SearchReport, search_stage};
use super::stage;
use crate::genotype::Genotype;
use crate::search::config::SearchConfig;
use crate::train::checkpoint::is_begun;
use crate::train::config_merge::record;

/// Seeds without repetition, as `0..3` or `0,4,7`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Seeds(Vec<u64>);

/// What is recorded of a run with several seeds, so that it can go on.
#[derive(Debug, Serialize, Deserialize)]
pub struct Group {
    pub seeds: Seeds,
    /// Where the data are; none for built-in data.
    pub data: Option<PathBuf>,
}

/// One of the searches.
#[derive(Debug, Serialize)]
struct SeedReport {
    seed: u64,
    /// As Python literal.
    cells: String,
    #[serde(flatten)]
    search: SearchReport,
}

/// All searches: the keys of one search are those of the one that was picked.
#[derive(Debug, Serialize)]
struct SeedsReport {
    #[serde(flatten)]
    picked: SearchReport,
    picked_seed: u64,
    final_valid_top1_mean: f64,
    /// Sample standard deviation; 0 for one seed.
    final_valid_top1_std: f64,
    seeds: Vec<SeedReport>,
}

const GROUP: &str = "seeds.yaml";

impl FromStr for Seeds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| text.trim().parse::<u64>().map_err(|_| format!("`{text}` is no seed (0, 1, 2, ...)"));
        let seeds: Vec<u64> = match text.split_once("..") {
            Some((first, end)) => {
                let (first, last) = (number(first)?, end.strip_prefix('='));
                let end = match last {
                    Some(last) => number(last)?.saturating_add(1),
                    None => number(end)?,
                };
                if end.saturating_sub(first) > 10_000 {
                    return Err("these are more than 10,000 searches".into());
                }
                (first..end).collect()
            }
            None => text.split(',').map(number).collect::<Result<_, _>>()?,
        };
        if seeds.is_empty() {
            return Err("there is no seed in it; 0..3 are the seeds 0, 1 and 2".into());
        }
        match seeds.iter().enumerate().find(|(i, seed)| seeds[..*i].contains(seed)) {
            Some((_, twice)) => Err(format!("the seed {twice} is there twice")),
            None => Ok(Self(seeds)),
        }
    }
}

impl Display for Seeds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<String> = self.0.iter().map(u64::to_string).collect();
        f.write_str(&all.join(", "))
    }
}

impl Group {
    /// What the run in `folder` recorded, if it is one with several seeds.
    ///
    /// # Errors
    /// A record that cannot be read.
    pub fn read(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(GROUP);
        match std::fs::read_to_string(&path) {
            Ok(text) => Ok(Some(serde_yaml::from_str(&text).with_context(|| format!("{}", path.display()))?)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }
}

/// Searches with every seed, those that are over already aside, and reports.
///
/// # Errors
/// Everything that a search can fail of.
pub fn run(seeds: &Seeds, plan: &SearchPlan, out: &Path, console: &Console) -> Result<()> {
    stage::folder(out)?;
    if plan.run.resume.is_none() {
        let group = Group { seeds: seeds.clone(), data: plan.data_path.map(stage::absolute) };
        // The configuration with the first seed stands for all.
        let config = SearchConfig { seed: seeds.0[0], ..plan.config.clone() };
        let header = format!("idarts-compile {} searches with the seeds {seeds}", env!("CARGO_PKG_VERSION"));
        stage::write(&out.join("config.yaml"), &record(&config, &header)?)?;
        stage::write(&out.join(GROUP), &serde_yaml::to_string(&group).context("the seeds as YAML")?)?;
    }
    let (mut reports, mut found): (Vec<SeedReport>, Vec<Genotype>) = (Vec::new(), Vec::new());
    for &seed in &seeds.0 {
        let folder = out.join(format!("seed{seed}"));
        let mut options = plan.run.clone();
        // Of a run that goes on, the seeds behind the one that was interrupted have not begun.
        let begun = is_begun(&folder)?;
        options.resume = options.resume.filter(|_| begun);
        let config = SearchConfig { seed, ..plan.config.clone() };
        console.message(format_args!("seed {seed}, one of {seeds}"));
        let plan = SearchPlan { config: &config, run: &options, ..*plan };
        let (search, genotype) = search_stage(&plan, &folder, console).with_context(|| {
            format!("seed {seed}; `idarts-compile search --resume {}` goes on with all seeds", out.display())
        })?;
        reports.push(SeedReport { seed, cells: genotype.to_python(), search });
        found.push(genotype);
    }
    let accuracies: Vec<f64> = reports.iter().map(|r| r.search.final_valid_top1).collect();
    let best = best(&accuracies);
    let path = out.join("genotype.yaml");
    found[best].write(&path)?;
    let (mean, deviation) = spread(&accuracies);
    let report = SeedsReport {
        picked: SearchReport { genotype: path.display().to_string(), ..reports[best].search.clone() },
        picked_seed: reports[best].seed,
        final_valid_top1_mean: mean,
        final_valid_top1_std: deviation,
        seeds: reports,
    };
    let json = serde_json::to_string_pretty(&report).context("the report as JSON")?;
    stage::write(&out.join("seeds.json"), &(json + "\n"))?;
    console.result(&report, SeedsReport::text)
}

impl SeedsReport {
    fn text(&self) -> String {
        let mut text = String::new();
        for seed in &self.seeds {
            let accuracy = 100.0 * seed.search.final_valid_top1;
            text += &format!("seed {}: validation top-1 {accuracy:.2} %\n{}\n", seed.seed, seed.cells.trim_end());
        }
        let percent = |share: f64| 100.0 * share;
        let (mean, std) = (percent(self.final_valid_top1_mean), percent(self.final_valid_top1_std));
        let (count, picked, path) = (self.seeds.len(), self.picked_seed, &self.picked.genotype);
        text + &format!("validation top-1 {mean:.2} +- {std:.2} % over {count} seeds; seed {picked} written to {path}")
    }
}

/// The index of the largest; of equal ones the first.
fn best(values: &[f64]) -> usize {
    (0..values.len()).fold(0, |best, i| if values[i] > values[best] { i } else { best })
}

/// Mean and sample standard deviation.
fn spread(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
    (mean, if values.len() > 1 { (squares / (n - 1.0)).sqrt() } else { 0.0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_ranges_or_lists() {
        for (text, expected) in
            [("0..3", vec![0, 1, 2]), ("2..=4", vec![2, 3, 4]), ("7", vec![7]), ("5, 0,9", vec![5, 0, 9])]
        {
            assert_eq!(text.parse::<Seeds>().unwrap().0, expected, "{text}");
        }
        for (text, expected) in [
            ("3..3", "no seed in it"),
            ("a", "`a` is no seed"),
            ("1,2,1", "seed 1 is there twice"),
            ("0..99999999999", "more than 10,000"),
            ("", "no seed"),
        ] {
            let message = text.parse::<Seeds>().unwrap_err();
            assert!(message.contains(expected), "{text}: {message}");
        }
    }

    #[test]
    fn the_spread_is_that_of_a_sample_and_ties_go_to_the_first() {
        let (mean, deviation) = spread(&[0.1, 0.2, 0.3]);
        assert!((mean - 0.2).abs() < 1e-12 && (deviation - 0.1).abs() < 1e-12);
        assert_eq!(spread(&[0.5]), (0.5, 0.0));
        assert_eq!([best(&[0.1, 0.3, 0.3]), best(&[0.4, 0.1])], [1, 0]);
    }
}
