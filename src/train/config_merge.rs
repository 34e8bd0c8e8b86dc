//! Presets, configuration files and options, laid over each other.
//!
//! Takes the YAML text of a preset, then any number of sources that set some of its keys: configuration files,
//! `key=value` settings, options of the command line. Gives the typed configuration, or an error that names the key,
//! the source with line and column, and the nearest known key. A preset lists every key, so it is also the list of what
//! may be set. What the values mean, and rescaling them for another batch size or length, is left to `config`, `recipe`
//! and the search's configuration.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_yaml::{Mapping, Value};

use super::config_error::{ConfigError, Place};
use super::config_keys::{Problem, flatten, get_section, keys, keys_beside, nearest, put};
use super::config_locate::locate;

/// A preset with the sources laid over it so far. A later source wins, key by key.
#[derive(Debug, Clone)]
pub struct Layers {
    preset: &'static str,
    base: Mapping,
    sources: Vec<Source>,
}

/// The number of a source: a later one has a larger number, the preset has 0.
pub type Layer = usize;

/// A value that breaks a rule; the stage's `check` finds it, [`Layers::blame`] adds where it was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The whole path of the key.
    pub key: &'static str,
    /// The value.
    pub found: String,
    /// What must hold, to be read after "but".
    pub rule: String,
}

#[derive(Debug, Clone)]
struct Source {
    origin: Origin,
    values: Vec<(String, Value)>,
}

#[derive(Debug, Clone)]
enum Origin {
    File { path: PathBuf, text: String },
    Flag(String),
}

impl Layers {
    /// Starts from a built-in preset.
    ///
    /// # Errors
    /// [`ConfigError::Preset`] if `text` is not a YAML mapping.
    pub fn preset(preset: &'static str, text: &str) -> Result<Self, ConfigError> {
        let base = serde_yaml::from_str(text).map_err(|e| ConfigError::Preset { preset, message: e.to_string() })?;
        Ok(Self { preset, base, sources: Vec::new() })
    }

    /// Starts from the preset called `name` among those of `stage`, which are pairs of name and text.
    ///
    /// # Errors
    /// [`ConfigError::UnknownPreset`], with the presets there are.
    pub fn from_presets(
        stage: &'static str,
        presets: &[(&'static str, &'static str)],
        name: &str,
    ) -> Result<Self, ConfigError> {
        match presets.iter().find(|(preset, _)| *preset == name) {
            Some((preset, text)) => Self::preset(preset, text),
            None => {
                let known = presets.iter().map(|(preset, _)| *preset).collect();
                Err(ConfigError::UnknownPreset { name: name.into(), stage, known })
            }
        }
    }

    /// The name of the preset.
    pub fn name(&self) -> &'static str {
        self.preset
    }

    /// Lays a YAML file over what there is. It may hold any part of the keys; an empty file changes nothing.
    ///
    /// # Errors
    /// The file cannot be read, is not YAML, or sets a key that there is not.
    pub fn file(&mut self, path: &Path) -> Result<(), ConfigError> {
        let text = fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.into(), source })?;
        self.text(path, &text)
    }

    /// As [`Self::file`], with the text at hand; `path` is for messages.
    ///
    /// # Errors
    /// As [`Self::file`].
    pub fn text(&mut self, path: &Path, text: &str) -> Result<(), ConfigError> {
        let value = serde_yaml::from_str(text).map_err(|e| ConfigError::Syntax {
            place: Place::File { path: path.into(), at: e.location().map(|l| (l.line(), l.column())) },
            message: e.to_string(),
        })?;
        let origin = Origin::File { path: path.into(), text: text.into() };
        if value == Value::Null {
            return Ok(());
        }
        self.push(origin, "", value)
    }

    /// Applies `key.path=value`; the value is read as YAML.
    ///
    /// # Errors
    /// There is no `=`, the value is not YAML, or there is no such key.
    pub fn set(&mut self, assignment: &str) -> Result<(), ConfigError> {
        let no_assignment = || ConfigError::NoAssignment { text: assignment.into() };
        let (key, text) = assignment.split_once('=').ok_or_else(no_assignment)?;
        let (key, text) = (key.trim(), text.trim());
        if key.is_empty() || text.is_empty() {
            return Err(no_assignment());
        }
        let place = Place::Flag(format!("--set {assignment}"));
        let value = serde_yaml::from_str(text).map_err(|e| ConfigError::Syntax { place, message: e.to_string() })?;
        self.push(Origin::Flag(format!("--set {assignment}")), key, value)
    }

    /// Sets `key` on behalf of the command-line option `flag` (with its dashes).
    ///
    /// # Errors
    /// There is no such key.
    pub fn flag(&mut self, flag: &str, key: &str, value: impl Into<Value>) -> Result<(), ConfigError> {
        self.push(Origin::Flag(flag.into()), key, value.into())
    }

    /// Lays `values` under all sources, as if the preset had them: a part of the preset that only some methods use.
    ///
    /// # Errors
    /// [`ConfigError::Preset`] if the preset lacks one of the keys.
    pub fn amend(&mut self, values: &Value) -> Result<(), ConfigError> {
        let broken = |message: String| ConfigError::Preset { preset: self.preset, message };
        let values = flatten(&self.base, "", values).map_err(|(key, _)| broken(format!("no key `{key}`")))?;
        for (key, value) in values {
            put(&mut self.base, &key, value);
        }
        Ok(())
    }

    /// Takes the top-level `key` out of the preset, so that it is no longer a key of the configuration.
    pub fn take(&mut self, key: &str) -> Option<Value> {
        self.base.remove(key)
    }

    /// The last source that set `key`.
    pub fn layer(&self, key: &str) -> Layer {
        let sets = |s: &Source| s.values.iter().any(|(k, _)| k == key);
        self.sources.iter().rposition(sets).map_or(0, |i| i + 1)
    }

    /// The configuration after all sources.
    ///
    /// # Errors
    /// [`ConfigError::Type`] for the first value that does not fit, with its source.
    pub fn build<T: DeserializeOwned>(&self) -> Result<T, ConfigError> {
        self.build_until(self.sources.len())
    }

    /// The configuration after the preset and the sources up to `last`, including it.
    ///
    /// # Errors
    /// As [`Self::build`].
    pub fn build_until<T: DeserializeOwned>(&self, last: Layer) -> Result<T, ConfigError> {
        let mut merged = self.base.clone();
        // The type is checked after each value, because only then it is known which source is to blame.
        let mut built =
            from_mapping(&merged).map_err(|message| ConfigError::Preset { preset: self.preset, message })?;
        for source in &self.sources[..last.min(self.sources.len())] {
            for (key, value) in &source.values {
                put(&mut merged, key, value.clone());
                built = from_mapping(&merged).map_err(|message| ConfigError::Type {
                    place: source.place(key),
                    key: key.clone(),
                    found: inline(value),
                    message,
                })?;
            }
        }
        Ok(built)
    }

    /// The error for a value that breaks a rule, with the source that gave it.
    pub fn blame(&self, fault: Fault) -> ConfigError {
        let layer = self.layer(fault.key);
        let place = match layer.checked_sub(1) {
            Some(i) => self.sources[i].place(fault.key),
            None => Place::Preset(self.preset),
        };
        ConfigError::Rule { place, key: fault.key.into(), found: fault.found, rule: fault.rule }
    }

    fn push(&mut self, origin: Origin, key: &str, value: Value) -> Result<(), ConfigError> {
        let mut source = Source { origin, values: Vec::new() };
        match flatten(&self.base, key, &value) {
            Ok(values) => source.values = values,
            Err((key, problem)) => {
                let place = source.place(&key);
                return Err(match problem {
                    Problem::Unknown => {
                        let known = keys_beside(&self.base, &key);
                        ConfigError::UnknownKey { place, nearest: nearest(&self.base, &key), key, known }
                    }
                    Problem::Section => {
                        let known = get_section(&self.base, &key).map(keys).unwrap_or_default();
                        let key = if key.is_empty() { ".".into() } else { key };
                        ConfigError::Section { place, key, known }
                    }
                });
            }
        }
        self.sources.push(source);
        Ok(())
    }
}

impl Source {
    fn place(&self, key: &str) -> Place {
        match &self.origin {
            Origin::File { path, text } => Place::File { path: path.clone(), at: locate(text, key) },
            Origin::Flag(flag) => Place::Flag(flag.clone()),
        }
    }
}

/// The YAML of a configuration that was used, with `header` as a comment above it. It can be given to [`Layers::file`].
///
/// # Errors
/// [`ConfigError::Syntax`] if the configuration has a value that YAML cannot hold: a bug of this program.
pub fn record(config: &impl Serialize, header: &str) -> Result<String, ConfigError> {
    let yaml = serde_yaml::to_string(config).map_err(|e| ConfigError::Syntax {
        place: Place::Flag("the configuration in use".into()),
        message: e.to_string(),
    })?;
    let comment: String = header.lines().map(|line| format!("# {line}").trim_end().to_string() + "\n").collect();
    Ok(comment + &yaml)
}

fn from_mapping<T: DeserializeOwned>(mapping: &Mapping) -> Result<T, String> {
    serde_yaml::from_value(Value::Mapping(mapping.clone())).map_err(|e| e.to_string())
}

fn inline(value: &Value) -> String {
    serde_yaml::to_string(value).map_or_else(|_| format!("{value:?}"), |text| text.trim().replace('\n', ", "))
}

#[cfg(test)]
mod tests;
