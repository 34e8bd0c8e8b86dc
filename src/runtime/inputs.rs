//! Checks the tensors that a caller hands in against the inputs of a graph.
//!
//! Takes names and shapes of the inputs and the tensors; gives the batch size or an error that names the input. It is the
//! same check for the reference and for a session.

use super::RuntimeError;
use crate::ir::{Dim, Shape, Tensor};

/// The batch size of `tensors`: `batch` if the caller knows it, else what the first batched input has (1 without one).
///
/// # Errors
/// When the number of tensors, a shape or the number of elements does not fit.
pub(super) fn check_inputs<'a>(
    inputs: impl ExactSizeIterator<Item = (&'a str, &'a Shape)>,
    tensors: &[Tensor],
    batch: Option<usize>,
) -> Result<usize, RuntimeError> {
    if inputs.len() != tensors.len() {
        return Err(RuntimeError::InputCount { expected: inputs.len(), got: tensors.len() });
    }
    let mut known = batch;
    for ((name, shape), tensor) in inputs.zip(tensors) {
        let fits = tensor.shape.len() == shape.rank()
            && shape.0.iter().zip(&tensor.shape).all(|(dim, &size)| match dim {
                Dim::Fixed(n) => *n == size,
                Dim::Batch => size > 0 && *known.get_or_insert(size) == size,
            });
        if !fits || tensor.shape.iter().product::<usize>() != tensor.data.len() {
            return Err(RuntimeError::InputShape {
                name: name.into(),
                expected: shape.clone(),
                got: tensor.shape.clone(),
                elements: tensor.data.len(),
                note: known.map(|n| format!(", with N = {n}")).unwrap_or_default(),
            });
        }
    }
    Ok(known.unwrap_or(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(shapes: &[Shape], tensors: &[&[usize]], batch: Option<usize>) -> Result<usize, String> {
        let tensors: Vec<Tensor> =
            tensors.iter().map(|s| Tensor::new(s.to_vec(), vec![0.0; s.iter().product()])).collect();
        check_inputs(shapes.iter().map(|s| ("input", s)), &tensors, batch).map_err(|e| e.to_string())
    }

    #[test]
    fn the_batch_comes_from_the_tensors() {
        let image = Shape::image(3, 8, 8);
        assert_eq!(check(std::slice::from_ref(&image), &[&[5, 3, 8, 8]], None), Ok(5));
        assert_eq!(check(&[Shape::fixed(&[14, 8])], &[&[14, 8]], None), Ok(1));
        assert_eq!(check(&[Shape::fixed(&[2]), image], &[&[2], &[4, 3, 8, 8]], Some(4)), Ok(4));
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let image = [Shape::image(3, 8, 8)];
        let message = |tensors: &[&[usize]], batch| check(&image, tensors, batch).unwrap_err();
        assert_eq!(message(&[], None), "the model takes 1 inputs, got 0");
        let expected = "input `input` must be [N, 3, 8, 8], got [2, 3, 8, 9] with 432 elements, with N = 2";
        assert_eq!(message(&[&[2, 3, 8, 9]], None), expected);
        assert!(message(&[&[2, 3, 8, 8]], Some(1)).ends_with("with N = 1"));
        assert!(message(&[&[0, 3, 8, 8]], None).contains("[0, 3, 8, 8]"));
        let short = Tensor { shape: vec![1, 3, 8, 8], data: vec![0.0; 5] };
        let error = check_inputs([("input", &image[0])].into_iter(), &[short], None).unwrap_err();
        assert!(error.to_string().contains("with 5 elements"), "{error}");
    }
}
