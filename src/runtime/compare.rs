//! Compares a tensor with its reference.
//!
//! Takes two tensors of one shape and a tolerance; gives [`Comparison`], figures with a verdict. Running the models that
//! make the tensors is left to others.

use serde::Serialize;

use super::RuntimeError;
use crate::ir::Tensor;

/// How far an element may be from the reference: `atol + rtol * |reference|`, as in numpy's `allclose`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Tolerance {
    /// The absolute part.
    pub atol: f64,
    /// The part relative to the element of the reference.
    pub rtol: f64,
}

impl Default for Tolerance {
    /// 1e-4 absolute and 1e-3 relative: float32 through a deep network, with different orders of summation.
    fn default() -> Self {
        Self { atol: 1e-4, rtol: 1e-3 }
    }
}

/// How well two tensors agree. In JSON a figure that is not finite is `null`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// Largest absolute difference; infinite if an element of either tensor is not finite.
    pub max_abs: f64,
    /// `max_abs` divided by the largest magnitude in the reference (by 1 if that is zero). Unlike a ratio for every element it
    /// does not explode where the reference passes through zero.
    pub max_rel: f64,
    /// Cosine of the angle between the two as vectors; 1 when both are zero, 0 when one is or an element is not finite.
    pub cosine: f64,
    /// For `[N, classes]`: the part of the N rows whose largest element is at the same place (the first one on ties).
    pub argmax_agreement: Option<f64>,
    /// Elements that are infinite or NaN in either tensor. Each counts as a disagreement, even where both are the same.
    pub non_finite: usize,
    /// Elements beyond the tolerance, the non-finite ones included.
    pub beyond: usize,
    /// Index of the element with the largest difference in row-major order; the first non-finite one if there is any.
    pub worst: usize,
    /// Whether no element is beyond the tolerance.
    pub ok: bool,
}

/// Compares `got` with `expected`, both called `name` in the error.
///
/// # Errors
/// When the shapes differ.
pub fn compare(name: &str, got: &Tensor, expected: &Tensor, tolerance: Tolerance) -> Result<Comparison, RuntimeError> {
    if got.shape != expected.shape || got.data.len() != expected.data.len() {
        let (got, expected) = (got.shape.clone(), expected.shape.clone());
        return Err(RuntimeError::CompareShape { name: name.into(), got, expected });
    }
    let (mut non_finite, mut beyond, mut worst, mut max_abs, mut scale) = (0, 0, 0, 0f64, 0f64);
    let (mut dot, mut got_norm, mut expected_norm) = (0f64, 0f64, 0f64);
    for (i, (&a, &b)) in got.data.iter().zip(&expected.data).enumerate() {
        let (a, b) = (f64::from(a), f64::from(b));
        if !a.is_finite() || !b.is_finite() {
            worst = if non_finite == 0 { i } else { worst };
            non_finite += 1;
            beyond += 1;
            max_abs = f64::INFINITY;
            continue;
        }
        let difference = (a - b).abs();
        if difference > max_abs {
            (max_abs, worst) = (difference, i);
        }
        beyond += usize::from(difference > tolerance.atol + tolerance.rtol * b.abs());
        scale = scale.max(b.abs());
        dot += a * b;
        got_norm += a * a;
        expected_norm += b * b;
    }
    let cosine = match (got_norm > 0.0, expected_norm > 0.0) {
        _ if non_finite > 0 => 0.0,
        (true, true) => (dot / (got_norm.sqrt() * expected_norm.sqrt())).clamp(-1.0, 1.0),
        (false, false) => 1.0,
        _ => 0.0,
    };
    Ok(Comparison {
        max_abs,
        max_rel: max_abs / if scale > 0.0 { scale } else { 1.0 },
        cosine,
        argmax_agreement: argmax_agreement(got, expected),
        non_finite,
        beyond,
        worst,
        ok: beyond == 0,
    })
}

fn argmax_agreement(got: &Tensor, expected: &Tensor) -> Option<f64> {
    let &[rows, classes] = got.shape.as_slice() else { return None };
    if rows == 0 || classes == 0 {
        return None;
    }
    let pairs = got.data.chunks(classes).zip(expected.data.chunks(classes));
    let same = pairs.filter(|(a, b)| argmax(a).is_some_and(|i| Some(i) == argmax(b))).count();
    Some(same as f64 / rows as f64)
}

/// The first place of the largest element; `None` for a row with a NaN, which has no largest element.
fn argmax(row: &[f32]) -> Option<usize> {
    if row.iter().any(|x| x.is_nan()) {
        return None;
    }
    (0..row.len()).reduce(|best, i| if row[i] > row[best] { i } else { best })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(got: &[f32], expected: &[f32], tolerance: (f64, f64)) -> Comparison {
        let tensor = |data: &[f32]| Tensor::new([1, data.len()], data.to_vec());
        let (atol, rtol) = tolerance;
        compare("x", &tensor(got), &tensor(expected), Tolerance { atol, rtol }).unwrap()
    }

    #[test]
    fn equal_tensors_agree_fully() {
        let c = check(&[1.0, -2.0, 3.0], &[1.0, -2.0, 3.0], (0.0, 0.0));
        let expected = Comparison {
            max_abs: 0.0,
            max_rel: 0.0,
            cosine: 1.0,
            argmax_agreement: Some(1.0),
            non_finite: 0,
            beyond: 0,
            worst: 0,
            ok: true,
        };
        assert_eq!(Comparison { cosine: c.cosine.round(), ..c.clone() }, expected);
        assert!((c.cosine - 1.0).abs() < 1e-12);
    }

    #[test]
    fn figures_are_those_of_the_definition() {
        let c = check(&[1.0, 2.5, -4.0], &[1.0, 2.0, -4.0], (0.25, 0.0));
        assert_eq!((c.max_abs, c.max_rel, c.worst, c.beyond, c.ok), (0.5, 0.125, 1, 1, false));
        // The relative part admits the same difference.
        assert!(check(&[1.0, 2.5, -4.0], &[1.0, 2.0, -4.0], (0.0, 0.25)).ok);
        let opposite = check(&[1.0, 0.0], &[-1.0, 0.0], (0.0, 0.0));
        assert_eq!(opposite.cosine, -1.0);
        assert_eq!(check(&[0.0, 0.0], &[0.0, 0.0], (0.0, 0.0)).cosine, 1.0);
        assert_eq!(check(&[0.0, 0.0], &[0.0, 1.0], (0.0, 0.0)).cosine, 0.0);
    }

    #[test]
    fn values_that_are_not_finite_disagree_even_with_themselves() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for (a, b) in [(bad, 1.0), (1.0, bad), (bad, bad)] {
                let c = check(&[0.0, a], &[0.0, b], (1e9, 1e9));
                assert_eq!((c.ok, c.non_finite, c.worst, c.max_abs), (false, 1, 1, f64::INFINITY), "{a} {b}");
            }
        }
    }

    #[test]
    fn argmax_agreement_counts_rows() {
        let got = Tensor::new([3, 2], vec![1.0, 2.0, 5.0, 4.0, 0.0, 0.0]);
        let expected = Tensor::new([3, 2], vec![0.0, 9.0, 4.0, 5.0, 1.0, 1.0]);
        let c = compare("logits", &got, &expected, Tolerance::default()).unwrap();
        assert_eq!(c.argmax_agreement, Some(2.0 / 3.0));
        let image = Tensor::new([1, 1, 1, 2], vec![0.0, 1.0]);
        assert_eq!(compare("x", &image, &image, Tolerance::default()).unwrap().argmax_agreement, None);
    }

    #[test]
    fn different_shapes_are_an_error_that_shows_both() {
        let (a, b) = (Tensor::new([2, 1], vec![0.0; 2]), Tensor::new([1, 2], vec![0.0; 2]));
        let error = compare("logits", &a, &b, Tolerance::default()).unwrap_err().to_string();
        assert_eq!(error, "`logits` has shape [2, 1], expected is [1, 2]");
    }

    #[test]
    fn json_shows_null_for_an_infinite_difference() {
        let json = serde_json::to_string(&check(&[f32::NAN], &[0.0], (1.0, 1.0))).unwrap();
        assert!(json.contains("\"max_abs\":null"), "{json}");
    }
}
