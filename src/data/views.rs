//! Parts of an image set: subsets, halves and fractions, balanced over the classes.
//!
//! Takes an [`ImageSet`] and a seed; gives views of it. Which images a part holds is a function of the seed and the class alone,
//! and it keeps the file order. The images themselves are left to `image_set`.

use rand::seq::SliceRandom;

use super::rng::{Purpose, stream};
use super::{DataError, ImageSet};

impl ImageSet {
    /// `n` images, as many of each class as of any other, as far as the classes have them; a remainder goes to the first classes.
    /// With one seed a smaller subset is part of a larger one.
    ///
    /// # Errors
    /// [`DataError::SubsetTooLarge`], and [`DataError::Empty`] for `n = 0`.
    pub fn subset(&self, n: usize, seed: u64) -> Result<Self, DataError> {
        if n > self.len() {
            return Err(DataError::SubsetTooLarge { set: self.name().into(), asked: n, have: self.len() });
        }
        let classes = self.shuffled_by_class(seed);
        let counts: Vec<usize> = classes.iter().map(Vec::len).collect();
        let taken =
            level(&counts, n).into_iter().zip(classes).flat_map(|(quota, images)| images.into_iter().take(quota));
        self.view_of(taken.collect())
    }

    /// Two halves without common images: of each class one half each, the odd image of a class alternately to one and the other.
    /// The search uses the first for weights, the second for alpha and beta.
    ///
    /// # Errors
    /// [`DataError::Empty`] if there is only one image.
    pub fn split_half(&self, seed: u64) -> Result<[Self; 2], DataError> {
        let (mut first, mut second) = (vec![], vec![]);
        let mut extra = 1;
        for mut images in self.shuffled_by_class(seed) {
            let odd = images.len() % 2;
            second.extend(images.split_off(images.len() / 2 + odd * extra));
            first.extend(images);
            extra ^= odd;
        }
        Ok([self.view_of(first)?, self.view_of(second)?])
    }

    /// Parts without common images that hold the given fractions of every class, each at least one image of it.
    /// The ImageNet search uses `[0.1, 0.025]`: weights, then alpha and beta.
    ///
    /// # Errors
    /// [`DataError::Fractions`] if a fraction is not above 0 or they exceed 1 together, [`DataError::ClassTooSmall`].
    pub fn split_fractions<const N: usize>(&self, fractions: [f64; N], seed: u64) -> Result<[Self; N], DataError> {
        if !fractions.iter().all(|&f| f > 0.0) || fractions.iter().sum::<f64>() > 1.0 + 1e-9 {
            return Err(DataError::Fractions { fractions: fractions.to_vec() });
        }
        let mut parts: [Vec<u32>; N] = std::array::from_fn(|_| vec![]);
        for (class, images) in
            self.shuffled_by_class(seed).into_iter().enumerate().filter(|(_, images)| !images.is_empty())
        {
            let have = images.len();
            if have < N {
                let class = self.classes()[class].clone();
                return Err(DataError::ClassTooSmall { set: self.name().into(), class, have, parts: N });
            }
            let mut rest = images.into_iter();
            for (i, part) in parts.iter_mut().enumerate() {
                // Rounding up may not take the last image from the parts that follow.
                let most = rest.len() - (N - 1 - i);
                part.extend(rest.by_ref().take(((have as f64 * fractions[i]).round() as usize).clamp(1, most)));
            }
        }
        let mut views = vec![];
        for part in parts {
            views.push(self.view_of(part)?);
        }
        Ok(views.try_into().expect("as many views as parts"))
    }

    /// For each class its images, by index in the whole set, in an order that depends on the seed and the class alone.
    fn shuffled_by_class(&self, seed: u64) -> Vec<Vec<u32>> {
        let mut classes = vec![vec![]; self.classes().len()];
        (0..self.len()).for_each(|position| classes[self.label(position) as usize].push(self.index(position) as u32));
        for (class, images) in classes.iter_mut().enumerate() {
            images.shuffle(&mut stream(Purpose::Sample, seed, 0, class as u64, 0));
        }
        classes
    }
}

/// Quotas that sum to `n` (at most the sum of `counts`), none above its count, and otherwise equal but for the remainder.
fn level(counts: &[usize], n: usize) -> Vec<usize> {
    let sum_at = |level: usize| counts.iter().map(|&c| c.min(level)).sum::<usize>();
    let (mut low, mut high) = (0, n + 1);
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if sum_at(middle) <= n { low = middle } else { high = middle }
    }
    let mut rest = n - sum_at(low);
    let mut quota = |&count: &usize| {
        let one_more = usize::from(count > low && rest > 0);
        rest -= one_more;
        count.min(low) + one_more
    };
    counts.iter().map(&mut quota).collect()
}

#[cfg(test)]
mod tests {
    use super::super::image_set::tests::set_of;
    use super::*;
    use std::collections::HashSet;

    fn indices(set: &ImageSet) -> HashSet<usize> {
        (0..set.len()).map(|position| set.index(position)).collect()
    }

    #[test]
    fn quotas_are_level_and_sum_to_what_was_asked_for() {
        let cases: &[(&[usize], usize, &[usize])] = &[
            (&[10, 10, 10], 9, &[3, 3, 3]),
            (&[10, 10, 10], 11, &[4, 4, 3]),
            (&[2, 10, 10], 14, &[2, 6, 6]),
            (&[0, 1, 5], 6, &[0, 1, 5]),
            (&[3, 0, 3], 1, &[1, 0, 0]),
        ];
        for (counts, n, expected) in cases {
            assert_eq!(level(counts, *n), *expected, "{counts:?}, {n}");
        }
    }

    #[test]
    fn a_subset_is_balanced_repeatable_nested_and_in_file_order() {
        let set = set_of(&[30, 30, 30, 5]);
        let small = set.subset(20, 7).unwrap();
        assert_eq!(small.class_counts(), [5, 5, 5, 5]);
        assert_eq!(indices(&small), indices(&set.subset(20, 7).unwrap()));
        assert_ne!(indices(&small), indices(&set.subset(20, 8).unwrap()));
        assert!(indices(&small).is_subset(&indices(&set.subset(41, 7).unwrap())));
        assert!((1..20).all(|position| small.index(position - 1) < small.index(position)));
        assert_eq!(set.subset(95, 1).unwrap().class_counts(), set.class_counts());
    }

    #[test]
    fn halves_are_disjoint_balanced_and_complete() {
        let set = set_of(&[11, 7, 4, 9]);
        let [weights, alpha] = set.split_half(3).unwrap();
        assert!(indices(&weights).is_disjoint(&indices(&alpha)));
        assert_eq!(weights.len() + alpha.len(), set.len());
        assert_eq!(weights.class_counts(), [6, 3, 2, 5]);
        assert_eq!(alpha.class_counts(), [5, 4, 2, 4]);
        assert_ne!(indices(&weights), indices(&set.split_half(4).unwrap()[0]));
    }

    #[test]
    fn fractions_are_taken_of_every_class_without_overlap() {
        let set = set_of(&[1300, 732, 3]);
        let [weights, alpha] = set.split_fractions([0.1, 0.025], 0).unwrap();
        assert_eq!(weights.class_counts(), [130, 73, 1]);
        assert_eq!(alpha.class_counts(), [33, 18, 1]);
        assert!(indices(&weights).is_disjoint(&indices(&alpha)));
        let [a, b] = set.split_fractions([0.5, 0.5], 0).unwrap();
        assert_eq!(a.len() + b.len(), set.len());
    }

    #[test]
    fn impossible_parts_are_errors_that_say_why() {
        let set = set_of(&[4, 1]);
        let cases = [
            (set.subset(6, 0).map(|_| ()), "subset of 6 images was asked for, but the training set has 5"),
            (set.subset(0, 0).map(|_| ()), "no images"),
            (set.split_fractions([0.9, 0.2], 0).map(|_| ()), "may not exceed 1"),
            (set.split_fractions([0.0], 0).map(|_| ()), "above 0"),
            (set.split_fractions([f64::NAN], 0).map(|_| ()), "above 0"),
            (set.split_fractions([0.1, 0.1], 0).map(|_| ()), "class \"class 1\" has 1 images"),
        ];
        for (result, expected) in cases {
            let message = result.unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }
}
