//! What exists on the CPU only: separable units, combinations of planes, borders and means, against their definitions in f64.
use burn::{
    backend::{Flex, flex::FlexTensor},
    tensor::{Device, Tensor},
};

use super::{
    super::{
        Window,
        cpu::{
            combine::{Combination, Source},
            convolve_joined, convolve_joined_grads, convolve_rectified_grads, norm, planes,
            products::{Factor, products, tensor_and_products},
            separable::{self, Lines, Unit, UnitWeights, channels_read},
        },
        ops::{KernelGrads, KernelOps, Wanted},
    },
    assert_close, central_difference, random,
    reference::{self, Image},
    sample, tensor, values,
};

/// Images and windows: rows of one, less than one and several vectors, strides, dilations, an image of one pixel.
const CASES: [([usize; 4], Window); 9] = [
    ([2, 5, 32, 32], square(3, 1, 1, 1)),
    ([2, 5, 8, 8], square(5, 1, 2, 1)),
    ([3, 5, 16, 16], square(5, 1, 4, 2)),
    ([2, 5, 9, 7], square(3, 1, 2, 2)),
    ([2, 5, 20, 23], square(3, 1, 1, 1)),
    ([2, 5, 16, 16], square(3, 2, 1, 1)),
    ([2, 5, 9, 7], square(5, 2, 4, 2)),
    ([17, 5, 3, 3], square(7, 1, 3, 1)),
    ([2, 5, 1, 1], square(3, 1, 1, 1)),
];

const fn square(kernel: usize, stride: usize, padding: usize, dilation: usize) -> Window {
    Window { kernel: [kernel; 2], stride: [stride; 2], padding: [padding; 2], dilation: [dilation; 2] }
}

#[test]
fn separable_units_agree_with_their_definition_forward_and_backward() {
    for (dims, window) in CASES {
        for normalised in [false, true] {
            check_separable(dims, window, normalised);
        }
    }
}

/// Two units that read overlapping channels, of different kernels where the window leaves room for it.
fn check_separable(dims: [usize; 4], window: Window, normalised: bool) {
    let what = format!("{dims:?} {window:?} {normalised}");
    let other = match (window.kernel, window.stride, window.dilation) {
        ([5, 5], [1, 1], [1, 1]) => square(3, 1, 2, 2),
        _ => window,
    };
    let unit = |from, ins, outs, window| Unit { from, ins, outs, window };
    let units = [unit(0, 3, 4, window), unit(1, 4, 5, other)];
    // Input, then depthwise and pointwise weights of each unit.
    let mut images = vec![random(dims, 1)];
    for (i, unit) in units.iter().enumerate() {
        let [kh, kw] = unit.window.kernel;
        images.push(random([unit.ins, 1, kh, kw], 10 + i as u64));
        images.push(random([unit.outs, unit.ins, 1, 1], 20 + i as u64));
    }
    let lines = normalised.then(|| Lines {
        factor: (0..dims[1]).map(|c| 0.5 + c as f32 * 0.25).collect(),
        offset: (0..dims[1]).map(|c| 0.125 - c as f32 * 0.0625).collect(),
    });
    let line = |c: usize| lines.as_ref().map_or([1.0, 0.0], |l| [f64::from(l.factor[c]), f64::from(l.offset[c])]);
    let normal = |x: &Image| Image::of(x.dims, |at| x.at(at).mul_add(line(at[1])[0], line(at[1])[1]));
    // From the normalised input on: that is what the gradient is with respect to.
    let reference = |images: &[Image]| {
        let y = reference::relu(&images[0]);
        let all: Vec<Image> = units
            .iter()
            .enumerate()
            .map(|(i, unit)| {
                let part =
                    Image::of([dims[0], unit.ins, dims[2], dims[3]], |[n, c, h, w]| y.at([n, unit.from + c, h, w]));
                let y = reference::conv2d(&part, &images[1 + 2 * i], None, &unit.window, unit.ins);
                reference::conv2d(&y, &images[2 + 2 * i], None, &square(1, 1, 0, 1), 1)
            })
            .collect();
        let [n, _, h, w] = all[0].dims;
        Image::of(
            [n, 9, h, w],
            |[n, c, h, w]| if c < 4 { all[0].at([n, c, h, w]) } else { all[1].at([n, c - 4, h, w]) },
        )
    };
    let mut normalised_images = images.clone();
    normalised_images[0] = normal(&images[0]);
    let want = reference(&normalised_images);
    let weights: Vec<UnitWeights> = (0..2)
        .map(|i| UnitWeights { depthwise: floats(&images[1 + 2 * i]), pointwise: floats(&images[2 + 2 * i]) })
        .collect();
    let x = primitive(&images[0]);
    let (z, moments) = separable::forward(&x, lines.as_ref(), &units, &weights);
    assert_close(&format!("{what}: output"), &numbers(z.clone()), &want.data);
    let statistics = norm::statistics(&moments, [dims[0], 9], want.dims[2] * want.dims[3]);
    let (mean, var) = reference::statistics(&want);
    assert_close(&what, &statistics.iter().map(|s| f64::from(s[0])).collect::<Vec<_>>(), &mean);
    assert_close(&what, &statistics.iter().map(|s| f64::from(s[1])).collect::<Vec<_>>(), &var);

    let g = random(want.dims, 99);
    let loss = |images: &[Image]| reference(images).data.iter().zip(&g.data).map(|(y, g)| y * g).sum::<f64>();
    // The gradient comes as a sum of two planes a channel.
    let half = primitive(&Image::of(g.dims, |at| g.at(at) / 2.0));
    let mut sum = Combination::zeros([want.dims[0], want.dims[2], want.dims[3]], 9);
    for factor in [0.5f32, 1.5] {
        sum.add(Source::new(half.clone()), (0..9).map(|c| (c, c, factor, 0.0)));
    }
    let centers: Vec<f32> = (0..dims[1]).map(|c| c as f32 / 8.0).collect();
    let back = separable::backward(&x, lines.as_ref(), &units, &weights, &sum, Some(&centers), [true, true]);
    let dx = numbers(back.dx.expect("wanted"));
    assert_eq!(channels_read(&units), [0, 1, 2, 3, 4]);
    let dw = back.dw.expect("wanted");
    let mut grads = vec![dx.clone()];
    for unit in &dw {
        grads.push(numbers(unit.depthwise.clone()));
        grads.push(numbers(unit.pointwise.clone()));
    }
    for (i, grad) in grads.iter().enumerate() {
        let scale = grad.iter().fold(1e-3, |a: f64, v| a.max(v.abs()));
        for at in sample(grad.len()) {
            // A kink of the ReLU between the two sides would spoil the difference.
            if i == 0 && normalised_images[0].data[at].abs() < 1e-3 {
                continue;
            }
            let want = central_difference(&loss, &normalised_images, i, at);
            let error = (grad[at] - want).abs();
            assert!(error <= 4e-5 * scale.max(want.abs()), "{what}: gradient {i} at {at}: {} for {want}", grad[at]);
        }
    }
    let pixels = dims[2] * dims[3];
    for (c, totals) in back.totals.iter().enumerate() {
        let of_channel = (0..dims[0] * pixels).map(|i| ((i / pixels) * dims[1] + c) * pixels + i % pixels);
        let mut want = [0.0; 2];
        of_channel.for_each(|i| {
            want[0] += dx[i];
            want[1] += dx[i] * (images[0].data[i] - f64::from(centers[c]));
        });
        assert_close(&format!("{what}: totals"), totals, &want);
    }
    let only_x = separable::backward(&x, lines.as_ref(), &units, &weights, &sum, None, [true, false]);
    assert_eq!((numbers(only_x.dx.expect("wanted")), only_x.dw.is_none()), (dx, true));
}

#[test]
fn a_convolution_of_pixels_reads_its_gradient_as_if_it_were_written() {
    for ([n, ins, h, w], outs) in [([3, 5, 5, 5], 7), ([1, 16, 8, 8], 16), ([2, 13, 3, 3], 9), ([33, 64, 16, 16], 32)] {
        let [x, weight] = [random([n, ins, h, w], 1), random([outs, ins, 1, 1], 2)].map(|image| primitive(&image));
        let parts: Vec<FlexTensor> = (3..5).map(|seed| primitive(&random([n, outs, h, w], seed))).collect();
        let mut sum = Combination::zeros([n, h, w], outs);
        for (i, part) in parts.into_iter().enumerate() {
            let channels = (0..outs).map(|c| (c, (c + i) % outs, 0.5 + c as f32, i as f32));
            sum.add(Source::new(part), channels);
        }
        for relu in [false, true] {
            let wanted = Wanted { x: true, w: true, bias: false };
            let window = Window::square(1, 1, 0, 1);
            // The channels as three tensors, one of them a slice that is read in place.
            let parts =
                [(0, 1), (1, ins - 2), (ins - 1, 1)].map(|(start, len)| x.clone().narrow(1, start, len)).to_vec();
            let joined = convolve_joined(parts.clone(), weight.clone(), relu);
            let alone = convolve_joined(vec![x.clone()], weight.clone(), relu);
            assert_eq!(numbers(joined), numbers(alone), "{ins} to {outs}, {h}x{w}, relu {relu}");
            let got = convolve_joined_grads(parts, weight.clone(), &sum, relu, wanted);
            let rectified = if relu { Flex::rectify(x.clone()) } else { x.clone() };
            let mut want = Flex::convolve_grads(rectified.clone(), weight.clone(), sum.tensor(), window, 1, wanted);
            if relu {
                // The ReLU by itself is the judge of the one that is taken as the convolution writes.
                want.x = want.x.map(|dx| Flex::rectify_grad(rectified, dx));
                let written = convolve_rectified_grads(x.clone(), weight.clone(), sum.tensor(), window, 1, wanted);
                for (written, want) in [(&written.x, &want.x), (&written.w, &want.w)] {
                    let [written, want] = [written, want].map(|grad| numbers(grad.clone().expect("wanted")));
                    assert_close(&format!("{ins} to {outs}, {h}x{w}, gradient written"), &written, &want);
                }
            }
            for (got, want) in [(got.x, want.x), (got.w, want.w)] {
                let [got, want] = [got, want].map(|grad| numbers(grad.expect("wanted")));
                assert_close(&format!("{ins} to {outs}, {h}x{w}, relu {relu}"), &got, &want);
            }
            assert!(got.bias.is_none());
        }
    }
}

#[test]
fn parts_of_a_combination_are_its_sources_where_it_has_them_whole() {
    let [a, b, c] = [2, 3, 1].map(|channels| primitive(&random([2, channels, 4, 4], channels as u64)));
    let mut sum = Combination::zeros([2, 4, 4], 8);
    let whole = |source: &FlexTensor, start: usize| {
        let [_, count, ..] = source.layout().shape().dims::<4>();
        (Source::new(source.clone()), (0..count).map(move |i| (start + i, i, 1.0, 0.0)))
    };
    for (source, terms) in [whole(&a, 0), whole(&b, 3), whole(&c, 6), whole(&c, 7)] {
        sum.add(source, terms);
    }
    sum.add(Source::new(a.clone()), [(2, 1, 1.0, 0.0), (7, 0, 0.5, 0.0)]);
    let parts = sum.parts();
    let counts: Vec<usize> = parts.iter().map(|part| part.layout().shape().dims::<4>()[1]).collect();
    assert_eq!(counts, [2, 1, 3, 1, 1], "one channel of a tensor of two, and a sum, are written");
    let mut joined = Combination::zeros([2, 4, 4], 8);
    let mut start = 0;
    for part in parts {
        joined.add_all(&Combination::whole(part.clone()), start);
        start += part.layout().shape().dims::<4>()[1];
    }
    assert_eq!(numbers(joined.tensor()), numbers(sum.tensor()));
}

#[test]
fn what_is_merged_is_read_once_and_adds_up() {
    let [a, b] = [1, 2].map(|seed| primitive(&random([2, 3, 4, 4], seed)));
    let sum_of = |sources: &[(&FlexTensor, f32, f32)]| {
        let mut sum = Combination::zeros([2, 4, 4], 3);
        for &(source, factor, offset) in sources {
            sum.add(Source::new(source.clone()), (0..3).map(|c| (c, 2 - c, factor, offset)));
        }
        sum
    };
    let other = sum_of(&[(&b, 0.5, 1.0), (&a, -2.0, 0.25)]);
    let (mut merged, mut added) = (sum_of(&[(&a, 3.0, 0.5)]), sum_of(&[(&a, 3.0, 0.5)]));
    merged.merge(&other, 0);
    added.add_all(&other, 0);
    assert_eq!((merged.sources.len(), merged.channels[0].len()), (2, 2));
    assert_eq!((added.sources.len(), added.channels[0].len()), (3, 3));
    assert_close("merged", &numbers(merged.tensor()), &numbers(added.tensor()));
    // Slices at another place are other planes.
    let mut slices = Combination::whole(a.clone().narrow(1, 0, 2));
    slices.merge(&Combination::whole(a.narrow(1, 1, 2)), 0);
    assert_eq!(slices.sources.len(), 2);
}

#[test]
fn combinations_and_products_agree_with_their_definition() {
    for [n, c, h, w] in [[2, 4, 5, 7], [3, 2, 8, 8], [1, 3, 1, 1], [17, 2, 20, 20]] {
        let images: Vec<Image> = (0..3).map(|i| random([n, c, h, w], i)).collect();
        let mask: std::sync::Arc<[f32]> = (0..n).map(|i| i as f32 * 0.5).collect();
        let mut sum = Combination::zeros([n, h, w], c + 1);
        // The last channel has no term, the first has more than four.
        for (i, image) in images.iter().enumerate() {
            let per_image = (i == 1).then(|| mask.clone());
            let terms = (0..c).map(|channel| (channel, (channel + i) % c, 1.0 + i as f32, 0.25 * i as f32));
            sum.add(Source::scaled(primitive(image), per_image.clone()), terms);
            sum.add(Source::scaled(primitive(image), per_image), [(0, c - 1, 0.5, 0.0)]);
        }
        let of_image = |i: usize, at: [usize; 4]| {
            let [n, channel, y, x] = at;
            let factor = if i == 1 { f64::from(mask[n]) } else { 1.0 };
            let own = images[i].at([n, (channel + i) % c, y, x]) * (1.0 + i as f64) + 0.25 * i as f64;
            let more = if channel == 0 { images[i].at([n, c - 1, y, x]) * 0.5 } else { 0.0 };
            factor * (own + more)
        };
        let want =
            Image::of([n, c + 1, h, w], |at| if at[1] == c { 0.0 } else { (0..3).map(|i| of_image(i, at)).sum() });
        assert_close("combination", &numbers(sum.tensor()), &want.data);

        let sources: Vec<FlexTensor> = images[1..].iter().map(primitive).collect();
        let factor = |source, channel| Factor { source, channel, center: 0.125 };
        let of_channel = |channel: usize| (0..5).map(|k| factor(k % 2, (channel + k) % c)).collect();
        let factors: Vec<Vec<Factor>> = (0..c).map(of_channel).collect();
        let with_none: Vec<Vec<Factor>> = factors.iter().cloned().chain([Vec::new()]).collect();
        let (written, beside) = tensor_and_products(&sum, &sources, &with_none);
        assert_eq!(numbers(written), numbers(sum.tensor()));
        let afterwards = products(&sum.tensor(), &sources, &with_none);
        for (channel, factors) in with_none.iter().enumerate() {
            for which in 0..=factors.len() {
                let [beside, afterwards] = [&beside, &afterwards].map(|all| all.total(channel, which, Some(&mask)));
                assert_eq!(beside, afterwards, "channel {channel}, product {which}");
            }
        }
        let products = products(&primitive(&images[0]), &sources, &factors);
        for (channel, factors) in factors.iter().enumerate() {
            for which in 0..6 {
                let term = |[n, y, x]: [usize; 3]| {
                    let g = images[0].at([n, channel, y, x]) * f64::from(mask[n]);
                    match which {
                        0 => g,
                        k => {
                            let Factor { source, channel, .. } = factors[k - 1];
                            g * (images[1 + source].at([n, channel, y, x]) - 0.125)
                        }
                    }
                };
                let all = (0..n * h * w).map(|i| [i / (h * w), i / w % h, i % w]);
                let want: f64 = all.map(term).sum();
                assert_close("product", &[products.total(channel, which, Some(&mask))], &[want]);
            }
        }
    }
}

#[test]
fn a_whole_tensor_is_not_copied() {
    let x = primitive(&random([2, 3, 4, 4], 1));
    let whole = Combination::whole(x.clone());
    assert_eq!(whole.tensor().storage::<f32>().as_ptr(), x.storage::<f32>().as_ptr());
}

#[test]
fn borders_and_means_agree_with_their_definition() {
    let image = random([2, 3, 5, 6], 1);
    let border = [[1, 0], [2, 3]];
    let padded = planes::pad(primitive(&image), border, 0.5);
    let want = Image::of([2, 3, 6, 11], |[n, c, y, x]| match (y.checked_sub(1), x.checked_sub(2)) {
        (Some(y), Some(x)) if x < 6 => image.at([n, c, y, x]),
        _ => 0.5,
    });
    assert_close("pad", &numbers(padded.clone()), &want.data);
    assert_close("crop", &numbers(planes::crop(padded, border)), &image.data);
    let mean = |n: usize, c: usize| (0..30).map(|i| image.at([n, c, i / 6, i % 6])).sum::<f64>() / 30.0;
    let means = Image::of([2, 3, 1, 1], |[n, c, ..]| mean(n, c));
    assert_close("means", &numbers(planes::means(primitive(&image))), &means.data);
    let shares = Image::of([2, 3, 5, 6], |[n, c, ..]| means.at([n, c, 0, 0]) / 30.0);
    assert_close("means, gradient", &numbers(planes::means_grad(primitive(&means), [5, 6])), &shares.data);
}

fn primitive(image: &Image) -> FlexTensor {
    tensor(image, &Device::flex()).try_into_primitive::<Flex>().expect("a tensor of the CPU back end")
}

fn numbers(tensor: FlexTensor) -> Vec<f64> {
    values(Tensor::<4>::from_primitive::<Flex>(tensor))
}

fn floats(image: &Image) -> Vec<f32> {
    image.data.iter().map(|&v| v as f32).collect()
}
