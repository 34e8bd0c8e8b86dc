//! Lowers a genotype that comes with the program, prices it, and prints the graph that would be exported.
//!
//! `cargo run --release --example lower_genotype [NAME]`

use idarts_compile::genotype::Genotype;
use idarts_compile::ir::{Model, cost, verify};
use idarts_compile::lower::{Cells, Network, Stem, lower};
use idarts_compile::passes::{EXPORT, apply};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let name = std::env::args().nth(1).unwrap_or_else(|| "PC_DARTS_cifar".into());
    let genotype = Genotype::shipped(&name).ok_or_else(|| format!("no genotype is called {name}"))?;
    let network = Network { stem: Stem::Cifar, channels: 16, cells: 3, classes: 10, image: [32, 32], auxiliary: false };
    let graph = lower(&network, Cells::Fixed(&genotype))?;
    let price = cost(&graph, &[graph.outputs[0].value]);
    println!("{name}: {} parameters, {} multiply-accumulates", price.params, price.macs);

    let (exported, passes) = apply(EXPORT, verify(Model::initial(graph, 0))?)?;
    for pass in passes {
        println!("{}: {} rewrites, {} nodes left", pass.pass, pass.rewrites, pass.nodes);
    }
    println!("{}", exported.graph);
    Ok(())
}
