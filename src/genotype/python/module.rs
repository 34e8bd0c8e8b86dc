//! Which genotypes a Python module has, and what they are called.
//!
//! Takes the tokens, gives the place and name of each call of `Genotype` and the `ALIAS = NAME`
//! lines. What stands in a call is left to `parse`.

use super::token::{Kind, Token};
use crate::genotype::error::Position;

/// A Python module as far as genotypes go.
pub(super) struct Module {
    pub tokens: Vec<Token>,
    pub literals: Vec<Literal>,
    /// `ALIAS = NAME` lines, in order.
    pub aliases: Vec<(String, String)>,
}

/// A call of `Genotype`.
pub(super) struct Literal {
    pub name: String,
    /// Where `Genotype` stands.
    pub position: Position,
    /// The token behind the opening bracket.
    pub start: usize,
}

/// Find the genotypes; one that is assigned to nothing is called `nameless`.
pub(super) fn module(tokens: Vec<Token>, nameless: &str) -> Module {
    let kinds: Vec<_> = tokens.iter().map(|token| &token.kind).collect();
    let literals = (0..kinds.len()).filter_map(|index| {
        let name = call_name(&kinds[..index], &kinds[index..])?;
        Some(Literal { name: name.unwrap_or(nameless).to_owned(), position: tokens[index].position, start: index + 2 })
    });
    let literals = literals.collect();
    let lines = kinds.split(|kind| matches!(kind, Kind::LineEnd | Kind::End));
    let aliases = lines.filter_map(|line| match line {
        [Kind::Name(alias), Kind::Symbol('='), Kind::Name(target)] => Some((alias.clone(), target.clone())),
        _ => None,
    });
    let aliases = aliases.collect();
    Module { tokens, literals, aliases }
}

/// If `Genotype(` stands between the two: the name it is assigned to, if it is.
fn call_name<'a>(before: &[&'a Kind], from: &[&'a Kind]) -> Option<Option<&'a str>> {
    match from {
        [Kind::Name(callee), Kind::Symbol('('), ..] if callee == "Genotype" => {}
        _ => return None,
    }
    match without_qualifier(before) {
        [.., Kind::Name(word)] if word == "class" || word == "def" => None,
        // `NAME: Genotype = Genotype(...)`
        [.., Kind::Name(name), Kind::Symbol(':'), Kind::Name(_), Kind::Symbol('=')]
        | [.., Kind::Name(name), Kind::Symbol('=')]
        // `{'NAME': Genotype(...)}`
        | [.., Kind::Text(name), Kind::Symbol(':')] => Some(Some(name)),
        _ => Some(None),
    }
}

/// Leave out `genotypes.` before `Genotype`.
fn without_qualifier<'a, 'k>(mut before: &'a [&'k Kind]) -> &'a [&'k Kind] {
    while let [rest @ .., Kind::Name(_), Kind::Symbol('.')] = before {
        before = rest;
    }
    before
}

#[cfg(test)]
mod tests {
    use super::super::token::tokens;
    use super::*;

    #[test]
    fn a_genotype_is_called_as_it_is_assigned() {
        for (text, expected) in [
            ("A = Genotype()", &["A"][..]),
            ("A = \\\n Genotype()", &["A"]),
            ("A: Genotype = g.h.Genotype()", &["A"]),
            ("self.a = genotypes.Genotype()", &["a"]),
            ("A = {'x': Genotype(), \"y\": Genotype()}", &["x", "y"]),
            ("f(genotype=Genotype())", &["genotype"]),
            ("Genotype()", &["nameless"]),
            ("print(Genotype())", &["nameless"]),
            ("A = Genotype()\nB = Genotype()\n", &["A", "B"]),
            ("class Genotype(NamedTuple): pass", &[]),
            ("Genotype = namedtuple('Genotype', 'normal')", &[]),
            ("# A = Genotype()\n'''B = Genotype()'''", &[]),
        ] {
            let literals = module(tokens(text).expect(text), "nameless").literals;
            let names: Vec<_> = literals.iter().map(|one| one.name.as_str()).collect();
            assert_eq!(names, expected, "{text}");
        }
    }

    #[test]
    fn a_line_of_two_names_is_an_alias() {
        let text = "A = B\nf(c = d)\nE = F # g\nh = i + j\nK = L";
        let aliases = module(tokens(text).expect(text), "").aliases;
        let expected = [("A", "B"), ("E", "F"), ("K", "L")];
        let expected = expected.map(|(a, b)| (a.to_owned(), b.to_owned()));
        assert_eq!(aliases, expected);
    }
}
