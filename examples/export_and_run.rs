//! Exports a small network to ONNX, reads the file back and runs it on the CPU reference.
//!
//! `cargo run --release --example export_and_run [FILE.onnx]`

use idarts_compile::genotype::Genotype;
use idarts_compile::ir::{Model, Tensor, verify};
use idarts_compile::lower::{Cells, Network, Stem, lower};
use idarts_compile::onnx::{self, WriteOptions};
use idarts_compile::passes::{EXPORT, apply};
use idarts_compile::runtime::Reference;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).unwrap_or_else(|| "model.onnx".into());
    let genotype = Genotype::shipped("DARTS_V2").ok_or("DARTS_V2 comes with the program")?;
    let network = Network { stem: Stem::Cifar, channels: 8, cells: 3, classes: 10, image: [32, 32], auxiliary: false };
    let model = verify(Model::initial(lower(&network, Cells::Fixed(&genotype))?, 0))?;
    let (exported, _) = apply(EXPORT, model)?;
    std::fs::write(&path, onnx::write(&exported, &WriteOptions::default())?)?;
    println!("{path} written");

    let file = verify(onnx::read(&std::fs::read(&path)?, &path)?)?;
    let image = Tensor::new([1, 3, 32, 32], (0..3 * 32 * 32).map(|i| (i % 7) as f32 / 7.0).collect());
    let logits = Reference::new(&file).run(&[image])?;
    println!("logits {:?}", logits[0].data);
    Ok(())
}
