//! Convolutions over a table of shapes: depthwise, pointwise, grouped and dense, with awkward sizes.
use burn::{
    backend::Flex,
    tensor::{Device, Tensor, module, ops::ConvOptions},
};

use super::{
    super::{
        Window, conv2d,
        ops::{KernelGrads, KernelOps, Operands, Wanted},
        portable,
    },
    assert_close, check, random,
    reference::{self, Image},
    tensor, values, vector,
};

/// N, C_in, C_out, groups, H, W and the window.
struct Case(usize, usize, usize, usize, [usize; 2], Window);

fn cases() -> Vec<Case> {
    let square = Window::square;
    let wide = |kernel, padding| Window { kernel, stride: [1, 1], padding, dilation: [1, 1] };
    vec![
        // Depthwise, as in separable and dilated convolutions.
        Case(2, 4, 4, 4, [9, 9], square(3, 1, 1, 1)),
        Case(2, 4, 4, 4, [32, 32], square(5, 1, 2, 1)),
        Case(1, 3, 3, 3, [8, 8], square(3, 1, 2, 2)),
        Case(1, 3, 3, 3, [16, 16], square(5, 1, 4, 2)),
        Case(2, 5, 5, 5, [7, 7], square(7, 1, 3, 1)),
        Case(2, 4, 4, 4, [9, 11], square(3, 2, 1, 1)),
        Case(2, 4, 4, 4, [8, 8], square(5, 2, 4, 2)),
        Case(1, 3, 3, 3, [13, 10], square(5, 3, 2, 1)),
        Case(3, 2, 2, 2, [1, 1], square(3, 1, 1, 1)),
        Case(2, 2, 2, 2, [2, 3], square(3, 1, 1, 1)),
        Case(2, 3, 3, 3, [6, 37], square(3, 1, 1, 1)),
        Case(1, 2, 2, 2, [40, 5], square(5, 1, 2, 1)),
        Case(1, 2, 2, 2, [6, 6], square(2, 2, 0, 1)),
        // Several outputs a channel: edges that read one node, as one convolution.
        Case(2, 4, 12, 4, [8, 8], square(3, 1, 1, 1)),
        Case(1, 3, 6, 3, [9, 9], square(5, 2, 2, 1)),
        // Pointwise, strided as in a factorised reduction, grouped as in batched edges.
        Case(2, 4, 4, 1, [32, 32], square(1, 1, 0, 1)),
        Case(3, 5, 7, 1, [5, 5], square(1, 1, 0, 1)),
        Case(1, 16, 16, 1, [8, 8], square(1, 1, 0, 1)),
        Case(2, 13, 9, 1, [3, 3], square(1, 1, 0, 1)),
        Case(2, 9, 2, 1, [1, 1], square(1, 1, 0, 1)),
        Case(2, 6, 8, 1, [9, 9], square(1, 2, 0, 1)),
        Case(2, 6, 3, 1, [8, 8], square(1, 2, 0, 1)),
        Case(1, 4, 4, 1, [10, 10], square(1, 3, 0, 1)),
        Case(1, 3, 2, 1, [5, 5], square(1, 1, 1, 1)),
        Case(2, 12, 12, 3, [8, 8], square(1, 1, 0, 1)),
        Case(1, 8, 4, 4, [7, 7], square(1, 1, 0, 1)),
        // Dense, as in stems, heads and the 1x7 7x1 primitive.
        Case(2, 3, 10, 1, [9, 9], square(3, 1, 1, 1)),
        Case(1, 3, 4, 1, [12, 12], square(3, 2, 1, 1)),
        Case(2, 5, 6, 1, [2, 2], square(2, 1, 0, 1)),
        Case(1, 4, 4, 1, [9, 9], wide([1, 7], [0, 3])),
        Case(1, 4, 5, 1, [9, 9], wide([7, 1], [3, 0])),
        Case(2, 6, 4, 2, [8, 8], square(3, 1, 1, 1)),
        Case(1, 4, 6, 2, [9, 8], square(3, 2, 2, 2)),
        Case(1, 2, 3, 1, [11, 11], square(7, 3, 3, 1)),
        Case(1, 2, 3, 1, [12, 40], square(3, 1, 0, 1)),
        // Wide, to a single pixel and to few.
        Case(3, 20, 6, 1, [2, 2], square(2, 1, 0, 1)),
        Case(2, 70, 5, 1, [1, 2], square(1, 1, 0, 1)),
        // Enough channels for planes to collide in the cache.
        Case(1, 18, 20, 1, [32, 32], square(1, 1, 0, 1)),
    ]
}

#[test]
fn convolutions_agree_with_their_definition_and_with_burn() {
    for Case(n, c_in, c_out, groups, [h, w], window) in cases() {
        let [kh, kw] = window.kernel;
        let shapes = [[n, c_in, h, w], [c_out, c_in / groups, kh, kw], [c_out, 1, 1, 1]];
        let options = ConvOptions::new(window.stride, window.padding, window.dilation, groups);
        let what = format!("conv {n}x{c_in}x{h}x{w} to {c_out} in {groups} groups, {window:?}");
        check(
            &what,
            &shapes[..2],
            &|t| conv2d(t[0].clone(), t[1].clone(), None, window, groups),
            &|t| reference::conv2d(&t[0], &t[1], None, &window, groups),
            Some(&|t| module::conv2d(t[0].clone(), t[1].clone(), None, options.clone())),
        );
        check(
            &format!("{what}, bias"),
            &shapes,
            &|t| conv2d(t[0].clone(), t[1].clone(), Some(vector(&t[2])), window, groups),
            &|t| reference::conv2d(&t[0], &t[1], Some(&t[2]), &window, groups),
            None,
        );
    }
}

#[test]
fn portable_bodies_agree_with_the_cpu_kernels() {
    for Case(n, c_in, c_out, groups, [h, w], window) in cases() {
        let [kh, kw] = window.kernel;
        let x = primitive([n, c_in, h, w], 1);
        let weights = primitive([c_out, c_in / groups, kh, kw], 2);
        let ours = Flex::convolve(x.clone(), weights.clone(), Operands::none(), window, groups);
        let portable = portable::convolve::<Flex>(x.clone(), weights.clone(), Operands::none(), window, groups);
        let what = format!("{n}x{c_in}x{h}x{w} to {c_out}, {window:?}");
        same(&format!("{what}: output"), ours, portable);

        let [oh, ow] = window.output_size([h, w]);
        let g = primitive([n, c_out, oh, ow], 3);
        for wanted in [[true, true, true], [true, false, false], [false, true, false]] {
            let wanted = Wanted { x: wanted[0], w: wanted[1], bias: wanted[2] };
            let ours = Flex::convolve_grads(x.clone(), weights.clone(), g.clone(), window, groups, wanted);
            let portable =
                portable::convolve_grads::<Flex>(x.clone(), weights.clone(), g.clone(), window, groups, wanted);
            for (name, ours, portable) in [("x", ours.x, portable.x), ("w", ours.w, portable.w)] {
                assert_eq!(ours.is_some(), portable.is_some(), "{what}: only what is wanted");
                if let (Some(ours), Some(portable)) = (ours, portable) {
                    same(&format!("{what}: gradient of {name}"), ours, portable);
                }
            }
            let bias = ours.bias.zip(portable.bias);
            assert_eq!(bias.is_some(), wanted.bias);
            if let Some((ours, portable)) = bias {
                let [ours, portable] = [ours, portable].map(|t| values(Tensor::<1>::from_primitive::<Flex>(t)));
                assert_close(&format!("{what}: gradient of bias"), &ours, &portable);
            }
        }
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let window = Window::square(3, 1, 1, 1);
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a few threads");
        pool.install(|| {
            let [x, g] = [1, 2].map(|seed| primitive([40, 6, 33, 32], seed));
            let w = primitive([6, 1, 3, 3], 3);
            let wanted = Wanted { x: true, w: true, bias: true };
            let grads = Flex::convolve_grads(x, w, g, window, 6, wanted);
            let [x, w] = [grads.x, grads.w].map(|t| Tensor::<4>::from_primitive::<Flex>(t.expect("wanted")));
            let bias = Tensor::<1>::from_primitive::<Flex>(grads.bias.expect("wanted"));
            [values(x), values(w), values(bias)]
        })
    };
    assert!(run(1) == run(3), "every bit is the same");
}

#[test]
fn a_channel_slice_is_read_in_place() {
    let window = Window::square(3, 1, 1, 1);
    check(
        "depthwise of a slice",
        &[[2, 6, 9, 9], [3, 1, 3, 3]],
        &|t| conv2d(super::super::slice_channels(t[0].clone(), 2, 3), t[1].clone(), None, window, 3),
        &|t| {
            let slice = Image::of([2, 3, 9, 9], |[n, c, y, x]| t[0].at([n, c + 2, y, x]));
            reference::conv2d(&slice, &t[1], None, &window, 3)
        },
        None,
    );
}

#[test]
#[should_panic(expected = "does not fit an image")]
fn a_window_larger_than_the_image_is_named() {
    let x = tensor(&random([1, 1, 2, 2], 0), &Device::flex());
    let w = tensor(&random([1, 1, 5, 5], 0), &Device::flex());
    conv2d(x, w, None, Window::square(5, 1, 0, 1), 1);
}

fn primitive(dims: [usize; 4], seed: u64) -> burn::backend::flex::FlexTensor {
    tensor(&random(dims, seed), &Device::flex()).try_into_primitive::<Flex>().expect("a tensor of the CPU back end")
}

fn same(what: &str, ours: burn::backend::flex::FlexTensor, portable: burn::backend::flex::FlexTensor) {
    let [ours, portable] = [ours, portable].map(|t| values(Tensor::<4>::from_primitive::<Flex>(t)));
    assert_close(what, &ours, &portable);
}
