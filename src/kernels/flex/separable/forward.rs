//! The forward pass of separable units.
use burn::backend::flex::FlexTensor;

use super::{
    super::{
        buffer::{Part, View, fill, into_tensor},
        conv::tiles,
        memory::{Floats, stream, streamed},
        norm::moments_of_planes,
    },
    Job, Lines, Unit, UnitWeights,
    depthwise::{self, Steps},
    source::Source,
};

struct Scratch {
    source: Source,
    between: Floats,
    /// The outputs of a unit.
    made: Floats,
    depthwise: Vec<depthwise::Scratch>,
}

/// The outputs of all units, `[N, sum of outs, H_out, W_out]`, and mean and spread of each of their planes, `[N, channels, 2]`.
pub fn forward(x: &FlexTensor, lines: Option<&Lines>, units: &[Unit], weights: &[UnitWeights]) -> (FlexTensor, Floats) {
    let x = View::new(x);
    let [n, _, h, w] = x.dims;
    let (jobs, layout) = Job::all(units, weights, [h, w]);
    let [oh, ow] = units[0].window.output_size([h, w]);
    let pixels = oh * ow;
    let channels: usize = units.iter().map(|unit| unit.outs).sum();
    let chunk = channels * pixels;
    let parts = [Part { len: n * chunk, chunk }, Part { len: n * channels * 2, chunk: channels * 2 }];
    let [z, moments] = fill(
        parts,
        jobs.iter().map(Job::macs).sum::<usize>() / 8,
        || Scratch {
            source: Source::new(layout, &jobs),
            made: Floats::new(jobs.iter().map(|job| job.unit.outs * pixels).max().unwrap_or(0)),
            between: Floats::new(jobs.iter().map(Job::between).max().unwrap_or(0)),
            depthwise: jobs.iter().map(|job| job.depthwise.scratch(job.unit.ins)).collect(),
        },
        |scratch, image, [z, moments]| image_of(&jobs, x, lines, image, scratch, z, moments),
    );
    (into_tensor(z, [n, channels, oh, ow]), moments)
}

#[allow(clippy::too_many_arguments, reason = "a struct of borrows would only move the list")]
fn image_of(
    jobs: &[Job],
    x: View,
    lines: Option<&Lines>,
    image: usize,
    scratch: &mut Scratch,
    z: &mut [f32],
    moments: &mut [f32],
) {
    let Scratch { source, between, made, depthwise } = scratch;
    for (job, depthwise) in jobs.iter().zip(depthwise) {
        let pixels = job.depthwise.pixels_out;
        source.fill(x, lines, image, job.unit);
        middle(job, source, depthwise, between);
        let made = &mut made[..job.unit.outs * pixels];
        tiles::outputs(between, &job.taps, &job.depthwise.pixels, &job.packed, None, made, pixels);
        let moments = &mut moments[job.to * 2..(job.to + job.unit.outs) * 2];
        moments_of_planes(made, pixels, moments);
        stream(made, &mut z[job.to * pixels..(job.to + job.unit.outs) * pixels]);
    }
    streamed();
}

/// The output of the depthwise convolution, in planes [`Job::stride`] apart.
pub fn middle(job: &Job, source: &Source, scratch: &mut depthwise::Scratch, between: &mut [f32]) {
    let steps = Steps { source: source.step(), target: job.stride };
    job.depthwise.forward(source.planes(), steps, &job.weights.depthwise, scratch, between);
}
