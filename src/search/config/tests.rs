//! Tests of the search configuration: the published values, methods, rescaling, and what is refused.

use std::path::Path;

use super::*;
use crate::train::config_merge::record;

/// The configuration of a preset with some settings, and the messages joined.
fn resolve(preset: &str, settings: &[&str]) -> (SearchConfig, String) {
    let mut layers = SearchConfig::layers(preset).unwrap();
    settings.iter().for_each(|s| layers.set(s).unwrap());
    let (config, messages) = SearchConfig::resolved(&layers).unwrap();
    (config, messages.join("\n"))
}

fn zetas(config: &SearchConfig) -> Vec<usize> {
    (0..config.epochs).map(|epoch| config.zeta(epoch, 14)).collect()
}

#[test]
fn the_cifar_preset_is_the_published_search() {
    let (config, messages) = resolve("cifar10", &[]);
    assert_eq!(messages, "");
    assert_eq!((config.method, config.network), (Method::Idarts, Network::Cifar));
    assert_eq!((config.channels, config.cells, config.partial_channels), (16, 8, 4));
    assert_eq!((config.epochs, config.batch_size, config.arch.frozen_until), (50, 256, 15));
    assert_eq!(config.shape().unwrap(), ArchShape::DARTS);
    let weights = &config.weights;
    assert_eq!((weights.lr, weights.momentum, weights.weight_decay, weights.clip), (0.1, 0.9, 3e-4, Some(5.0)));
    let adam = AdamConstants { lr: 6e-4, betas: [0.5, 0.999], eps: 1e-8, weight_decay: 1e-3 };
    assert_eq!((config.arch.adam(), config.arch.clip), (adam, None));
    let backtracking = &config.backtracking;
    assert_eq!((backtracking.start, backtracking.lambda, backtracking.eta2), (25, 0.015, 0.04));
    assert_eq!((config.schedule().rate(0), config.schedule().rate(50)), (0.1, 0.0));
    assert_eq!((zetas(&config)[29], zetas(&config)[30], zetas(&config)[49]), (0, 1, 5));
}

#[test]
fn the_imagenet_preset_is_the_published_search() {
    let (config, messages) = resolve("imagenet", &[]);
    assert_eq!(messages, "");
    assert_eq!((config.network, config.image_size, config.partial_channels), (Network::Imagenet, Some(224), 2));
    assert_eq!((config.batch_size, config.weights.lr, config.weights.weight_decay), (1024, 0.5, 3e-5));
    assert_eq!((config.arch.lr, config.arch.clip, config.arch.frozen_until), (6e-3, Some(5.0), 35));
    assert_eq!((config.split.weights, config.split.arch), (0.1, 0.025));
    assert_eq!((config.schedule().rate(0), config.schedule().rate(4)), (0.1, 0.5));
    assert_eq!(zetas(&config)[40..], [0, 0, 1, 2, 2, 3, 4, 4, 5, 6]);
}

#[test]
fn the_quick_preset_is_scaled_and_moves_edges() {
    let (config, messages) = resolve("quick", &[]);
    assert_eq!((config.epochs, config.batch_size, config.weights.lr), (4, 64, 0.025));
    assert_eq!((config.arch.frozen_until, config.backtracking.start), (1, 2));
    assert_eq!(zetas(&config), [0, 0, 0, 5]);
    for key in ["weights.lr", "arch.frozen_until", "backtracking.start", "backtracking.lambda"] {
        assert!(messages.contains(&format!("{key} is ")), "{messages}");
    }
}

#[test]
fn a_method_brings_its_own_values_and_settings_come_above_them() {
    let (config, messages) = resolve("cifar10", &["method=darts"]);
    assert_eq!((config.partial_channels, config.edge_normalisation, config.batch_size), (1, false, 64));
    assert_eq!((config.weights.lr, config.weights.lr_min, config.arch.lr), (0.025, 0.001, 3e-4));
    assert_eq!((config.arch.frozen_until, zetas(&config), messages.as_str()), (0, vec![0; 50], ""));
    assert!(!config.second_order());
    let (second, messages) = resolve("cifar10", &["partial_channels=4", "method=darts-2nd", "batch_size=32"]);
    assert_eq!((second.partial_channels, second.second_order()), (4, true));
    assert_eq!((second.weights.lr, second.weights.lr_min), (0.0125, 0.0005));
    assert!(messages.contains("not DARTS as published: partial_channels is 4"), "{messages}");
    let (pc, _) = resolve("cifar10", &["method=pc-darts"]);
    assert_eq!((pc.partial_channels, pc.edge_normalisation, zetas(&pc)), (4, true, vec![0; 50]));
    assert_eq!(SearchConfig { method: Method::Idarts, ..pc }, resolve("cifar10", &[]).0);
    for preset in ["imagenet", "quick"] {
        let (darts, _) = resolve(preset, &["method=darts"]);
        assert_eq!((darts.partial_channels, darts.edge_normalisation), (1, false), "{preset}");
    }
}

#[test]
fn fewer_epochs_keep_the_course_of_zeta() {
    for epochs in [10, 20, 25, 49, 50, 100, 200] {
        let (config, messages) = resolve("cifar10", &[&format!("epochs={epochs}")]);
        let expected = |part: usize| (part as f64 * epochs as f64 / 50.0).round() as usize;
        assert_eq!((config.arch.frozen_until, config.backtracking.start), (expected(15), expected(25)));
        let zetas = zetas(&config);
        assert_eq!((zetas[config.backtracking.start], zetas[epochs - 1]), (0, 5), "{epochs}: {zetas:?}");
        assert_eq!(messages.is_empty(), epochs == 50, "{messages}");
        let (constant, _) = resolve("cifar10", &[&format!("epochs={epochs}"), "backtracking.zeta=constant"]);
        assert_eq!(constant.zeta(constant.backtracking.start, 14), 5, "{epochs}");
    }
}

#[test]
fn what_is_given_is_not_scaled() {
    let settings = ["arch.frozen_until=2", "backtracking.start=3", "weights.lr=0.07", "epochs=10", "batch_size=64"];
    let (config, messages) = resolve("cifar10", &settings);
    assert_eq!((config.arch.frozen_until, config.backtracking.start, config.weights.lr), (2, 3, 0.07));
    // Zeta runs its course from the given start.
    assert_eq!(zetas(&config), [0, 0, 0, 0, 0, 1, 2, 3, 4, 5][..].to_vec(), "{messages}");
    let (config, _) = resolve("cifar10", &["epochs=10", "backtracking.lambda=0.05"]);
    assert_eq!((config.backtracking.lambda, config.backtracking.start), (0.05, 5));
}

#[test]
fn a_recorded_run_is_read_back_as_it_was_and_can_be_scaled_again() {
    let (run, _) = resolve("quick", &["seed=3", "subset=null"]);
    let text = record(&run, "idarts-compile\nseed 3").unwrap();
    assert!(text.starts_with("# idarts-compile\n# seed 3\nrecipe:\n"), "{text}");
    for preset in ["quick", "imagenet"] {
        let mut layers = SearchConfig::layers(preset).unwrap();
        layers.text(Path::new("config.yaml"), &text).unwrap();
        assert_eq!(SearchConfig::resolved(&layers).unwrap(), (run.clone(), vec![]), "over {preset}");
    }
    let mut layers = SearchConfig::layers("quick").unwrap();
    layers.text(Path::new("config.yaml"), &text).unwrap();
    layers.flag("--epochs", "epochs", 8).unwrap();
    let (longer, _) = SearchConfig::resolved(&layers).unwrap();
    assert_eq!((longer.arch.frozen_until, longer.backtracking.start), (2, 4));
    assert_eq!(zetas(&longer)[4..], [0, 1, 3, 5]);
}

#[test]
fn what_has_no_effect_is_said() {
    let (_, messages) = resolve("cifar10", &["epochs=1"]);
    assert!(messages.contains("backtracking moves nothing"), "{messages}");
    let (_, messages) = resolve("cifar10", &["arch.frozen_until=50"]);
    assert!(messages.contains("alpha and beta do not move"), "{messages}");
}

#[test]
fn values_that_make_no_sense_are_refused_with_their_source() {
    for (settings, parts) in [
        (&["partial_channels=3"][..], ["--set partial_channels=3", "it must divide channels, which is 16"]),
        (&["channels=18"], ["`partial_channels` is 4", "preset cifar10"]),
        (&["epochs=0"], ["`epochs` is 0", "at least 1"]),
        (&["edge_normalisation=false"], ["`edge_normalisation`", "choose another method"]),
        (&["weights.momentum=1"], ["`weights.momentum` is 1", "below 1"]),
        (&["weights.lr=.nan"], ["`weights.lr` is NaN", "above 0"]),
        (&["weights.lr_min=0.2"], ["`weights.lr_min` is 0.2", "between 0 and 0.1"]),
        (&["split.arch=0.6"], ["`split.arch` is 0.6", "more than all images"]),
        (&["primitives=[none]"], ["`primitives` is [none]", "besides none"]),
        (&["primitives=[a, b, a]"], ["`primitives`", "`a` may be there only once"]),
        (&["nodes=99999999999"], ["`nodes`", "more than 64"]),
        (&["augmentation.frame=random-resized"], ["augmentation.frame", "image_size"]),
        (&["augmentation.colour_jitter=[1, 1, 1, 0.6]"], ["augmentation.colour_jitter", "hue"]),
        (&["backtracking.guard=0"], ["`backtracking.guard` is 0", "above 0"]),
        (&["arch.betas=[0.5, 1.0]"], ["`arch.betas` is 1", "below 1"]),
        (&["method=drats"], ["`method` cannot be drats", "expected one of"]),
        (
            &["backtracking.reading=element", "backtracking.reading=edges"],
            ["cannot be edges", "expected `edge` or `element`"],
        ),
        (&["arch.betas=0.5"], ["`arch.betas` cannot be 0.5", "--set arch.betas=0.5"]),
        (&["cells=-1"], ["`cells` cannot be -1", "expected usize"]),
    ] {
        let mut layers = SearchConfig::layers("cifar10").unwrap();
        settings.iter().for_each(|s| layers.set(s).unwrap());
        let message = SearchConfig::resolved(&layers).unwrap_err().to_string();
        assert!(parts.iter().all(|part| message.contains(part)), "{settings:?}: {message}");
    }
}

#[test]
fn the_values_by_method_are_no_keys_of_the_configuration() {
    let mut layers = SearchConfig::layers("cifar10").unwrap();
    let message = layers.set("methods.darts.cells=3").unwrap_err().to_string();
    assert!(message.contains("unknown key `methods.darts.cells`"), "{message}");
}
