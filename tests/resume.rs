//! A run that is killed or interrupted at any moment and goes on ends with the same bits as one that was left alone.
//!
//! Runs the built binary on its synthetic images, with a checkpoint after every step, and compares genotype, weights and
//! logs; of the logs without what the clock or the memory says.
#![cfg(all(feature = "train", unix))]

#[path = "cli/program.rs"]
#[allow(dead_code, reason = "the tests of the command line use the rest of it")]
mod program;

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use program::Folder;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;

/// A search of six steps in three epochs, in all of which but the first the architecture moves and is backtracked.
const SEARCH: &[&str] = &[
    "search",
    "--preset",
    "quick",
    "--cells",
    "3",
    "--channels",
    "8",
    "--batch-size",
    "16",
    "--subset",
    "64",
    "--epochs",
    "3",
    "--set",
    "arch.frozen_until=1",
    "--set",
    "backtracking.start=1",
    "--set",
    "backtracking.lambda=0.2",
    "--device",
    "cpu",
    "--threads",
    "2",
    "--checkpoint-every",
    "0",
];

/// A training of nine steps in three epochs.
const BUILD: &[&str] = &[
    "build",
    "PC_DARTS_cifar",
    "--preset",
    "quick",
    "--cells",
    "3",
    "--channels",
    "4",
    "--batch-size",
    "16",
    "--subset",
    "40",
    "--epochs",
    "3",
    "--set",
    "auxiliary_weight=0.4",
    "--set",
    "drop_path=0.3",
    "--device",
    "cpu",
    "--threads",
    "2",
    "--no-validate",
    "--checkpoint-every",
    "0",
];

/// What two runs must have in common, by file.
fn results(folder: &Folder, run: &str, files: &[&str]) -> Vec<(String, Vec<u8>)> {
    let read = |file: &&str| {
        let path = folder.path(run).join(file);
        let bytes = fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        (file.to_string(), if *file == "metrics.jsonl" { without_clock(&bytes) } else { bytes })
    };
    files.iter().map(read).collect()
}

fn without_clock(log: &[u8]) -> Vec<u8> {
    let mut lines = Vec::new();
    for line in String::from_utf8(log.to_vec()).unwrap().lines() {
        let mut value: Value = serde_json::from_str(line).unwrap();
        let object = value.as_object_mut().unwrap();
        for key in ["wall_s", "images_per_s", "peak_mib"] {
            assert!(object.remove(key).is_some(), "{key} is not in {line}");
        }
        lines.extend(value.to_string().bytes().chain([b'\n']));
    }
    lines
}

fn start(folder: &Folder, arguments: &[&str]) -> Child {
    let mut command = folder.command(arguments);
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program starts")
}

/// Kills runs at random moments, at least `kills` times, and lets each go on until it is over; each must end as one that was
/// left alone.
fn check_kills(arguments: &[&str], files: &[&str], kills: usize) {
    let (folder, began) = (&Folder::new(), Instant::now());
    let whole = folder.run(&[arguments, &["--out", "whole"]].concat());
    assert_eq!(whole.code, 0, "{}", whole.stderr);
    let usual = began.elapsed();
    let expected = results(folder, "whole", files);
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let (mut killed, mut with_checkpoint, mut runs) = (0, 0, 0);
    while killed < kills {
        let out = format!("killed{runs}");
        let begin: Vec<&str> = arguments.iter().copied().chain(["--out", &out]).collect();
        let go_on = [arguments[0], "--resume", &out, "--device", "cpu", "--threads", "2", "--checkpoint-every", "0"];
        let go_on: Vec<&str> =
            go_on.into_iter().chain(arguments.contains(&"--no-validate").then_some("--no-validate")).collect();
        let has_checkpoint = || {
            let entries = fs::read_dir(folder.path(&out).join("checkpoint")).into_iter().flatten().flatten();
            entries.into_iter().any(|e| e.path().extension().is_some_and(|e| e == "safetensors"))
        };
        loop {
            let resumed = has_checkpoint();
            let mut child = start(folder, if resumed { &go_on } else { &begin });
            let delay = usual.mul_f64(rng.random_range(0.05..1.1));
            let until = Instant::now() + delay;
            let status = loop {
                match child.try_wait().unwrap() {
                    Some(status) => break Some(status),
                    None if Instant::now() >= until && killed < kills + 5 => break None,
                    None => std::thread::sleep(Duration::from_millis(2)),
                }
            };
            match status {
                Some(status) => {
                    assert!(status.success(), "{out}: {status}");
                    break;
                }
                None => {
                    child.kill().unwrap();
                    child.wait().unwrap();
                    killed += 1;
                    with_checkpoint += usize::from(has_checkpoint());
                }
            }
        }
        assert_eq!(results(folder, &out, files), expected, "{out}");
        runs += 1;
    }
    println!("{killed} kills in {runs} runs, {with_checkpoint} of them after a checkpoint");
    assert!(with_checkpoint > 0, "no run was killed behind a checkpoint");
}

#[test]
fn a_search_that_is_killed_anywhere_ends_as_if_it_had_not_been() {
    check_kills(SEARCH, &["genotype.yaml", "weights.safetensors", "arch.jsonl", "metrics.jsonl", "config.yaml"], 20);
}

#[test]
fn a_training_that_is_killed_anywhere_ends_as_if_it_had_not_been() {
    check_kills(BUILD, &["genotype.yaml", "weights.safetensors", "metrics.jsonl", "config.yaml", "model.onnx"], 6);
}

#[test]
fn a_run_that_diverges_says_where_it_can_go_on() {
    let folder = Folder::new();
    let run = folder.run(&[SEARCH, &["--set", "weights.lr=1e18", "--out", "far"]].concat());
    assert_eq!(run.code, 2, "{}", run.stderr);
    for part in ["epoch 1 of 3: training diverged", "checkpoint after 0 epochs", "--resume far --set weights.lr="] {
        assert!(run.stderr.contains(part), "{part}: {}", run.stderr);
    }
}

#[test]
fn signals_end_a_run_behind_a_checkpoint_and_say_how_it_goes_on() {
    let folder = Folder::new();
    assert_eq!(folder.run(&[SEARCH, &["--out", "whole"]].concat()).code, 0);
    let files = ["genotype.yaml", "weights.safetensors", "arch.jsonl", "metrics.jsonl"];
    let expected = results(&folder, "whole", &files);
    for (signal, status) in [("INT", 130), ("TERM", 143)] {
        let mut command = folder.command(&[SEARCH, &["--out", signal]].concat());
        let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let checkpoint = folder.path(signal).join("checkpoint");
        let waiting = Instant::now();
        while !checkpoint.is_dir() {
            assert!(waiting.elapsed() < Duration::from_secs(120), "no checkpoint after two minutes");
            std::thread::sleep(Duration::from_millis(2));
        }
        let sent = Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()]).status().unwrap();
        assert!(sent.success());
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(status), "{stderr}");
        assert!(stderr.contains(&format!("go on by `--resume {signal}`")), "{stderr}");

        // To begin anew in the same place would lose the run.
        let again = folder.run(&[SEARCH, &["--out", signal]].concat());
        assert_eq!(again.code, 2);
        assert!(again.stderr.contains("an unfinished run is here"), "{}", again.stderr);
        let other = folder.run(&["search", "--resume", signal, "--channels", "16", "--threads", "2"]);
        assert_eq!(other.code, 2);
        assert!(other.stderr.contains("channels is 8 there and 16 now"), "{}", other.stderr);

        let rest = folder.run(&["search", "--resume", signal, "--threads", "2", "--device", "cpu"]);
        assert_eq!(rest.code, 0, "{}", rest.stderr);
        assert_eq!(results(&folder, signal, &files), expected, "{signal}");
    }
}

#[test]
fn several_seeds_go_on_where_they_were_and_the_best_is_picked_by_validation() {
    let folder = Folder::new();
    let seeds = [SEARCH, &["--seeds", "0..3", "--json", "--out"]].concat();
    let whole = folder.run(&[&seeds, &["whole"][..]].concat());
    assert_eq!(whole.code, 0, "{}", whole.stderr);
    let report: Value = serde_json::from_str(whole.stdout.lines().last().unwrap()).unwrap();
    let each: Vec<f64> =
        report["seeds"].as_array().unwrap().iter().map(|s| s["final_valid_top1"].as_f64().unwrap()).collect();
    assert_eq!(each.len(), 3);
    let mean = each.iter().sum::<f64>() / 3.0;
    assert!((report["final_valid_top1_mean"].as_f64().unwrap() - mean).abs() < 1e-12);
    let best = each.iter().copied().fold(f64::MIN, f64::max);
    assert_eq!(report["final_valid_top1"].as_f64(), Some(best));
    let picked = format!("whole/seed{}", report["picked_seed"]);
    assert_eq!(
        fs::read(folder.path("whole/genotype.yaml")).unwrap(),
        fs::read(folder.path(&picked).join("genotype.yaml")).unwrap()
    );

    // A search of one seed is the same as that seed among several.
    let alone = folder.run(&[SEARCH, &["--seed", "2", "--out", "alone"]].concat());
    assert_eq!(alone.code, 0, "{}", alone.stderr);
    let files = ["genotype.yaml", "weights.safetensors", "arch.jsonl", "metrics.jsonl"];
    assert_eq!(results(&folder, "alone", &files), results(&folder, "whole/seed2", &files));

    let mut child = start(&folder, &[&seeds, &["cut"][..]].concat());
    let waiting = Instant::now();
    while !folder.path("cut/seed1/checkpoint").is_dir() {
        assert!(waiting.elapsed() < Duration::from_secs(120), "no second seed after two minutes");
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let rest = folder.run(&["search", "--resume", "cut", "--threads", "2", "--device", "cpu"]);
    assert_eq!(rest.code, 0, "{}", rest.stderr);
    for seed in ["seed0", "seed1", "seed2"] {
        let [whole, cut] = ["whole", "cut"].map(|run| results(&folder, &format!("{run}/{seed}"), &files));
        assert_eq!(whole, cut, "{seed}");
    }
}

#[test]
fn a_pipeline_goes_on_in_whichever_stage_it_was() {
    let folder = Folder::new();
    let mut pipeline =
        vec!["pipeline", "--preset", "quick", "--device", "cpu", "--threads", "2", "--checkpoint-every", "0"];
    for setting in [
        "search.cells=3",
        "search.batch_size=16",
        "search.subset=64",
        "search.epochs=2",
        "build.cells=3",
        "build.channels=4",
        "build.batch_size=16",
        "build.subset=40",
        "build.epochs=3",
    ] {
        pipeline.extend(["--set", setting]);
    }
    // Where no driver is visible the exported file is compared with the CPU reference alone; what is asked here is another
    // question.
    let whole = folder.run_without_drivers(&[&pipeline[..], &["--out", "whole"]].concat());
    assert_eq!(whole.code, 0, "{}", whole.stderr);
    assert!(whole.stdout.contains("validated: false"), "{}", whole.stdout);
    let files = ["search/genotype.yaml", "search/arch.jsonl", "build/weights.safetensors", "build/model.onnx"];
    let expected = results(&folder, "whole", &files);
    for stage in ["search", "build"] {
        let mut child = start(&folder, &[&pipeline[..], &["--out", stage]].concat());
        let waiting = Instant::now();
        while !folder.path(stage).join(stage).join("checkpoint").is_dir() {
            assert!(waiting.elapsed() < Duration::from_secs(120), "no checkpoint of `{stage}` after two minutes");
            std::thread::sleep(Duration::from_millis(2));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let rest = folder.run_without_drivers(&["pipeline", "--resume", stage, "--device", "cpu", "--threads", "2"]);
        assert_eq!(rest.code, 0, "{}", rest.stderr);
        assert_eq!(results(&folder, stage, &files), expected, "{stage}");
    }
}
