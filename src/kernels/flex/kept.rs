//! What is made of sizes alone, kept for the next time.
//!
//! A step asks for the same few layouts a thousand times, while no other core has anything to do.
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

/// Things that are kept, at most; a program that meets more sizes than that starts anew.
const MOST: usize = 1 << 10;

/// Things by what they are made of.
pub struct Kept<K, V>(Mutex<BTreeMap<K, Arc<V>>>);

impl<K: Ord, V> Kept<K, V> {
    /// Nothing yet.
    pub const fn new() -> Self {
        Self(Mutex::new(BTreeMap::new()))
    }

    /// What is kept for `key`, or else what `make` makes of it.
    pub fn get(&self, key: K, make: impl FnOnce(&K) -> V) -> Arc<V> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = all.get(&key) {
            return known.clone();
        }
        if all.len() >= MOST {
            all.clear();
        }
        let made = Arc::new(make(&key));
        all.insert(key, made.clone());
        made
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_is_not_made_again_and_the_number_is_bounded() {
        let kept: Kept<usize, usize> = Kept::new();
        let mut made = 0;
        for key in [3, 4, 3] {
            let value = kept.get(key, |key| {
                made += 1;
                key * 2
            });
            assert_eq!(*value, key * 2);
        }
        assert_eq!(made, 2);
        for key in 0..2 * MOST {
            assert_eq!(*kept.get(key, |key| key + 1), if [3, 4].contains(&key) { key * 2 } else { key + 1 });
        }
        assert!(kept.0.lock().unwrap().len() <= MOST);
    }
}
