//! Gradients of a convolution with respect to its input, weights and bias.
//!
//! Takes the input, the weights and the output's gradient; gives what is wanted of the three. A chunk is some images with all
//! their groups, or some groups of one image; each chunk sums its own copy of the weights' gradient, and the copies are added
//! in order.
use std::sync::Arc;

use burn::backend::flex::FlexTensor;

use super::{
    super::{
        super::Window,
        buffer::{Part, View, fill, into_tensor, readable, sum_rows, vector},
        combine::{Combination, Planes},
        memory::Floats,
        norm::channel_sums,
        simd::{behind_relu, lanes},
    },
    Sizes, Start, columns,
    geometry::{Backward, Class, Forward},
    input::Input,
    inputs,
    padded::{Padded, scratch},
    source, sums, tiles,
};

/// Gradients of x, w and bias where wanted.
pub type Gradients = [Option<FlexTensor>; 3];

/// What the backward pass of one convolution works with.
struct Job<'a> {
    sizes: Sizes,
    x: Input<'a>,
    /// Whether it is the positive part of x that is convolved.
    relu: bool,
    g: Gradient<'a>,
    back: Arc<Backward>,
    /// The weights of each class, if the gradient of x is wanted.
    packed: Option<Vec<Vec<f32>>>,
    /// How the gradient of the weights reads x, unless it reads the padded gradient instead.
    forth: Option<Arc<Forward>>,
    wanted_w: bool,
    kernel_width: usize,
}

/// The gradient of the output.
#[derive(Clone, Copy)]
enum Gradient<'a> {
    View(&'a Input<'a>),
    /// Written to the scratch plane by plane, so far apart.
    Sum(&'a Planes<'a>, usize),
}

/// Room for one thread: padded planes, a class before it is spread, weight gradients of a group.
struct Scratch {
    g: Floats,
    x: Floats,
    spread: Floats,
    sums: Floats,
}

/// Gradients of [`super::forward`]; `relu` as there.
pub fn backward(
    x: FlexTensor,
    w: FlexTensor,
    g: FlexTensor,
    window: Window,
    groups: usize,
    relu: bool,
    [wanted_x, wanted_w, wanted_bias]: [bool; 3],
) -> Gradients {
    let (x, g) = ([readable(x)], [readable(g)]);
    let (x, g_view) = (Input::new(&x), View::new(&g[0]));
    let g = Input::new(&g);
    let w_dims = w.layout().shape().dims::<4>();
    let sizes = Sizes::new(&x, w_dims[0], &window, groups);
    let size = [x.dims[2], x.dims[3]];
    let back = Backward::new(&window, size, sizes.outs, g_view.plane, lanes());
    let shared = !relu && sizes.ins == 1 && back.classes.iter().any(|class| class.columns.is_some());
    let forth = (wanted_w && !shared).then(|| sizes.forth(&x, &window, relu));
    let packed = wanted_x.then(|| sizes.pack_backward(&back, &vector(&w), window.kernel[1]));
    let g_of_bias = wanted_bias.then(|| into_tensor(channel_sums(g_view), [w_dims[0]]));
    let g = Gradient::View(&g);
    let job = Job { sizes, x, relu, g, back, packed, forth, wanted_w, kernel_width: window.kernel[1] };
    let [dx, dw] = gradients(&job, w_dims, [wanted_x, wanted_w]);
    [dx, dw, g_of_bias]
}

/// Gradients of x and w of a convolution of single pixels of the channels of readable tensors one after the other, from a
/// gradient that is not written out.
pub fn backward_of(
    tensors: &[FlexTensor],
    w: FlexTensor,
    g: &Combination,
    relu: bool,
    [wanted_x, wanted_w]: [bool; 2],
) -> [Option<FlexTensor>; 2] {
    let (x, g) = (Input::new(tensors), g.planes());
    let w_dims = w.layout().shape().dims::<4>();
    let window = Window::square(1, 1, 0, 1);
    let sizes = Sizes::new(&x, w_dims[0], &window, 1);
    let size = [x.dims[2], x.dims[3]];
    let apart = Padded::apart(size);
    let back = Arc::new(Backward::of_pixels(size, sizes.outs, Some(apart), apart.plane(), lanes()));
    let forth = wanted_w.then(|| sizes.forth(&x, &window, relu));
    let packed = wanted_x.then(|| sizes.pack_backward(&back, &vector(&w), 1));
    let job =
        Job { sizes, x, relu, g: Gradient::Sum(&g, apart.plane()), back, packed, forth, wanted_w, kernel_width: 1 };
    gradients(&job, w_dims, [wanted_x, wanted_w])
}

fn gradients(job: &Job, w_dims: [usize; 4], [wanted_x, wanted_w]: [bool; 2]) -> [Option<FlexTensor>; 2] {
    let Job { sizes, x, .. } = job;
    let share = sizes.share(wanted_w);
    let ins = share.groups * sizes.ins * sizes.pixels_in;
    let weights = share.groups * sizes.outs * sizes.ins * sizes.taps;
    let chunks = sizes.images.div_ceil(share.images) * (sizes.groups / share.groups);
    let part = |wanted: bool, chunk: usize, len: usize| match wanted {
        true => Part { len, chunk },
        // One float a chunk keeps the number of chunks; it is thrown away.
        false => Part { len: chunks, chunk: 1 },
    };
    let parts =
        [part(wanted_x, share.images * ins, x.dims.iter().product()), part(wanted_w, weights, chunks * weights)];
    let macs = share.images * share.groups * sizes.outs * sizes.pixels_out * sizes.ins * sizes.taps;
    let [dx, dw] = fill(
        parts,
        macs.div_ceil(4),
        || job.scratch(),
        |scratch, index, [dx, dw]| {
            let start = share.start(sizes, index);
            dw.fill(0.0);
            for i in 0..share.images.min(sizes.images - start.image) {
                let at = Start { image: start.image + i, ..start };
                let dx = if wanted_x { &mut dx[i * ins..(i + 1) * ins] } else { &mut [] };
                backward_chunk(job, at, share.groups, scratch, dx, dw);
            }
        },
    );
    let dw = wanted_w.then(|| {
        // Chunks come group by group within images: one image's chunks together are one copy of all weights.
        let all = sizes.groups * sizes.outs * sizes.ins * sizes.taps;
        into_tensor(sum_rows(&dw, all), w_dims)
    });
    [wanted_x.then(|| into_tensor(dx, x.dims)), dw]
}

/// `groups` groups of one image: writes `dx` if there are packed weights for it, adds to `dw` if it is wanted.
fn backward_chunk(job: &Job, at: Start, groups: usize, scratch: &mut Scratch, dx: &mut [f32], dw: &mut [f32]) {
    let Job { sizes, x, g, back, .. } = job;
    let fused =
        job.relu && back.complete && matches!(back.classes.as_slice(), [Class { scatter: None, columns: None, .. }]);
    let (inputs_of_group, weights) = (sizes.ins * sizes.pixels_in, sizes.outs * sizes.ins * sizes.taps);
    for i in 0..groups {
        let group = at.group + i;
        let [from_x, from_g] = [[at.image, group * sizes.ins], [at.image, group * sizes.outs]];
        if let &Gradient::Sum(planes, stride) = g {
            planes.write(at.image, 0..sizes.outs, sizes.pixels_out, stride, &mut scratch.g);
        }
        if job.packed.is_some() || job.forth.is_none() {
            let source = match g {
                Gradient::View(g) => source(back.padded, g, false, from_g, sizes.outs, &mut scratch.g),
                Gradient::Sum(..) => &scratch.g,
            };
            if let Some(packed) = &job.packed {
                let dx = &mut dx[i * inputs_of_group..(i + 1) * inputs_of_group];
                let mut packed = packed.iter().zip(&back.classes).map(|(packed, class)| {
                    let block = sizes.ins * class.taps.offsets().len();
                    &packed[group * block..(group + 1) * block]
                });
                if let (true, [Class { taps, positions, scatter: None, .. }]) = (fused, back.classes.as_slice()) {
                    let read: Vec<&[f32]> = (0..sizes.ins).map(|i| x.plane(at.image, group * sizes.ins + i)).collect();
                    let packed = packed.next().unwrap_or_default();
                    tiles::outputs_behind_relu(source, taps, positions, packed, dx, sizes.pixels_in, &read);
                } else {
                    inputs(back, source, packed, &mut scratch.spread, dx, sizes.pixels_in);
                }
                if job.relu && !fused {
                    for (i, dx) in dx.chunks_exact_mut(sizes.pixels_in).enumerate() {
                        behind_relu(x.plane(at.image, group * sizes.ins + i), [1.0, 0.0], dx);
                    }
                }
            }
            let class = back.classes.first();
            let columns = class.and_then(|class| class.columns.as_ref().map(|columns| (columns, &class.kernel)));
            if let (true, None, Some((columns, kernel))) = (job.wanted_w, &job.forth, columns) {
                // The padded gradient under the plane of x, instead of a padded plane of x under the gradient.
                scratch.sums.fill(0.0);
                columns::weights(columns, source, x.plane(at.image, group), &mut scratch.sums);
                let dw = dw[i * weights..(i + 1) * weights].chunks_exact_mut(sizes.taps);
                for (dw, sums) in dw.zip(scratch.sums.chunks_exact(sizes.taps)) {
                    for ([ky, kx], sum) in kernel.iter().zip(sums) {
                        dw[ky * job.kernel_width + kx] += sum;
                    }
                }
            }
        }
        if let Some(forth) = &job.forth {
            let source = source(forth.padded, x, job.relu, from_x, sizes.ins, &mut scratch.x);
            let (gradient, plane) = match g {
                Gradient::View(g) => (g.planes(at.image, group * sizes.outs, sizes.outs), g.stride().unwrap_or(0)),
                Gradient::Sum(_, stride) => (&*scratch.g, *stride),
            };
            let dw = &mut dw[i * weights..(i + 1) * weights];
            sums::weights(source, &forth.taps, &forth.positions, gradient, plane, dw);
        }
    }
}

impl Job<'_> {
    fn scratch(&self) -> Scratch {
        let Sizes { ins, outs, taps, .. } = self.sizes;
        Scratch {
            g: scratch(self.back.padded, outs, 0.0),
            x: scratch(self.forth.as_ref().and_then(|forth| forth.padded), ins, 0.0),
            spread: Floats::filled(ins * self.back.largest_scatter(), 0.0),
            sums: Floats::filled(outs * taps, 0.0),
        }
    }
}
