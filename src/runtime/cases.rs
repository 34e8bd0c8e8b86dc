//! The table of test cases: every op, over odd sizes, uneven windows and two batch sizes, and small networks.
//!
//! Takes nothing; gives models with inputs. The same cases run on the formula, the reference and every adapter.

mod networks;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::ir::{
    Arithmetic, Builder, Grid, Imported, Init, Model, Op, ParamId, Range, Role, Shape, Tensor, ValueId, Verified,
    Weights, Window, verify,
};

use networks::{cell, parts};
pub use networks::{network, sum, unit};

/// One model with inputs for it.
pub struct Case {
    /// The op, then what is special about the case.
    pub name: String,
    /// The model.
    pub model: Verified<Model>,
    /// Tensors of one batch size.
    pub inputs: Vec<Tensor>,
    /// Whether the op only moves or selects elements, or rounds once: then float32 results are equal bit by bit.
    pub exact: bool,
}

/// All cases.
pub fn cases() -> Vec<Case> {
    let mut table = Table { cases: Vec::new() };
    table.convolutions();
    table.pools();
    table.arithmetic();
    table.layouts();
    table.units();
    table.networks();
    table.cases
}

/// A case from a graph: random parameters and inputs for `batch` images.
pub fn case(name: &str, batch: usize, exact: bool, build: impl FnOnce(&mut Builder)) -> Case {
    let mut b = Builder::new(name);
    build(&mut b);
    let graph = b.finish();
    let mut random = Random::new(name);
    let weights = graph.params.iter().map(|p| {
        let tensor = random.tensor(p.shape.clone());
        // A variance is positive.
        let data = tensor.data.into_iter().map(|x| if p.role == Role::RunningVar { x.abs() + 0.1 } else { x });
        Tensor::new(p.shape.clone(), data.collect())
    });
    let weights = Weights(weights.collect());
    let inputs = graph.inputs.iter().map(|v| random.tensor(graph.shape(*v).with_batch(batch))).collect();
    let model = verify(Model { graph, weights, metadata: Vec::new() }).unwrap();
    Case { name: format!("{name}, batch {batch}"), model, inputs, exact }
}

/// A parameter of `shape`; [`case`] makes its contents.
pub fn param(b: &mut Builder, name: impl Into<String>, shape: &[usize], role: Role) -> ParamId {
    b.param(name, None, shape, role, Init::Constant(0.0))
}

struct Random(ChaCha8Rng);

impl Random {
    fn new(name: &str) -> Self {
        Self(ChaCha8Rng::seed_from_u64(name.bytes().fold(7, |h: u64, b| h.wrapping_mul(31).wrapping_add(b.into()))))
    }

    fn tensor(&mut self, shape: Vec<usize>) -> Tensor {
        let count = shape.iter().product();
        Tensor::new(shape, (0..count).map(|_| self.0.random_range(-1.0..1.0)).collect())
    }
}

/// The attributes of one convolution case: input channels, size, filters, groups.
struct Filters {
    c: usize,
    size: [usize; 2],
    m: usize,
    groups: usize,
}

struct Table {
    cases: Vec<Case>,
}

impl Table {
    /// A graph of one op over image inputs of `shapes` [C, H, W], for batch 1 and 3.
    fn images(&mut self, name: &str, exact: bool, shapes: &[[usize; 3]], op: impl Fn(&mut Builder) -> Op) {
        let shapes: Vec<Shape> = shapes.iter().map(|&[c, h, w]| Shape::image(c, h, w)).collect();
        for batch in [1, 3] {
            self.shaped(name, batch, exact, &shapes, &op);
        }
    }

    fn shaped(&mut self, name: &str, batch: usize, exact: bool, shapes: &[Shape], op: impl Fn(&mut Builder) -> Op) {
        self.cases.push(case(name, batch, exact, |b| {
            let inputs: Vec<ValueId> =
                shapes.iter().enumerate().map(|(i, s)| b.input(format!("input{i}"), s.clone())).collect();
            let op = op(b);
            let y = b.node("node", op, &inputs).unwrap();
            b.output("out", y);
        }));
    }

    fn conv(&mut self, what: &str, f: Filters, window: Window, bias: bool, relu: [bool; 2]) {
        let name = format!("conv {what} {}->{} on {}x{}", f.c, f.m, f.size[0], f.size[1]);
        let [kh, kw] = window.kernel;
        self.images(&name, false, &[[f.c, f.size[0], f.size[1]]], |b| {
            let weight = param(b, "weight", &[f.m, f.c / f.groups, kh, kw], Role::Weight);
            let bias = bias.then(|| param(b, "bias", &[f.m], Role::Bias));
            Op::Conv { weight, bias, window, groups: f.groups, relu_in: relu[0], relu_out: relu[1] }
        });
    }

    fn convolutions(&mut self) {
        let full = |c, size, m| Filters { c, size, m, groups: 1 };
        let (plain, both) = ([false, false], [true, true]);
        for (c, size, m) in
            [(13, [8, 8], 13), (5, [7, 7], 24), (9, [1, 1], 30), (4, [1, 3], 4), (16, [2, 6], 8), (3, [5, 8], 1)]
        {
            self.conv("pointwise", full(c, size, m), Window::valid(1, 1), true, plain);
        }
        self.conv("pointwise relu", full(12, [6, 6], 25), Window::valid(1, 1), false, both);
        self.conv("pointwise relu", full(12, [5, 5], 6), Window::valid(1, 1), true, both);
        self.conv("3x3", full(5, [7, 5], 7), Window::same(3, 1, 1), true, plain);
        self.conv("3x3 relu in", full(3, [9, 9], 4), Window::same(3, 1, 1), false, [true, false]);
        self.conv("3x3 relu out", full(3, [9, 6], 4), Window::same(3, 1, 1), true, [false, true]);
        self.conv("3x3 stride 2", full(4, [9, 8], 9), Window::same(3, 2, 1), false, plain);
        self.conv("3x3 stride 3", full(2, [8, 10], 3), Window::same(3, 3, 1), true, plain);
        self.conv("1x1 stride 2", full(6, [7, 8], 5), Window::valid(1, 2), false, [true, false]);
        self.conv("2x2 stride 2", full(6, [8, 8], 10), Window::valid(2, 2), true, [true, false]);
        self.conv("5x5 dilation 2", full(2, [11, 9], 3), Window::same(5, 1, 2), false, plain);
        self.conv("7x1", full(3, [8, 5], 5), Window::new([7, 1], [1, 1], [3, 0], [1, 1]), false, plain);
        self.conv("1x7 stride 1x2", full(3, [5, 8], 5), Window::new([1, 7], [1, 2], [0, 3], [1, 1]), true, plain);
        let uneven = Window { padding: [0, 1, 2, 3], ..Window::new([2, 3], [2, 1], [0, 0], [1, 2]) };
        self.conv("uneven", full(3, [6, 7], 6), uneven, true, both);
        self.conv(
            "1x1 padded",
            full(3, [4, 4], 5),
            Window { padding: [1, 0, 0, 2], ..Window::valid(1, 1) },
            true,
            plain,
        );
        let grouped = |c, m, groups| Filters { c, size: [7, 6], m, groups };
        self.conv("2 groups 3x3", grouped(6, 10, 2), Window::same(3, 1, 1), true, plain);
        self.conv("4 groups 1x1", grouped(8, 4, 4), Window::valid(1, 1), false, both);
        self.conv("3 groups 5x5 stride 2", grouped(6, 15, 3), Window::same(5, 2, 1), true, plain);
        self.conv("depthwise 3x3", grouped(5, 5, 5), Window::same(3, 1, 1), false, [true, false]);
        self.conv("depthwise 3x3 stride 2", grouped(6, 6, 6), Window::same(3, 2, 1), true, plain);
        self.conv("depthwise 5x5 dilation 2", grouped(4, 4, 4), Window::same(5, 1, 2), false, both);
        self.conv("depthwise 5x5 dilation 2 stride 2", grouped(4, 4, 4), Window::same(5, 2, 2), false, plain);
        self.conv("depthwise multiplier 3", grouped(4, 12, 4), Window::same(3, 1, 1), true, [false, true]);
        self.conv("depthwise uneven", grouped(3, 3, 3), uneven, true, plain);
        self.conv("depthwise 1x1", grouped(3, 3, 3), Window::valid(1, 1), true, plain);
        self.conv("one channel", full(1, [6, 6], 3), Window::same(3, 1, 1), true, plain);
    }

    fn pools(&mut self) {
        let ceil = |w: Window| Window { ceil: true, ..w };
        let windows = [
            ("3x3", Window::same(3, 1, 1), [7, 5]),
            ("3x3 stride 2", Window::same(3, 2, 1), [7, 8]),
            ("3x3 stride 2 ceil", ceil(Window::same(3, 2, 1)), [8, 7]),
            ("2x2 stride 2", Window::valid(2, 2), [6, 7]),
            ("2x2 stride 2 ceil", ceil(Window::valid(2, 2)), [5, 7]),
            ("5x5 stride 3", Window::valid(5, 3), [8, 8]),
            ("3x3 stride 3 ceil", ceil(Window::same(3, 3, 1)), [6, 9]),
            ("2x3 dilation 2x1", Window::new([2, 3], [1, 2], [1, 1], [2, 1]), [6, 5]),
            ("uneven", Window { padding: [0, 1, 1, 2], ..Window::new([2, 4], [2, 1], [0, 0], [1, 1]) }, [5, 6]),
            ("uneven ceil", ceil(Window { padding: [1, 0, 0, 1], ..Window::valid(3, 2) }), [6, 6]),
            ("1x1", Window::valid(1, 1), [3, 3]),
        ];
        for (name, window, [h, w]) in windows {
            let shapes = [[3, h, w]];
            self.images(&format!("max_pool {name}"), true, &shapes, |_| Op::MaxPool(window));
            for count_include_pad in [false, true] {
                let what = if count_include_pad { "with padding" } else { "without padding" };
                let op = |_: &mut Builder| Op::AvgPool { window, count_include_pad };
                self.images(&format!("avg_pool {name} {what}"), false, &shapes, op);
            }
        }
    }

    fn arithmetic(&mut self) {
        let norm = |affine: bool| {
            move |b: &mut Builder| Op::BatchNorm {
                scale: affine.then(|| param(b, "scale", &[5], Role::Scale)),
                shift: affine.then(|| param(b, "shift", &[5], Role::Shift)),
                mean: param(b, "mean", &[5], Role::RunningMean),
                var: param(b, "var", &[5], Role::RunningVar),
                epsilon: 1e-5,
            }
        };
        self.images("batch_norm affine", false, &[[5, 7, 3]], norm(true));
        self.images("batch_norm plain", false, &[[5, 4, 4]], norm(false));
        let matrix = Shape(vec![crate::ir::Dim::Batch, crate::ir::Dim::Fixed(5)]);
        self.shaped("batch_norm matrix", 3, false, std::slice::from_ref(&matrix), norm(true));
        self.shaped("batch_norm rank 3", 1, false, &[Shape::fixed(&[2, 5, 7])], norm(true));
        for shape in [[3, 5, 7], [4, 4, 4], [1, 1, 1]] {
            self.images(&format!("relu {shape:?}"), true, &[shape], |_| Op::Relu);
            self.images(&format!("add {shape:?}"), true, &[shape, shape], |_| Op::Add);
        }
        // A power of two divides exactly on every device. The inputs reach from -1 to 1: one grid saturates at both ends.
        for (scale, zero_point) in [(1.0 / 128.0, 0), (1.0 / 256.0, -28), (1.0 / 64.0, 127)] {
            let name = format!("quantize_dequantize {scale} {zero_point}");
            let op = |_: &mut Builder| Op::QuantizeDequantize(Grid { scale, zero_point });
            self.images(&name, true, &[[3, 5, 7]], op);
        }
        self.shaped("relu vector", 1, true, &[Shape::fixed(&[7])], |_| Op::Relu);
        for [h, w] in [[1, 1], [7, 7], [8, 8], [9, 20]] {
            self.images(&format!("global_avg_pool {h}x{w}"), false, &[[5, h, w]], |_| Op::GlobalAvgPool);
        }
        for (inner, outer, bias) in [(5, 10, true), (17, 1, true), (64, 3, false), (1, 8, true), (30, 13, true)] {
            let shape = Shape(vec![crate::ir::Dim::Batch, crate::ir::Dim::Fixed(inner)]);
            for batch in [1, 3] {
                self.shaped(&format!("linear {inner}->{outer}"), batch, false, std::slice::from_ref(&shape), |b| {
                    Op::Linear {
                        weight: param(b, "weight", &[outer, inner], Role::Weight),
                        bias: bias.then(|| param(b, "bias", &[outer], Role::Bias)),
                    }
                });
            }
        }
        self.imported();
        for indices in [vec![3], vec![0, 1, 2], vec![8, 9, 10, 11, 12, 13, 14, 15]] {
            let mut shapes = vec![Shape::fixed(&[2, 8])];
            shapes.resize(indices.len() + 1, Shape::image(3, 5, 3));
            for batch in [1, 3] {
                let name = format!("weighted_sum of {}", indices.len());
                self.shaped(&name, batch, false, &shapes, |_| Op::WeightedSum { indices: indices.clone() });
            }
        }
    }

    fn imported(&mut self) {
        let matrix = |columns| Shape(vec![crate::ir::Dim::Batch, crate::ir::Dim::Fixed(columns)]);
        for (name, op) in [("add", Arithmetic::Add), ("multiply", Arithmetic::Multiply)] {
            let op = |_: &mut Builder| Op::Imported(Imported::Elementwise(op));
            for other in [&[5, 1, 1][..], &[7], &[1, 3, 1], &[1, 5, 3, 7], &[], &[1, 5, 1, 7]] {
                let shapes = [Shape::image(5, 3, 7), Shape::fixed(other)];
                self.shaped(&format!("broadcast_{name} {other:?}"), 3, true, &shapes, op);
            }
            let crossed = [matrix(1), Shape::fixed(&[1, 6])];
            self.shaped(&format!("broadcast_{name} both"), 3, true, &crossed, op);
            let more = [Shape::fixed(&[2, 1, 3, 1, 2]), Shape::fixed(&[5, 3, 1, 1])];
            self.shaped(&format!("broadcast_{name} rank 5"), 1, true, &more, op);
        }
        self.cases.push(case("constant", 3, true, |b| {
            let x = b.input("input", Shape::image(2, 3, 3));
            let value = param(b, "value", &[2, 1, 3], Role::Weight);
            let constant = b.node("constant", Op::Imported(Imported::Constant(value)), &[]).unwrap();
            let y = b.node("sum", Op::Imported(Imported::Elementwise(Arithmetic::Add)), &[constant, x]).unwrap();
            b.output("out", y);
        }));
        type Product<'a> = (&'a [usize], &'a [usize], Option<&'a [usize]>, [bool; 2]);
        let products: [Product; 5] = [
            (&[3, 6], &[6, 4], None, [false, false]),
            (&[6, 3], &[6, 4], Some(&[3, 4]), [true, false]),
            (&[3, 6], &[5, 6], Some(&[1, 5]), [false, true]),
            (&[4, 3], &[5, 4], Some(&[3, 1]), [true, true]),
            (&[7, 9], &[9, 13], Some(&[]), [false, false]),
        ];
        for (a, b, c, transpose) in products {
            let shapes: Vec<Shape> = [a, b].into_iter().chain(c).map(Shape::fixed).collect();
            let op = |_: &mut Builder| Op::Imported(Imported::Gemm { alpha: 0.75, beta: -1.5, transpose });
            self.shaped(&format!("gemm {a:?} {b:?} {c:?}"), 1, false, &shapes, op);
        }
        let rows = [matrix(6), Shape::fixed(&[6, 5])];
        let plain = Imported::Gemm { alpha: 1.0, beta: 1.0, transpose: [false; 2] };
        self.shaped("gemm of rows", 3, false, &rows, |_| Op::Imported(plain.clone()));
        for axis in 0..3 {
            let op = |_: &mut Builder| Op::Imported(Imported::Softmax { axis });
            self.shaped(&format!("softmax axis {axis}"), 1, false, &[Shape::fixed(&[3, 10, 4])], op);
        }
        self.shaped("softmax of rows", 3, false, &[matrix(10)], |_| Op::Imported(Imported::Softmax { axis: 1 }));
        for size in [1, 2, 3, 5, 20] {
            let op = |_: &mut Builder| Op::Imported(Imported::Lrn { size, alpha: 0.5, beta: 0.75, bias: 1.25 });
            self.images(&format!("lrn {size}"), false, &[[7, 3, 5]], op);
        }
    }

    fn layouts(&mut self) {
        let range = |axis, start, len, step| Range { axis, start, len, step };
        self.images("flatten", true, &[[3, 2, 5]], |_| Op::Flatten { axis: 1 });
        for axis in 0..=3 {
            self.shaped(&format!("flatten axis {axis}"), 1, true, &[Shape::fixed(&[2, 3, 5])], |_| Op::Flatten {
                axis,
            });
        }
        self.images("drop_path", true, &[[3, 5, 5]], |_| Op::DropPath);
        self.images("concat channels", true, &[[3, 5, 3], [1, 5, 3], [4, 5, 3]], |_| Op::Concat { axis: 1 });
        self.images("concat rows", true, &[[2, 5, 3], [2, 1, 3]], |_| Op::Concat { axis: 2 });
        self.images("concat columns", true, &[[2, 3, 4], [2, 3, 1], [2, 3, 2]], |_| Op::Concat { axis: 3 });
        self.images("concat of one", true, &[[2, 3, 4]], |_| Op::Concat { axis: 1 });
        // 7 channels of float32 and 14 of float16 end a little before a place where another part may begin, 64 just there.
        for (channels, batch) in [(7, 1), (14, 1), (64, 1), (7, 3), (64, 3)] {
            self.cases.push(case(&format!("concat of {channels} channels"), batch, true, |b| parts(b, channels)));
        }
        let vectors = [Shape::fixed(&[3]), Shape::fixed(&[4])];
        self.shaped("concat vectors", 1, true, &vectors, |_| Op::Concat { axis: 0 });
        let slices = [
            ("channels", vec![range(1, 1, 3, 1)]),
            ("crop", vec![range(2, 1, 4, 1), range(3, 0, 5, 1)]),
            ("steps", vec![range(1, 0, 3, 2), range(2, 5, 3, -2), range(3, 1, 2, 3)]),
            ("reversed", vec![range(1, 4, 5, -1), range(3, 4, 5, -1)]),
            ("one pixel", vec![range(2, 3, 1, 1), range(3, 2, 1, 1)]),
            ("whole", vec![]),
        ];
        for (name, ranges) in slices {
            self.images(&format!("slice {name}"), true, &[[5, 6, 5]], |_| Op::Slice { ranges: ranges.clone() });
        }
        let pads = [
            ("shifted", [[0, 0], [0, 0], [0, 1], [0, 1]], 0.0),
            ("all around", [[0, 0], [1, 2], [3, 0], [1, 1]], -1.5),
            ("nothing", [[0; 2]; 4], 9.0),
        ];
        for (name, pads, value) in pads {
            self.images(&format!("pad {name}"), true, &[[3, 4, 5]], |_| Op::Pad { pads: pads.to_vec(), value });
        }
        self.shaped("pad matrix", 1, true, &[Shape::fixed(&[2, 3])], |_| Op::Pad {
            pads: vec![[1, 0], [0, 2]],
            value: 2.0,
        });
        let cube = Shape::fixed(&[2, 3, 2, 3, 2]);
        self.shaped("slice rank 5", 1, true, &[cube], |_| Op::Slice { ranges: vec![range(1, 2, 2, -1)] });
        for (channels, groups) in [(6, 2), (6, 3), (8, 4), (5, 1), (4, 4)] {
            let name = format!("channel_shuffle {channels} in {groups}");
            self.images(&name, true, &[[channels, 3, 5]], |_| Op::ChannelShuffle { groups });
        }
    }

    fn units(&mut self) {
        let windows = [
            ("3x3", Window::same(3, 1, 1), [8, 8]),
            ("3x3 on uneven rows", Window::same(3, 1, 1), [7, 12]),
            ("5x5", Window::same(5, 1, 1), [9, 8]),
            ("3x3 dilation 2", Window::same(3, 1, 2), [6, 4]),
            ("5x5 dilation 2", Window::same(5, 1, 2), [8, 12]),
            ("3x3 stride 2", Window::same(3, 2, 1), [8, 16]),
            ("3x3 stride 2 on 24 columns", Window::same(3, 2, 1), [5, 24]),
            ("3x3 on 32 columns", Window::same(3, 1, 1), [3, 32]),
            ("5x5 stride 2", Window::same(5, 2, 1), [9, 8]),
            ("5x5 dilation 2 stride 2", Window::same(5, 2, 2), [8, 8]),
            ("2x4 uneven", Window { padding: [1, 0, 0, 3], ..Window::new([2, 4], [1, 1], [0, 0], [2, 1]) }, [6, 8]),
            ("1x5 stride 3x1", Window::new([1, 5], [3, 1], [0, 2], [1, 1]), [10, 8]),
            // Rows of 7 pixels are not for the kernel of subgroups.
            ("3x3 on 7 columns", Window::same(3, 1, 1), [5, 7]),
            ("7x7 on 17 columns", Window::same(7, 1, 1), [9, 17]),
            ("7x7 dilation 2 stride 2", Window::same(7, 2, 2), [15, 13]),
            // Too large for the memory of a workgroup.
            ("7x7 stride 4", Window::same(7, 4, 1), [13, 10]),
        ];
        for (i, (name, window, [h, w])) in windows.into_iter().enumerate() {
            for batch in [1, 3] {
                let (channels, filters) = ([5, 13, 12][i % 3], [36, 40, 9, 20, 80][i % 5]);
                let name = format!("separable {name} {channels}->{filters}");
                let build = |b: &mut Builder| unit(b, window, [channels, h, w], filters, i % 2 == 0);
                self.cases.push(case(&name, batch, false, build));
            }
        }
        let (pixel, three) = (Window::valid(1, 1), Window::same(3, 1, 1));
        for (name, window, shape, filters, groups) in [
            ("pointwise", pixel, [13, 8, 8], 13, 1),
            ("pointwise of odd planes", pixel, [6, 5, 7], 34, 1),
            ("3x3", three, [5, 7, 6], 18, 1),
            ("3x3 in 2 groups", three, [6, 9, 9], 38, 2),
            ("depthwise", three, [6, 9, 10], 6, 6),
            ("depthwise 7x7 stride 4", Window::same(7, 4, 1), [3, 13, 10], 3, 3),
        ] {
            for batch in [1, 3] {
                let build = |b: &mut Builder| sum(b, window, shape, filters, groups);
                self.cases.push(case(&format!("sum {name}"), batch, false, build));
            }
        }
    }

    fn networks(&mut self) {
        for batch in [1, 3] {
            self.cases.push(case("cell", batch, false, cell));
        }
        for batch in [1, 3] {
            self.cases.push(case("network", batch, false, network));
        }
    }
}
