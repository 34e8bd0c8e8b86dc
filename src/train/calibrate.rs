//! Calibration: what the values of a network are on given images, as quantisation needs to know it.
//!
//! Takes a network in evaluation form, the values that matter and a loader of training images; gives an interval for each.
//! The network runs once. For percentiles the elements are counted by their leading 16 bits (sign, exponent, seven bits of the
//! fraction), half a MiB for each value whatever the number of images, which places a bound within 1/128 of itself.

use std::collections::HashMap;

use super::TrainError;
use super::module::{GraphModule, Mode, download};
use super::progress::{Event, Observer};
use crate::data::Loader;
use crate::ir::{Graph, IrError, Model, Node, Op, Output, Shape, Value, ValueId, Verified, verify};
use crate::passes::quantize::Interval;

/// How an interval is chosen from the elements of a value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Method {
    /// From the smallest to the largest.
    MinMax,
    /// The interval that holds this share of them, in percent (above 50, at most 100); as many are beyond each end.
    Percentile(f64),
}

/// Bytes that the values of a batch may take together.
const BATCH_BYTES: u64 = 256 << 20;

/// How many images of `graph` calibration takes at once, at least 1 and at most 64.
pub fn batch_size(graph: &Graph) -> usize {
    let bytes: u64 = graph.values.iter().map(|value| 4 * value.shape.elements() as u64).sum();
    (BATCH_BYTES / bytes.max(1)).clamp(1, 64) as usize
}

/// The intervals of `values` on the images of the first epoch of `loader`. `None` if the observer asked for an end.
///
/// # Errors
/// An image that cannot be read, a device that fails, an element that is no finite number, a value that is neither images nor
/// rows.
pub fn calibrate(
    model: &Verified<Model>,
    values: &[ValueId],
    loader: &Loader,
    method: Method,
    device: &burn::tensor::Device,
    observer: Observer,
) -> Result<Option<HashMap<ValueId, Interval>>, TrainError> {
    let module = GraphModule::new(&observed(model, values)?, device);
    let mut counts: Vec<Counts> = values.iter().map(|_| Counts::new(method)).collect();
    for batch in loader.epoch(0) {
        let batch = batch?;
        let images = module.images(batch.images, [batch.len, 3, batch.height, batch.width]);
        let pass = module.forward(vec![images], Mode::Eval)?;
        for ((rows, counts), id) in pass.outputs.into_iter().zip(&mut counts).zip(values) {
            if !counts.add(&download(rows)?) {
                let what = format!("an element of the value `{}`", model.graph.value(*id).name);
                return Err(TrainError::Diverged { what: format!("{what} is not finite on a training image") });
            }
        }
        if observer(Event::Step { loss: None }).is_break() {
            return Ok(None);
        }
    }
    Ok(Some(values.iter().copied().zip(counts.iter().map(|counts| counts.interval(method))).collect()))
}

/// The network whose outputs are `values`, as rows.
fn observed(model: &Model, values: &[ValueId]) -> Result<Verified<Model>, IrError> {
    let mut model = model.clone();
    let graph = &mut model.graph;
    graph.outputs.clear();
    for &id in values {
        let Value { name, shape } = graph.value(id).clone();
        let rows = if shape.rank() == 2 {
            id
        } else {
            let output = ValueId(graph.values.len() as u32);
            let batch = shape.0.first().copied().into_iter();
            let elements = crate::ir::Dim::Fixed(Shape(shape.0.iter().skip(1).copied().collect()).elements());
            let rows = format!("{name}/rows of {}", output.0);
            graph.values.push(Value { name: rows.clone(), shape: Shape(batch.chain([elements]).collect()) });
            graph.nodes.push(Node { name: rows, op: Op::Flatten { axis: 1 }, inputs: vec![id], output });
            output
        };
        graph.outputs.push(Output { name, value: rows });
    }
    verify(model)
}

/// What is kept of the elements of one value.
#[derive(Debug, Clone)]
struct Counts {
    low: f32,
    high: f32,
    /// By the leading 16 bits; empty where the ends are enough.
    buckets: Vec<u64>,
}

impl Counts {
    fn new(method: Method) -> Self {
        let buckets = match method {
            Method::MinMax => 0,
            Method::Percentile(_) => 1 << 16,
        };
        Self { low: f32::INFINITY, high: f32::NEG_INFINITY, buckets: vec![0; buckets] }
    }

    /// Adds elements; false if one is not finite.
    fn add(&mut self, elements: &[f32]) -> bool {
        for x in elements {
            self.low = self.low.min(*x);
            self.high = self.high.max(*x);
        }
        if !self.buckets.is_empty() {
            elements.iter().for_each(|x| self.buckets[(x.to_bits() >> 16) as usize] += 1);
        }
        elements.iter().all(|x| x.is_finite())
    }

    fn interval(&self, method: Method) -> Interval {
        let Self { low, high, .. } = *self;
        let share = match method {
            Method::MinMax => return Interval { low, high },
            Method::Percentile(percent) => (1.0 - percent / 100.0) / 2.0,
        };
        let beyond = (share * self.buckets.iter().sum::<u64>() as f64) as u64;
        // The bits of negative numbers count backwards; the end of a bucket that is farther from zero holds all of it.
        let ascending = (1 << 15..1 << 16).rev().chain(0..1 << 15);
        let end = |bucket: usize| f32::from_bits(((bucket as u32) << 16) | 0xffff);
        let start = |bucket: usize| f32::from_bits((bucket as u32) << 16);
        let bound = |order: Vec<usize>| {
            let mut passed = 0;
            order.into_iter().find(|bucket| {
                passed += self.buckets[*bucket];
                passed > beyond
            })
        };
        let negative = |bucket: usize| bucket >= 1 << 15;
        let lowest = bound(ascending.clone().collect());
        let highest = bound(ascending.rev().collect());
        let lowest = lowest.map_or(low, |b| if negative(b) { end(b) } else { start(b) });
        let highest = highest.map_or(high, |b| if negative(b) { start(b) } else { end(b) });
        Interval { low: lowest.max(low), high: highest.min(high) }
    }
}

#[cfg(test)]
mod tests {
    use super::{Counts, Interval, Method};

    /// The interval of `0, 1, ..., 999`, each divided by `by`, and `more`.
    fn interval(by: f32, more: &[f32], method: Method) -> Interval {
        let mut counts = Counts::new(method);
        let all: Vec<f32> = (0..1000).map(|i| i as f32 / by).chain(more.iter().copied()).collect();
        // In parts, as batches come.
        assert!(all.chunks(77).all(|part| counts.add(part)));
        counts.interval(method)
    }

    #[test]
    fn min_max_is_the_smallest_and_the_largest() {
        assert_eq!(interval(1.0, &[], Method::MinMax), Interval { low: 0.0, high: 999.0 });
        assert_eq!(interval(-10.0, &[3.5], Method::MinMax), Interval { low: -99.9, high: 3.5 });
    }

    #[test]
    fn a_percentile_leaves_out_as_many_on_both_sides() {
        let near = |x: f32, y: f32| (x - y).abs() <= y.abs() / 128.0;
        // 1000 elements: 98 % leave ten out at each end.
        let Interval { low, high } = interval(1.0, &[], Method::Percentile(98.0));
        assert!(near(low, 10.0) && near(high, 989.0) && low <= 10.0 && high >= 989.0, "{low} {high}");
        let Interval { low, high } = interval(-1.0, &[], Method::Percentile(98.0));
        assert!(near(low, -989.0) && near(high, -10.0) && low <= -989.0 && high >= -10.0, "{low} {high}");
        // Far ones that are too few to count, one on each side.
        let Interval { low, high } = interval(1.0, &[-1e6, 1e6], Method::Percentile(99.5));
        assert!(near(low, 1.0) && near(high, 998.0), "{low} {high}");
        // Zeros are most of what is behind a ReLU.
        let Interval { low, high } = interval(1.0, &[0.0; 9000], Method::Percentile(99.0));
        assert!(low == 0.0 && near(high, 949.0), "{low} {high}");
    }

    #[test]
    fn all_elements_are_inside_where_none_may_be_left_out() {
        for method in [Method::Percentile(100.0), Method::Percentile(99.99)] {
            assert_eq!(interval(1.0, &[-7.25], method), Interval { low: -7.25, high: 999.0 });
        }
        assert_eq!(interval(1.0, &[-0.0], Method::Percentile(100.0)), Interval { low: 0.0, high: 999.0 });
    }

    #[test]
    fn what_is_no_number_is_seen() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert!(!Counts::new(Method::MinMax).add(&[1.0, bad]));
            assert!(!Counts::new(Method::Percentile(99.0)).add(&[bad]));
        }
    }
}
