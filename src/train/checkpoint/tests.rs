//! Checkpoints survive every accident: cut, changed and foreign files are named and passed over.

use serde::Deserialize;

use super::*;
use crate::data::Dataset;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct State {
    step: usize,
    sum: f64,
    text: String,
}

#[derive(Debug, Clone, Serialize)]
struct Config {
    channels: usize,
    weights: Sgd,
}

#[derive(Debug, Clone, Serialize)]
struct Sgd {
    lr: f64,
}

const CONFIG: Config = Config { channels: 8, weights: Sgd { lr: 0.1 } };

fn store(folder: &Path, config: &Config) -> Store {
    let data = Dataset::synthetic(0, 20, 10).unwrap();
    let run = Run::new(folder, "cpu");
    Store::new(&run, Origin::new("search", config, &data, &run).unwrap().fact("genotype", "g".into()))
}

/// A state whose numbers have no short decimal form.
fn state(step: usize) -> State {
    State { step, sum: (step as f64 + 0.1).sqrt() / 3.0, text: "{\"epoch\":0}\n".into() }
}

fn tensors(step: usize) -> Tensors {
    let data = vec![f32::MIN_POSITIVE / 2.0, -0.0, 0.1 * step as f32];
    Tensors::from([("weight/a".to_owned(), Tensor::new([3, 1], data))])
}

fn files(folder: &Path) -> Vec<PathBuf> {
    newest_first(&folder.join("checkpoint")).unwrap()
}

#[test]
fn the_newest_of_two_comes_back_bit_for_bit() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path(), &CONFIG);
    assert!(matches!(store.load::<State>(), Err(CheckpointError::Missing { .. })));
    for step in [1, 12, 123] {
        store.save(step, false, &state(step), &tensors(step)).unwrap();
    }
    assert_eq!(files(folder.path()).len(), 2);
    let loaded = store.load::<State>().unwrap();
    assert_eq!((loaded.state, &loaded.warnings), (state(123), &vec![]));
    let bits = |t: &Tensors| t["weight/a"].data.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    assert_eq!((bits(&loaded.tensors), &loaded.tensors["weight/a"].shape), (bits(&tensors(123)), &vec![3, 1]));
}

#[test]
fn every_changed_byte_and_every_cut_is_found_and_the_checkpoint_before_is_used() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path(), &CONFIG);
    store.save(1, false, &state(1), &tensors(1)).unwrap();
    store.save(2, false, &state(2), &tensors(2)).unwrap();
    let newest = files(folder.path())[0].clone();
    let whole = fs::read(&newest).unwrap();
    let mut passed_over = 0;
    for at in 0..whole.len() {
        let mut changed = whole.clone();
        changed[at] ^= 0x10;
        for bytes in [&changed[..], &whole[..at]] {
            fs::write(&newest, bytes).unwrap();
            let loaded = store.load::<State>().unwrap();
            // A change that leaves the meaning as it is may pass: a space of the header, say.
            if loaded.state == state(2) {
                assert_eq!(loaded.tensors, tensors(2), "byte {at}");
                continue;
            }
            assert_eq!((loaded.state, loaded.tensors), (state(1), tensors(1)), "byte {at}");
            let warning = loaded.warnings.first().expect("a warning");
            assert!(warning.contains("0000000002.safetensors") && warning.contains("before it is used"), "{warning}");
            passed_over += 1;
        }
    }
    assert!(passed_over > 2 * whole.len() - 64, "{passed_over} of {}", 2 * whole.len());
    fs::write(&newest, &whole[..100]).unwrap();
    fs::write(&files(folder.path())[1], b"").unwrap();
    let message = store.load::<State>().unwrap_err().to_string();
    let both = ["0000000002.safetensors: damaged", "0000000001.safetensors: damaged"];
    assert!(both.iter().all(|part| message.contains(part)), "{message}");
}

#[test]
fn a_checkpoint_of_another_run_is_refused_by_what_differs() {
    let folder = tempfile::tempdir().unwrap();
    let of = |config: &Config| store(folder.path(), config);
    of(&CONFIG).save(1, false, &state(1), &tensors(1)).unwrap();
    let check = |store: Store, expected: &str| {
        let message = store.load::<State>().unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    };
    check(of(&Config { channels: 16, ..CONFIG }), "channels is 8 there and 16 now");
    let mut other = of(&CONFIG);
    other.origin.stage = "build".into();
    check(other, "it is of `search`, not of `build`");
    let mut other = of(&CONFIG);
    other.origin = other.origin.fact("teacher", "t".into());
    check(other, "teacher: not recorded there, t now");
    let mut other = of(&CONFIG);
    other.origin.facts.iter_mut().find(|(name, _)| name == "training images").unwrap().1 = "21".into();
    check(other, "training images: 20 there, 21 now");
    // A plain weights file under the name of a checkpoint.
    fs::copy(&files(folder.path())[0], folder.path().join("kept")).unwrap();
    let weights = safetensors::serialize(Vec::<(String, safetensors::tensor::TensorView)>::new(), None).unwrap();
    fs::write(&files(folder.path())[0], weights).unwrap();
    check(of(&CONFIG), "a safetensors file, but no checkpoint");
}

#[test]
fn values_of_the_optimisers_may_change_and_are_told() {
    let folder = tempfile::tempdir().unwrap();
    store(folder.path(), &CONFIG).save(1, false, &state(1), &tensors(1)).unwrap();
    let mut changed = store(folder.path(), &Config { weights: Sgd { lr: 0.05 }, ..CONFIG });
    changed.origin.threads += 1;
    let loaded = changed.load::<State>().unwrap();
    assert_eq!(loaded.warnings.len(), 2, "{:?}", loaded.warnings);
    assert_eq!(loaded.warnings[0], "goes on with weights.lr 0.05 instead of 0.1");
    assert!(loaded.warnings[1].starts_with("threads: "), "{:?}", loaded.warnings);
}

#[test]
fn an_unfinished_run_is_not_overwritten_and_a_finished_one_makes_room() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path(), &CONFIG);
    store.clear().unwrap();
    store.save(1, false, &state(1), &tensors(1)).unwrap();
    let message = store.clear().unwrap_err().to_string();
    assert!(message.contains("unfinished run") && message.contains("--resume"), "{message}");
    store.save(2, true, &state(2), &tensors(2)).unwrap();
    store.clear().unwrap();
    assert_eq!(files(folder.path()), Vec::<PathBuf>::new());
}
