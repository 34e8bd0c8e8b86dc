//! What a checkpoint belongs to, and whether a run may go on from it.
//!
//! Takes a configuration and facts about the data; gives an [`Origin`] that travels with the checkpoint, and the differences
//! between two of them. Values of the optimisers may change on the way; what describes the run may not.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_yaml::Value;

use super::TrainError;
use super::checkpoint::Run;
use crate::data::Dataset;

/// What a checkpoint belongs to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Origin {
    /// `search` or `build`.
    pub stage: String,
    /// The program's version.
    pub tool: String,
    /// The resolved configuration, YAML.
    pub config: String,
    /// What else must be the same, as pairs of a name and a value: the genotype, facts about the data.
    pub facts: Vec<(String, String)>,
    /// Where the data were.
    pub data: Option<PathBuf>,
    /// What computed.
    pub device: String,
    /// With how many threads: sums are split among them, so another number changes the last bits.
    pub threads: usize,
}

/// Keys that may change when a run goes on, by their beginnings; all others describe what the run is.
const CHANGEABLE: [&str; 4] = ["weights.", "arch.", "backtracking.", "threads"];

impl Origin {
    /// Of a run of `stage` with the resolved `config` on `data`.
    ///
    /// # Errors
    /// A configuration that is no YAML: a bug of this program.
    pub fn new(stage: &str, config: &impl Serialize, data: &Dataset, run: &Run) -> Result<Self, TrainError> {
        let config = serde_yaml::to_string(config)
            .map_err(|e| TrainError::Io { path: run.folder.join("config.yaml"), source: std::io::Error::other(e) })?;
        let facts = [
            ("data", data.name.clone()),
            ("classes", data.classes.join(", ")),
            ("training images", data.train.len().to_string()),
            ("test images", data.test.len().to_string()),
        ];
        Ok(Self {
            stage: stage.into(),
            tool: env!("CARGO_PKG_VERSION").into(),
            config,
            facts: facts.map(|(name, value)| (name.into(), value)).into(),
            data: run.data.clone(),
            device: run.device.clone(),
            threads: rayon::current_num_threads(),
        })
    }

    /// Adds something that must be the same when the run goes on.
    pub fn fact(mut self, name: &str, value: String) -> Self {
        self.facts.push((name.into(), value));
        self
    }

    /// Compares with what a checkpoint has `stored` and gives what the user is to know.
    ///
    /// # Errors
    /// What makes it one of another run, in words.
    pub fn compare(&self, stored: &Self) -> Result<Vec<String>, String> {
        if self.stage != stored.stage {
            return Err(format!("it is of `{}`, not of `{}`", stored.stage, self.stage));
        }
        for (name, value) in &self.facts {
            let other = stored.facts.iter().find(|(n, _)| n == name).map_or("not recorded", |(_, v)| v);
            if other != value {
                return Err(format!("{name}: {} there, {} now", shortened(other), shortened(value)));
            }
        }
        let (mut refused, mut notes) = (Vec::new(), Vec::new());
        let parse = |text: &str| serde_yaml::from_str::<Value>(text).map_err(|e| format!("its configuration: {e}"));
        for (key, there, now) in differences("", &parse(&stored.config)?, &parse(&self.config)?) {
            if CHANGEABLE.iter().any(|start| key.starts_with(start)) {
                notes.push(format!("goes on with {key} {now} instead of {there}"));
            } else {
                refused.push(format!("{key} is {there} there and {now} now"));
            }
        }
        if !refused.is_empty() {
            return Err(refused.join(", "));
        }
        for (what, there, now) in [
            ("threads", stored.threads.to_string(), self.threads.to_string()),
            ("device", stored.device.clone(), self.device.clone()),
            ("version", stored.tool.clone(), self.tool.clone()),
        ] {
            if there != now {
                notes.push(format!(
                    "{what}: {there} before, {now} now; results can differ in the last bits from those of one run"
                ));
            }
        }
        Ok(notes)
    }
}

/// The keys whose values differ, with both values.
fn differences(key: &str, there: &Value, now: &Value) -> Vec<(String, String, String)> {
    let inline =
        |v: &Value| serde_yaml::to_string(v).map_or_else(|_| format!("{v:?}"), |t| t.trim().replace('\n', ", "));
    match (there, now) {
        (Value::Mapping(there), Value::Mapping(now)) => {
            let names = there.keys().chain(now.keys().filter(|name| !there.contains_key(*name)));
            let below = |name: &Value| {
                let name = name.as_str().unwrap_or_default();
                let whole = if key.is_empty() { name.to_owned() } else { format!("{key}.{name}") };
                let value = |m: &serde_yaml::Mapping| m.get(name).cloned().unwrap_or(Value::Null);
                differences(&whole, &value(there), &value(now))
            };
            names.flat_map(below).collect()
        }
        (there, now) if there == now => Vec::new(),
        (there, now) => vec![(key.to_owned(), inline(there), inline(now))],
    }
}

/// Long lists of classes fill no screen.
fn shortened(text: &str) -> String {
    const LONGEST: usize = 80;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{} ...", &text[..end]),
        None => text.into(),
    }
}
