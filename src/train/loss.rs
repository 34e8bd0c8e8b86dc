//! Losses and accuracy.
//!
//! Takes logits `[N, classes]` and labels; gives the mean cross entropy on the device, or hits counted on the host.

use burn::tensor::{Device, Tensor, TensorData, activation::log_softmax};

/// Mean cross entropy of `logits` against `labels`, with label smoothing `smoothing` in 0..1 (the target is `1 - smoothing`
/// on the label plus `smoothing / classes` everywhere).
pub fn cross_entropy(logits: Tensor<2>, labels: &[i64], smoothing: f64) -> Tensor<1> {
    let [n, classes] = logits.dims();
    let target = targets(labels, classes, smoothing, &logits.device());
    (log_softmax(logits, 1) * target).sum() / -(n as f64)
}

/// How many of the samples have their label among the `k` largest logits. Ties count for the lower class. A row with a
/// logit that is not a number is no hit.
pub fn hits(logits: &[f32], labels: &[i64], k: usize) -> usize {
    let classes = logits.len() / labels.len().max(1);
    let hit = |(row, &label): (&[f32], &i64)| {
        let own = row[label as usize];
        let ahead = row.iter().enumerate().filter(|&(i, &x)| x > own || (x == own && i < label as usize)).count();
        !row.iter().any(|x| x.is_nan()) && ahead < k
    };
    logits.chunks(classes.max(1)).zip(labels).filter(|&pair| hit(pair)).count()
}

fn targets(labels: &[i64], classes: usize, smoothing: f64, device: &Device) -> Tensor<2> {
    let mut data = vec![(smoothing / classes as f64) as f32; labels.len() * classes];
    for (row, &label) in data.chunks_mut(classes).zip(labels) {
        row[label as usize] += (1.0 - smoothing) as f32;
    }
    Tensor::from_data(TensorData::new(data, [labels.len(), classes]), device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cross_entropy_matches_the_formula_with_and_without_smoothing() {
        let rows = [[1.0f32, 2.0, 0.5], [0.0, -1.0, 3.0]];
        let labels = [1, 0];
        for smoothing in [0.0, 0.1] {
            let mut expected = 0.0;
            for (row, &label) in rows.iter().zip(&labels) {
                let log_sum = row.iter().map(|x| f64::from(*x).exp()).sum::<f64>().ln();
                for (i, x) in row.iter().enumerate() {
                    let t = smoothing / 3.0 + if i as i64 == label { 1.0 - smoothing } else { 0.0 };
                    expected += t * (log_sum - f64::from(*x)) / 2.0;
                }
            }
            let logits = Tensor::<2>::from_data(rows, &Device::flex());
            let got: f32 = cross_entropy(logits, &labels, smoothing).into_scalar();
            assert!((f64::from(got) - expected).abs() < 1e-6, "{got} {expected}");
        }
    }

    #[test]
    fn hits_count_labels_among_the_k_largest() {
        let logits = [0.1, 0.9, 0.5, 0.7, 0.7, 0.1, f32::NAN, 1.0, 2.0];
        assert_eq!(hits(&logits, &[1, 1, 2], 1), 1);
        assert_eq!(hits(&logits, &[2, 1, 2], 2), 2);
        assert_eq!(hits(&logits, &[0, 2, 2], 3), 2);
    }
}
