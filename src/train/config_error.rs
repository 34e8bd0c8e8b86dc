//! What can be wrong with a configuration, and where.
//!
//! Takes nothing; gives [`ConfigError`] and [`Place`]. Every message names the key, where it was given and the fix.

use std::fmt;
use std::path::PathBuf;

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file of `--config` cannot be read.
    #[error("cannot read the configuration {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Text that is not YAML.
    #[error("{place}: not valid YAML: {message}")]
    Syntax {
        /// The file, or the option.
        place: Place,
        /// What the parser said.
        message: String,
    },
    /// A key that no preset has.
    #[error("{place}: unknown key `{key}`{}", hint(nearest, known))]
    UnknownKey {
        /// Where it was given.
        place: Place,
        /// The whole path of the key.
        key: String,
        /// The known key that it may be a slip for.
        nearest: Option<String>,
        /// The keys that are possible in its place.
        known: Vec<String>,
    },
    /// A key that only groups others was given a value, or the whole file is not a mapping.
    #[error("{place}: `{key}` is a section, not a value: give values to its keys, which are {}", known.join(", "))]
    Section {
        /// Where it was given.
        place: Place,
        /// The whole path of the section; `.` is the whole file.
        key: String,
        /// The keys of the section.
        known: Vec<String>,
    },
    /// A value of the wrong type, or a word that is not one of the possible ones.
    #[error("{place}: `{key}` cannot be {found}: {message}")]
    Type {
        /// Where it was given.
        place: Place,
        /// The whole path of the key.
        key: String,
        /// The value, as YAML.
        found: String,
        /// What was expected.
        message: String,
    },
    /// A value of the right type that makes no sense.
    #[error("{place}: `{key}` is {found}, but {rule}")]
    Rule {
        /// Where it was given.
        place: Place,
        /// The whole path of the key.
        key: String,
        /// The value.
        found: String,
        /// What must hold.
        rule: String,
    },
    /// `--set` without a key or without a value.
    #[error("--set {text}: write key=value, for example --set weights.lr=0.05")]
    NoAssignment {
        /// What was given.
        text: String,
    },
    /// A preset that does not exist.
    #[error("there is no preset `{name}` of the {stage} configuration: the presets are {}", known.join(", "))]
    UnknownPreset {
        /// What was asked for.
        name: String,
        /// `search` or `train`.
        stage: &'static str,
        /// The names there are.
        known: Vec<&'static str>,
    },
    /// A preset built into the program is broken: a bug of this program.
    #[error("the built-in preset `{preset}` is broken, please report it: {message}")]
    Preset {
        /// Its name.
        preset: &'static str,
        /// What is wrong.
        message: String,
    },
}

/// Where a value was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Built in.
    Preset(&'static str),
    /// A configuration file.
    File {
        /// The file.
        path: PathBuf,
        /// Line and column of the key, from 1, where they are known.
        at: Option<(usize, usize)>,
    },
    /// A command-line option, with its dashes.
    Flag(String),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Preset(name) => write!(f, "preset {name}"),
            Place::File { path, at: Some((line, column)) } => write!(f, "{}:{line}:{column}", path.display()),
            Place::File { path, at: None } => write!(f, "{}", path.display()),
            Place::Flag(flag) => f.write_str(flag),
        }
    }
}

fn hint(nearest: &Option<String>, known: &[String]) -> String {
    match nearest {
        Some(name) => format!("; did you mean `{name}`?"),
        None => format!("; the keys here are {}", known.join(", ")),
    }
}
