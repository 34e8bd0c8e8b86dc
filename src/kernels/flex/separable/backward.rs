//! The backward pass of separable units.
use std::collections::BTreeSet;

use burn::backend::flex::FlexTensor;
use macerator::{Simd, Vector};

use super::{
    super::{
        buffer::{Part, View, fill, into_tensor, sum_rows},
        combine::{Combination, Planes},
        conv::{positions::Taps, tiles},
        memory::Floats,
        simd::{MAX_LANES, splat, update},
    },
    Job, Lines, Unit, UnitWeights, depthwise,
    forward::middle,
    source::{Source, sources},
};

/// Chunks the images are cut into when weight gradients are summed: each has a copy of them.
const CHUNKS: usize = 16;

/// Gradients of the weights of one unit.
#[derive(Debug)]
pub struct UnitGradients {
    /// `[ins, 1, kH, kW]`.
    pub depthwise: Floats,
    /// `[outs, ins, 1, 1]`.
    pub pointwise: Floats,
}

/// What the backward pass of one unit reads besides its [`Job`].
struct Back<'a> {
    job: Job<'a>,
    /// Pointwise weights with inputs and outputs exchanged.
    packed: Vec<f32>,
    taps: Taps,
    /// Depthwise weights of each channel, class by class.
    turned: Vec<Vec<Vec<f32>>>,
    /// Where its weight gradients begin in a row of all of them.
    row: usize,
}

struct Scratch {
    sources: Vec<Source>,
    depthwise: Vec<depthwise::Scratch>,
    /// The gradient of the unit's output, in planes of the job's stride.
    dz: Floats,
    /// That of the depthwise convolution's output.
    dt: Floats,
    /// The depthwise convolution's output.
    between: Floats,
    /// The gradient of one plane of the input.
    plane: Floats,
}

/// What one image writes: gradients of the channels that are read, and additions to those of the weights.
struct Target<'a> {
    dx: &'a mut [f32],
    dw: &'a mut [f32],
}

/// From the gradient of the outputs, before their normalisation, that of the channels that are read (in order, each once) of the
/// input after its normalisation, if wanted, and those of the weights, if wanted.
pub fn backward(
    x: &FlexTensor,
    lines: Option<&Lines>,
    units: &[Unit],
    weights: &[UnitWeights],
    gradient: &Combination,
    [wanted_x, wanted_w]: [bool; 2],
) -> (Option<FlexTensor>, Option<Vec<UnitGradients>>) {
    let x = View::new(x);
    let [n, _, h, w] = x.dims;
    let mut row = 0;
    let backs = Job::all(units, weights, [h, w]).into_iter().map(|job| {
        let back = Back::new(job, row);
        row += back.job.weights.depthwise.len() + back.job.weights.pointwise.len();
        back
    });
    let backs: Vec<Back> = backs.collect();
    let channels = channels_read(units);
    let count = channels.len();
    let gradient = gradient.planes();
    let of_chunk = if wanted_w { n.div_ceil(CHUNKS) } else { 1 };
    let chunks = n.div_ceil(of_chunk);
    let image = count * h * w;
    let part = |wanted: bool, len: usize, chunk: usize| match wanted {
        true => Part { len, chunk },
        // One float a chunk keeps the number of chunks; it is thrown away.
        false => Part { len: chunks, chunk: 1 },
    };
    let macs: usize = backs.iter().map(|back| back.job.macs()).sum();
    let [dx, dw] = fill(
        [part(wanted_x, n * image, of_chunk * image), part(wanted_w, chunks * row, row)],
        macs * of_chunk / 4,
        || Scratch::new(&backs, h * w),
        |scratch, chunk, [dx, dw]| {
            dw.fill(0.0);
            for i in 0..of_chunk.min(n - chunk * of_chunk) {
                let dx = if wanted_x { &mut dx[i * image..(i + 1) * image] } else { &mut [] };
                let target = Target { dx, dw: if wanted_w { &mut *dw } else { &mut [] } };
                image_of(&backs, x, lines, &gradient, chunk * of_chunk + i, &channels, scratch, target);
            }
        },
    );
    let dw = wanted_w.then(|| {
        let sums = sum_rows(&dw, row);
        let of_unit = |back: &Back| {
            let (depthwise, pointwise) = (back.job.weights.depthwise.len(), back.job.weights.pointwise.len());
            let part = |from: usize, len: usize| sums[from..from + len].iter().copied().collect();
            UnitGradients { depthwise: part(back.row, depthwise), pointwise: part(back.row + depthwise, pointwise) }
        };
        backs.iter().map(of_unit).collect()
    });
    (wanted_x.then(|| into_tensor(dx, [n, count, h, w])), dw)
}

#[allow(clippy::too_many_arguments, reason = "a struct of borrows would only move the list")]
fn image_of(
    backs: &[Back],
    x: View,
    lines: Option<&Lines>,
    gradient: &Planes,
    image: usize,
    channels: &[usize],
    scratch: &mut Scratch,
    target: Target,
) {
    let Target { dx, dw } = target;
    dx.fill(0.0);
    for (i, back) in backs.iter().enumerate() {
        let job = &back.job;
        let (pixels, pixels_in, stride) = (job.depthwise.pixels_out, job.depthwise.pixels_in, job.stride);
        let Unit { from, ins, outs, .. } = job.unit;
        let depthwise = &mut scratch.depthwise[i];
        gradient.write(image, job.to..job.to + outs, pixels, stride, &mut scratch.dz);
        let dt = &mut scratch.dt[..ins * stride];
        tiles::outputs(&scratch.dz, &back.taps, &job.positions, &back.packed, None, dt, stride);
        if !dw.is_empty() {
            let source = &mut scratch.sources[job.source];
            source.fill(x, lines, image, job.unit);
            middle(job, source, depthwise, &mut scratch.between);
            let dw = &mut dw[back.row..];
            let (of_depthwise, dw) = dw.split_at_mut(job.weights.depthwise.len());
            let of_pointwise = &mut dw[..job.weights.pointwise.len()];
            tiles::weights(&scratch.between, &job.taps, &job.positions, &scratch.dz, stride, of_pointwise);
            let taps = of_depthwise.len() / ins;
            for (channel, (sums, dt)) in of_depthwise.chunks_exact_mut(taps).zip(dt.chunks_exact(stride)).enumerate() {
                job.depthwise.weights(source.plane(channel), &dt[..pixels], depthwise, sums);
            }
        }
        if !dx.is_empty() {
            let at = channels.partition_point(|channel| *channel < from);
            let dx = dx[at * pixels_in..].chunks_exact_mut(pixels_in).take(ins);
            for (channel, (dx, dt)) in dx.zip(dt.chunks_exact(stride)).enumerate() {
                match job.depthwise.back.padded {
                    Some(padded) => padded.lay(&dt[..pixels], &mut depthwise.g),
                    None => depthwise.g[..pixels].copy_from_slice(&dt[..pixels]),
                }
                job.depthwise.backward(&back.turned[channel], depthwise, &mut scratch.plane);
                add(&scratch.plane, dx);
            }
        }
    }
    let pixels = x.pixels();
    for (&channel, dx) in channels.iter().zip(dx.chunks_exact_mut(pixels)) {
        behind_relu(x.plane(image, channel), Lines::at(lines, channel), dx);
    }
}

#[macerator::with_simd]
fn add<S: Simd>(more: &[f32], sum: &mut [f32]) {
    update([more], sum, |[more]: [Vector<S, f32>; 1], sum| sum + more);
}

/// Nothing where the normalised input is not above zero.
#[macerator::with_simd]
fn behind_relu<S: Simd>(x: &[f32], line: [f32; 2], dx: &mut [f32]) {
    let ([factor, offset], zero) = (line.map(splat::<S>), splat::<S>(0.0));
    update([x], dx, |[x]: [Vector<S, f32>; 1], sum| x.mul_add(factor, offset).le(zero).select(zero, sum));
}

/// The channels of the input that some unit reads, in order.
pub fn channels_read(units: &[Unit]) -> Vec<usize> {
    let channels: BTreeSet<usize> = units.iter().flat_map(|unit| unit.from..unit.from + unit.ins).collect();
    channels.into_iter().collect()
}

impl<'a> Back<'a> {
    fn new(job: Job<'a>, row: usize) -> Self {
        let Unit { ins, outs, .. } = job.unit;
        let packed = tiles::pack(ins, outs, |i, out| job.weights.pointwise[out * ins + i]);
        let taps = Taps::new((0..outs).map(|out| out * job.stride).collect());
        let turned = (0..ins).map(|channel| job.depthwise.turned(job.taps_of(channel))).collect();
        Self { job, packed, taps, turned, row }
    }
}

impl Scratch {
    fn new(backs: &[Back], pixels_in: usize) -> Self {
        let most = |planes: &dyn Fn(&Unit) -> usize| {
            backs.iter().map(|back| planes(&back.job.unit) * back.job.stride + MAX_LANES).max().unwrap_or(0)
        };
        Self {
            sources: sources(backs.iter().map(|back| &back.job)),
            depthwise: backs.iter().map(|back| back.job.depthwise.scratch()).collect(),
            dz: Floats::filled(most(&|unit| unit.outs), 0.0),
            dt: Floats::filled(most(&|unit| unit.ins), 0.0),
            between: Floats::filled(most(&|unit| unit.ins), 0.0),
            plane: Floats::filled(pixels_in, 0.0),
        }
    }
}
