//! The reference's kernels that only move elements: concat, slice, pad, channel shuffle.
//!
//! Takes and gives host tensors of any rank. The ops' rules were checked when the graph was verified.

use super::wide::Wide;
use crate::ir::Range;

/// Joins the tensors along `axis`.
pub fn concat(inputs: &[&Wide], axis: usize) -> Wide {
    let mut shape = inputs[0].shape.clone();
    shape[axis] = inputs.iter().map(|x| x.shape[axis]).sum();
    let outer: usize = shape[..axis].iter().product();
    let mut data = Vec::with_capacity(shape.iter().product());
    for i in 0..outer {
        for x in inputs {
            let block: usize = x.shape[axis..].iter().product();
            data.extend_from_slice(&x.data[i * block..(i + 1) * block]);
        }
    }
    Wide::new(shape, data)
}

/// The part of `x` that `ranges` cut out.
pub fn slice(x: &Wide, ranges: &[Range]) -> Wide {
    let mut shape = x.shape.clone();
    let mut start = vec![0isize; x.shape.len()];
    let mut step = vec![1isize; x.shape.len()];
    for r in ranges {
        (shape[r.axis], start[r.axis], step[r.axis]) = (r.len, r.start as isize, r.step);
    }
    gather(x, shape, |axis, i| Some((start[axis] + i as isize * step[axis]) as usize), 0.0)
}

/// `x` with `value` around it.
pub fn pad(x: &Wide, pads: &[[usize; 2]], value: f32) -> Wide {
    let shape: Vec<usize> = x.shape.iter().zip(pads).map(|(n, [before, after])| n + before + after).collect();
    gather(x, shape, |axis, i| i.checked_sub(pads[axis][0]).filter(|i| *i < x.shape[axis]), f64::from(value))
}

/// `[N, groups, C / groups, H, W]` with axes 1 and 2 exchanged.
pub fn channel_shuffle(x: &Wide, groups: usize) -> Wide {
    let per_group = x.shape[1] / groups;
    gather(x, x.shape.clone(), |axis, i| Some(if axis == 1 { i % groups * per_group + i / groups } else { i }), 0.0)
}

/// A tensor of `shape` whose element at an index is that of `x` at `source(axis, index)`, or `other` where one is `None`.
fn gather(x: &Wide, shape: Vec<usize>, source: impl Fn(usize, usize) -> Option<usize>, other: f64) -> Wide {
    let rank = shape.len();
    let mut index = vec![0usize; rank];
    let count: usize = shape.iter().product();
    let mut data = Vec::with_capacity(count);
    for _ in 0..count {
        let offset = (0..rank).try_fold(0, |offset, axis| Some(offset * x.shape[axis] + source(axis, index[axis])?));
        data.push(offset.map_or(other, |i| x.data[i]));
        for axis in (0..rank).rev() {
            index[axis] += 1;
            if index[axis] < shape[axis] {
                break;
            }
            index[axis] = 0;
        }
    }
    Wide::new(shape, data)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(shape: &[usize]) -> Wide {
        Wide::new(shape, (0..shape.iter().product::<usize>()).map(|i| i as f64).collect())
    }

    #[test]
    fn concat_interleaves_outer_blocks() {
        let y = concat(&[&count(&[2, 1, 2]), &count(&[2, 2, 2])], 1);
        assert_eq!(y, Wide::new([2, 3, 2], vec![0., 1., 0., 1., 2., 3., 2., 3., 4., 5., 6., 7.]));
        assert_eq!(concat(&[&count(&[2]), &count(&[1])], 0).data, [0., 1., 0.]);
    }

    #[test]
    fn slice_steps_forwards_and_backwards() {
        let x = count(&[2, 4]);
        let cut = |axis, start, len, step| slice(&x, &[Range { axis, start, len, step }]);
        assert_eq!(cut(1, 1, 2, 2), Wide::new([2, 2], vec![1., 3., 5., 7.]));
        assert_eq!(cut(1, 3, 3, -1), Wide::new([2, 3], vec![3., 2., 1., 7., 6., 5.]));
        assert_eq!(cut(0, 1, 1, 1), Wide::new([1, 4], vec![4., 5., 6., 7.]));
    }

    #[test]
    fn pad_surrounds_with_the_constant() {
        let y = pad(&count(&[1, 2]), &[[0, 1], [1, 2]], 9.0);
        assert_eq!(y, Wide::new([2, 5], vec![9., 0., 1., 9., 9., 9., 9., 9., 9., 9.]));
    }

    #[test]
    fn channel_shuffle_transposes_groups() {
        let y = channel_shuffle(&count(&[1, 6, 1, 1]), 2);
        assert_eq!(y.data, [0., 3., 1., 4., 2., 5.]);
    }
}
