//! The backward pass of separable units.
use burn::backend::flex::FlexTensor;

use super::{
    super::{
        buffer::{Part, View, column_sums, fill, into_tensor, sum_rows},
        combine::{Combination, Planes},
        conv::{positions::Taps, sums, tiles},
        memory::Floats,
        simd::{MAX_LANES, behind_relu, behind_relu_product, fetch_plane},
    },
    Job, Lines, Unit, UnitWeights,
    depthwise::{self, Steps},
    forward::middle,
    source::Source,
};

/// Chunks the images are cut into when weight gradients are summed: each has a copy of them.
const CHUNKS: usize = 32;

/// Gradients of the weights of one unit.
#[derive(Debug)]
pub struct UnitGradients {
    /// `[ins, 1, kH, kW]`, flat.
    pub depthwise: FlexTensor,
    /// `[outs, ins, 1, 1]`, flat.
    pub pointwise: FlexTensor,
}

/// What the backward pass of one unit reads besides its [`Job`].
struct Back<'a> {
    job: &'a Job<'a>,
    /// Pointwise weights with inputs and outputs exchanged.
    packed: Vec<f32>,
    taps: Taps,
    /// Depthwise weights, class by class.
    turned: Vec<Vec<f32>>,
    /// Where its weight gradients begin in a row of all of them.
    row: usize,
    /// Its first channel among those that some unit reads.
    at: usize,
    /// Whether a unit before it has written to some of its channels, and those among them that none has written to.
    adds: bool,
    clear: Vec<usize>,
}

struct Scratch {
    source: Source,
    depthwise: Vec<depthwise::Scratch>,
    /// The gradient of the unit's output, in planes of the job's stride.
    dz: Floats,
    /// The depthwise convolution's output.
    between: Floats,
}

/// What one image writes: gradients of the channels that are read with their totals, and additions to those of the weights.
struct Target<'a> {
    dx: &'a mut [f32],
    totals: &'a mut [f32],
    dw: &'a mut [f32],
}

/// What the backward pass gives; what is not wanted is absent.
pub struct Backward {
    /// Gradient of the channels that are read, in order, each once, of the input after its normalisation.
    pub dx: Option<FlexTensor>,
    /// For each of these channels the sum of the gradient over the batch, and that of its product with the input before its
    /// normalisation less `centers`.
    pub totals: Vec<[f64; 2]>,
    /// Of the weights of each unit.
    pub dw: Option<Vec<UnitGradients>>,
}

/// From the gradient of the outputs, before their normalisation, those of input and weights, if wanted. `centers` has a value
/// for each channel of the input, where [`Backward::totals`] are wanted.
pub fn backward(
    x: &FlexTensor,
    lines: Option<&Lines>,
    units: &[Unit],
    weights: &[UnitWeights],
    gradient: &Combination,
    centers: Option<&[f32]>,
    [wanted_x, wanted_w]: [bool; 2],
) -> Backward {
    let x = View::new(x);
    let [n, _, h, w] = x.dims;
    let channels = channels_read(units);
    let (mut row, mut written) = (0, vec![false; channels.len()]);
    let (jobs, layout) = Job::all(units, weights, [h, w]);
    let source = || Source::new(layout, &jobs);
    let backs = jobs.iter().map(|job| {
        let at = channels.partition_point(|channel| *channel < job.unit.from);
        let back = Back::new(job, row, at, &written);
        written[at..at + back.job.unit.ins].fill(true);
        row += back.job.weights.depthwise.len() + back.job.weights.pointwise.len();
        back
    });
    let backs: Vec<Back> = backs.collect();
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
    let part_of_dx = part(wanted_x, n * image, of_chunk * image);
    let part_of_totals = part(wanted_x && centers.is_some(), n * count * 2, of_chunk * count * 2);
    let [dx, totals, dw] = fill(
        [part_of_dx, part_of_totals, part(wanted_w, chunks * row, row)],
        macs * of_chunk / 4,
        || Scratch::new(&backs, source()),
        |scratch, chunk, [dx, totals, dw]| {
            dw.fill(0.0);
            for i in 0..of_chunk.min(n - chunk * of_chunk) {
                let dx = if wanted_x { &mut dx[i * image..(i + 1) * image] } else { &mut [] };
                let totals = match (dx.is_empty(), centers) {
                    (false, Some(_)) => &mut totals[i * count * 2..(i + 1) * count * 2],
                    _ => &mut [],
                };
                let target = Target { dx, totals, dw: if wanted_w { &mut *dw } else { &mut [] } };
                let reads = Reads { x, lines, centers, channels: &channels };
                image_of(&backs, &reads, &gradient, chunk * of_chunk + i, scratch, target);
            }
        },
    );
    let dw = wanted_w.then(|| {
        let sums = sum_rows(&dw, row);
        let of_unit = |back: &Back| {
            let (depthwise, pointwise) = (back.job.weights.depthwise.len(), back.job.weights.pointwise.len());
            let part = |from: usize, len: usize| into_tensor(sums[from..from + len].iter().copied().collect(), [len]);
            UnitGradients { depthwise: part(back.row, depthwise), pointwise: part(back.row + depthwise, pointwise) }
        };
        backs.iter().map(of_unit).collect()
    });
    let totals = match wanted_x && centers.is_some() {
        true => column_sums(&totals, 2 * count).as_chunks::<2>().0.to_vec(),
        false => Vec::new(),
    };
    Backward { totals, dx: wanted_x.then(|| into_tensor(dx, [n, count, h, w])), dw }
}

/// The input and what is to be known of it.
struct Reads<'a> {
    x: View<'a>,
    lines: Option<&'a Lines>,
    centers: Option<&'a [f32]>,
    channels: &'a [usize],
}

fn image_of(backs: &[Back], reads: &Reads, gradient: &Planes, image: usize, scratch: &mut Scratch, target: Target) {
    let Target { dx, totals, dw } = target;
    let &Reads { x, lines, centers, channels } = reads;
    for (i, back) in backs.iter().enumerate() {
        let job = back.job;
        let (pixels, pixels_in, stride) = (job.depthwise.pixels_out, job.depthwise.pixels_in, job.stride);
        let Unit { ins, outs, .. } = job.unit;
        let depthwise = &mut scratch.depthwise[i];
        gradient.write(image, job.to..job.to + outs, pixels, stride, &mut scratch.dz);
        let (positions, dt, plane) = job.depthwise.gradient(depthwise, stride);
        tiles::outputs(&scratch.dz, &back.taps, positions, &back.packed, None, &mut dt[..ins * plane], plane);
        if !dw.is_empty() {
            let source = &mut scratch.source;
            source.fill(x, lines, image, job.unit);
            middle(job, source, depthwise, &mut scratch.between);
            let dw = &mut dw[back.row..];
            let (of_depthwise, dw) = dw.split_at_mut(job.weights.depthwise.len());
            let of_pointwise = &mut dw[..job.weights.pointwise.len()];
            sums::weights(&scratch.between, &job.taps, &job.depthwise.pixels, &scratch.dz, stride, of_pointwise);
            let steps = Steps { source: source.step(), target: stride };
            job.depthwise.weights(source.planes(), steps, depthwise, of_depthwise);
        }
        if !dx.is_empty() {
            back.clear.iter().for_each(|channel| dx[channel * pixels_in..(channel + 1) * pixels_in].fill(0.0));
            let dx = &mut dx[back.at * pixels_in..(back.at + ins) * pixels_in];
            job.depthwise.backward(stride, &back.turned, depthwise, dx, back.adds);
        }
    }
    let pixels = x.pixels();
    for (i, (&channel, dx)) in channels.iter().zip(dx.chunks_exact_mut(pixels)).enumerate() {
        let (plane, line) = (x.plane(image, channel), Lines::at(lines, channel));
        if let Some(&next) = channels.get(i + 1) {
            fetch_plane(x.plane(image, next));
        }
        match (totals.is_empty(), centers) {
            (false, Some(centers)) => {
                totals[2 * i..2 * i + 2].copy_from_slice(&behind_relu_product(plane, line, dx, centers[channel]));
            }
            _ => behind_relu(plane, line, dx),
        }
    }
}

/// The channels of the input that some unit reads, in order.
pub fn channels_read(units: &[Unit]) -> Vec<usize> {
    let mut channels: Vec<usize> = units.iter().flat_map(|unit| unit.from..unit.from + unit.ins).collect();
    channels.sort_unstable();
    channels.dedup();
    channels
}

impl<'a> Back<'a> {
    fn new(job: &'a Job<'a>, row: usize, at: usize, written: &[bool]) -> Self {
        let mine = at..at + job.unit.ins;
        let adds = written[mine.clone()].contains(&true);
        let clear = if adds { mine.filter(|channel| !written[*channel]).collect() } else { Vec::new() };
        let Unit { ins, outs, .. } = job.unit;
        let packed = tiles::pack(ins, outs, |i, out| job.weights.pointwise[out * ins + i]);
        let taps = Taps::new((0..outs).map(|out| out * job.stride).collect());
        let turned = job.depthwise.turned(&job.weights.depthwise, ins);
        Self { job, packed, taps, turned, row, at, adds, clear }
    }
}

impl Scratch {
    fn new(backs: &[Back], source: Source) -> Self {
        let most = |planes: &dyn Fn(&Unit) -> usize| {
            backs.iter().map(|back| planes(&back.job.unit) * back.job.stride + MAX_LANES).max().unwrap_or(0)
        };
        Self {
            source,
            depthwise: backs
                .iter()
                .map(|back| back.job.depthwise.scratch_back(back.job.unit.ins, back.job.stride))
                .collect(),
            dz: Floats::new(most(&|unit| unit.outs)),
            // Where a plane is no whole vector, what lies behind it is read and multiplied by zero.
            between: Floats::filled(most(&|unit| unit.ins), 0.0),
        }
    }
}
