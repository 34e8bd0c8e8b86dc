//! The estimate of a training step's memory against what the process held, as `bench` reports both.
#![cfg(all(feature = "train", target_os = "linux"))]

use std::process::Command;

/// `bench ARGUMENTS --json`: the estimate and the peak in MiB.
fn bench(arguments: &[&str]) -> [f64; 2] {
    let out = Command::new(env!("CARGO_BIN_EXE_idarts-compile"))
        .args(["bench"].iter().chain(arguments).chain(&["--steps", "1", "--device", "cpu", "--json"]))
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let text = String::from_utf8(out.stdout).unwrap();
    let value: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    ["estimated_mib", "peak_mib"].map(|key| value[key].as_f64().unwrap_or_else(|| panic!("no {key}: {text}")))
}

#[test]
fn the_estimate_is_near_the_peak() {
    for arguments in [
        &["search", "--batch", "32"][..],
        &["train", "--batch", "16"],
        &["train", "NASNet", "--cells", "8", "--channels", "24", "--batch", "16"],
    ] {
        let [estimate, peak] = bench(arguments);
        let ratio = estimate / peak;
        println!("bench {}: {estimate} MiB estimated, {peak} MiB held, ratio {ratio:.2}", arguments.join(" "));
        assert!((0.85..1.25).contains(&ratio), "bench {arguments:?}: {estimate} MiB estimated, {peak} MiB held");
    }
}
