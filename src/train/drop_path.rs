//! Drop path: which samples of an edge survive one training step.
//!
//! Takes the batch size, the probability and a generator; gives the factor of each sample.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

/// For each of `samples` samples 0 (dropped, with `probability`) or 1 / (1 - `probability`), so that the mean stays.
pub fn keep_mask(samples: usize, probability: f64, rng: &mut ChaCha8Rng) -> Vec<f32> {
    let keep = 1.0 - probability;
    (0..samples).map(|_| if rng.random_bool(keep) { (1.0 / keep) as f32 } else { 0.0 }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn survivors_are_scaled_so_that_the_mean_stays() {
        let mask = keep_mask(20_000, 0.3, &mut ChaCha8Rng::seed_from_u64(1));
        assert!(mask.iter().all(|&m| m == 0.0 || (m - 1.0 / 0.7).abs() < 1e-6));
        let mean = mask.iter().sum::<f32>() / mask.len() as f32;
        assert!((mean - 1.0).abs() < 0.02, "mean {mean}");
    }
}
