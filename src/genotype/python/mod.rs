//! The Python literal of DARTS code: `NAME = Genotype(normal=[...], ...)` to [`Genotype`] and back.
//!
//! A file may be a whole Python module: everything but its genotypes is stepped over, and a
//! genotype that is not asked for is not read, so it may use primitives unknown here. Reading goes
//! in three steps: the text to tokens ([`token`]), the tokens to the calls of `Genotype` and their
//! names ([`mod@module`]), a call to a genotype ([`call`], [`parse`]).

mod call;
mod module;
mod parse;
mod token;
mod write;

use std::ffi::OsStr;
use std::path::Path;

use super::Genotype;
use super::error::{GenotypeError, Position, Problem};
use super::suggest::nearest;

use module::Module;
pub(super) use write::to_python;

/// What is wrong with which item of a literal, and where.
#[derive(Debug)]
struct Fault {
    position: Position,
    key: String,
    problem: Problem,
}

/// Every genotype of a Python text, in order.
pub(super) fn all(text: &str, file: &Path) -> Result<Vec<Genotype>, GenotypeError> {
    let module = module(text, file)?;
    let literals = module.literals.iter();
    let read = literals.map(|literal| parse::genotype(&module.tokens, literal));
    read.collect::<Result<_, _>>().map_err(|fault| fault.in_file(file))
}

/// The only genotype of a Python text.
pub(super) fn only(text: &str, file: &Path) -> Result<Genotype, GenotypeError> {
    let module = module(text, file)?;
    match module.literals.as_slice() {
        [literal] => parse::genotype(&module.tokens, literal),
        literals => {
            let names = literals.iter().map(|literal| literal.name.clone()).collect();
            let position = literals.get(1).map_or(Position::START, |second| second.position);
            Err(Fault::new(position, Problem::Ambiguous { names }))
        }
    }
    .map_err(|fault| fault.in_file(file))
}

/// The genotype that a Python text calls `name`, directly or through `name = OTHER`. Of several
/// the last counts, as in Python.
pub(super) fn named(text: &str, file: &Path, name: &str) -> Result<Genotype, GenotypeError> {
    let module = module(text, file)?;
    let mut wanted = name;
    // An alias is followed at most as often as there are aliases, so a circle ends.
    for _ in 0..=module.aliases.len() {
        let found = module.literals.iter().rfind(|literal| literal.name == wanted);
        if let Some(literal) = found {
            let read = parse::genotype(&module.tokens, literal);
            return read.map_err(|fault| fault.in_file(file));
        }
        let alias = module.aliases.iter().rfind(|(alias, _)| alias == wanted);
        match alias {
            Some((_, target)) => wanted = target,
            None => break,
        }
    }
    let known: Vec<_> = module.literals.iter().map(|literal| literal.name.clone()).collect();
    let nearest = nearest(name, known.iter().map(String::as_str)).map(str::to_owned);
    let problem = Problem::NoSuchName { name: name.to_owned(), known, nearest };
    Err(Fault::new(Position::START, problem).in_file(file))
}

/// The module, which has at least one genotype.
fn module(text: &str, file: &Path) -> Result<Module, GenotypeError> {
    let tokens = token::tokens(text).map_err(|fault| fault.in_file(file))?;
    let nameless = file.file_stem().and_then(OsStr::to_str);
    let module = module::module(tokens, nameless.unwrap_or("genotype"));
    if module.literals.is_empty() {
        let fault = Fault::new(Position::START, Problem::NoLiteral);
        return Err(fault.in_file(file));
    }
    Ok(module)
}

impl Fault {
    fn new(position: Position, problem: Problem) -> Self {
        let key = String::new();
        Fault { position, key, problem }
    }

    fn in_file(self, file: &Path) -> GenotypeError {
        GenotypeError::in_file(file, self.position, self.key, self.problem)
    }
}
