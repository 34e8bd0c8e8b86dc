//! A genotype to YAML text that reads well and reads back as the same genotype.
//!
//! The edges of a node stand on one line in flow style, which serde_yaml does not write; so the
//! text is put together here, and only the quoting of text needs care.

use std::fmt::Write;

use crate::genotype::provenance::Fact;
use crate::genotype::{Cell, Edge, Genotype};

/// The file text of a genotype.
pub(in crate::genotype) fn to_yaml(genotype: &Genotype) -> String {
    let mut text = format!("version: 1\nname: {}\n", scalar(&genotype.name));
    text += "# States 0 and 1 are the cell's inputs, node i is state i + 2.\n";
    write_cell(&mut text, "normal", &genotype.normal);
    write_cell(&mut text, "reduce", &genotype.reduce);
    let facts = genotype.provenance.facts();
    if !facts.is_empty() {
        text += "provenance:\n";
    }
    for (key, fact) in facts {
        let value = match fact {
            Fact::Text(value) => scalar(value),
            Fact::Whole(value) => value.to_string(),
            Fact::Real(value) => real(value),
        };
        line(&mut text, format_args!("  {key}: {value}"));
    }
    text
}

fn write_cell(text: &mut String, key: &str, cell: &Cell) {
    line(text, format_args!("{key}:"));
    line(text, format_args!("  nodes:{}", if cell.nodes.is_empty() { " []" } else { "" }));
    for node in &cell.nodes {
        let [first, second] = node.map(edge);
        line(text, format_args!("    - [{first}, {second}]"));
    }
    let states: Vec<_> = cell.concat.iter().map(usize::to_string).collect();
    line(text, format_args!("  concat: [{}]", states.join(", ")));
}

fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    writeln!(text, "{line}").expect("a String takes all that is written to it");
}

fn edge(edge: Edge) -> String {
    format!("{{op: {}, input: {}}}", edge.primitive, edge.input)
}

/// Text as it stands if YAML reads that as the same text, else in double quotes.
fn scalar(text: &str) -> String {
    // Words that YAML 1.1 or 1.2 readers take for something else than text.
    const RESERVED: [&str; 12] =
        ["null", "true", "false", "yes", "no", "on", "off", "y", "n", "nan", "inf", "infinity"];
    let plain = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "_-./".contains(c))
        && !RESERVED.iter().any(|word| text.eq_ignore_ascii_case(word));
    if plain {
        return text.to_owned();
    }
    let mut quoted = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted += "\\n",
            '\t' => quoted += "\\t",
            '\r' => quoted += "\\r",
            c if needs_escape(c) => quoted += &format!("\\U{:08X}", u32::from(c)),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// Characters that YAML does not allow as they are, or that it folds as line ends.
fn needs_escape(c: char) -> bool {
    let line_end_or_mark = matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}');
    c.is_control() || line_end_or_mark || matches!(c, '\u{fffe}' | '\u{ffff}')
}

fn real(value: f64) -> String {
    match value {
        v if v.is_nan() => ".nan".to_owned(),
        v if v.is_infinite() => if v > 0.0 { ".inf" } else { "-.inf" }.to_owned(),
        v => format!("{v:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn named(name: &str) -> Genotype {
        let cell = Cell {
            nodes: vec![
                ["sep_conv_3x3", "skip_connect"]
                    .map(|name| Edge { primitive: name.parse().expect("a primitive"), input: 1 }),
            ],
            concat: vec![2],
        };
        Genotype { name: name.to_owned(), normal: cell.clone(), reduce: cell, provenance: Default::default() }
    }

    #[test]
    fn the_text_has_one_line_a_node() {
        let mut genotype = named("tiny");
        genotype.provenance.source = Some("by hand: \"x\"".to_owned());
        genotype.provenance.seed = Some(u64::MAX);
        let expected = "\
version: 1
name: tiny
# States 0 and 1 are the cell's inputs, node i is state i + 2.
normal:
  nodes:
    - [{op: sep_conv_3x3, input: 1}, {op: skip_connect, input: 1}]
  concat: [2]
reduce:
  nodes:
    - [{op: sep_conv_3x3, input: 1}, {op: skip_connect, input: 1}]
  concat: [2]
provenance:
  source: \"by hand: \\\"x\\\"\"
  seed: 18446744073709551615
";
        assert_eq!(to_yaml(&genotype), expected);
    }

    #[test]
    fn any_name_reads_back_as_it_was() {
        for name in [
            "PC_DARTS_cifar",
            "null",
            "~",
            "No",
            "y",
            "1",
            "1.5",
            "0x1F",
            "1e3",
            ".inf",
            "nan",
            " lead",
            "trail ",
            "a: b",
            "a #b",
            "- a",
            "&a",
            "*a",
            "!a",
            "%a",
            "@a",
            "`a",
            "{a}",
            "[a",
            "'",
            "\"",
            "\\",
            "a\nb",
            "a\r\nb",
            "tab\t",
            "\u{0}",
            "\u{7f}\u{85}\u{2028}",
            "\u{feff}x",
            "\u{e9}\u{4e2d}\u{1f600}",
            "---",
            "...",
            "?",
            ":",
            "<<",
            "2026-01-01",
            "a\u{ffff}",
            "end\\",
        ] {
            let mut genotype = named(name);
            genotype.provenance.method = Some(name.to_owned());
            let text = to_yaml(&genotype);
            let back = Genotype::from_yaml(&text, Path::new("x.yaml"));
            assert_eq!(back.expect(&text), genotype, "{name:?}");
        }
    }

    #[test]
    fn any_accuracy_reads_back_as_it_was() {
        for value in [0.0, 1.0, 0.9712, 97.24, 1e-7, 1.5e300, f64::MIN_POSITIVE, 0.1 + 0.2] {
            let mut genotype = named("tiny");
            genotype.provenance.valid_top1 = Some(value);
            let text = to_yaml(&genotype);
            let back = Genotype::from_yaml(&text, Path::new("x.yaml"));
            assert_eq!(back.expect(&text), genotype, "{value:?}");
        }
    }
}
