//! Random streams of the data module.
//!
//! Takes what a stream is for and the numbers that identify it; gives an independent ChaCha8 generator. Nothing draws from a
//! shared generator, so no result depends on how many threads there are or which of them runs first.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// What a stream is used for; the same seed gives unrelated streams for different purposes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Purpose {
    Order = 1,
    Augment = 2,
    Sample = 3,
    Synthetic = 4,
}

/// The generator for one purpose, keyed by the user's seed, a sub-stream and two counters (such as epoch and image index).
pub(super) fn stream(purpose: Purpose, seed: u64, sub: u64, a: u64, b: u64) -> ChaCha8Rng {
    // ChaCha's key has room for four words; the purpose shares one with the sub-stream, which is a small number.
    let words = [seed, sub << 8 | purpose as u64, a, b];
    let mut key = [0; 32];
    for (bytes, word) in key.chunks_exact_mut(8).zip(words) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    ChaCha8Rng::from_seed(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::Rng;

    #[test]
    fn every_part_of_the_key_changes_the_stream_and_equal_keys_repeat_it() {
        let first = |p, s, u, a, b| stream(p, s, u, a, b).next_u64();
        let base = first(Purpose::Order, 1, 2, 3, 4);
        assert_eq!(base, first(Purpose::Order, 1, 2, 3, 4));
        for other in [
            first(Purpose::Augment, 1, 2, 3, 4),
            first(Purpose::Order, 0, 2, 3, 4),
            first(Purpose::Order, 1, 0, 3, 4),
            first(Purpose::Order, 1, 2, 0, 4),
            first(Purpose::Order, 1, 2, 3, 0),
        ] {
            assert_ne!(base, other);
        }
    }
}
