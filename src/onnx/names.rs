//! Names that must differ: takes wished-for names, gives each a free one.

use std::collections::{HashMap, HashSet};

/// A name space.
#[derive(Debug, Default)]
pub(super) struct Unique {
    taken: HashSet<String>,
    /// How often a name was wished for after it was taken; keeps a file full of equal names from costing quadratic time.
    again: HashMap<String, usize>,
}

impl Unique {
    /// Takes exactly `name`; false if it is gone.
    pub(super) fn reserve(&mut self, name: &str) -> bool {
        self.taken.insert(name.into())
    }

    /// Takes `wanted`, or `wanted_1`, `wanted_2`, ... if it is gone.
    pub(super) fn claim(&mut self, wanted: &str) -> String {
        let mut name = wanted.to_owned();
        while !self.taken.insert(name.clone()) {
            let again = self.again.entry(wanted.to_owned()).or_default();
            *again += 1;
            name = format!("{wanted}_{again}");
        }
        name
    }
}

#[cfg(test)]
mod tests {
    use super::Unique;

    #[test]
    fn a_taken_name_gets_the_next_free_number() {
        let mut names = Unique::default();
        assert!(names.reserve("a_1") && !names.reserve("a_1"));
        let given: Vec<String> = ["a", "a", "b", "a", "a_1"].iter().map(|n| names.claim(n)).collect();
        assert_eq!(given, ["a", "a_2", "b", "a_3", "a_1_1"]);
    }
}
