//! Dotted keys in nested YAML mappings.
//!
//! Takes a mapping that has every known key, and a key or a part of a configuration; gives values, leaves with their
//! whole keys, or the nearest known key for a message. Which source may set what, and in which order, is left to
//! `config_merge`.

use serde_yaml::{Mapping, Value};

/// Why a value cannot be laid over a configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Problem {
    /// There is no such key.
    Unknown,
    /// The key groups others, but the value is not a mapping.
    Section,
}

/// The leaves of `value` with their whole paths, if all of them are keys of `known` or values within its lists.
pub fn flatten(known: &Mapping, key: &str, value: &Value) -> Result<Vec<(String, Value)>, (String, Problem)> {
    let section = get_section(known, key);
    if section.is_none() && get(known, key).is_none() {
        return Err((key.into(), Problem::Unknown));
    }
    match (section, value) {
        (None, leaf) => Ok(vec![(key.into(), leaf.clone())]),
        (Some(_), Value::Mapping(part)) => {
            let mut leaves = Vec::new();
            for (name, value) in part {
                let name = name.as_str().map_or_else(|| format!("{name:?}"), str::to_string);
                leaves.extend(flatten(known, &joined(key, &name), value)?);
            }
            Ok(leaves)
        }
        (Some(_), _) => Err((key.into(), Problem::Section)),
    }
}

/// The section at `key`; the empty key is the whole configuration.
pub fn get_section<'a>(mapping: &'a Mapping, key: &str) -> Option<&'a Mapping> {
    if key.is_empty() { Some(mapping) } else { get(mapping, key)?.as_mapping() }
}

/// The value at `key`.
fn get<'a>(mapping: &'a Mapping, key: &str) -> Option<&'a Value> {
    match key.split_once('.') {
        Some((section, rest)) => get(mapping.get(section)?.as_mapping()?, rest),
        None => mapping.get(key),
    }
}

/// Replaces the value at `key`, which `flatten` has found to exist.
pub fn put(mapping: &mut Mapping, key: &str, value: Value) {
    match key.split_once('.') {
        Some((section, rest)) => {
            if let Some(Value::Mapping(inner)) = mapping.get_mut(section) {
                put(inner, rest, value);
            }
        }
        None => {
            mapping.insert(key.into(), value);
        }
    }
}

/// The names of a section's keys.
pub fn keys(section: &Mapping) -> Vec<String> {
    section.keys().filter_map(|k| k.as_str()).map(str::to_string).collect()
}

/// The keys of the innermost section of `key` that exists.
pub fn keys_beside(mapping: &Mapping, key: &str) -> Vec<String> {
    let mut section = key;
    while let Some((outer, _)) = section.rsplit_once('.') {
        if let Some(found) = get_section(mapping, outer) {
            return keys(found);
        }
        section = outer;
    }
    keys(mapping)
}

/// The known key, section or leaf, that `key` may be a slip for: one with the same last part, else the one with the
/// fewest edits if those are at most a third of its letters.
pub fn nearest(mapping: &Mapping, key: &str) -> Option<String> {
    let mut known = Vec::new();
    all_keys(mapping, "", &mut known);
    let last = |k: &str| folded(k.rsplit('.').next().unwrap_or(k));
    if let Some(same) = known.iter().find(|k| last(k) == last(key)) {
        return Some(same.clone());
    }
    let edits = |k: &String| distance(&folded(k), &folded(key)).min(distance(&last(k), &last(key)));
    let (count, best) = known.into_iter().map(|k| (edits(&k), k)).min_by_key(|(count, _)| *count)?;
    (count <= (last(key).len() / 3).max(1)).then_some(best)
}

fn joined(section: &str, name: &str) -> String {
    if section.is_empty() { name.into() } else { format!("{section}.{name}") }
}

fn all_keys(mapping: &Mapping, section: &str, known: &mut Vec<String>) {
    for (name, value) in mapping {
        let path = joined(section, name.as_str().unwrap_or_default());
        known.push(path.clone());
        if let Value::Mapping(inner) = value {
            all_keys(inner, &path, known);
        }
    }
}

/// The letters that count when two keys are compared.
fn folded(key: &str) -> Vec<char> {
    key.to_lowercase().replace('-', "_").chars().collect()
}

/// Insertions, deletions and substitutions that lead from `a` to `b`.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = (diagonal + usize::from(x != y)).min(above + 1).min(row[j] + 1);
            diagonal = above;
        }
    }
    row[b.len()]
}
