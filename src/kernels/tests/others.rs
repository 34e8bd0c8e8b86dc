//! Everything but convolutions: activation, normalisation, pools, weighted sums, channel moves.
use burn::{
    backend::Flex,
    tensor::{
        Device, Tensor, activation, module,
        ops::{AvgPoolOptions, MaxPoolOptions},
    },
};

use super::{
    super::{
        Window, avg_pool2d, batch_norm_eval, batch_norm_train, channel_shuffle, concat_channels, max_pool2d,
        ops::{KernelGrads, KernelOps, Operands, Wanted},
        portable, relu, slice_channels, weighted_sum,
    },
    assert_close, check, random,
    reference::{self, Image},
    tensor, values, vector,
};

const SHAPES: [[usize; 4]; 6] = [[1, 1, 1, 1], [2, 3, 5, 7], [3, 4, 8, 8], [2, 5, 9, 3], [4, 2, 32, 32], [1, 36, 4, 4]];
const EPS: f32 = 1e-5;

#[test]
fn relu_agrees_with_its_definition_and_with_burn() {
    for shape in SHAPES {
        check(
            "relu",
            &[shape],
            &|t| relu(t[0].clone()),
            &|t| reference::relu(&t[0]),
            Some(&|t| activation::relu(t[0].clone())),
        );
    }
}

#[test]
fn relu_lets_nan_through() {
    let x = Tensor::<4>::from_data([[[[f32::NAN, -1.0, 2.0, 0.0]]]], &Device::flex());
    let y = values(relu(x));
    assert!(y[0].is_nan());
    assert_eq!(y[1..], [0.0, 2.0, 0.0]);
}

#[test]
fn batch_norm_in_training_agrees_with_its_definition() {
    for shape in SHAPES.into_iter().filter(|shape| shape[0] * shape[2] * shape[3] > 1) {
        let c = [shape[1], 1, 1, 1];
        check(
            "batch norm without scale and bias",
            &[shape],
            &|t| batch_norm_train(t[0].clone(), None, None, EPS).y,
            &|t| reference::batch_norm(&t[0], None, None, EPS.into()),
            None,
        );
        check(
            "batch norm",
            &[shape, c, c],
            &|t| batch_norm_train(t[0].clone(), Some(vector(&t[1])), Some(vector(&t[2])), EPS).y,
            &|t| reference::batch_norm(&t[0], Some(&t[1]), Some(&t[2]), EPS.into()),
            Some(&|t| module::batch_norm_train(t[0].clone(), vector(&t[1]), vector(&t[2]), EPS.into()).output),
        );
        check(
            "batch norm with a bias only",
            &[shape, c],
            &|t| batch_norm_train(t[0].clone(), None, Some(vector(&t[1])), EPS).y,
            &|t| reference::batch_norm(&t[0], None, Some(&t[1]), EPS.into()),
            None,
        );
    }
}

#[test]
fn batch_norm_gives_the_statistics_even_of_data_far_from_zero() {
    let device = Device::flex();
    let mut image = random([4, 3, 9, 9], 5);
    image.data.iter_mut().for_each(|v| *v = f64::from((*v * 0.1 + 50.0) as f32));
    let out = batch_norm_train(tensor(&image, &device), None, None, EPS);
    let (mean, var) = reference::statistics(&image);
    assert_close("mean", &values(out.mean), &mean);
    assert_close("variance", &values(out.var), &var);
    let y = values(out.y);
    let spread = y.iter().map(|v| v * v).sum::<f64>() / y.len() as f64;
    let want = var.iter().map(|v| v / (v + f64::from(EPS))).sum::<f64>() / var.len() as f64;
    assert!((spread - want).abs() < 1e-3, "the output has variance one: {spread} for {want}");
}

#[test]
fn batch_norm_in_evaluation_is_a_scale_and_a_shift() {
    for shape in SHAPES {
        let c = [shape[1], 1, 1, 1];
        check(
            "batch norm in evaluation",
            &[shape, c, c],
            &|t| {
                let [mean, var] = [0.3, 1.7].map(|v| Tensor::full([shape[1]], v, &Device::flex()));
                batch_norm_eval(t[0].clone(), Some(vector(&t[1])), Some(vector(&t[2])), mean, var, EPS)
            },
            &|t| {
                let scale = 1.0 / (f64::from(1.7f32) + f64::from(EPS)).sqrt();
                Image::of(shape, |at| (t[0].at(at) - f64::from(0.3f32)) * scale * t[1].data[at[1]] + t[2].data[at[1]])
            },
            None,
        );
    }
}

#[test]
fn pools_agree_with_their_definition_and_with_burn() {
    let windows = [
        Window::square(3, 1, 1, 1),
        Window::square(3, 2, 1, 1),
        Window::square(2, 2, 0, 1),
        Window::square(5, 3, 0, 1),
        Window::square(3, 1, 2, 2),
        Window { kernel: [1, 3], stride: [1, 2], padding: [0, 1], dilation: [1, 1] },
    ];
    let fits = |shape: &[usize; 4], window: &Window| !window.output_size([shape[2], shape[3]]).contains(&0);
    for (shape, window) in SHAPES.iter().flat_map(|shape| windows.iter().map(move |window| (*shape, *window))) {
        if !fits(&shape, &window) {
            continue;
        }
        let Window { kernel, stride, padding, dilation } = window;
        let what = format!("{shape:?} {window:?}");
        let max_options = MaxPoolOptions::new(kernel).with_stride(stride).with_padding(padding).with_dilation(dilation);
        check(
            &format!("max pool of {what}"),
            &[shape],
            &|t| max_pool2d(t[0].clone(), window),
            &|t| reference::max_pool2d(&t[0], &window),
            Some(&|t| module::max_pool2d(t[0].clone(), max_options.clone())),
        );
        for count_include_pad in [false, true] {
            let avg_options = AvgPoolOptions::new(kernel)
                .with_stride(stride)
                .with_padding(padding)
                .with_count_include_pad(count_include_pad);
            let stock = |t: &[Tensor<4>]| module::avg_pool2d(t[0].clone(), avg_options.clone());
            check(
                &format!("average pool of {what}, {count_include_pad}"),
                &[shape],
                &|t| avg_pool2d(t[0].clone(), window, count_include_pad),
                &|t| reference::avg_pool2d(&t[0], &window, count_include_pad),
                (dilation == [1, 1]).then_some(&stock as super::Ours),
            );
        }
        portable_pools_agree(&what, shape, window);
    }
}

#[test]
fn the_first_of_equal_maxima_gets_the_gradient() {
    let x = Tensor::<4>::zeros([1, 1, 2, 2], &Device::flex().autodiff()).require_grad();
    let grads = max_pool2d(x.clone(), Window::square(2, 2, 0, 1)).sum().backward();
    assert_eq!(values(x.grad(&grads).expect("tracked")), [1.0, 0.0, 0.0, 0.0]);
}

#[test]
fn weighted_sums_agree_with_their_definition() {
    // The counts cross every size at which a record is padded or split.
    for (count, shape) in
        [(1, [2, 3, 5, 7]), (3, [1, 1, 1, 1]), (4, [4, 2, 32, 32]), (17, [1, 2, 3, 3]), (45, [1, 1, 2, 3])]
    {
        let indices: Vec<usize> = (0..count).map(|k| (k * 5 + 1) % 7).collect();
        let mut shapes = vec![[7, 1, 1, 1]];
        shapes.extend(vec![shape; count]);
        check(
            &format!("weighted sum of {count}"),
            &shapes,
            &|t| weighted_sum(vector(&t[0]), &indices, t[1..].to_vec()),
            &|t| reference::weighted_sum(&t[0], &indices, &t[1..]),
            Some(&|t| {
                let term = |(x, &k): (&Tensor<4>, &usize)| x.clone() * t[0].clone().narrow(0, k, 1);
                t[1..].iter().zip(&indices).map(term).reduce(|a, b| a + b).expect("at least one")
            }),
        );
    }
}

#[test]
fn constant_weights_still_send_gradients_to_the_inputs() {
    let device = Device::flex().autodiff();
    let x = Tensor::<4>::ones([2, 3, 4, 4], &device).require_grad();
    let weights = Tensor::<1>::from_data([2.0, 3.0], &Device::flex());
    let grads = weighted_sum(weights, &[1, 0], vec![x.clone(), x.clone()]).sum().backward();
    assert!(values(x.grad(&grads).expect("tracked")).iter().all(|&g| g == 5.0));
}

#[test]
fn channel_moves_agree_with_their_definition() {
    for shape in [[2, 4, 3, 5], [1, 12, 8, 8], [3, 6, 1, 1]] {
        for groups in [1, 2, shape[1]] {
            check(
                "channel shuffle",
                &[shape],
                &|t| channel_shuffle(t[0].clone(), groups),
                &|t| reference::channel_shuffle(&t[0], groups),
                None,
            );
        }
        let [n, c, h, w] = shape;
        check(
            "slice",
            &[shape],
            &|t| slice_channels(t[0].clone(), 1, c - 2) * 2.0,
            &|t| Image::of([n, c - 2, h, w], |[n, c, y, x]| t[0].at([n, c + 1, y, x]) * 2.0),
            None,
        );
        let shapes: Vec<[usize; 4]> = (0..50).map(|i| [n, 1 + i % 3, h, w]).collect();
        for count in [1, 2, 6, 50] {
            check(
                &format!("concatenation of {count}"),
                &shapes[..count],
                &|t| concat_channels(t.to_vec()),
                &|t| {
                    let owners: Vec<(usize, usize)> =
                        t.iter().enumerate().flat_map(|(i, t)| (0..t.dims[1]).map(move |c| (i, c))).collect();
                    Image::of([n, owners.len(), h, w], |[n, c, y, x]| t[owners[c].0].at([n, owners[c].1, y, x]))
                },
                Some(&|t| Tensor::cat(t.to_vec(), 1)),
            );
        }
    }
}

#[test]
fn portable_bodies_agree_with_the_cpu_kernels() {
    for shape in SHAPES.into_iter().filter(|shape| shape[0] * shape[2] * shape[3] > 1) {
        let [x, g] = [1, 2].map(|seed| primitive(shape, seed));
        let c = shape[1];
        let [scale, bias] = [3, 4].map(|seed| primitive_vector(c, seed));
        same("relu", Flex::rectify(x.clone()), portable::rectify::<Flex>(x.clone()));
        same("relu", Flex::rectify_grad(x.clone(), g.clone()), portable::rectify_grad::<Flex>(x.clone(), g.clone()));

        for affine in [vec![], vec![scale.clone(), bias.clone()]] {
            let (y, mean, var) = Flex::normalise(x.clone(), Operands(affine.clone()), EPS);
            let (want_y, want_mean, want_var) = portable::normalise::<Flex>(x.clone(), Operands(affine), EPS);
            same("batch norm", y, want_y);
            same_vector("mean", mean.clone(), want_mean);
            same_vector("variance", var.clone(), want_var);
            let ours = Flex::normalise_grads(x.clone(), scale.clone(), mean.clone(), var.clone(), EPS, g.clone());
            let want = portable::normalise_grads::<Flex>(x.clone(), scale.clone(), mean, var, EPS, g.clone());
            same("batch norm, gradient of x", ours.0, want.0);
            same_vector("batch norm, gradient of scale", ours.1, want.1);
            same_vector("batch norm, gradient of bias", ours.2, want.2);
        }

        same(
            "scale and shift",
            Flex::scale_and_shift(x.clone(), scale.clone(), bias.clone()),
            portable::scale_and_shift::<Flex>(x.clone(), scale.clone(), bias.clone()),
        );
        let wanted = Wanted { x: true, w: true, bias: true };
        let ours = Flex::scale_and_shift_grads(x.clone(), scale.clone(), g.clone(), wanted);
        let want = portable::scale_and_shift_grads::<Flex>(x.clone(), scale.clone(), g.clone(), wanted);
        same("scale and shift, x", ours.x.expect("wanted"), want.x.expect("wanted"));
        same_vector("scale", ours.w.expect("wanted"), want.w.expect("wanted"));
        same_vector("shift", ours.bias.expect("wanted"), want.bias.expect("wanted"));

        let xs = [x.clone(), g.clone(), x.clone()];
        let indices = vec![0, c - 1, 0];
        same(
            "weighted sum",
            Flex::mix(scale.clone(), indices.clone(), Operands(xs.to_vec())),
            portable::mix::<Flex>(scale.clone(), indices.clone(), Operands(xs.to_vec())),
        );
        let wanted = [true, false, true];
        let (ours, ours_xs) = Flex::mix_grads(scale.clone(), &indices, &xs, g.clone(), true, &wanted);
        let (want, want_xs) = portable::mix_grads::<Flex>(scale.clone(), &indices, &xs, g.clone(), true, &wanted);
        same_vector("weighted sum, weights", ours.expect("wanted"), want.expect("wanted"));
        for ((ours, want), wanted) in ours_xs.into_iter().zip(want_xs).zip(wanted) {
            assert_eq!([ours.is_some(), want.is_some()], [wanted; 2]);
            if let Some((ours, want)) = ours.zip(want) {
                same("weighted sum, input", ours, want);
            }
        }

        same("shuffle", Flex::shuffle(x.clone(), c), portable::shuffle::<Flex>(x.clone(), c));
        same("slice", Flex::take_channels(x.clone(), c - 1, 1), portable::take_channels::<Flex>(x.clone(), c - 1, 1));
        same("place", Flex::place_channels(x.clone(), 2, c + 3), portable::place_channels::<Flex>(x.clone(), 2, c + 3));
        same(
            "concatenation",
            Flex::join_channels(Operands(vec![x.clone(), g.clone()])),
            portable::join_channels::<Flex>(Operands(vec![x, g])),
        );
    }
}

fn portable_pools_agree(what: &str, shape: [usize; 4], window: Window) {
    let x = primitive(shape, 1);
    let [oh, ow] = window.output_size([shape[2], shape[3]]);
    let g = primitive([shape[0], shape[1], oh, ow], 2);
    same(
        &format!("max pool of {what}"),
        Flex::pool_max(x.clone(), window),
        portable::pool_max::<Flex>(x.clone(), window),
    );
    let (ours, argmax) = Flex::pool_max_with_argmax(x.clone(), window);
    let (want, want_argmax) = portable::pool_max_with_argmax::<Flex>(x.clone(), window);
    same(&format!("max pool of {what}"), ours, want);
    same(
        &format!("max pool of {what}, gradient"),
        Flex::pool_max_grad(shape, argmax, g.clone(), window),
        portable::pool_max_grad::<Flex>(shape, want_argmax, g.clone(), window),
    );
    for count_include_pad in [false, true] {
        same(
            &format!("average pool of {what}"),
            Flex::pool_avg(x.clone(), window, count_include_pad),
            portable::pool_avg::<Flex>(x.clone(), window, count_include_pad),
        );
        same(
            &format!("average pool of {what}, gradient"),
            Flex::pool_avg_grad(shape, g.clone(), window, count_include_pad),
            portable::pool_avg_grad::<Flex>(shape, g.clone(), window, count_include_pad),
        );
    }
}

fn primitive(dims: [usize; 4], seed: u64) -> burn::backend::flex::FlexTensor {
    tensor(&random(dims, seed), &Device::flex()).try_into_primitive::<Flex>().expect("a tensor of the CPU back end")
}

fn primitive_vector(len: usize, seed: u64) -> burn::backend::flex::FlexTensor {
    let image = tensor(&random([len, 1, 1, 1], seed), &Device::flex());
    vector(&image).try_into_primitive::<Flex>().expect("a tensor of the CPU back end")
}

fn same(what: &str, ours: burn::backend::flex::FlexTensor, want: burn::backend::flex::FlexTensor) {
    let [ours, want] = [ours, want].map(|t| values(Tensor::<4>::from_primitive::<Flex>(t)));
    assert_close(what, &ours, &want);
}

fn same_vector(what: &str, ours: burn::backend::flex::FlexTensor, want: burn::backend::flex::FlexTensor) {
    let [ours, want] = [ours, want].map(|t| values(Tensor::<1>::from_primitive::<Flex>(t)));
    assert_close(what, &ours, &want);
}
