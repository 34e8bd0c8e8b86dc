//! The walk back over the tape.
use std::collections::HashMap;

use burn::backend::{Flex, flex::FlexTensor};

use super::{
    Gradients, Tape,
    gradient::{Gradient, ThroughNorm},
    record::{Mix, Part, Read, Record, Separable},
    value::dims,
};
use crate::ir::{ParamId, ValueId};
use crate::kernels::{
    cpu::{
        combine::{Combination, Source},
        planes,
        products::{Factor, Products, tensor_and_products},
        separable, with_team,
    },
    ops::KernelGrads,
};

impl Tape {
    /// From the gradients of the outputs, `[N, classes, 1, 1]`, those of parameters and inputs. Gives up each part of the tape
    /// as soon as it is used.
    pub fn backward(self, outputs: Vec<FlexTensor>) -> Gradients {
        with_team(|| self.walk(outputs))
    }

    fn walk(self, outputs: Vec<FlexTensor>) -> Gradients {
        let mut back = Back {
            images: (0..self.values).map(|_| None).collect(),
            flat: HashMap::new(),
            params: (0..self.params).map(|_| None).collect(),
            weights: self.weights,
        };
        for (id, g) in self.outputs.iter().zip(outputs) {
            back.give(*id, g);
        }
        for step in self.records.into_iter().rev() {
            // What no output depends on has no gradient.
            let gradient = back.take(step.output).or_else(|| back.beside_others(&step.record));
            if let Some(gradient) = gradient {
                back.step(step.output, step.record, gradient);
            }
        }
        let flat = |(id, len): &(ValueId, usize)| {
            let mut sums = back.flat.remove(id)?;
            sums.resize(*len, 0.0);
            Some(sums.into_iter().map(|sum| sum as f32).collect())
        };
        let inputs = self.inputs.iter().map(flat).collect();
        Gradients { params: back.params, inputs }
    }
}

pub struct Back {
    images: Vec<Option<Gradient>>,
    flat: HashMap<ValueId, Vec<f64>>,
    params: Vec<Option<FlexTensor>>,
    pub weights: bool,
}

impl Back {
    fn step(&mut self, output: ValueId, record: Record, gradient: Gradient) {
        match record {
            Record::Conv(conv) => self.conv(conv, gradient.sum),
            // Written out until the convolution that made it comes: what it is the sum of is let go.
            Record::Made => self.give(output, gradient.sum.tensor()),
            Record::Norm { x, of, ids } => {
                let ThroughNorm { sum, scale, shift } = gradient.through(&of.z, &of.norm);
                self.norm(ids, &scale, &shift);
                self.give_all(x, dims(&of.z), &sum, 0);
            }
            Record::Relu { x, y } => self.give(x, Flex::rectify_grad(y, gradient.sum.tensor())),
            Record::MaxPool { x, dims, argmax, window, border } => {
                let dx = Flex::pool_max_grad(dims, argmax, gradient.sum.tensor(), window);
                self.give(x, if border == [[0, 0], [0, 0]] { dx } else { planes::crop(dx, border) });
            }
            Record::AvgPool { x, dims, window, count_include_pad } => {
                self.give(x, Flex::pool_avg_grad(dims, gradient.sum.tensor(), window, count_include_pad));
            }
            Record::Mean { x, size } => self.give(x, planes::means_grad(gradient.sum.tensor(), size)),
            Record::Reshape { x, dims } => self.give(x, planes::reshape(gradient.sum.tensor(), dims)),
            Record::Pad { x, border } => self.give(x, planes::crop(gradient.sum.tensor(), border)),
            Record::Crop { x, border } => self.give(x, planes::pad(gradient.sum.tensor(), border, 0.0)),
            Record::Channels { x, dims, start } => self.give_all(x, dims, &gradient.sum, start),
            Record::Separable(units) => self.separable(units, gradient),
            Record::Mix(mix) => self.mix(mix, &gradient.sum),
        }
    }

    fn gradient(&mut self, x: ValueId, [n, c, h, w]: [usize; 4]) -> &mut Gradient {
        self.images[x.index()].get_or_insert_with(|| Gradient::zeros([n, h, w], c))
    }

    pub fn peek(&self, x: ValueId) -> Option<&Gradient> {
        self.images[x.index()].as_ref()
    }

    pub fn take(&mut self, x: ValueId) -> Option<Gradient> {
        self.images[x.index()].take()
    }

    pub fn give(&mut self, x: ValueId, g: FlexTensor) {
        let dims = dims(&g);
        self.gradient(x, dims).add(Source::new(g), (0..dims[1]).map(|c| (c, c, 1.0)));
    }

    fn give_all(&mut self, x: ValueId, dims: [usize; 4], g: &Combination, start: usize) {
        self.gradient(x, dims).add_all(g, start);
    }

    pub fn param(&mut self, id: ParamId, g: FlexTensor) {
        let flat = g.layout().is_contiguous() && g.layout().shape().num_dims() == 1;
        let count = g.layout().num_elements();
        let g = if flat { g } else { g.to_contiguous().reshape(burn::tensor::Shape::new([count])) };
        let slot = &mut self.params[id.index()];
        *slot = Some(match slot.take() {
            Some(sum) => <Flex as burn::backend::ops::FloatTensorOps<Flex>>::float_add(sum, g),
            None => g,
        });
    }

    fn norm(&mut self, ids: [Option<ParamId>; 2], scale: &[f32], shift: &[f32]) {
        for (id, values) in ids.into_iter().zip([scale, shift]) {
            if let (true, Some(id)) = (self.weights, id) {
                self.param(id, planes::tensor(values.to_vec(), [values.len()]));
            }
        }
    }

    fn separable(&mut self, record: Separable, gradient: Gradient) {
        let ThroughNorm { sum, scale, shift } = gradient.through(&record.z, &record.norm);
        let mut start = 0;
        for (layer, unit) in record.layers.iter().zip(&record.units) {
            let channels = start..start + unit.outs;
            self.norm([layer.scale, layer.shift], &scale[channels.clone()], &shift[channels]);
            start += unit.outs;
        }
        let wanted = [record.wanted_x, self.weights];
        let centers = record.lines.as_ref().map(|norm| norm.mean.as_slice());
        let separable::Backward { dx, totals, dw } =
            separable::backward(&record.read, record.lines(), &record.units, &record.weights, &sum, centers, wanted);
        for (layer, grads) in record.layers.iter().zip(dw.into_iter().flatten()) {
            self.param(layer.depthwise, grads.depthwise);
            self.param(layer.pointwise, grads.pointwise);
        }
        if let Some(dx) = dx {
            let channels = separable::channels_read(&record.units);
            let terms = channels.iter().enumerate().map(|(from, &to)| (to, from, 1.0));
            let gradient = self.gradient(record.x, dims(&record.read));
            match centers {
                Some(_) => gradient.add_counted(Source::new(dx), terms, channels.iter().copied().zip(totals)),
                None => gradient.add(Source::new(dx), terms),
            }
        }
    }

    fn mix(&mut self, mix: Mix, g: &Combination) {
        let (g, products, places) = written_with_products(&mix, g);
        let g = Source::new(g);
        for (part, places) in mix.terms.iter().zip(places) {
            if let Read::Normal(_) | Read::Dense(_) = part.read {
                self.weights_of(part, &places, &products);
            }
            if !part.wanted_x {
                continue;
            }
            let source = g.with_factors(part.mask.clone());
            let terms = (0..part.len).map(|i| (part.from + i, part.to + i * part.step, part.factor));
            let gradient = self.gradient(part.x, part.dims);
            match part.read {
                Read::Normal(_) => {
                    let totals = places.iter().enumerate().map(|(i, &[channel, which])| {
                        let total = |which| f64::from(part.factor) * products.total(channel, which, part.mask.as_ref());
                        (part.from + i, [total(0), total(which)])
                    });
                    gradient.add_counted(source, terms, totals);
                }
                Read::Dense(_) | Read::Nothing => gradient.add(source, terms),
            }
        }
    }

    /// Gradients of the weights that multiply a term.
    fn weights_of(&mut self, part: &Part, places: &[[usize; 2]], products: &Products) {
        if !part.weights.iter().any(|weight| weight.3) {
            return;
        }
        let of_channel = |(i, &[channel, which]): (usize, &[usize; 2])| {
            let total = |which| products.total(channel, which, part.mask.as_ref());
            match &part.read {
                Read::Normal(normal) => {
                    let at = part.from + i;
                    f64::from(normal.norm.lines.factor[at]) * total(which) + f64::from(normal.norm.shift[at]) * total(0)
                }
                _ => total(which),
            }
        };
        let product: f64 = places.iter().enumerate().map(of_channel).sum();
        for (i, &(id, element, _, wanted)) in part.weights.iter().enumerate() {
            if wanted {
                let others = part.weights.iter().enumerate().filter(|(j, _)| *j != i);
                let others: f64 = others.map(|(_, weight)| f64::from(weight.2)).product();
                let sums = self.flat.entry(id).or_default();
                sums.resize(sums.len().max(element + 1), 0.0);
                sums[element] += others * product;
            }
        }
    }
}

/// The gradient written out, its products with all that was read and kept, and for each term and channel where its product is.
fn written_with_products(mix: &Mix, g: &Combination) -> (FlexTensor, Products, Vec<Vec<[usize; 2]>>) {
    let mut factors: Vec<Vec<Factor>> = vec![Vec::new(); g.channels.len()];
    let mut sources = Vec::new();
    let mut places = Vec::with_capacity(mix.terms.len());
    for part in &mix.terms {
        let (tensor, norm) = match &part.read {
            Read::Normal(normal) => (&normal.z, Some(&normal.norm)),
            Read::Dense(tensor) => (tensor, None),
            Read::Nothing => {
                places.push(Vec::new());
                continue;
            }
        };
        sources.push(tensor.clone());
        let place = |i: usize| {
            let (of_g, channel) = (part.to + i * part.step, part.from + i);
            let center = norm.map_or(0.0, |norm| norm.mean[channel]);
            factors[of_g].push(Factor { source: sources.len() - 1, channel, center });
            [of_g, factors[of_g].len()]
        };
        places.push((0..part.len).map(place).collect());
    }
    let (g, products) = tensor_and_products(g, &sources, &factors);
    (g, products, places)
}
