//! The line and column of a key path in a YAML text.
//!
//! The parser gives places only with its errors, so the walk follows the path through the text
//! and refuses what it finds at the end: the error tells where that stands. It is the same parser
//! that read the text, so comments, quotes, flow style and aliases need no care here.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::path::{Aim, KeyPath, Step};
use super::tree::KeySeed;
use crate::genotype::error::Position;

/// Where `path` is in the first document of `text`; `None` if it leads nowhere.
pub(super) fn locate(text: &str, path: &KeyPath, aim: Aim) -> Option<Position> {
    let document = serde_yaml::Deserializer::from_str(text).next()?;
    let steps = path.0.as_slice();
    let refused = Walk { steps, aim }.deserialize(document).err()?;
    position_of(&refused)
}

/// Where the value of `document` starts.
pub(super) fn start(document: serde_yaml::Deserializer<'_>) -> Option<Position> {
    let (steps, aim) = (&[][..], Aim::Value);
    let refused = Walk { steps, aim }.deserialize(document).err()?;
    position_of(&refused)
}

/// Where the parser saw an error.
pub(super) fn position_of(error: &serde_yaml::Error) -> Option<Position> {
    let location = error.location()?;
    Some(Position { line: location.line(), column: location.column() })
}

/// Follows the steps. At their end every `visit_` is the default one, which is an error.
struct Walk<'a> {
    steps: &'a [Step],
    aim: Aim,
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the place looked for")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let Some((Step::Index(wanted), steps)) = self.steps.split_first() else {
            return Err(serde::de::Error::custom("a list"));
        };
        for _ in 0..*wanted {
            items.next_element::<IgnoredAny>()?;
        }
        let aim = self.aim;
        items.next_element_seed(Walk { steps, aim })?;
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let Some((Step::Key(wanted), steps)) = self.steps.split_first() else {
            return Err(serde::de::Error::custom("a map"));
        };
        let aim = self.aim;
        let mut seen = 0;
        loop {
            let is_aim = steps.is_empty() && aim == Aim::Key(seen);
            let seed = KeySeed(|key: String| match key == *wanted {
                true if is_aim => Err(key),
                matches => Ok(matches),
            });
            match entries.next_key_seed(seed)? {
                None => return Ok(()),
                Some(true) if steps.is_empty() && aim != Aim::Value => {
                    seen += 1;
                    entries.next_value::<IgnoredAny>()?;
                }
                Some(true) => entries.next_value_seed(Walk { steps, aim })?,
                Some(false) => {
                    entries.next_value::<IgnoredAny>()?;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
# a comment with normal: in it
name: 'normal: x'
normal:   # here
  \"nodes\":
    - [{op: a, input: 1},
       {input: 22, op: b}]
    -
      - op: c
        input: 3
      - {op: d,
         input: 4}
  concat: &out [2, 3]
reduce: {nodes: [], concat: *out, concat: 7}
7: seven
last:
";

    fn path(steps: &str) -> KeyPath {
        let steps = steps.split('.').map(|step| match step.strip_prefix('#') {
            Some(index) => Step::Index(index.parse().expect("an index")),
            None => Step::Key(step.to_owned()),
        });
        KeyPath(steps.collect())
    }

    #[test]
    fn values_are_found_in_block_and_flow_style() {
        for (steps, line, column) in [
            ("name", 2, 7),
            ("normal", 4, 3),
            ("normal.nodes", 5, 5),
            ("normal.nodes.#0", 5, 7),
            ("normal.nodes.#0.#0.op", 5, 13),
            ("normal.nodes.#0.#1.input", 6, 16),
            ("normal.nodes.#0.#1.op", 6, 24),
            ("normal.nodes.#1.#0", 8, 9),
            ("normal.nodes.#1.#0.input", 9, 16),
            ("normal.nodes.#1.#1.input", 11, 17),
            ("normal.concat", 12, 11),
            ("normal.concat.#1", 12, 20),
            ("reduce.nodes", 13, 17),
            ("7", 14, 4),
        ] {
            let found = locate(TEXT, &path(steps), Aim::Value);
            assert_eq!(found, Some(Position { line, column }), "{steps}");
        }
    }

    #[test]
    fn a_path_through_an_alias_ends_at_the_anchor() {
        let found = locate(TEXT, &path("reduce.concat.#1"), Aim::Value);
        let expected = Position { line: 12, column: 20 };
        assert_eq!(found, Some(expected));
    }

    #[test]
    fn keys_are_found_and_doubled_keys_told_apart() {
        for (steps, nth, line, column) in [
            ("normal", 0, 3, 1),
            ("normal.nodes", 0, 4, 3),
            ("normal.nodes.#0.#1.op", 0, 6, 20),
            ("reduce.concat", 0, 13, 21),
            ("reduce.concat", 1, 13, 35),
            ("7", 0, 14, 1),
        ] {
            let found = locate(TEXT, &path(steps), Aim::Key(nth));
            assert_eq!(found, Some(Position { line, column }), "{steps} {nth}");
        }
    }

    #[test]
    fn a_path_that_leads_nowhere_is_found_nowhere() {
        for steps in ["nothing", "normal.nodes.#5", "reduce.edges"] {
            assert_eq!(locate(TEXT, &path(steps), Aim::Value), None, "{steps}");
        }
        assert_eq!(locate(TEXT, &path("reduce.concat"), Aim::Key(2)), None);
    }
}
