//! What can be wrong with a genotype or its file.
//!
//! Gives the one error type of this module: where (file, line, column, key) and what, with the
//! fix in the message. Finding the place is left to the readers.

use std::fmt;
use std::io;
use std::path::PathBuf;

use super::primitive::{Primitive, UnknownPrimitive};
use super::shipped;
use super::suggest::hint;

/// A genotype that cannot be read, written or used.
#[allow(missing_docs, reason = "the message of each variant says what its fields are")]
#[derive(Debug, thiserror::Error)]
pub enum GenotypeError {
    /// The file cannot be read.
    #[error(
        "cannot read genotype {}: {cause}; give a .yaml or .py file, or one of the genotypes that come with the program: {}",
        file.display(),
        shipped::NAMES.join(", ")
    )]
    Read { file: PathBuf, cause: io::Error },

    /// The file cannot be written.
    #[error("cannot write genotype {}: {cause}; check that the folder exists and is writable", file.display())]
    Write { file: PathBuf, cause: io::Error },

    /// The text or the value is no genotype.
    #[error("{place}: {problem}")]
    Invalid { place: Box<Place>, problem: Box<Problem> },
}

/// Where in which genotype an error is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file, or the genotype's name if it was not read from a file.
    pub origin: Origin,
    /// The key path in a YAML file (`normal.nodes[2][1].op`) or the item of a Python literal
    /// (`normal[5][0]`); empty if the whole is meant.
    pub key: String,
}

/// What an error's place is relative to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A place in the text of a file.
    File {
        /// The file.
        file: PathBuf,
        /// Line and column in it.
        position: Position,
    },
    /// A genotype made in the program.
    Memory {
        /// Its name.
        name: String,
    },
}

/// A place in a text: both counted from 1, the column in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Counted from 1.
    pub line: usize,
    /// In characters, counted from 1.
    pub column: usize,
}

/// What is wrong, and what to do about it. The place is told by [`Place`].
#[allow(missing_docs, reason = "the message of each variant says what it and its fields are")]
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Problem {
    #[error("the file is empty; it needs the keys version, name, normal and reduce")]
    EmptyFile,
    #[error("this is not UTF-8 text (byte 0x{byte:02x}); save the file as UTF-8")]
    NotUtf8 { byte: u8 },
    #[error("control character U+{code:04X}: remove it; if there are more, this is no text file")]
    ControlCharacter { code: u32 },
    #[error("this is not YAML: {message}; correct the text there, or name a Python file .py")]
    NotYaml { message: String },
    #[error("a second YAML document starts here; a file holds one genotype, so split it")]
    SecondDocument,
    #[error("version {found} cannot be read; this program reads `version: 1`")]
    Version { found: u64 },
    #[error("the key `{key}` is missing; add `{example}`")]
    MissingKey { key: &'static str, example: &'static str },
    #[error("unknown key `{key}`{}; the keys here are {}", hint(*.nearest), .known.join(", "))]
    UnknownKey { key: String, known: &'static [&'static str], nearest: Option<&'static str> },
    #[error("the key `{key}` is given twice; keep one of the two")]
    DuplicateKey { key: String },
    #[error("expected {expected}, found {found}")]
    Expected { expected: &'static str, found: String },
    #[error("the name is empty; give the genotype a name")]
    EmptyName,
    #[error("{value} is no accuracy; give a number, or leave the key out")]
    NotAnAccuracy { value: f64 },

    #[error(transparent)]
    UnknownPrimitive(#[from] UnknownPrimitive),
    #[error(
        "`none` means that there is no edge, so a genotype cannot hold it; the primitives are {}",
        Primitive::listed()
    )]
    NoneInGenotype,
    #[error("node {node} has {found} edge(s); a node has exactly two")]
    EdgesPerNode { node: usize, found: usize },
    #[error("the list has {found} edges, an odd number; a node has exactly two")]
    OddEdges { found: usize },
    #[error("state {input} is out of range: node {node} is state {} and may read states 0..={}", node + 2, node + 1)]
    InputOutOfRange { node: usize, input: usize },
    #[error("the cell has no nodes; give it at least one node with two edges")]
    EmptyCell,
    #[error("the cell's output is empty; list the states to concatenate, e.g. {}", node_states(*.nodes))]
    EmptyConcat { nodes: usize },
    #[error("state {state} is out of range: the cell's nodes are the states 2..={}, and 0 and 1 are its inputs", nodes + 1)]
    ConcatOutOfRange { state: usize, nodes: usize },
    #[error("state {state} is listed twice; keep one of the two")]
    DuplicateConcat { state: usize },

    #[error("the string that starts here does not end; close it with the quote it starts with")]
    UnterminatedString,
    #[error(
        "there is no genotype here; write `NAME = Genotype(normal=[...], normal_concat=range(2, 6), reduce=[...], reduce_concat=range(2, 6))`"
    )]
    NoLiteral,
    #[error("there is no genotype named `{name}`{}; the file has {}", hint(.nearest.as_deref()), .known.join(", "))]
    NoSuchName { name: String, known: Vec<String>, nearest: Option<String> },
    #[error("the file has several genotypes ({}); say which one, or keep one", .names.join(", "))]
    Ambiguous { names: Vec<String> },
}

impl GenotypeError {
    pub(super) fn in_file(file: &std::path::Path, position: Position, key: String, problem: Problem) -> Self {
        let file = file.to_owned();
        Self::Invalid {
            place: Box::new(Place { origin: Origin::File { file, position }, key }),
            problem: Box::new(problem),
        }
    }

    /// Line and column, if the error is about a text.
    pub fn position(&self) -> Option<Position> {
        match self {
            Self::Invalid { place, .. } => match place.origin {
                Origin::File { position, .. } => Some(position),
                Origin::Memory { .. } => None,
            },
            Self::Read { .. } | Self::Write { .. } => None,
        }
    }

    /// The key path the error is about; empty if it is about the whole file.
    pub fn key(&self) -> &str {
        match self {
            Self::Invalid { place, .. } => &place.key,
            Self::Read { .. } | Self::Write { .. } => "",
        }
    }

    /// What is wrong, if the genotype and not the file system is at fault.
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            Self::Invalid { problem, .. } => Some(problem),
            Self::Read { .. } | Self::Write { .. } => None,
        }
    }
}

impl Position {
    /// The start of a text.
    pub const START: Position = Position { line: 1, column: 1 };

    /// The place right after `before`, which starts the text.
    pub(super) fn after(before: &str) -> Position {
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Position { line: before.matches('\n').count() + 1, column: before[line_start..].chars().count() + 1 }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            Origin::File { file, position } => {
                let Position { line, column } = position;
                write!(f, "{}:{line}:{column}", file.display())?;
            }
            Origin::Memory { name } => write!(f, "genotype `{name}`")?,
        }
        if self.key.is_empty() {
            return Ok(());
        }
        write!(f, ": {}", self.key)
    }
}

fn node_states(nodes: usize) -> String {
    let states: Vec<_> = (2..nodes + 2).map(|state| state.to_string()).collect();
    format!("[{}]", states.join(", "))
}
