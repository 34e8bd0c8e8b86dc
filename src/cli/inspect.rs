//! `inspect`: what a network is and costs.
//!
//! Takes a genotype, put into a CIFAR or ImageNet network, or the graph of an ONNX file; gives parameters, multiply-adds,
//! memory and operators, or the textual IR. Figures are those of the network as it is trained (of an ONNX file: as it is in the
//! file), for one image; only the planned memory is that of the runtime, after its passes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use serde::Serialize;

use super::args::above_zero;
use super::progress::Console;
use super::{Verdict, load};
use crate::genotype::Genotype;
use crate::ir::{Cost, Graph, Model, ValueId, Verified, cost, verify};
use crate::lower::{Cells, LowerError, Network, Stem, lower};
use crate::onnx::ModelInfo;
use crate::passes::group::{Grouping, groups};
use crate::passes::plan::plan;
use crate::passes::{EXPORT, Pass, RUNTIME, apply};

/// Show parameters, multiply-adds, memory and operators of a genotype's network or of an ONNX model
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// ONNX model, or a genotype: FILE.yaml, FILE.py, FILE.py:NAME, or a name that comes with the program (DARTS_V1,
    /// DARTS_V2, PC_DARTS_cifar, PC_DARTS_image, NASNet, AmoebaNet, idarts_cifar10_seed0)
    #[arg(value_name = "GENOTYPE|MODEL.onnx")]
    subject: String,
    /// Network that the cells of a genotype are put into: C = 36, 20 cells, 10 classes, 32x32 pixels for cifar; C = 48, 14 cells,
    /// 1000 classes, 224x224 pixels for imagenet
    #[arg(long, value_enum, default_value_t = Frame::Cifar)]
    network: Frame,
    /// Channels of the first cells' nodes
    #[arg(long, value_name = "C", value_parser = above_zero)]
    channels: Option<usize>,
    /// Cells of the network
    #[arg(long, value_name = "N", value_parser = above_zero)]
    cells: Option<usize>,
    /// Classes
    #[arg(long, value_name = "N", value_parser = above_zero)]
    classes: Option<usize>,
    /// Print the textual IR instead (with --json: besides)
    #[arg(long)]
    ir: bool,
    /// Passes to apply before the IR is printed
    #[arg(long, value_enum, value_name = "PIPELINE", default_value_t = Pipeline::None, requires = "ir")]
    passes: Pipeline,
}

/// The network around the cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Frame {
    Cifar,
    Imagenet,
}

/// What is done to the graph before it is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Pipeline {
    /// Nothing: the network as it is trained, or as it is in the file
    None,
    /// As it is exported to ONNX
    Export,
    /// As it is run on a GPU
    Runtime,
}

#[derive(Serialize)]
struct Inspection {
    name: String,
    params: u64,
    aux_params: u64,
    macs: u64,
    mult_adds: u64,
    cells: Option<usize>,
    channels: Option<usize>,
    classes: Option<usize>,
    inputs: Vec<String>,
    nodes: usize,
    ops: BTreeMap<&'static str, usize>,
    /// Bytes of all values for one image, each once.
    value_bytes: u64,
    /// Bytes of the runtime's buffers for one image.
    planned_bytes: u64,
    planned_buffers: usize,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    metadata: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ir: Option<String>,
}

/// A network and what the graph alone does not tell.
struct Subject {
    model: Verified<Model>,
    cells: Option<usize>,
    channels: Option<usize>,
    classes: Option<usize>,
}

pub fn run(args: &InspectArgs, console: &Console) -> Result<Verdict> {
    let subject = subject(args, console)?;
    let graph = &subject.model.graph;
    let Cost { params, aux_params, macs, mult_adds, value_bytes, ops } = cost(graph, &main_outputs(graph));
    let exported = passed(EXPORT, subject.model.clone(), console)?;
    let ran = passed(RUNTIME, exported.clone(), console)?;
    let shown = match args.passes {
        Pipeline::None => &subject.model,
        Pipeline::Export => &exported,
        Pipeline::Runtime => &ran,
    };
    let buffers = plan(&ran.graph, &groups(&ran.graph, Grouping::NONE), 1, 4);
    let inputs = graph.inputs.iter().map(|v| format!("{}: {}", graph.value(*v).name, graph.shape(*v)));
    let inspection = Inspection {
        name: graph.name.clone(),
        params,
        aux_params,
        macs,
        mult_adds,
        cells: subject.cells,
        channels: subject.channels,
        classes: subject.classes,
        inputs: inputs.collect(),
        nodes: ops.values().sum(),
        ops,
        value_bytes,
        planned_bytes: buffers.bytes(),
        planned_buffers: buffers.buffers.len(),
        metadata: subject.model.metadata.iter().cloned().collect(),
        ir: args.ir.then(|| shown.graph.to_string()),
    };
    console.result(&inspection, text)?;
    Ok(Verdict::Right)
}

fn subject(args: &InspectArgs, console: &Console) -> Result<Subject> {
    let path = Path::new(&args.subject);
    if path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("onnx")) {
        return onnx_subject(args, path, console);
    }
    let genotype = load::genotype(&args.subject)?;
    let (stem, channels, cells, classes, side) = match args.network {
        Frame::Cifar => (Stem::Cifar, 36, 20, 10, 32),
        Frame::Imagenet => (Stem::ImageNet, 48, 14, 1000, 224),
    };
    let network = Network {
        stem,
        channels: args.channels.unwrap_or(channels),
        cells: args.cells.unwrap_or(cells),
        classes: args.classes.unwrap_or(classes),
        image: [side; 2],
        auxiliary: true,
    };
    let graph = lowered(&network, &genotype, console)?;
    Ok(Subject {
        model: verify(Model::initial(graph, 0)).context("the lowered network")?,
        cells: Some(network.cells),
        channels: Some(network.channels),
        classes: Some(network.classes),
    })
}

/// The network with its auxiliary head, or without one where the feature maps are too small or too large for it.
fn lowered(network: &Network, genotype: &Genotype, console: &Console) -> Result<Graph> {
    match lower(network, Cells::Fixed(genotype)) {
        Err(LowerError::Network { key: "auxiliary head", why }) => {
            console.warn(format_args!("counted without auxiliary head: {why}"));
            Ok(lower(&Network { auxiliary: false, ..network.clone() }, Cells::Fixed(genotype))?)
        }
        lowered => Ok(lowered?),
    }
}

fn onnx_subject(args: &InspectArgs, path: &Path, console: &Console) -> Result<Subject> {
    for (flag, given) in [("--channels", args.channels), ("--cells", args.cells), ("--classes", args.classes)] {
        if given.is_some() {
            console.warn(format_args!("{flag} has no meaning for an ONNX file, whose network is as it is"));
        }
    }
    let model = load::model(path)?;
    let info = ModelInfo::from_metadata(&model.metadata);
    if let Err(why) = &info {
        console.detail(format_args!("not exported by this program: {why}"));
    }
    let graph = &model.graph;
    let classes = info.ok().map(|info| info.classes.len()).filter(|n| *n > 0).or_else(|| {
        let [output] = main_outputs(graph)[..] else { return None };
        graph.shape(output).dim(1).filter(|_| graph.shape(output).rank() == 2)
    });
    let cells = cell_names(graph);
    Ok(Subject { cells: (!cells.is_empty()).then_some(cells.len()), channels: channels(graph), classes, model })
}

/// The outputs that count: all but the auxiliary head's.
fn main_outputs(graph: &Graph) -> Vec<ValueId> {
    graph.outputs.iter().filter(|o| o.name != "aux_logits").map(|o| o.value).collect()
}

/// The cells by the paths of their nodes, `cells.3/...`.
fn cell_names(graph: &Graph) -> BTreeSet<&str> {
    let first = graph.nodes.iter().filter_map(|n| n.name.split_once('/'));
    first.map(|(cell, _)| cell).filter(|cell| cell.starts_with("cells.")).collect()
}

/// C: the channels of the second preprocessing of cell 0, halved if the cell is a reduction already.
fn channels(graph: &Graph) -> Option<usize> {
    let node = graph.nodes.iter().find(|n| n.name.starts_with("cells.0/preprocess1/"))?;
    let last = graph.nodes.iter().rfind(|n| n.name.starts_with("cells.0/preprocess1/")).unwrap_or(node);
    let channels = graph.shape(last.output).dim(1)?;
    // The first reduction stands at a third of the cells: at once if there are fewer than three.
    Some(if cell_names(graph).len() < 3 { channels / 2 } else { channels })
}

fn passed(pipeline: &[Pass], model: Verified<Model>, console: &Console) -> Result<Verified<Model>> {
    let (model, applied) = apply(pipeline, model)?;
    for done in applied {
        console.detail(format_args!("pass {}: {} rewrites, {} nodes", done.pass, done.rewrites, done.nodes));
    }
    Ok(model)
}

fn text(i: &Inspection) -> String {
    if let Some(ir) = &i.ir {
        return ir.clone();
    }
    let mut out = format!("{}\n", i.name);
    let mut row = |what: &str, value: String| {
        let _ = writeln!(out, "  {what:<13} {value}");
    };
    i.inputs.iter().for_each(|input| row("input", input.clone()));
    let known = [("channels", i.channels), ("cells", i.cells), ("classes", i.classes)];
    known.into_iter().filter_map(|(what, n)| Some((what, n?))).for_each(|(what, n)| row(what, n.to_string()));
    row("parameters", format!("{} ({:.3} M)", i.params, i.params as f64 / 1e6));
    if i.aux_params > 0 {
        row("auxiliary", format!("{} parameters more, in training only", i.aux_params));
    }
    row("macs", format!("{} ({:.1} M)", i.macs, i.macs as f64 / 1e6));
    row("mult-adds", format!("{} ({:.1} M, the published rule)", i.mult_adds, i.mult_adds as f64 / 1e6));
    row("values", format!("{:.2} MiB an image", mib(i.value_bytes)));
    row("planned", format!("{:.2} MiB an image, in {} buffers", mib(i.planned_bytes), i.planned_buffers));
    let ops: Vec<String> = i.ops.iter().map(|(op, n)| format!("{op} {n}")).collect();
    row("nodes", format!("{}: {}", i.nodes, ops.join(", ")));
    for (key, value) in &i.metadata {
        match key.as_str() {
            // Too long for a row, and the same for every image.
            "genotype" => {}
            key if key.starts_with("Image.") => {}
            "classes" => row("class names", value.clone()),
            key => row(key, value.clone()),
        }
    }
    out
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / (1 << 20) as f64
}
