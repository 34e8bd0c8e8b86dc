//! `build --int8`: calibration, quantisation, and what it does to the accuracy.
//!
//! Takes the network as it would be exported in float32 and the data it was trained on; gives it quantised, with its accuracy
//! on the test images beside that of the float32 network. The rounding is in `passes::quantize`, the intervals come from
//! `train::calibrate`.

use std::ops::ControlFlow;

use anyhow::{Context, Result, bail};
use burn::tensor::Device;
use clap::{Args, ValueEnum};
use serde::Serialize;

use super::args::above_zero;
use super::build::Plan;
use super::progress::Console;
use crate::data::{ImageSet, Loader};
use crate::ir::{Model, Verified};
use crate::lower::Network;
use crate::passes::quantize::{measured, quantize};
use crate::train::augmentation;
use crate::train::calibrate::{Method, batch_size, calibrate};
use crate::train::evaluate::evaluate;
use crate::train::module::GraphModule;

/// The percentile where none is given.
const PERCENTILE: f64 = 99.99;

/// Why quantisation needs data.
pub const NEEDS_DATA: &str = "--int8: --data DIR is missing: the ranges of the values are measured on training images";

/// Whether the file computes on eight bits, and how they are chosen.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Quantisation")]
pub struct Int8Args {
    /// Quantise the exported network: weights and values in int8, in QDQ form, calibrated on training images
    #[arg(long, conflicts_with = "fp16")]
    pub int8: bool,
    /// Training images that the ranges of the values are measured on, class-balanced, without augmentation
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = above_zero, requires = "int8")]
    pub calibration: usize,
    /// What the range of a value is: all of it, or the middle that --percentile names (the default)
    #[arg(long, value_enum, value_name = "METHOD", requires = "int8")]
    pub calibration_method: Option<CalibrationMethod>,
    /// Percent of the elements of a value that its range holds; 99.99 if absent
    #[arg(long, value_name = "P", value_parser = percentile, requires = "int8")]
    pub percentile: Option<f64>,
}

/// The methods by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CalibrationMethod {
    /// From the smallest to the largest element
    MinMax,
    /// Without the elements that are farthest out
    Percentile,
}

/// How a network is quantised.
#[derive(Debug, Clone, Copy)]
pub struct Int8 {
    /// Training images that are measured.
    pub images: usize,
    pub method: Method,
}

/// What came of quantisation.
#[derive(Debug, Clone, Serialize)]
pub struct Quantized {
    /// Accuracy of the quantised network on the test images, 0 to 1.
    pub top1: f64,
    /// The same before it was quantised.
    pub float_top1: f64,
    /// Test images.
    pub images: usize,
    /// Training images that the ranges were measured on.
    pub calibration: usize,
    /// How the ranges were chosen.
    pub method: &'static str,
    /// The percentile, where that is the method.
    pub percentile: Option<f64>,
}

impl Int8Args {
    /// What was asked for, if it was.
    ///
    /// # Errors
    /// Options that contradict each other.
    pub fn chosen(&self) -> Result<Option<Int8>> {
        let method = match (self.calibration_method, self.percentile) {
            (Some(CalibrationMethod::MinMax), Some(_)) => {
                bail!("--percentile: --calibration-method min-max leaves nothing out; give one of the two")
            }
            (Some(CalibrationMethod::MinMax), None) => Method::MinMax,
            (Some(CalibrationMethod::Percentile) | None, percentile) => {
                Method::Percentile(percentile.unwrap_or(PERCENTILE))
            }
        };
        Ok(self.int8.then_some(Int8 { images: self.calibration, method }))
    }
}

impl Quantized {
    /// For people and for the metadata.
    pub fn how(&self) -> String {
        let range = self.percentile.map_or_else(|| self.method.to_owned(), |p| format!("{} {p}", self.method));
        format!("int8, {} training images, {range}", self.calibration)
    }
}

/// Quantises `model`, the float32 network for export, whose accuracy on the test images is `float_top1`.
///
/// # Errors
/// Too few training images, images that cannot be read, a network that cannot be quantised.
pub fn quantized(
    model: Verified<Model>,
    int8: &Int8,
    plan: &Plan,
    network: &Network,
    device: &Device,
    float_top1: Option<f64>,
    console: &Console,
) -> Result<(Verified<Model>, Quantized)> {
    let data = plan.data.context(NEEDS_DATA)?;
    let loader = |set: &ImageSet, batch: usize| {
        let recipe = augmentation::evaluation(plan.config.network, network.image, set.common_size());
        Loader::in_order(set, data.normalise(), recipe, batch)
    };
    let images = data.train.subset(int8.images, plan.config.seed).context("--calibration")?;
    let training = loader(&images, batch_size(&model.graph))?;
    let values = measured(&model.graph);
    console.detail(format_args!("{} values are measured", values.len()));
    let bar = console.bar(training.batches() as u64, "calibration");
    let mut go_on = |_| {
        bar.advance(1);
        ControlFlow::Continue(())
    };
    let intervals = calibrate(&model, &values, &training, int8.method, device, &mut go_on)?;
    drop(bar);
    let model = quantize(model, &intervals.context("calibration was interrupted")?)?;

    let test = loader(&data.test, plan.config.batch_size)?;
    let bar = console.bar(test.batches() as u64, "test images in int8");
    let mut go_on = |_| {
        bar.advance(1);
        ControlFlow::Continue(())
    };
    let result = evaluate(&GraphModule::new(&model, device), &test, &[], &mut go_on)?;
    drop(bar);
    let result = result.context("the evaluation was interrupted")?;
    let (method, percentile) = match int8.method {
        Method::MinMax => ("min-max", None),
        Method::Percentile(percent) => ("percentile", Some(percent)),
    };
    let quantized = Quantized {
        top1: result.top1,
        float_top1: float_top1.context("the accuracy before quantisation is missing")?,
        images: result.images,
        calibration: int8.images,
        method,
        percentile,
    };
    console.message(format_args!(
        "{}: test top-1 {:.2} % before, {:.2} % after, of {} images",
        quantized.how(),
        100.0 * quantized.float_top1,
        100.0 * quantized.top1,
        quantized.images
    ));
    Ok((model, quantized))
}

/// A percentile that leaves a middle.
fn percentile(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(x) if x > 50.0 && x <= 100.0 => Ok(x),
        _ => Err("write a number above 50, at most 100, such as 99.9".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_options_choose_one_method() {
        let args =
            |calibration_method, percentile| Int8Args { int8: true, calibration: 7, calibration_method, percentile };
        let method = |args: Int8Args| args.chosen().map(|int8| int8.map(|int8| (int8.images, int8.method)));
        let (min_max, share) = (Some(CalibrationMethod::MinMax), Some(CalibrationMethod::Percentile));
        let cases = [
            (args(None, None), Method::Percentile(PERCENTILE)),
            (args(None, Some(99.0)), Method::Percentile(99.0)),
            (args(share, None), Method::Percentile(PERCENTILE)),
            (args(min_max, None), Method::MinMax),
        ];
        for (args, expected) in cases {
            assert_eq!(method(args).unwrap(), Some((7, expected)));
        }
        assert!(method(args(min_max, Some(99.0))).unwrap_err().to_string().contains("--percentile"));
        assert!(Int8Args { int8: false, ..args(None, None) }.chosen().unwrap().is_none());
    }

    #[test]
    fn a_percentile_leaves_a_middle() {
        for text in ["50", "100.1", "nan", "x", "-99"] {
            assert!(percentile(text).is_err(), "{text}");
        }
        assert_eq!((percentile("100"), percentile("99.9")), (Ok(100.0), Ok(99.9)));
    }
}
