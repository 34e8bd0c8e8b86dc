//! The operations that exist in training graphs only, from the plain ones.
//!
//! Takes and gives tensors as the other files here.

use super::wide::Wide;
use super::{layout, math};
use crate::ir::{MixTerm, Range, Unit, Weights};

pub fn separable(x: &Wide, units: &[Unit], weights: &Weights) -> Wide {
    let of_unit = |unit: &Unit| {
        let (depthwise, pointwise) = (weights.get(unit.depthwise), weights.get(unit.pointwise));
        let groups = depthwise.shape[0];
        let y = math::relu(&channels(x, unit.from, groups));
        let y = math::conv(&y, depthwise, None, &unit.window, groups);
        let y = math::conv(&y, pointwise, None, &crate::ir::Window::valid(1, 1), 1);
        let get = |id: Option<_>| id.map(|id| weights.get(id));
        let (mean, var) = (weights.get(unit.mean), weights.get(unit.var));
        math::batch_norm(&y, get(unit.scale), get(unit.shift), mean, var, unit.epsilon)
    };
    let all: Vec<Wide> = units.iter().map(of_unit).collect();
    layout::concat(&all.iter().collect::<Vec<_>>(), 1)
}

pub fn mix(inputs: &[&Wide], count: usize, terms: &[MixTerm]) -> Wide {
    let mut shape = terms.first().map_or_else(Vec::new, |term| inputs[term.input].shape.clone());
    shape[1] = count;
    let plane: usize = shape[2..].iter().product();
    let mut y = Wide::new(shape.clone(), vec![0.0; shape.iter().product()]);
    for term in terms {
        let x = inputs[term.input];
        let factor: f64 = term.weights.iter().map(|&(input, element)| inputs[input].data[element]).product();
        for (n, i) in (0..shape[0]).flat_map(|n| (0..term.len).map(move |i| (n, i))) {
            let from = (n * x.shape[1] + term.from + i) * plane;
            let to = (n * count + term.to + i * term.step) * plane;
            let sum = y.data[to..to + plane].iter_mut().zip(&x.data[from..from + plane]);
            sum.for_each(|(y, x)| *y += factor * x);
        }
    }
    y
}

fn channels(x: &Wide, start: usize, len: usize) -> Wide {
    layout::slice(x, &[Range { axis: 1, start, len, step: 1 }])
}
