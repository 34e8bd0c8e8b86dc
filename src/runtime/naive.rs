//! A third opinion for the tests: every op as its defining formula, in float64, element by element.
//!
//! Takes a model and inputs; gives the outputs, rounded to float32 once at the end. It shares no code with the reference or
//! the shaders and is as slow as it looks.

use crate::ir::{Arithmetic, Imported, Model, Op, ParamId, Tensor, Window};

/// The outputs of `model` for `inputs`.
pub fn run(model: &Model, inputs: &[Tensor]) -> Vec<Tensor> {
    let graph = &model.graph;
    let mut values: Vec<Option<Array>> = vec![None; graph.values.len()];
    for (id, input) in graph.inputs.iter().zip(inputs) {
        values[id.index()] = Some(Array::from(input));
    }
    for node in &graph.nodes {
        let xs: Vec<&Array> = node.inputs.iter().map(|v| values[v.index()].as_ref().unwrap()).collect();
        values[node.output.index()] = Some(match &node.op {
            Op::Imported(op) => imported(model, op, &xs),
            op => evaluate(model, op, &xs),
        });
    }
    let get = |id: crate::ir::ValueId| values[id.index()].as_ref().unwrap();
    graph.outputs.iter().map(|o| get(o.value)).map(Array::to_tensor).collect()
}

#[derive(Debug, Clone)]
struct Array {
    shape: Vec<usize>,
    data: Vec<f64>,
}

impl Array {
    fn from(tensor: &Tensor) -> Self {
        Self { shape: tensor.shape.clone(), data: tensor.data.iter().map(|&x| f64::from(x)).collect() }
    }

    fn make(shape: &[usize], element: impl Fn(&[usize]) -> f64) -> Self {
        let count: usize = shape.iter().product();
        let index = |mut flat: usize| {
            let mut index = vec![0; shape.len()];
            for (i, n) in index.iter_mut().zip(shape).rev() {
                (*i, flat) = (flat % n, flat / n);
            }
            index
        };
        Self { shape: shape.to_vec(), data: (0..count).map(|i| element(&index(i))).collect() }
    }

    /// The element at `index`, or `None` outside.
    fn at(&self, index: &[isize]) -> Option<f64> {
        let mut flat = 0;
        for (&i, &n) in index.iter().zip(&self.shape) {
            flat = flat * n + usize::try_from(i).ok().filter(|i| *i < n)?;
        }
        Some(self.data[flat])
    }

    fn get(&self, index: &[usize]) -> f64 {
        self.at(&index.iter().map(|&i| i as isize).collect::<Vec<_>>()).unwrap()
    }

    fn to_tensor(&self) -> Tensor {
        Tensor::new(self.shape.clone(), self.data.iter().map(|&x| x as f32).collect())
    }
}

fn evaluate(model: &Model, op: &Op, xs: &[&Array]) -> Array {
    let x = xs[0];
    let param = |id: ParamId| Array::from(model.weights.get(id));
    let relu = |on: bool, v: f64| if on { v.max(0.0) } else { v };
    match op {
        Op::Conv { weight, bias, window, groups, relu_in, relu_out } => {
            let (w, b) = (param(*weight), bias.map(param));
            let (m, per_group) = (w.shape[0], w.shape[1]);
            Array::make(&windowed(x, m, window), |i| {
                let group = i[1] / (m / groups);
                let mut sum = b.as_ref().map_or(0.0, |b| b.data[i[1]]);
                for c in 0..per_group {
                    for [ky, kx, iy, ix] in taps(window, i) {
                        let at = [i[0] as isize, (group * per_group + c) as isize, iy, ix];
                        let value = relu(*relu_in, x.at(&at).unwrap_or(0.0));
                        sum += w.get(&[i[1], c, ky as usize, kx as usize]) * value;
                    }
                }
                relu(*relu_out, sum)
            })
        }
        Op::BatchNorm { scale, shift, mean, var, epsilon } => {
            let all = [*scale, *shift, Some(*mean), Some(*var)].map(|id| id.map(param));
            let at = |k: usize, c: usize, other: f64| all[k].as_ref().map_or(other, |p| p.data[c]);
            Array::make(&x.shape, |i| {
                let c = i[1];
                let unit = (x.get(i) - at(2, c, 0.0)) / (at(3, c, 0.0) + f64::from(*epsilon)).sqrt();
                unit * at(0, c, 1.0) + at(1, c, 0.0)
            })
        }
        Op::Relu => Array::make(&x.shape, |i| relu(true, x.get(i))),
        Op::MaxPool(window) => Array::make(&windowed(x, x.shape[1], window), |i| {
            let values =
                taps(window, i).into_iter().filter_map(|[_, _, iy, ix]| x.at(&[i[0] as isize, i[1] as isize, iy, ix]));
            values.fold(f64::NEG_INFINITY, f64::max)
        }),
        Op::AvgPool { window, count_include_pad } => Array::make(&windowed(x, x.shape[1], window), |i| {
            let (mut sum, mut count) = (0.0, 0.0);
            let [_, _, bottom, right] = window.padding.map(|p| p as isize);
            for [_, _, iy, ix] in taps(window, i) {
                let value = x.at(&[i[0] as isize, i[1] as isize, iy, ix]);
                let padded = iy < x.shape[2] as isize + bottom && ix < x.shape[3] as isize + right;
                sum += value.unwrap_or(0.0);
                count += f64::from(u8::from(value.is_some() || (*count_include_pad && padded)));
            }
            sum / count
        }),
        Op::GlobalAvgPool => {
            let [h, w] = [x.shape[2], x.shape[3]];
            Array::make(&[x.shape[0], x.shape[1], 1, 1], |i| {
                let sum: f64 = (0..h * w).map(|p| x.get(&[i[0], i[1], p / w, p % w])).sum();
                sum / (h * w) as f64
            })
        }
        Op::Flatten { axis } => {
            let (rows, columns) = x.shape.split_at(*axis);
            Array { shape: vec![rows.iter().product(), columns.iter().product()], data: x.data.clone() }
        }
        Op::Linear { weight, bias } => {
            let (w, b) = (param(*weight), bias.map(param));
            Array::make(&[x.shape[0], w.shape[0]], |i| {
                let dot: f64 = (0..w.shape[1]).map(|k| x.get(&[i[0], k]) * w.get(&[i[1], k])).sum();
                dot + b.as_ref().map_or(0.0, |b| b.data[i[1]])
            })
        }
        Op::Add => Array::make(&x.shape, |i| x.get(i) + xs[1].get(i)),
        Op::Concat { axis } => {
            let mut shape = x.shape.clone();
            shape[*axis] = xs.iter().map(|x| x.shape[*axis]).sum();
            Array::make(&shape, |i| {
                let mut i = i.to_vec();
                for x in xs {
                    if i[*axis] < x.shape[*axis] {
                        return x.get(&i);
                    }
                    i[*axis] -= x.shape[*axis];
                }
                unreachable!("the index is inside")
            })
        }
        Op::Slice { ranges } => {
            let mut shape = x.shape.clone();
            ranges.iter().for_each(|r| shape[r.axis] = r.len);
            Array::make(&shape, |i| {
                let mut at: Vec<isize> = i.iter().map(|&i| i as isize).collect();
                ranges.iter().for_each(|r| at[r.axis] = r.start as isize + at[r.axis] * r.step);
                x.at(&at).unwrap()
            })
        }
        Op::Pad { pads, value } => {
            let shape: Vec<usize> = x.shape.iter().zip(pads).map(|(n, [a, b])| a + n + b).collect();
            Array::make(&shape, |i| {
                let at: Vec<isize> = i.iter().zip(pads).map(|(&i, [a, _])| i as isize - *a as isize).collect();
                x.at(&at).unwrap_or(f64::from(*value))
            })
        }
        Op::WeightedSum { indices } => Array::make(&xs[1].shape, |i| {
            indices.iter().zip(&xs[1..]).map(|(&k, summand)| x.data[k] * summand.get(i)).sum()
        }),
        Op::ChannelShuffle { groups } => Array::make(&x.shape, |i| {
            let per_group = x.shape[1] / groups;
            x.get(&[i[0], (i[1] % groups) * per_group + i[1] / groups, i[2], i[3]])
        }),
        Op::Separable { .. } | Op::Mix { .. } => unreachable!("training only: no shader has it"),
        Op::QuantizeDequantize(grid) => Array::make(&x.shape, |i| {
            // The quotient is rounded to float32; all after that is exact.
            let quotient = f64::from(x.get(i) as f32 / grid.scale);
            let below = quotient.floor();
            let up = quotient - below > 0.5 || (quotient - below == 0.5 && below % 2.0 != 0.0);
            let zero = f64::from(grid.zero_point);
            let code = (below + f64::from(u8::from(up)) + zero).clamp(-128.0, 127.0);
            (code - zero) * f64::from(grid.scale)
        }),
        Op::DropPath => x.clone(),
        Op::Imported(_) => unreachable!("taken before"),
    }
}

fn imported(model: &Model, op: &Imported, xs: &[&Array]) -> Array {
    // The element that counts for `index` of a larger shape.
    let spread = |x: &Array, index: &[usize]| {
        let inner = &index[index.len() - x.shape.len()..];
        x.get(&inner.iter().zip(&x.shape).map(|(&i, &n)| if n == 1 { 0 } else { i }).collect::<Vec<_>>())
    };
    match op {
        Imported::Constant(value) => Array::from(model.weights.get(*value)),
        Imported::Elementwise(arithmetic) => {
            let [a, b] = [&xs[0].shape, &xs[1].shape];
            let rank = a.len().max(b.len());
            let from_end = |s: &[usize], i: usize| if i < s.len() { s[s.len() - 1 - i] } else { 1 };
            let shape: Vec<usize> = (0..rank).rev().map(|i| from_end(a, i).max(from_end(b, i))).collect();
            Array::make(&shape, |i| match arithmetic {
                Arithmetic::Add => spread(xs[0], i) + spread(xs[1], i),
                Arithmetic::Multiply => spread(xs[0], i) * spread(xs[1], i),
            })
        }
        Imported::Gemm { alpha, beta, transpose } => {
            let swap = |on: bool, i: usize, j: usize| if on { [j, i] } else { [i, j] };
            let [rows, inner] = swap(transpose[0], xs[0].shape[0], xs[0].shape[1]);
            let columns = xs[1].shape[usize::from(!transpose[1])];
            Array::make(&[rows, columns], |i| {
                let term = |k: usize| xs[0].get(&swap(transpose[0], i[0], k)) * xs[1].get(&swap(transpose[1], k, i[1]));
                let dot: f64 = (0..inner).map(term).sum();
                f64::from(*alpha) * dot + xs.get(2).map_or(0.0, |c| f64::from(*beta) * spread(c, i))
            })
        }
        Imported::Softmax { axis } => Array::make(&xs[0].shape, |i| {
            let at = |k: usize| {
                xs[0].get(&i.iter().enumerate().map(|(a, &n)| if a == *axis { k } else { n }).collect::<Vec<_>>())
            };
            1.0 / (0..xs[0].shape[*axis]).map(|k| (at(k) - xs[0].get(i)).exp()).sum::<f64>()
        }),
        Imported::Lrn { size, alpha, beta, bias } => Array::make(&xs[0].shape, |i| {
            let first = i[1] as isize - (*size as isize - 1) / 2;
            let place = |k: isize| xs[0].at(&[i[0] as isize, k, i[2] as isize, i[3] as isize]).unwrap_or(0.0);
            let squares: f64 = (first..first + *size as isize).map(|k| place(k).powi(2)).sum();
            xs[0].get(i) / (f64::from(*bias) + f64::from(*alpha) / *size as f64 * squares).powf(f64::from(*beta))
        }),
    }
}

fn windowed(x: &Array, channels: usize, window: &Window) -> Vec<usize> {
    let out = |axis: usize| window.output(x.shape[2 + axis], axis).unwrap();
    vec![x.shape[0], channels, out(0), out(1)]
}

/// Tap and pixel, (ky, kx, y, x), of every tap of the window for the result at `[n, c, y, x]`.
fn taps(window: &Window, index: &[usize]) -> Vec<[isize; 4]> {
    let place = |axis: usize, k: usize| {
        (index[2 + axis] * window.stride[axis] + k * window.dilation[axis]) as isize - window.padding[axis] as isize
    };
    let columns = 0..window.kernel[1];
    (0..window.kernel[0])
        .flat_map(|ky| columns.clone().map(move |kx| (ky, kx)))
        .map(|(ky, kx)| [ky as isize, kx as isize, place(0, ky), place(1, kx)])
        .collect()
}
