//! `convert`: genotypes from one format to the other.
//!
//! Takes a genotype and the path of a new file; writes it in the format of its ending.

use std::ffi::OsStr;
use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;
use serde::Serialize;

use super::progress::Console;
use super::{Verdict, load};

/// Convert a genotype between YAML and the Python literal of DARTS code
#[derive(Debug, Args)]
pub struct ConvertArgs {
    #[arg(value_name = "IN", help = load::GENOTYPE_HELP)]
    input: String,
    /// File to write, in the format of its ending: .yaml, .yml or .py
    #[arg(value_name = "OUT")]
    output: PathBuf,
}

#[derive(Serialize)]
struct Converted<'a> {
    genotype: String,
    name: &'a str,
}

pub fn run(args: &ConvertArgs, console: &Console) -> Result<Verdict> {
    let path = &args.output;
    let ending = path.extension().and_then(OsStr::to_str).unwrap_or_default().to_lowercase();
    if !["yaml", "yml", "py"].contains(&ending.as_str()) {
        bail!("OUT {}: its ending says no format; name it .yaml or .py", path.display());
    }
    let genotype = load::genotype(&args.input)?;
    genotype.write(path)?;
    let converted = Converted { genotype: path.display().to_string(), name: &genotype.name };
    console.result(&converted, |c| format!("{} written to {}", c.name, c.genotype))?;
    Ok(Verdict::Right)
}
