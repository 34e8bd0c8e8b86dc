//! `inspect` counts what was counted on the PyTorch modules of the published networks, exactly.
//!
//! Takes the table of reference counts (IDARTS_COUNTS, default ../shared/reference/counts.tsv).

mod common;

use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

/// Column of the table, key of the JSON.
const COUNTED: [(&str, &str); 7] = [
    ("channels", "channels"),
    ("cells", "cells"),
    ("classes", "classes"),
    ("params", "params"),
    ("aux_params", "aux_params"),
    ("macs", "macs"),
    ("mult_adds_published_rule", "mult_adds"),
];

#[test]
fn inspect_counts_every_published_network_as_the_reference_does() {
    let default = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/reference/counts.tsv");
    let path = std::env::var_os("IDARTS_COUNTS").map_or_else(default, PathBuf::from);
    let Ok(table) = std::fs::read_to_string(&path) else {
        return common::skip(&format!("{} is not there", path.display()));
    };
    let mut rows = table.lines().map(|line| line.split('\t').collect::<Vec<_>>());
    let head = rows.next().expect("the table has a head");
    let mut networks = 0;
    for row in rows {
        let cell = |column: &str| row[head.iter().position(|name| *name == column).expect("a column of the table")];
        let output = Command::new(env!("CARGO_BIN_EXE_idarts-compile"))
            .args(["inspect", cell("genotype"), "--network", cell("network"), "--json"])
            .output()
            .expect("the program runs");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{row:?}: {stderr}");
        let counts: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
        for (column, key) in COUNTED {
            let expected: u64 = cell(column).parse().expect("the table holds numbers");
            assert_eq!(counts[key].as_u64(), Some(expected), "{key} of {} ({})", cell("genotype"), cell("network"));
        }
        networks += 1;
    }
    assert_eq!(networks, 12, "rows of {}", path.display());
}
