//! What backtracking does to a whole search: nothing at all where it has no weight or no edges, and only to the edges it
//! selects where it has.

use burn::tensor::Device;
use serde_json::Value;

use crate::data::Dataset;
use crate::search::config::SearchConfig;
use crate::search::run::search;
use crate::train::checkpoint::Run;
use crate::train::progress::ignore;

/// The logs of a tiny search without what depends on the clock.
fn logs(settings: &[&str]) -> Vec<Value> {
    let mut layers = SearchConfig::layers("quick").unwrap();
    let tiny = [
        "channels=4",
        "cells=3",
        "nodes=2",
        "partial_channels=2",
        "epochs=3",
        "batch_size=10",
        "subset=null",
        "arch.frozen_until=0",
        "backtracking.start=1",
        "backtracking.lambda=0.4",
    ];
    for setting in tiny.iter().chain(settings) {
        layers.set(setting).unwrap();
    }
    let config = SearchConfig::resolved(&layers).unwrap().0;
    let data = Dataset::synthetic(1, 40, 10).unwrap();
    let out = tempfile::tempdir().unwrap();
    let found = search(&config, &data, &Device::flex(), &Run::new(out.path(), "cpu"), &mut ignore).unwrap();
    let mut lines =
        vec![Value::from(found.genotype.normal.nodes.len()), Value::from(format!("{:?}", found.genotype.normal))];
    for (name, keys) in [
        (
            "metrics.jsonl",
            &["epoch", "train_loss", "train_top1", "arch_loss", "valid_loss", "valid_top1", "gradient_norm"][..],
        ),
        ("arch.jsonl", &["epoch", "values", "normal", "reduce", "genotype"]),
    ] {
        let text = std::fs::read_to_string(out.path().join(name)).unwrap();
        for line in text.lines() {
            let line: Value = serde_json::from_str(line).unwrap();
            // The genotype's text names the method.
            let kept = keys.iter().map(|key| match (*key, &line[key]) {
                ("genotype", Value::String(text)) => Value::from(text.split_once('=').unwrap().1),
                (_, value) => value.clone(),
            });
            lines.push(Value::Array(kept.collect()));
        }
    }
    lines
}

#[test]
fn backtracking_without_weight_or_edges_is_pc_darts_to_the_last_bit() {
    let pc_darts = logs(&["method=pc-darts"]);
    assert_eq!(pc_darts.len(), 2 + 2 * 3);
    for settings in [
        &["backtracking.eta2=0"][..],
        &["backtracking.lambda=0"],
        &["backtracking.start=3"],
        &["backtracking.eta2=0", "backtracking.zeta=constant", "backtracking.reading=element", "backtracking.eta=eta2"],
        &["backtracking.eta2=0", "backtracking.cadence=epoch", "backtracking.sign=descent"],
    ] {
        assert_eq!(logs(settings), pc_darts, "{settings:?}");
    }
    // Else the search takes another course from the second epoch on, and not before.
    let idarts = logs(&["backtracking.eta=eta2", "backtracking.cap=false", "backtracking.zeta=constant"]);
    assert_eq!(idarts[2], pc_darts[2]);
    assert_eq!(idarts[5], pc_darts[5]);
    assert_ne!(idarts[6], pc_darts[6]);
}
