//! A genotype to the Python literal of DARTS code.

use crate::genotype::provenance::Fact;
use crate::genotype::{Cell, Genotype};

/// `NAME = Genotype(...)`, one node a line; what is known of its provenance stands above as
/// comments. A name that Python does not take is bent into one that it does.
pub(in crate::genotype) fn to_python(genotype: &Genotype) -> String {
    let mut text = String::new();
    let name = identifier(&genotype.name);
    if name != genotype.name {
        text += &format!("# name: {:?}\n", genotype.name);
    }
    for (key, fact) in genotype.provenance.facts() {
        text += &match fact {
            // Debug formatting, where it is needed, keeps the comment on its line.
            Fact::Text(value) if value.contains(char::is_control) => {
                format!("# {key}: {value:?}\n")
            }
            Fact::Text(value) => format!("# {key}: {value}\n"),
            Fact::Whole(value) => format!("# {key}: {value}\n"),
            Fact::Real(value) => format!("# {key}: {value:?}\n"),
        };
    }
    let normal = cell("normal", &genotype.normal);
    let reduce = cell("reduce", &genotype.reduce);
    text + &format!("{name} = Genotype(\n{normal}{reduce})\n")
}

fn cell(key: &str, cell: &Cell) -> String {
    let node = |[a, b]: &[crate::genotype::Edge; 2]| {
        let edge = |edge: &crate::genotype::Edge| format!("('{}', {})", edge.primitive, edge.input);
        format!("        {}, {},\n", edge(a), edge(b))
    };
    let nodes: String = cell.nodes.iter().map(node).collect();
    let concat = concat(&cell.concat);
    format!("    {key}=[\n{nodes}    ],\n    {key}_concat={concat},\n")
}

fn concat(states: &[usize]) -> String {
    match states {
        [first, .., last] if states.iter().copied().eq(*first..last + 1) => {
            format!("range({first}, {})", last + 1)
        }
        states => format!("{states:?}"),
    }
}

/// `name` with everything that Python does not allow in a name replaced by `_`.
fn identifier(name: &str) -> String {
    const KEYWORDS: [&str; 35] = [
        "False", "None", "True", "and", "as", "assert", "async", "await", "break", "class", "continue", "def", "del",
        "elif", "else", "except", "finally", "for", "from", "global", "if", "import", "in", "is", "lambda", "nonlocal",
        "not", "or", "pass", "raise", "return", "try", "while", "with", "yield",
    ];
    let word = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    let mut bent: String = name.chars().map(word).collect();
    if bent.is_empty() || bent.starts_with(|c: char| c.is_ascii_digit()) {
        bent.insert(0, '_');
    }
    // `Genotype` would hide the namedtuple from the lines below.
    if KEYWORDS.contains(&bent.as_str()) || bent == "Genotype" {
        bent.push('_');
    }
    bent
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_python_refuses_is_bent() {
        for (name, expected) in [
            ("PC_DARTS_cifar", "PC_DARTS_cifar"),
            ("my net-2", "my_net_2"),
            ("2nd", "_2nd"),
            ("", "_"),
            ("class", "class_"),
            ("Genotype", "Genotype_"),
            ("\u{e9}t\u{e9}", "_t_"),
        ] {
            assert_eq!(identifier(name), expected, "{name}");
        }
    }

    #[test]
    fn a_run_of_states_is_a_range() {
        for (states, expected) in [
            (&[2, 3, 4, 5][..], "range(2, 6)"),
            (&[2], "[2]"),
            (&[4, 5, 6], "range(4, 7)"),
            (&[3, 4, 6], "[3, 4, 6]"),
            (&[3, 2], "[3, 2]"),
            (&[], "[]"),
        ] {
            assert_eq!(concat(states), expected);
        }
    }
}
