//! Genotype files: YAML text to [`Genotype`] and back.
//!
//! ```yaml
//! version: 1
//! name: tiny
//! normal:
//!   nodes:
//!     - [{op: sep_conv_3x3, input: 1}, {op: skip_connect, input: 0}]
//!   concat: [2]
//! reduce:
//!   nodes:
//!     - [{op: max_pool_3x3, input: 0}, {op: max_pool_3x3, input: 1}]
//!   concat: [2]
//! provenance:
//!   source: by hand
//! ```
//!
//! `provenance` and each of its keys may be left out; every other key is needed, and no further
//! key is taken. Reading goes in three steps: the text to a [`tree::Tree`], the tree to a genotype
//! ([`read`]), and only if something is wrong a second walk over the text to find the place
//! ([`locate`]). Files and folders are left to [`Genotype::read`] and [`Genotype::write`].

mod locate;
mod path;
mod read;
mod tree;
mod write;

use std::path::Path;

use super::Genotype;
use super::check::{self, Fault, Part};
use super::error::{GenotypeError, Position, Problem};
use path::{Aim, KeyPath};

pub(super) use write::to_yaml;

/// What is wrong at which key.
struct KeyFault {
    path: KeyPath,
    aim: Aim,
    problem: Problem,
}

/// Read and check the genotype that `text` holds; `file` is named in errors.
pub(super) fn from_yaml(text: &str, file: &Path) -> Result<Genotype, GenotypeError> {
    // The parser would take a byte order mark for a column of indentation.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let tree = tree::parse(text).map_err(|fault| {
        let (position, problem) = fault;
        GenotypeError::in_file(file, position, String::new(), problem)
    })?;
    read::genotype(&tree)
        .and_then(|genotype| {
            check::check(&genotype).map_err(KeyFault::from)?;
            Ok(genotype)
        })
        .map_err(|fault| {
            let position = locate::locate(text, &fault.path, fault.aim);
            GenotypeError::in_file(file, position.unwrap_or(Position::START), fault.path.to_string(), fault.problem)
        })
}

/// The key path of a part of a genotype.
pub(super) fn key(part: Part) -> String {
    KeyPath::from(part).to_string()
}

impl From<Fault> for KeyFault {
    fn from(fault: Fault) -> Self {
        KeyFault { path: fault.part.into(), aim: Aim::Value, problem: fault.problem }
    }
}
