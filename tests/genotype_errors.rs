//! Every error of the genotype readers, with its line, column, key and fix.

#[path = "genotype_errors/python.rs"]
mod python;

use std::path::Path;

use idarts_compile::genotype::{Genotype, GenotypeError, Position, Primitive};
use python::PYTHON;

/// What the YAML cases damage.
const YAML: &str = "\
version: 1
name: tiny
normal:
  nodes:
    - [{op: sep_conv_3x3, input: 1}, {op: skip_connect, input: 0}]
    - [{op: sep_conv_3x3, input: 2}, {op: skip_connect, input: 2}]
  concat: [2, 3]
reduce:
  concat: [3]
  nodes:
    - - op: max_pool_3x3
        input: 0
      - {op: max_pool_3x3, input: 1}
    - - {op: max_pool_3x3, input: 0}
      - {op: avg_pool_3x3, input: 2}
provenance:
  seed: 3
  valid_top1: 0.9
";

/// Replace `from` by `to` in `base`, read that, and compare the message. In `message`, STATE and
/// PRIMITIVES stand for the words that many messages share.
fn check_damage(base: &str, read: impl Fn(&str) -> Result<(), GenotypeError>, (from, to): (&str, &str), message: &str) {
    let state = "the number of a state (0 and 1 are the cell's inputs, 2 is node 0)";
    let primitives = "the primitives are max_pool_3x3, avg_pool_3x3, skip_connect, sep_conv_3x3, \
                      sep_conv_5x5, dil_conv_3x3, dil_conv_5x5, sep_conv_7x7, conv_7x1_1x7";
    assert!(base.contains(from), "{from}");
    let text = base.replacen(from, to, 1);
    let error = read(&text).expect_err(&text).to_string();
    let message = message.replace("STATE", state).replace("PRIMITIVES", primitives);
    assert_eq!(error, message, "{text}");
}

fn read_yaml(text: &str) -> Result<(), GenotypeError> {
    Genotype::from_yaml(text, Path::new("x.yaml")).map(drop)
}

fn read_python(text: &str) -> Result<(), GenotypeError> {
    Genotype::from_python(text, Path::new("x.py")).map(drop)
}

#[test]
fn a_yaml_file_may_be_written_in_any_style_and_order() {
    let file = Path::new("tiny.yaml");
    let expected = Genotype::from_yaml(YAML, file).expect("the base of the error table");
    assert_eq!(expected.provenance.seed, Some(3));
    assert_eq!(expected.reduce.nodes[1][1].primitive, Primitive::AvgPool3x3);
    for (from, to) in [
        ("\n", "\r\n"),
        ("version: 1", "\u{feff}version: 1"),
        ("version: 1", "%YAML 1.2\n---\nversion: 1"),
        ("name: tiny", "# a comment\nname: 'tiny'  # and one more"),
        ("concat: [2, 3]", "concat:\n  - 2\n  - 3"),
        ("  valid_top1: 0.9\n", "  valid_top1: 9e-1\n  tool:\n  epochs: ~\n"),
    ] {
        let text = YAML.replacen(from, to, if from == "\n" { usize::MAX } else { 1 });
        let genotype = Genotype::from_yaml(&text, file).expect(&text);
        assert_eq!(genotype, expected, "{text}");
    }
}

#[test]
fn every_yaml_error_tells_line_column_key_and_fix() {
    let check = |from, to, message: &str| check_damage(YAML, read_yaml, (from, to), message);

    // The whole file.
    check(YAML, "", "x.yaml:1:1: the file is empty; it needs the keys version, name, normal and reduce");
    check(YAML, "# nothing\n", "x.yaml:1:1: the file is empty; it needs the keys version, name, normal and reduce");
    check(
        YAML,
        "hello",
        "x.yaml:1:1: expected a map with the keys version, name, normal and reduce, found the \
         text \"hello\"",
    );
    check(
        YAML,
        "A = Genotype(normal=[('a', 0)],\n  reduce: {x)",
        "x.yaml:2:9: this is not YAML: mapping values are not allowed in this context at line \
         2 column 9; correct the text there, or name a Python file .py",
    );
    check(
        "[{op: sep_conv_3x3, input: 1},",
        "[{op: sep_conv_3x3, input: 1,",
        "x.yaml:5:37: this is not YAML: normal.nodes[0][0]: invalid type: map, expected a key \
         (a word) at line 5 column 37; correct the text there, or name a Python file .py",
    );
    check(
        "input: 0}]",
        "input: 0}",
        "x.yaml:6:5: this is not YAML: did not find expected ',' or ']' at line 6 column 5, \
         while parsing a flow sequence at line 5 column 7; correct the text there, or name a \
         Python file .py",
    );
    check(
        "reduce:",
        "---\nreduce:",
        "x.yaml:9:1: a second YAML document starts here; a file holds one genotype, so split it",
    );
    check(
        "tiny",
        "ti\u{1}ny",
        "x.yaml:2:9: control character U+0001: remove it; if there are more, this is no text file",
    );

    // Keys.
    check("version: 1\n", "", "x.yaml:1:1: the key `version` is missing; add `version: 1`");
    check(
        "version: 1",
        "version: 2",
        "x.yaml:1:10: version: version 2 cannot be read; this program reads `version: 1`",
    );
    check("version: 1", "version: one", "x.yaml:1:10: version: expected the number 1, found the text \"one\"");
    check("name: tiny\n", "", "x.yaml:1:1: the key `name` is missing; add `name: my_cells`");
    check(
        "name:",
        "nmae:",
        "x.yaml:2:1: nmae: unknown key `nmae` (did you mean `name`?); the keys here are \
         version, name, normal, reduce, provenance",
    );
    check(
        "version: 1\n",
        "version: 1\n1: 2\n",
        "x.yaml:2:1: 1: unknown key `1`; the keys here are version, name, normal, reduce, \
         provenance",
    );
    check(
        "  seed: 3\n",
        "  seed: 3\n  seed: 4\n",
        "x.yaml:18:3: provenance.seed: the key `seed` is given twice; keep one of the two",
    );
    check("  concat: [2, 3]\n", "", "x.yaml:4:3: normal: the key `concat` is missing; add `concat: [2, 3, 4, 5]`");
    check(
        "reduce:\n  concat: [3]\n",
        "reduce:\n",
        "x.yaml:9:3: reduce: the key `concat` is missing; add `concat: [2, 3, 4, 5]`",
    );
    check(
        "{op: avg_pool_3x3, input: 2}",
        "{op: avg_pool_3x3}",
        "x.yaml:15:9: reduce.nodes[1][1]: the key `input` is missing; add `input: 0`",
    );
    check(
        "{op: avg_pool_3x3, input: 2}",
        "{op: avg_pool_3x3, input: 2, stride: 2}",
        "x.yaml:15:38: reduce.nodes[1][1].stride: unknown key `stride`; the keys here are op, \
         input",
    );

    // Types.
    check("name: tiny", "name: 17", "x.yaml:2:7: name: expected text (put it in quotes), found the number 17");
    check("name: tiny", "name: \"\"", "x.yaml:2:7: name: the name is empty; give the genotype a name");
    check("name: tiny", "name:", "x.yaml:2:6: name: expected text, found nothing");
    check("[2, 3]", "[2, 3.5]", "x.yaml:7:15: normal.concat[1]: expected STATE, found the number 3.5");
    check("input: 1", "input: -1", "x.yaml:5:34: normal.nodes[0][0].input: expected STATE, found the number -1");
    check(
        "{op: skip_connect, input: 0}",
        "[skip_connect, 0]",
        "x.yaml:5:38: normal.nodes[0][1]: expected an edge, e.g. {op: sep_conv_3x3, input: 0}, \
         found a list of 2 item(s)",
    );
    check(
        "concat: [3]",
        "concat: 3",
        "x.yaml:9:11: reduce.concat: expected a list of states, e.g. [2, 3, 4, 5], found the \
         number 3",
    );
    check("seed: 3", "seed: -3", "x.yaml:17:9: provenance.seed: expected a whole number from 0, found the number -3");
    check(
        "valid_top1: 0.9",
        "valid_top1: high",
        "x.yaml:18:15: provenance.valid_top1: expected a number, found the text \"high\"",
    );
    check(
        "valid_top1: 0.9",
        "valid_top1: .nan",
        "x.yaml:18:15: provenance.valid_top1: NaN is no accuracy; give a number, or leave the \
         key out",
    );

    // Structure.
    check(
        "op: max_pool_3x3",
        "op: maxpool_3x3",
        "x.yaml:11:13: reduce.nodes[0][0].op: unknown primitive `maxpool_3x3` (did you mean \
         `max_pool_3x3`?); PRIMITIVES",
    );
    check(
        "op: avg_pool_3x3",
        "op: attention",
        "x.yaml:15:14: reduce.nodes[1][1].op: unknown primitive `attention`; PRIMITIVES",
    );
    check(
        "op: avg_pool_3x3",
        "op: none",
        "x.yaml:15:14: reduce.nodes[1][1].op: `none` means that there is no edge, so a \
         genotype cannot hold it; PRIMITIVES",
    );
    check(
        "input: 2}]",
        "input: 3}]",
        "x.yaml:6:64: normal.nodes[1][1].input: state 3 is out of range: node 1 is state 3 and \
         may read states 0..=2",
    );
    check(
        "        input: 0",
        "        input: 2",
        "x.yaml:12:16: reduce.nodes[0][0].input: state 2 is out of range: node 0 is state 2 \
         and may read states 0..=1",
    );
    check(
        ", {op: skip_connect, input: 2}]",
        "]",
        "x.yaml:6:7: normal.nodes[1]: node 1 has 1 edge(s); a node has exactly two",
    );
    check(
        "[2, 3]",
        "[2, 4]",
        "x.yaml:7:15: normal.concat[1]: state 4 is out of range: the cell's nodes are the \
         states 2..=3, and 0 and 1 are its inputs",
    );
    check(
        "concat: [3]",
        "concat: [1]",
        "x.yaml:9:12: reduce.concat[0]: state 1 is out of range: the cell's nodes are the \
         states 2..=3, and 0 and 1 are its inputs",
    );
    check("[2, 3]", "[2, 3, 2]", "x.yaml:7:18: normal.concat[2]: state 2 is listed twice; keep one of the two");
    check(
        "[2, 3]",
        "[]",
        "x.yaml:7:11: normal.concat: the cell's output is empty; list the states to \
         concatenate, e.g. [2, 3]",
    );
    let nodes = YAML.find("\n    - [").expect("nodes")..YAML.find("\n  concat").expect("concat");
    let nodes = &YAML[nodes];
    check(
        nodes,
        " []",
        "x.yaml:4:10: normal.nodes: the cell has no nodes; give it at least one node with two \
         edges",
    );
}

#[test]
fn a_damaged_file_is_a_genotype_or_an_error_with_a_place_in_it() {
    let check = |text: &str, read: fn(&str) -> Result<(), GenotypeError>| {
        if let Err(error) = read(text) {
            let Position { line, column } = error.position().expect("a position");
            // What is missing at the end is missing behind the last line end.
            assert!((1..=text.lines().count() + 1).contains(&line), "{error}\n{text}");
            assert!((1..=100).contains(&column), "{error}\n{text}");
        }
    };
    for (whole, read) in [(YAML, read_yaml as fn(&str) -> _), (PYTHON, read_python)] {
        for at in 0..whole.len() {
            let (before, after) = whole.split_at(at);
            check(before, read);
            check(&format!("{before}{}", &after[1..]), read);
            for inserted in ["[", "}", "'", "\"", ":", "-", "\n", "#", "\\", "&a", "\u{e9}", "9"] {
                check(&format!("{before}{inserted}{after}"), read);
            }
        }
    }
}
