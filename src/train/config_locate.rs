//! Where in a YAML text a key stands.
//!
//! Takes the text and the dotted path of a key; gives line and column, for messages. The parser tells positions only in
//! its errors, so the text is read once more by a visitor that fails on purpose at the key. Reading values is left to
//! `config_merge`.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, Visitor};

/// Line and column, from 1, of the key at `path`; of several such keys the first.
pub fn locate(text: &str, path: &str) -> Option<(usize, usize)> {
    let found = Section { path }.deserialize(serde_yaml::Deserializer::from_str(text)).err()?;
    // Any other error than the visitor's own is trouble with the text itself.
    let location = found.to_string().contains(FOUND).then(|| found.location())??;
    Some((location.line(), location.column()))
}

const FOUND: &str = "the key that was looked for";

/// A mapping in which the rest of the path is looked for.
struct Section<'p> {
    path: &'p str,
}

/// A key of such a mapping; gives the rest of the path if it leads on into the key's value.
struct Key<'p> {
    path: &'p str,
}

impl<'de> DeserializeSeed<'de> for Section<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Section<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a mapping")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(rest) = map.next_key_seed(Key { path: self.path })? {
            match rest {
                Some(path) => map.next_value_seed(Section { path })?,
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}

impl<'de, 'p> DeserializeSeed<'de> for Key<'p> {
    type Value = Option<&'p str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'p> Visitor<'_> for Key<'p> {
    type Value = Option<&'p str>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Self::Value, E> {
        match self.path.strip_prefix(name) {
            Some("") => Err(E::custom(FOUND)),
            Some(rest) => Ok(rest.strip_prefix('.')),
            None => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_in_every_style_of_yaml() {
        let text = "# comment\nepochs: 3\nweights:\n  lr: 0.1\n  momentum: 0.9\n\
            arch: {lr: 1, betas: [0.5,\n    0.9], eps: 2}\nbacktracking.start: 4\n";
        for (path, expected) in [
            ("epochs", Some((2, 1))),
            ("weights", Some((3, 1))),
            ("weights.momentum", Some((5, 3))),
            ("arch.lr", Some((6, 8))),
            ("arch.eps", Some((7, 11))),
            ("backtracking.start", Some((8, 1))),
            ("momentum", None),
            ("weights.lr_min", None),
            ("arch.l", None),
        ] {
            assert_eq!(locate(text, path), expected, "{path}");
        }
    }

    #[test]
    fn text_that_is_not_a_mapping_has_no_keys() {
        for text in ["", "- 1\n- 2\n", "3", "a: [", "x: &x\n  y: *x\n"] {
            assert_eq!(locate(text, "y"), None, "{text}");
        }
    }
}
