//! Genotypes: the two cells a search ends with, and their files.
//!
//! Takes YAML files, the Python literals of DARTS code, or values made in the program; gives
//! [`Genotype`]s that were checked, and writes both formats. What a primitive computes and how
//! cells are stacked to a network is left to the lowering.
//!
//! A cell has two input states, 0 and 1, and node i is state i + 2. A node is the sum of its two
//! edges; an edge applies a [`Primitive`] to an earlier state; the cell's output is the
//! concatenation of the states in [`Cell::concat`].

mod check;
mod error;
mod primitive;
mod provenance;
mod python;
mod shipped;
pub mod suggest;
mod yaml;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

pub use error::{GenotypeError, Origin, Place, Position, Problem};
pub use primitive::{Primitive, UnknownPrimitive};
pub use provenance::Provenance;

/// What a search ends with: a normal cell, a reduction cell and where they come from.
#[derive(Clone, Debug, PartialEq)]
pub struct Genotype {
    /// What it is called in files and messages.
    pub name: String,
    /// The cell that keeps the image size.
    pub normal: Cell,
    /// The cell that halves height and width.
    pub reduce: Cell,
    /// Where it comes from; nothing of it changes the network.
    pub provenance: Provenance,
}

/// The wiring of a cell. States 0 and 1 are the cell's inputs, node i is state i + 2.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Cell {
    /// The two edges that each node sums.
    pub nodes: Vec<[Edge; 2]>,
    /// The states whose concatenation is the output, in this order.
    pub concat: Vec<usize>,
}

/// An edge into a node: a primitive applied to an earlier state of the cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Edge {
    /// What is computed on the edge.
    pub primitive: Primitive,
    /// The state it reads; for an edge of node i, one of `0..=i + 1`.
    pub input: usize,
}

impl Genotype {
    /// Read a genotype file: YAML, or Python if it ends in `.py`, which must then have exactly one
    /// genotype.
    ///
    /// # Errors
    /// The file cannot be read, or the first thing in it that is wrong, with its line and column.
    pub fn read(path: impl AsRef<Path>) -> Result<Self, GenotypeError> {
        let path = path.as_ref();
        let text = read_text(path)?;
        match is_python(path) {
            true => python::only(&text, path),
            false => yaml::from_yaml(&text, path),
        }
    }

    /// Write a genotype file: YAML, or Python if it ends in `.py`. The file is there as a whole or
    /// not at all: it is written beside its place and then moved there.
    ///
    /// # Errors
    /// The genotype does not pass [`Genotype::check`], or the file cannot be written.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<(), GenotypeError> {
        let path = path.as_ref();
        self.check()?;
        let text = match is_python(path) {
            true => self.to_python(),
            false => self.to_yaml(),
        };
        replace_file(path, text.as_bytes()).map_err(|cause| GenotypeError::Write { file: path.to_owned(), cause })
    }

    /// Read YAML text; `file` is named in errors.
    ///
    /// # Errors
    /// The first thing that is wrong, with its line, column and key path.
    pub fn from_yaml(text: &str, file: &Path) -> Result<Self, GenotypeError> {
        yaml::from_yaml(text, file)
    }

    /// The genotype as YAML text, which reads back as an equal genotype.
    pub fn to_yaml(&self) -> String {
        yaml::to_yaml(self)
    }

    /// Read every `NAME = Genotype(...)` of a Python text, in order; `file` is named in errors.
    /// A genotype that is assigned to nothing is called as the file, without its ending.
    ///
    /// # Errors
    /// There is none, or the first thing in one of them that is wrong, with its line and column.
    pub fn from_python(text: &str, file: &Path) -> Result<Vec<Self>, GenotypeError> {
        python::all(text, file)
    }

    /// Read the genotype of a Python text that is called `name`, also through `name = OTHER`.
    /// The others are not read and may use primitives that are unknown here.
    ///
    /// # Errors
    /// There is none of that name, or the first thing in it that is wrong.
    pub fn from_python_named(text: &str, file: &Path, name: &str) -> Result<Self, GenotypeError> {
        python::named(text, file, name)
    }

    /// The genotype as Python text, `NAME = Genotype(...)`, with the provenance as comments.
    pub fn to_python(&self) -> String {
        python::to_python(self)
    }

    /// The genotype that comes with the program under this name, in any case.
    pub fn shipped(name: &str) -> Option<Self> {
        let index = shipped::NAMES.iter().position(|known| known.eq_ignore_ascii_case(name))?;
        let (file, text) = shipped::FILES[index];
        let genotype = yaml::from_yaml(text, &Path::new("genotypes").join(file));
        Some(genotype.expect("each shipped genotype is read by the tests"))
    }

    /// The names that [`Genotype::shipped`] knows.
    pub fn shipped_names() -> &'static [&'static str] {
        &shipped::NAMES
    }

    /// Check the structure: known primitives other than `none`, edges that read earlier states, an
    /// output of distinct nodes.
    ///
    /// # Errors
    /// The first thing that is wrong, with its key path.
    pub fn check(&self) -> Result<(), GenotypeError> {
        check::check(self).map_err(|fault| GenotypeError::Invalid {
            place: Box::new(Place { origin: Origin::Memory { name: self.name.clone() }, key: yaml::key(fault.part) }),
            problem: Box::new(fault.problem),
        })
    }
}

fn is_python(path: &Path) -> bool {
    let ending = path.extension().and_then(OsStr::to_str);
    ending.is_some_and(|ending| ending.eq_ignore_ascii_case("py"))
}

fn read_text(path: &Path) -> Result<String, GenotypeError> {
    let bytes = fs::read(path).map_err(|cause| GenotypeError::Read { file: path.to_owned(), cause })?;
    String::from_utf8(bytes).map_err(|error| {
        let good = error.utf8_error().valid_up_to();
        let bytes = error.as_bytes();
        let position = Position::after(&String::from_utf8_lossy(&bytes[..good]));
        let problem = Problem::NotUtf8 { byte: bytes[good] };
        GenotypeError::in_file(path, position, String::new(), problem)
    })
}

/// Write a file beside its place and move it there.
fn replace_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidFilename)?;
    let mut hidden = OsStr::new(".").to_owned();
    hidden.push(name);
    hidden.push(format!(".{}.tmp", std::process::id()));
    let beside: PathBuf = path.with_file_name(hidden);
    let written = File::create(&beside).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    let moved = written.and_then(|()| fs::rename(&beside, path));
    if moved.is_err() {
        // The first error is the one to report; a leftover is only untidy.
        let _ = fs::remove_file(&beside);
    }
    moved
}
