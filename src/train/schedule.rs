//! Learning rates and drop-path probabilities by epoch.
//!
//! Takes the numbers of a recipe and an epoch; gives the rate for that epoch. Pure functions: the optimiser that uses
//! the rate is elsewhere. Formulas are those of DARTS, PC-DARTS (cosine, warm-up of the search) and P-DARTS (linear
//! with a tail).

use std::f64::consts::PI;

/// How the learning rate falls from its start to its end over `epochs`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    /// The rate at the start, above 0.
    pub lr: f64,
    /// The rate that the cosine approaches; the linear schedule ends at 0 and does not use it.
    pub lr_min: f64,
    /// Epochs of the run, at least 1.
    pub epochs: usize,
    /// The curve.
    pub shape: Shape,
    /// How many epochs at the start the warm-up lasts; 0 for none.
    pub warmup_epochs: usize,
    /// What the warm-up ramps up to.
    pub warmup: WarmUp,
}

/// The curve of a [`Schedule`], for epoch `e` of `E`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// `min + (lr - min) (1 + cos(pi e / E)) / 2`.
    Cosine,
    /// `lr (E - n - e) / (E - n)`, and in the last `n` epochs `lr (E - e) / (n (E - n))`: a straight line that would
    /// reach 0 before the tail, and then `n` small steps instead. At most `E - 1` epochs of tail are used.
    Linear {
        /// The length `n` of the tail in epochs.
        tail: usize,
    },
}

/// What the rate of warm-up epoch `e` of `w`, `(e + 1) / w`, is a part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WarmUp {
    /// The starting rate: the curve does not count yet (PC-DARTS search).
    ToStart,
    /// The rate that the curve gives for the epoch (retraining on ImageNet).
    ToCurve,
}

impl Schedule {
    /// The learning rate of the 0-based `epoch`. Behind the last epoch it stays at the end of the curve.
    pub fn rate(&self, epoch: usize) -> f64 {
        let curve = self.curve(epoch.min(self.epochs));
        if epoch >= self.warmup_epochs {
            return curve;
        }
        let share = (epoch + 1) as f64 / self.warmup_epochs as f64;
        match self.warmup {
            WarmUp::ToStart => self.lr * share,
            WarmUp::ToCurve => curve * share,
        }
    }

    fn curve(&self, epoch: usize) -> f64 {
        match self.shape {
            Shape::Cosine => {
                let phase = PI * epoch as f64 / self.epochs.max(1) as f64;
                self.lr_min + (self.lr - self.lr_min) * (1.0 + phase.cos()) / 2.0
            }
            Shape::Linear { tail } => {
                let tail = tail.min(self.epochs.saturating_sub(1));
                let line = (self.epochs - tail).max(1) as f64;
                let left = (self.epochs - epoch) as f64;
                if epoch + tail < self.epochs || tail == 0 {
                    self.lr * (left - tail as f64) / line
                } else {
                    self.lr * left / (tail as f64 * line)
                }
            }
        }
    }
}

/// The drop-path probability of the 0-based `epoch`: it rises in proportion from 0 towards `most`.
pub fn drop_path(most: f64, epoch: usize, epochs: usize) -> f64 {
    most * epoch as f64 / epochs.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(schedule: Schedule, expected: &[(usize, f64)]) {
        for &(epoch, rate) in expected {
            let found = schedule.rate(epoch);
            assert!((found - rate).abs() <= 1e-12, "{schedule:?}: epoch {epoch} gives {found}, not {rate}");
        }
    }

    fn cosine(lr: f64, lr_min: f64, epochs: usize) -> Schedule {
        Schedule { lr, lr_min, epochs, shape: Shape::Cosine, warmup_epochs: 0, warmup: WarmUp::ToStart }
    }

    #[test]
    fn the_cosine_falls_from_the_start_to_the_minimum() {
        check(cosine(0.1, 0.0, 50), &[(0, 0.1), (25, 0.05), (50, 0.0), (60, 0.0)]);
        // cos(pi / 10) = sqrt(10 + 2 sqrt 5) / 4.
        let tenth = (10.0 + 2.0 * 5f64.sqrt()).sqrt() / 4.0;
        check(cosine(0.1, 0.0, 50), &[(5, 0.05 * (1.0 + tenth))]);
        check(
            cosine(0.025, 0.001, 600),
            &[(0, 0.025), (200, 0.001 + 0.024 * 0.75), (300, 0.013), (400, 0.007), (600, 0.001)],
        );
    }

    #[test]
    fn the_warm_up_of_the_search_climbs_to_the_starting_rate() {
        let schedule = Schedule { warmup_epochs: 5, ..cosine(0.5, 0.0, 50) };
        check(schedule, &[(0, 0.1), (1, 0.2), (2, 0.3), (3, 0.4), (4, 0.5), (25, 0.25)]);
        assert_eq!(schedule.rate(5), cosine(0.5, 0.0, 50).rate(5));
    }

    #[test]
    fn the_linear_schedule_ends_in_a_tail_of_small_steps() {
        let shape = Shape::Linear { tail: 5 };
        let schedule = Schedule { shape, warmup_epochs: 5, warmup: WarmUp::ToCurve, ..cosine(0.5, 0.0, 250) };
        check(
            schedule,
            &[(0, 0.1), (1, 0.5 * 244.0 / 245.0 * 0.4), (4, 0.5 * 241.0 / 245.0), (5, 0.5 * 240.0 / 245.0)],
        );
        check(schedule, &[(244, 0.5 / 245.0), (245, 0.5 / 245.0), (246, 0.5 * 0.8 / 245.0), (249, 0.5 * 0.2 / 245.0)]);
        check(schedule, &[(250, 0.0)]);
    }

    #[test]
    fn short_linear_runs_never_give_a_rate_of_zero_or_below() {
        for epochs in 1..12 {
            for tail in [0, 1, 5, 20] {
                let schedule = Schedule { shape: Shape::Linear { tail }, ..cosine(0.5, 0.0, epochs) };
                let rates: Vec<f64> = (0..epochs).map(|e| schedule.rate(e)).collect();
                assert!(rates.iter().all(|&r| r > 0.0 && r <= 0.5), "{epochs} epochs, tail {tail}: {rates:?}");
                assert!(rates.windows(2).all(|w| w[1] <= w[0]), "{epochs} epochs, tail {tail}: {rates:?}");
                assert_eq!(rates[0], 0.5);
            }
        }
    }

    #[test]
    fn drop_path_rises_with_the_epochs() {
        for (epoch, expected) in [(0, 0.0), (300, 0.15), (599, 0.2995)] {
            assert!((drop_path(0.3, epoch, 600) - expected).abs() < 1e-12, "epoch {epoch}");
        }
    }
}
