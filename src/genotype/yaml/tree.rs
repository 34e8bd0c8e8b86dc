//! YAML text to a plain tree that keeps every key.
//!
//! Takes the text, gives one [`Tree`] or the place where it stops being YAML. Keys that are not
//! text are taken as they print, and doubled keys are kept, so that the reader can name both.
//! What the tree means is left to `read`.

use std::fmt;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, EnumAccess, Error, MapAccess, SeqAccess, Visitor};

use super::locate;
use crate::genotype::error::{Position, Problem};

/// A YAML value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Tree {
    Null,
    Bool(bool),
    Whole(u64),
    Negative(i64),
    Real(f64),
    Text(String),
    List(Vec<Tree>),
    Map(Vec<(String, Tree)>),
}

/// Reads a key and hands its text to the function. What the function refuses becomes an error at
/// the key's place.
pub(super) struct KeySeed<F>(pub F);

/// The one document of `text`.
pub(super) fn parse(text: &str) -> Result<Tree, (Position, Problem)> {
    if let Some((at, c)) = text.char_indices().find(|(_, c)| is_forbidden(*c)) {
        let problem = Problem::ControlCharacter { code: c.into() };
        return Err((Position::after(&text[..at]), problem));
    }
    let not_yaml = |error: serde_yaml::Error| {
        let position = locate::position_of(&error).unwrap_or(Position::START);
        let message = error.to_string();
        (position, Problem::NotYaml { message })
    };
    let mut documents = serde_yaml::Deserializer::from_str(text);
    let empty = (Position::START, Problem::EmptyFile);
    let first = documents.next().ok_or_else(|| empty.clone())?;
    let tree = Tree::deserialize(first).map_err(not_yaml)?;
    if let Some(second) = documents.next() {
        // Text behind the end of the first document may also be no YAML at all.
        Tree::deserialize(second).map_err(not_yaml)?;
        let second = serde_yaml::Deserializer::from_str(text).nth(1);
        let start = second.and_then(locate::start).unwrap_or(Position::START);
        return Err((start, Problem::SecondDocument));
    }
    match tree {
        Tree::Null => Err(empty),
        tree => Ok(tree),
    }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TreeVisitor)
    }
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map, a list, text or a number")
    }

    fn visit_unit<E: Error>(self) -> Result<Tree, E> {
        Ok(Tree::Null)
    }

    fn visit_none<E: Error>(self) -> Result<Tree, E> {
        Ok(Tree::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Tree, E> {
        Ok(Tree::Bool(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Tree, E> {
        Ok(Tree::Whole(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Tree, E> {
        Ok(u64::try_from(value).map_or(Tree::Negative(value), Tree::Whole))
    }

    // No key takes a whole number beyond 64 bits, so only the message will show this one.
    fn visit_u128<E: Error>(self, value: u128) -> Result<Tree, E> {
        Ok(Tree::Real(value as f64))
    }

    fn visit_i128<E: Error>(self, value: i128) -> Result<Tree, E> {
        Ok(Tree::Real(value as f64))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Tree, E> {
        Ok(Tree::Real(value))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Tree, E> {
        Ok(Tree::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Tree, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Tree::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Tree, A::Error> {
        let mut map = Vec::new();
        while let Some(key) = entries.next_key_seed(KeySeed(Ok))? {
            map.push((key, entries.next_value()?));
        }
        Ok(Tree::Map(map))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, _: A) -> Result<Tree, A::Error> {
        Err(Error::custom("YAML tags (`!name`) mean nothing here"))
    }
}

impl<'de, T, F: FnOnce(String) -> Result<T, String>> DeserializeSeed<'de> for KeySeed<F> {
    type Value = T;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<T, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, T, F: FnOnce(String) -> Result<T, String>> Visitor<'de> for KeySeed<F> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key (a word)")
    }

    fn visit_unit<E: Error>(self) -> Result<T, E> {
        self.0("null".to_owned()).map_err(E::custom)
    }

    fn visit_bool<E: Error>(self, key: bool) -> Result<T, E> {
        self.0(key.to_string()).map_err(E::custom)
    }

    fn visit_u64<E: Error>(self, key: u64) -> Result<T, E> {
        self.0(key.to_string()).map_err(E::custom)
    }

    fn visit_i64<E: Error>(self, key: i64) -> Result<T, E> {
        self.0(key.to_string()).map_err(E::custom)
    }

    fn visit_f64<E: Error>(self, key: f64) -> Result<T, E> {
        self.0(key.to_string()).map_err(E::custom)
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<T, E> {
        self.0(key.to_owned()).map_err(E::custom)
    }
}

/// Control characters that YAML does not allow in a text.
fn is_forbidden(c: char) -> bool {
    c.is_control() && !matches!(c, '\t' | '\n' | '\r' | '\u{85}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_value_is_kept() {
        let tree = parse("a: [1, -2, 1.5, x, true, ~]\n1: {b: 36893488147419103232}\n");
        let list = Tree::List(vec![
            Tree::Whole(1),
            Tree::Negative(-2),
            Tree::Real(1.5),
            Tree::Text("x".to_owned()),
            Tree::Bool(true),
            Tree::Null,
        ]);
        let map = Tree::Map(vec![("b".to_owned(), Tree::Real(36893488147419103232.0))]);
        let expected = Tree::Map(vec![("a".to_owned(), list), ("1".to_owned(), map)]);
        assert_eq!(tree, Ok(expected));
    }

    #[test]
    fn a_text_that_is_not_one_yaml_document_is_refused_where_it_goes_wrong() {
        let check = |text: &str, line, column, part: &str| {
            let (position, problem) = parse(text).expect_err(text);
            assert_eq!(position, Position { line, column }, "{text:?}: {problem}");
            let message = problem.to_string();
            assert!(message.contains(part), "{message}");
        };
        check("", 1, 1, "empty");
        check("# only a comment\n\n", 1, 1, "empty");
        check("---\n", 1, 1, "empty");
        check("a: 1\n---\nb: 2\n", 3, 1, "second YAML document");
        check("[a]\nb\n", 2, 1, "this is not YAML");
        check("a: [1, 2\nb: 3\n", 2, 2, "this is not YAML");
        check("a: 1\n\tb: 2\n", 2, 1, "this is not YAML");
        check("a: 'open\n", 2, 1, "this is not YAML");
        check("a: *nowhere\n", 1, 4, "this is not YAML");
        check("a: 1\nb: !tag 2\n", 2, 4, "tags");
        check("a: 1\nb: \u{0}\n", 2, 4, "U+0000");
        check("? [a, b]\n: 1\n", 1, 3, "expected a key");
    }

    #[test]
    fn endless_and_exploding_aliases_are_errors() {
        for text in ["a: &x [*x]\n".to_owned(), bomb(), "[".repeat(10_000)] {
            let (_, problem) = parse(&text).expect_err("it has no end");
            assert!(matches!(problem, Problem::NotYaml { .. }), "{problem}");
        }
    }

    fn bomb() -> String {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
        for i in 1..12 {
            let alias = format!("*a{}", i - 1);
            text += &format!("a{i}: &a{i} [{}]\n", [alias.as_str(); 9].join(", "));
        }
        text
    }
}
