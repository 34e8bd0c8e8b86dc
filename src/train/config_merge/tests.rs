//! Tests of layered configurations: which source wins, and what the errors say.

use serde::Deserialize;

use super::*;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    epochs: usize,
    subset: Option<usize>,
    weights: Weights,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Weights {
    lr: f64,
    momentum: f64,
    betas: Vec<f64>,
}

const PRESET: &str = "epochs: 3\nsubset: null\nweights: {lr: 0.1, momentum: 0.9, betas: [0.5, 0.999]}\n";

fn layers() -> Layers {
    Layers::preset("test", PRESET).unwrap()
}

/// The message for a file, then a setting, laid over the preset.
fn message(file: &str, setting: &str) -> String {
    let mut layers = layers();
    let laid = layers.text(Path::new("my.yaml"), file).and_then(|()| layers.set(setting));
    laid.and_then(|()| layers.build::<Config>().map(|c| format!("{c:?}"))).unwrap_or_else(|e| e.to_string())
}

#[test]
fn later_sources_win_key_by_key() {
    let mut layers = layers();
    layers.text(Path::new("a.yaml"), "weights:\n  lr: 1\n  betas: [0.1]\nsubset: 5\n").unwrap();
    layers.text(Path::new("b.yaml"), "# nothing\n").unwrap();
    layers.set("weights.lr=2e-3").unwrap();
    layers.set(" subset = null ").unwrap();
    layers.flag("--epochs", "epochs", 9).unwrap();
    let weights = Weights { lr: 0.002, momentum: 0.9, betas: vec![0.1] };
    assert_eq!(layers.build::<Config>().unwrap(), Config { epochs: 9, subset: None, weights });
    let weights = Weights { lr: 1.0, momentum: 0.9, betas: vec![0.1] };
    assert_eq!(layers.build_until::<Config>(1).unwrap(), Config { epochs: 3, subset: Some(5), weights });
    let found = ["weights.momentum", "weights.betas", "weights.lr", "subset", "epochs"].map(|key| layers.layer(key));
    assert_eq!(found, [0, 1, 2, 3, 4]);
}

#[test]
fn sections_can_be_set_at_once_and_keys_written_with_dots() {
    for (file, setting) in [("", "weights={lr: 7, betas: []}"), ("weights.lr: 7\nweights: {betas: []}", "epochs=3")] {
        let expected = "Config { epochs: 3, subset: None, weights: Weights { lr: 7.0, momentum: 0.9, betas: [] } }";
        assert_eq!(message(file, setting), expected, "{file} {setting}");
    }
}

#[test]
fn errors_name_the_key_its_place_and_the_fix() {
    for (file, setting, expected) in [
        (
            "epochs: 1\nweights:\n  lr: 1\n  momentun: 2\n",
            "epochs=1",
            "my.yaml:4:3: unknown key `weights.momentun`; did you mean `weights.momentum`?",
        ),
        ("momentum: 1", "epochs=1", "my.yaml:1:1: unknown key `momentum`; did you mean `weights.momentum`?"),
        (
            "weights: {xyz: 1}",
            "epochs=1",
            "my.yaml:1:11: unknown key `weights.xyz`; the keys here are lr, momentum, betas",
        ),
        ("3: 1", "epochs=1", "unknown key `Number(3)`"),
        ("", "Epochs=4", "--set Epochs=4: unknown key `Epochs`; did you mean `epochs`?"),
        (
            "",
            "weights.lr.x=4",
            "--set weights.lr.x=4: unknown key `weights.lr.x`; the keys here are lr, momentum, betas",
        ),
        (
            "\nweights:\n",
            "epochs=1",
            "my.yaml:2:1: `weights` is a section, not a value: give values to its keys, which are lr, momentum, betas",
        ),
        (
            "[1, 2]",
            "epochs=1",
            "my.yaml: `.` is a section, not a value: give values to its keys, which are epochs, subset, weights",
        ),
        (
            "epochs: 1\nweights:\n  lr: fast",
            "epochs=1",
            "my.yaml:3:3: `weights.lr` cannot be fast: invalid type: string \"fast\", expected f64",
        ),
        ("epochs: {a: 1}", "epochs=1", "my.yaml:1:1: `epochs` cannot be a: 1: invalid type: map, expected usize"),
        ("a: [", "epochs=1", "my.yaml:2:1: not valid YAML"),
        ("epochs: 1\nepochs: 2", "epochs=1", "not valid YAML: duplicate entry with key \"epochs\""),
        ("", "epochs", "--set epochs: write key=value"),
        ("", "epochs=", "--set epochs=: write key=value"),
        ("", "=3", "--set =3: write key=value"),
        ("", "epochs=[", "--set epochs=[: not valid YAML"),
        ("", "epochs=1.5", "--set epochs=1.5: `epochs` cannot be 1.5: invalid type: floating point"),
    ] {
        let found = message(file, setting);
        assert!(found.contains(expected), "{file:?} {setting:?}: {found}");
    }
}

#[test]
fn a_broken_rule_is_blamed_on_the_last_source_of_the_key() {
    let mut layers = layers();
    let fault = || Fault { key: "weights.lr", found: "7".into(), rule: "it must be 1".into() };
    assert_eq!(layers.blame(fault()).to_string(), "preset test: `weights.lr` is 7, but it must be 1");
    layers.text(Path::new("my.yaml"), "weights:\n  betas: []\n  lr: 7\n").unwrap();
    assert_eq!(layers.blame(fault()).to_string(), "my.yaml:3:3: `weights.lr` is 7, but it must be 1");
    layers.flag("--lr", "weights.lr", 7).unwrap();
    assert_eq!(layers.blame(fault()).to_string(), "--lr: `weights.lr` is 7, but it must be 1");
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let message = layers().file(Path::new("/no/such/config.yaml")).unwrap_err().to_string();
    assert!(message.starts_with("cannot read the configuration /no/such/config.yaml: "), "{message}");
}

#[test]
fn a_broken_preset_is_our_fault() {
    let layers = Layers::preset("test", "epochs: x\nsubset: 1\nweights: {}\n").unwrap();
    let message = layers.build::<Config>().unwrap_err().to_string();
    assert!(message.contains("preset `test` is broken, please report it"), "{message}");
}

#[test]
fn a_record_keeps_every_bit_of_the_numbers() {
    let weights = Weights { lr: 1e-8, momentum: 0.1 + 0.2, betas: vec![1e300, 5e-324, 3e-5, 100.0] };
    let config = Config { epochs: usize::MAX, subset: None, weights };
    let mut layers = layers();
    layers.text(Path::new("config.yaml"), &record(&config, "one\n\ntwo").unwrap()).unwrap();
    assert_eq!(layers.build::<Config>().unwrap(), config);
}
