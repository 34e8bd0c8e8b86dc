//! Genotype files from outside: the shipped ones, both formats, files that are not there.
//! Errors in what a file holds are in `genotype_errors`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use idarts_compile::genotype::{Cell, Edge, Genotype, GenotypeError, Position, Primitive, Provenance};

/// The cells as the papers' code has them, in a module that is written as such modules are.
const PUBLISHED: &str = r#"""" Genotype(normal=[]) in a docstring is none. """
from collections import namedtuple

Genotype = namedtuple('Genotype', 'normal normal_concat reduce reduce_concat')
PRIMITIVES = ['none', 'max_pool_3x3', 'avg_pool_3x3', 'skip_connect', 'sep_conv_3x3']

NASNet = Genotype(
  normal = [
    ('sep_conv_5x5', 1), ('sep_conv_3x3', 0),
    ('sep_conv_5x5', 0), ('sep_conv_3x3', 0),
    ('avg_pool_3x3', 1), ('skip_connect', 0),
    ('avg_pool_3x3', 0), ('avg_pool_3x3', 0),
    ('sep_conv_3x3', 1), ('skip_connect', 1),
  ],
  normal_concat = [2, 3, 4, 5, 6],
  reduce = [
    ('sep_conv_5x5', 1), ('sep_conv_7x7', 0),
    ('max_pool_3x3', 1), ('sep_conv_7x7', 0),
    ('avg_pool_3x3', 1), ('sep_conv_5x5', 0),
    ('skip_connect', 3), ('avg_pool_3x3', 2),
    ('sep_conv_3x3', 2), ('max_pool_3x3', 1),
  ],
  reduce_concat = [4, 5, 6],
)

AmoebaNet = Genotype([
    ("avg_pool_3x3", 0), ("max_pool_3x3", 1),  # positional and in double quotes
    ("sep_conv_3x3", 0), ("sep_conv_5x5", 2),
    ("sep_conv_3x3", 0), ("avg_pool_3x3", 3),
    ("sep_conv_3x3", 1), ("skip_connect", 1),
    ("skip_connect", 0), ("avg_pool_3x3", 1)],
  (4, 5, 6),
  reduce_concat=[3, 4, 6], reduce=(
    ["avg_pool_3x3", 0], ["sep_conv_3x3", 1],
    ["max_pool_3x3", 0], ["sep_conv_7x7", 2],
    ["sep_conv_7x7", 0], ["avg_pool_3x3", 1],
    ["max_pool_3x3", 0], ["max_pool_3x3", 1],
    ["conv_7x1_1x7", 0], ["sep_conv_3x3", 5]))

DARTS_V1 = Genotype(normal=[('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('skip_connect', 0), ('sep_conv_3x3', 1), ('skip_connect', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('skip_connect', 2)], normal_concat=[2, 3, 4, 5], reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1), ('skip_connect', 2), ('max_pool_3x3', 0), ('max_pool_3x3', 0), ('skip_connect', 2), ('skip_connect', 2), ('avg_pool_3x3', 0)], reduce_concat=[2, 3, 4, 5])
DARTS_V2 = Genotype(normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 1), ('skip_connect', 0), ('skip_connect', 0), ('dil_conv_3x3', 2)], normal_concat=[2, 3, 4, 5], reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1), ('skip_connect', 2), ('max_pool_3x3', 1), ('max_pool_3x3', 0), ('skip_connect', 2), ('skip_connect', 2), ('max_pool_3x3', 1)], reduce_concat=list(range(2, 6)))
DARTS = DARTS_V2

PC_DARTS_cifar = Genotype(normal=[('sep_conv_3x3', 1), ('skip_connect', 0), ('sep_conv_3x3', 0), ('dil_conv_3x3', 1), ('sep_conv_5x5', 0), ('sep_conv_3x3', 1), ('avg_pool_3x3', 0), ('dil_conv_3x3', 1)], normal_concat=range(2, 6), reduce=[('sep_conv_5x5', 1), ('max_pool_3x3', 0), ('sep_conv_5x5', 1), ('sep_conv_5x5', 2), ('sep_conv_3x3', 0), ('sep_conv_3x3', 3), ('sep_conv_3x3', 1), ('sep_conv_3x3', 2)], reduce_concat=range(2, 6))
PC_DARTS_image = Genotype(normal=[('skip_connect', 1), ('sep_conv_3x3', 0), ('sep_conv_3x3', 0), ('skip_connect', 1), ('sep_conv_3x3', 1), ('sep_conv_3x3', 3), ('sep_conv_3x3', 1), ('dil_conv_5x5', 4)], normal_concat=range(2, 6), reduce=[('sep_conv_3x3', 0), ('skip_connect', 1), ('dil_conv_5x5', 2), ('max_pool_3x3', 1), ('sep_conv_3x3', 2), ('sep_conv_3x3', 1), ('sep_conv_5x5', 0), ('sep_conv_3x3', 3)], reduce_concat=range(2, 6))
"#;

fn shipped_files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("genotypes");
    let entries = fs::read_dir(folder).expect("the folder genotypes");
    let mut files: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    // Logs of searches lie beside their results.
    files.retain(|file| file.extension().is_some_and(|e| e == "yaml"));
    files.sort();
    files
}

fn without_provenance(mut genotype: Genotype) -> Genotype {
    genotype.provenance = Provenance::default();
    genotype
}

#[test]
fn every_shipped_file_is_known_by_name_and_tells_its_source() {
    let mut names = BTreeSet::new();
    for file in shipped_files() {
        let genotype = Genotype::read(&file).expect("a shipped genotype");
        assert!(genotype.provenance.source.is_some(), "{}", genotype.name);
        let stem = file.file_stem().and_then(|stem| stem.to_str());
        assert_eq!(stem, Some(genotype.name.to_lowercase().as_str()));
        let embedded = Genotype::shipped(&genotype.name);
        assert_eq!(embedded.as_ref(), Some(&genotype));
        assert_eq!(Genotype::shipped(&genotype.name.to_uppercase()), embedded);
        names.insert(genotype.name);
    }
    let known: BTreeSet<_> = Genotype::shipped_names().iter().map(|name| name.to_string()).collect();
    assert_eq!(names, known);
    assert_eq!(names.len(), 7);
    assert_eq!(Genotype::shipped("ResNet"), None);
}

#[test]
fn every_shipped_file_is_as_the_writer_writes_it() {
    for file in shipped_files() {
        let text = fs::read_to_string(&file).expect("a shipped file");
        let genotype = Genotype::from_yaml(&text, &file).expect("a shipped genotype");
        assert_eq!(genotype.to_yaml(), text);
    }
}

#[test]
fn the_shipped_cells_are_the_published_ones() {
    let published = Genotype::from_python(PUBLISHED, Path::new("genotypes.py"));
    let published = published.expect("the published module");
    assert_eq!(published.len(), 6);
    for genotype in published {
        let shipped = Genotype::shipped(&genotype.name).expect("a shipped genotype");
        assert_eq!(without_provenance(shipped), genotype);
    }
}

#[test]
fn a_genotype_survives_python() {
    for name in Genotype::shipped_names() {
        let genotype = Genotype::shipped(name).expect("a shipped genotype");
        let text = genotype.to_python();
        let back = Genotype::from_python(&text, Path::new("x.py")).expect(&text);
        assert_eq!(back, [without_provenance(genotype)]);
    }
}

#[test]
fn python_is_written_in_the_form_of_the_darts_code() {
    let genotype = Genotype::shipped("AmoebaNet").expect("a shipped genotype");
    let text = without_provenance(genotype).to_python();
    let expected = "\
AmoebaNet = Genotype(
    normal=[
        ('avg_pool_3x3', 0), ('max_pool_3x3', 1),
        ('sep_conv_3x3', 0), ('sep_conv_5x5', 2),
        ('sep_conv_3x3', 0), ('avg_pool_3x3', 3),
        ('sep_conv_3x3', 1), ('skip_connect', 1),
        ('skip_connect', 0), ('avg_pool_3x3', 1),
    ],
    normal_concat=range(4, 7),
    reduce=[
        ('avg_pool_3x3', 0), ('sep_conv_3x3', 1),
        ('max_pool_3x3', 0), ('sep_conv_7x7', 2),
        ('sep_conv_7x7', 0), ('avg_pool_3x3', 1),
        ('max_pool_3x3', 0), ('max_pool_3x3', 1),
        ('conv_7x1_1x7', 0), ('sep_conv_3x3', 5),
    ],
    reduce_concat=[3, 4, 6],
)
";
    assert_eq!(text, expected);
}

#[test]
fn provenance_with_line_ends_stays_in_the_comments_of_python() {
    let mut genotype = Genotype::shipped("NASNet").expect("a shipped genotype");
    genotype.name = "two words".to_owned();
    genotype.provenance.source = Some("a\nX = Genotype(\r\n".to_owned());
    genotype.provenance.valid_top1 = Some(0.5);
    let back = Genotype::from_python(&genotype.to_python(), Path::new("x.py"));
    genotype.name = "two_words".to_owned();
    assert_eq!(back.expect("one genotype"), [without_provenance(genotype)]);
}

#[test]
fn a_genotype_of_a_module_is_found_by_name_alias_and_past_faulty_ones() {
    let file = Path::new("genotypes.py");
    let text = format!("{PUBLISHED}\nODD = Genotype(normal=[('my_op', 0)])\nA = B\nB = A\n");
    for (name, found) in [("DARTS_V2", "DARTS_V2"), ("DARTS", "DARTS_V2"), ("NASNet", "NASNet")] {
        let genotype = Genotype::from_python_named(&text, file, name).expect(name);
        assert_eq!(genotype.name, found);
    }
    for (name, message) in [
        (
            "DARTS_V3",
            "genotypes.py:1:1: there is no genotype named `DARTS_V3` (did you mean `DARTS_V1`?); \
             the file has NASNet, AmoebaNet, DARTS_V1, DARTS_V2, PC_DARTS_cifar, PC_DARTS_image, \
             ODD",
        ),
        (
            "A",
            "genotypes.py:1:1: there is no genotype named `A`; the file has NASNet, AmoebaNet, \
             DARTS_V1, DARTS_V2, PC_DARTS_cifar, PC_DARTS_image, ODD",
        ),
    ] {
        let error = Genotype::from_python_named(&text, file, name).expect_err(name);
        assert_eq!(error.to_string(), message);
    }
    let error = Genotype::from_python(&text, file).expect_err("ODD is not readable");
    assert_eq!(error.key(), "normal[0][0]");
}

/// The error's text after the place, and the place itself.
fn parts(error: &GenotypeError) -> (Position, &str, String) {
    let position = error.position().expect("a position");
    let problem = error.problem().expect("a problem").to_string();
    (position, error.key(), problem)
}

#[test]
fn a_bare_python_literal_is_called_as_its_file() {
    let genotype = Genotype::shipped("NASNet").expect("a shipped genotype");
    let text = genotype.to_python().replacen("NASNet = ", "", 1);
    let read = Genotype::from_python(&text, Path::new("runs/best.py")).expect("one genotype");
    assert_eq!(read[0].name, "best");
}

#[test]
fn a_genotype_made_in_the_program_is_checked_by_key() {
    let edge = |primitive, input| Edge { primitive, input };
    let cell = Cell { nodes: vec![[edge(Primitive::SepConv3x3, 0), edge(Primitive::SkipConnect, 1)]], concat: vec![2] };
    let good =
        Genotype { name: "made".to_owned(), normal: cell.clone(), reduce: cell, provenance: Provenance::default() };
    good.check().expect("a sound genotype");
    let mut bad = good;
    bad.reduce.nodes[0][1].input = 2;
    let error = bad.check().expect_err("node 0 cannot read itself");
    assert_eq!(
        error.to_string(),
        "genotype `made`: reduce.nodes[0][1].input: state 2 is out of range: node 0 is state 2 and \
         may read states 0..=1"
    );
    assert_eq!(error.position(), None);
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("bad.yaml");
    assert!(bad.write(&file).is_err());
    assert!(!file.exists());
}

#[test]
fn files_are_written_whole_and_by_their_ending() {
    let folder = tempfile::tempdir().expect("a folder");
    let genotype = Genotype::shipped("PC_DARTS_image").expect("a shipped genotype");
    for (name, expected) in [("a.yaml", genotype.to_yaml()), ("a.py", genotype.to_python())] {
        let file = folder.path().join(name);
        fs::write(&file, "something longer than nothing that was there before").expect("a file");
        genotype.write(&file).expect("a folder to write to");
        assert_eq!(fs::read_to_string(&file).expect("a file"), expected);
        let back = Genotype::read(&file).expect("a genotype");
        assert_eq!(without_provenance(back), without_provenance(genotype.clone()));
    }
    let left: BTreeSet<_> =
        fs::read_dir(folder.path()).expect("the folder").map(|entry| entry.expect("an entry").file_name()).collect();
    assert_eq!(left, BTreeSet::from(["a.py".into(), "a.yaml".into()]));
}

#[test]
fn a_file_that_cannot_be_read_or_written_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let missing = folder.path().join("missing").join("a.yaml");
    let error = Genotype::read(&missing).expect_err("no such file").to_string();
    assert!(error.contains("missing/a.yaml"), "{error}");
    assert!(error.contains("PC_DARTS_cifar"), "{error}");
    let genotype = Genotype::shipped("NASNet").expect("a shipped genotype");
    let error = genotype.write(&missing).expect_err("no such folder").to_string();
    assert!(error.contains("missing/a.yaml"), "{error}");
    assert!(error.contains("check that the folder exists"), "{error}");

    let latin = folder.path().join("latin.yaml");
    fs::write(&latin, b"version: 1\nname: \xc3\xa9t\xe9\n").expect("a file");
    let error = Genotype::read(&latin).expect_err("it is not UTF-8");
    let problem = "this is not UTF-8 text (byte 0xe9); save the file as UTF-8";
    let position = Position { line: 2, column: 9 };
    assert_eq!(parts(&error), (position, "", problem.to_owned()));

    let several = folder.path().join("several.py");
    fs::write(&several, PUBLISHED).expect("a file");
    let error = Genotype::read(&several).expect_err("which one?");
    let problem = "the file has several genotypes (NASNet, AmoebaNet, DARTS_V1, DARTS_V2, \
                   PC_DARTS_cifar, PC_DARTS_image); say which one, or keep one";
    let position = Position { line: 26, column: 13 };
    assert_eq!(parts(&error), (position, "", problem.to_owned()));
}
