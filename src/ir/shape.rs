//! Shapes with a symbolic batch, and the rule by which each op's result shape follows from its inputs.
//!
//! Takes an op, input shapes and parameter descriptions; gives the result's [`Shape`] or an error that names the node.

use std::fmt;

use super::{IrError, MixTerm, Op, Param, ParamId, Range, Unit, Window};

/// One dimension.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dim {
    /// The number of images, known at run time.
    Batch,
    /// A known size.
    Fixed(usize),
}

/// The dimensions of a tensor, outermost first. At most the first is [`Dim::Batch`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Shape(pub Vec<Dim>);

impl Shape {
    /// Images: `[batch, channels, height, width]`.
    pub fn image(channels: usize, height: usize, width: usize) -> Self {
        Self(vec![Dim::Batch, Dim::Fixed(channels), Dim::Fixed(height), Dim::Fixed(width)])
    }

    /// All dimensions known.
    pub fn fixed(dims: &[usize]) -> Self {
        Self(dims.iter().map(|&d| Dim::Fixed(d)).collect())
    }

    /// Number of dimensions.
    pub fn rank(&self) -> usize {
        self.0.len()
    }

    /// The dimensions with `batch` put in for the symbolic one.
    pub fn with_batch(&self, batch: usize) -> Vec<usize> {
        self.0.iter().map(|d| if let Dim::Fixed(n) = d { *n } else { batch }).collect()
    }

    /// Elements per image if the batch is symbolic, else of the whole tensor.
    pub fn elements(&self) -> usize {
        self.with_batch(1).iter().product()
    }

    /// The size of dimension `axis`, if it is there and known.
    pub fn dim(&self, axis: usize) -> Option<usize> {
        match self.0.get(axis) {
            Some(Dim::Fixed(n)) => Some(*n),
            _ => None,
        }
    }

    /// Channels, height and width of an image shape `[N, C, H, W]`.
    pub fn chw(&self) -> Option<[usize; 3]> {
        (self.rank() == 4).then(|| Some([self.dim(1)?, self.dim(2)?, self.dim(3)?])).flatten()
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (i, dim) in self.0.iter().enumerate() {
            let comma = if i > 0 { ", " } else { "" };
            match dim {
                Dim::Batch => write!(f, "{comma}N")?,
                Dim::Fixed(n) => write!(f, "{comma}{n}")?,
            }
        }
        f.write_str("]")
    }
}

/// The shape of the result of `op` on `inputs`, or what does not fit. `node` is the path for the message.
pub(super) fn infer(node: &str, op: &Op, inputs: &[&Shape], params: &[Param]) -> Result<Shape, IrError> {
    let rule = Rule { node, op, inputs, params };
    match op {
        Op::Conv { weight, bias, window, groups, .. } => rule.conv(*weight, *bias, window, *groups),
        Op::BatchNorm { scale, shift, mean, var, .. } => {
            let x = rule.one()?;
            let channels = x.dim(1).ok_or_else(|| rule.error("axis 1 must have a known size".into()))?;
            for id in [*scale, *shift, Some(*mean), Some(*var)].into_iter().flatten() {
                rule.expect_param(id, &[channels])?;
            }
            Ok(x.clone())
        }
        Op::Relu | Op::DropPath => rule.one().cloned(),
        Op::QuantizeDequantize(grid) => match grid.is_usable() {
            true => rule.one().cloned(),
            false => Err(rule.error(format!("the scale {} must be a normal number above 0", grid.scale))),
        },
        Op::MaxPool(window) | Op::AvgPool { window, .. } => {
            let x = rule.one()?;
            let [c, h, w] = rule.chw(x)?;
            rule.windowed(x, c, [h, w], window)
        }
        Op::GlobalAvgPool => {
            let x = rule.one()?;
            let [c, _, _] = rule.chw(x)?;
            Ok(Shape(vec![x.0[0], Dim::Fixed(c), Dim::Fixed(1), Dim::Fixed(1)]))
        }
        Op::Flatten { axis } => rule.flatten(*axis),
        Op::Linear { weight, bias } => {
            let x = rule.one()?;
            let (2, Some(inner)) = (x.rank(), x.dim(1)) else {
                return Err(rule.error("the input must be [N, I]".into()));
            };
            let shape = &params[weight.index()].shape;
            let &[outer, _] = shape.as_slice() else {
                return Err(rule.error(format!("the weight must be [O, I], not {shape:?}")));
            };
            rule.expect_param(*weight, &[outer, inner])?;
            if let Some(bias) = bias {
                rule.expect_param(*bias, &[outer])?;
            }
            Ok(Shape(vec![x.0[0], Dim::Fixed(outer)]))
        }
        Op::Add => {
            let &[a, b] = inputs else { return Err(rule.arity("2")) };
            if a != b {
                return Err(rule.error("the two shapes must be equal".into()));
            }
            Ok(a.clone())
        }
        Op::Concat { axis } => rule.concat(*axis),
        Op::Slice { ranges } => rule.slice(ranges),
        Op::Pad { pads, .. } => {
            let x = rule.one()?;
            if pads.len() != x.rank() {
                return Err(rule.error(format!("{} pairs of pads for {} dimensions", pads.len(), x.rank())));
            }
            let mut out = x.clone();
            for (dim, [before, after]) in out.0.iter_mut().zip(pads) {
                match dim {
                    Dim::Fixed(n) => *n += before + after,
                    Dim::Batch if before + after == 0 => {}
                    Dim::Batch => return Err(rule.error("the batch dimension cannot be padded".into())),
                }
            }
            Ok(out)
        }
        Op::WeightedSum { indices } => rule.weighted_sum(indices),
        Op::Separable { units } => rule.separable(units),
        Op::Mix { channels, terms } => rule.mix(*channels, terms),
        Op::Imported(imported) => rule.imported(imported),
        Op::ChannelShuffle { groups } => {
            let x = rule.one()?;
            let [c, _, _] = rule.chw(x)?;
            if *groups == 0 || !c.is_multiple_of(*groups) {
                return Err(rule.error(format!("{c} channels cannot be divided into {groups} groups")));
            }
            Ok(x.clone())
        }
    }
}

/// One application of an op, with the words for its errors.
pub(super) struct Rule<'a> {
    node: &'a str,
    op: &'a Op,
    pub(super) inputs: &'a [&'a Shape],
    pub(super) params: &'a [Param],
}

impl Rule<'_> {
    pub(super) fn error(&self, why: String) -> IrError {
        let shapes = self.inputs.iter().map(|s| s.to_string()).collect::<Vec<_>>().join(", ");
        IrError::Shape { node: self.node.into(), op: self.op.name(), shapes, why }
    }

    pub(super) fn arity(&self, expected: &'static str) -> IrError {
        IrError::Arity { node: self.node.into(), op: self.op.name(), expected, got: self.inputs.len() }
    }

    pub(super) fn one(&self) -> Result<&Shape, IrError> {
        match self.inputs {
            [x] => Ok(x),
            _ => Err(self.arity("1")),
        }
    }

    pub(super) fn chw(&self, x: &Shape) -> Result<[usize; 3], IrError> {
        x.chw().ok_or_else(|| self.error("the input must be [N, C, H, W] with known C, H and W".into()))
    }

    fn expect_param(&self, id: ParamId, expected: &[usize]) -> Result<(), IrError> {
        let Some(param) = self.params.get(id.index()) else {
            return Err(self.error(format!("parameter {} does not exist", id.index())));
        };
        if param.shape != expected {
            return Err(self.error(format!("parameter `{}` is {:?} and must be {expected:?}", param.name, param.shape)));
        }
        Ok(())
    }

    fn windowed(&self, x: &Shape, channels: usize, size: [usize; 2], window: &Window) -> Result<Shape, IrError> {
        if window.kernel.contains(&0) || window.stride.contains(&0) || window.dilation.contains(&0) {
            return Err(self.error(format!("kernel, stride and dilation must be at least 1, got {window:?}")));
        }
        let out = |axis: usize| {
            let message = || format!("a window of {} does not fit {} pixels", window.extent(axis), size[axis]);
            window.output(size[axis], axis).ok_or_else(|| self.error(message()))
        };
        Ok(Shape(vec![x.0[0], Dim::Fixed(channels), Dim::Fixed(out(0)?), Dim::Fixed(out(1)?)]))
    }

    fn conv(&self, weight: ParamId, bias: Option<ParamId>, window: &Window, groups: usize) -> Result<Shape, IrError> {
        let x = self.one()?;
        let [c, h, w] = self.chw(x)?;
        let shape = &self.params[weight.index()].shape;
        let &[out, ..] = shape.as_slice() else {
            return Err(self.error(format!("the weight must be [M, C / groups, kH, kW], not {shape:?}")));
        };
        if groups == 0 || !c.is_multiple_of(groups) || !out.is_multiple_of(groups) {
            return Err(self.error(format!("{c} input and {out} output channels do not divide into {groups} groups")));
        }
        self.expect_param(weight, &[out, c / groups, window.kernel[0], window.kernel[1]])?;
        if let Some(bias) = bias {
            self.expect_param(bias, &[out])?;
        }
        if window.ceil {
            return Err(self.error("a convolution has no ceil mode".into()));
        }
        self.windowed(x, out, [h, w], window)
    }

    fn flatten(&self, axis: usize) -> Result<Shape, IrError> {
        let x = self.one()?;
        if axis > x.rank() {
            return Err(self.error(format!("axis {axis} is beyond the last dimension")));
        }
        let (rows, columns) = x.0.split_at(axis);
        if columns.contains(&Dim::Batch) {
            return Err(self.error("the batch dimension must stay among the rows".into()));
        }
        let size = |dims: &[Dim]| Shape(dims.to_vec()).elements();
        let rows = match rows {
            [Dim::Batch, rest @ ..] if size(rest) == 1 => Dim::Batch,
            [Dim::Batch, ..] => return Err(self.error("rows of a symbolic batch must be images".into())),
            known => Dim::Fixed(size(known)),
        };
        Ok(Shape(vec![rows, Dim::Fixed(size(columns))]))
    }

    fn concat(&self, axis: usize) -> Result<Shape, IrError> {
        let Some(&first) = self.inputs.first() else { return Err(self.arity("1 or more")) };
        let mut total = 0;
        for x in self.inputs {
            let same =
                x.rank() == first.rank() && x.0.iter().zip(&first.0).enumerate().all(|(i, (a, b))| i == axis || a == b);
            match (same, x.dim(axis)) {
                (true, Some(n)) => total += n,
                _ => return Err(self.error(format!("the shapes must be equal but for a known axis {axis}"))),
            }
        }
        let mut out = first.clone();
        out.0[axis] = Dim::Fixed(total);
        Ok(out)
    }

    fn slice(&self, ranges: &[Range]) -> Result<Shape, IrError> {
        let x = self.one()?;
        let mut out = x.clone();
        let mut seen = vec![false; x.rank()];
        for r in ranges {
            let Some(size) = x.dim(r.axis) else {
                return Err(self.error(format!("axis {} does not exist or has no known size", r.axis)));
            };
            if std::mem::replace(&mut seen[r.axis], true) {
                return Err(self.error(format!("axis {} is cut twice", r.axis)));
            }
            let last = r.start as i128 + (r.len as i128 - 1) * r.step as i128;
            if r.step == 0 || (r.len > 0 && (r.start >= size || last < 0 || last >= size as i128)) {
                return Err(self.error(format!("{r:?} leaves the axis of size {size}")));
            }
            out.0[r.axis] = Dim::Fixed(r.len);
        }
        Ok(out)
    }

    fn weighted_sum(&self, indices: &[usize]) -> Result<Shape, IrError> {
        let [weights, first, rest @ ..] = self.inputs else {
            return Err(self.arity("the weights and 1 or more summands, 2 or more in all,"));
        };
        if indices.len() != rest.len() + 1 {
            return Err(self.error(format!("{} indices for {} summands", indices.len(), rest.len() + 1)));
        }
        if weights.0.contains(&Dim::Batch) {
            return Err(self.error("the weights must have a known size".into()));
        }
        if let Some(index) = indices.iter().find(|&&i| i >= weights.elements()) {
            return Err(self.error(format!("index {index} is beyond the weights")));
        }
        if rest.iter().any(|x| x != first) {
            return Err(self.error("all summands must have one shape".into()));
        }
        Ok((*first).clone())
    }

    fn separable(&self, units: &[Unit]) -> Result<Shape, IrError> {
        let x = self.one()?;
        let [c, h, w] = self.chw(x)?;
        let (mut total, mut shape) = (0, None);
        for unit in units {
            let &[ins, ..] = self.params[unit.depthwise.index()].shape.as_slice() else {
                return Err(self.error("the depthwise weight must be [C, 1, kH, kW]".into()));
            };
            let &[outs, ..] = self.params[unit.pointwise.index()].shape.as_slice() else {
                return Err(self.error("the pointwise weight must be [M, C, 1, 1]".into()));
            };
            self.expect_param(unit.depthwise, &[ins, 1, unit.window.kernel[0], unit.window.kernel[1]])?;
            self.expect_param(unit.pointwise, &[outs, ins, 1, 1])?;
            for id in [unit.scale, unit.shift, Some(unit.mean), Some(unit.var)].into_iter().flatten() {
                self.expect_param(id, &[outs])?;
            }
            if unit.from + ins > c || unit.window.ceil || unit.window.symmetric_padding().is_none() {
                return Err(self.error(format!("{unit:?} does not fit the input")));
            }
            let of_unit = self.windowed(x, 0, [h, w], &unit.window)?;
            if *shape.get_or_insert_with(|| of_unit.clone()) != of_unit {
                return Err(self.error("all units must make planes of one size".into()));
            }
            total += outs;
        }
        let mut shape = shape.ok_or_else(|| self.error("there must be a unit".into()))?;
        shape.0[1] = Dim::Fixed(total);
        Ok(shape)
    }

    fn mix(&self, channels: usize, terms: &[MixTerm]) -> Result<Shape, IrError> {
        let mut shape: Option<Shape> = None;
        for term in terms {
            let Some(x) = self.inputs.get(term.input) else { return Err(self.arity("as many as its terms name")) };
            let [c, ..] = self.chw(x)?;
            let last = (term.len > 0).then(|| term.to + (term.len - 1) * term.step);
            if term.from + term.len > c || last.is_none_or(|last| last >= channels) || term.step == 0 {
                return Err(self.error(format!("{term:?} does not fit")));
            }
            for &(input, element) in &term.weights {
                let weights = self.inputs.get(input).filter(|w| !w.0.contains(&Dim::Batch) && element < w.elements());
                weights.ok_or_else(|| self.error(format!("there is no weight {element} in input {input}")))?;
            }
            let mut of_term = (*x).clone();
            of_term.0[1] = Dim::Fixed(channels);
            if *shape.get_or_insert_with(|| of_term.clone()) != of_term {
                return Err(self.error("all terms must have planes of one size".into()));
            }
        }
        shape.ok_or_else(|| self.error("there must be a term".into()))
    }
}
