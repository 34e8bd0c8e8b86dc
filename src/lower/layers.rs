//! The layers that primitives, cells and networks are made of, with their names.
//!
//! Takes a [`Scope`] and a value; adds nodes and parameters to the graph. Each parameter gets its own name from the path
//! and, beside it, the key of the same tensor in a PyTorch DARTS state_dict.

use crate::ir::{Builder, Init, IrError, Op, ParamId, Range, Role, Shape, ValueId, Window};

/// A place in the network: our path and the state_dict prefix of the PyTorch module at the same place.
#[derive(Debug, Clone)]
pub(super) struct Scope {
    path: String,
    alias: String,
}

impl Scope {
    pub fn new(path: impl Into<String>, alias: impl Into<String>) -> Self {
        Self { path: path.into(), alias: alias.into() }
    }

    /// A place inside this one. An empty `alias` means that PyTorch has no module of its own for it.
    pub fn child(&self, name: impl AsRef<str>, alias: impl AsRef<str>) -> Self {
        let alias = alias.as_ref();
        let dot = if alias.is_empty() || self.alias.is_empty() { "" } else { "." };
        Self { path: format!("{}/{}", self.path, name.as_ref()), alias: format!("{}{dot}{alias}", self.alias) }
    }

    pub fn path(&self) -> &str {
        &self.path
    }

    fn param(&self, suffix: &str) -> (String, Option<String>) {
        let key = |prefix: &str| format!("{prefix}.{suffix}");
        (key(&self.path.replace('/', ".")), Some(key(&self.alias)))
    }
}

/// Adds layers to a graph under construction.
pub(super) struct Layers {
    /// The graph.
    pub graph: Builder,
    /// Whether batch norms inside cells have scale and shift: not while searching.
    pub affine: bool,
}

impl Layers {
    /// A bias-free convolution to `out` channels at `at`.
    pub fn conv(
        &mut self,
        at: &Scope,
        x: ValueId,
        out: usize,
        window: Window,
        groups: usize,
    ) -> Result<ValueId, IrError> {
        let inner = self.channels(x) / groups;
        let [kh, kw] = window.kernel;
        let bound = 1.0 / ((inner * kh * kw) as f32).sqrt();
        let (name, alias) = at.param("weight");
        let weight = self.graph.param(name, alias, &[out, inner, kh, kw], Role::Weight, Init::Uniform { bound });
        self.graph.node(at.path(), Op::conv(weight, None, window, groups), &[x])
    }

    /// A 1x1 convolution.
    pub fn pointwise(&mut self, at: &Scope, x: ValueId, out: usize, stride: usize) -> Result<ValueId, IrError> {
        self.conv(at, x, out, Window::valid(1, stride), 1)
    }

    /// A depthwise convolution that keeps the size at stride 1.
    pub fn depthwise(&mut self, at: &Scope, x: ValueId, window: Window) -> Result<ValueId, IrError> {
        let channels = self.channels(x);
        self.conv(at, x, channels, window, channels)
    }

    /// Batch norm as cells have it.
    pub fn norm(&mut self, at: &Scope, x: ValueId) -> Result<ValueId, IrError> {
        self.batch_norm(at, x, self.affine)
    }

    /// Batch norm with or without scale and shift.
    pub fn batch_norm(&mut self, at: &Scope, x: ValueId, affine: bool) -> Result<ValueId, IrError> {
        let channels = self.channels(x);
        let mut param = |suffix: &str, role: Role, start: f32| {
            let (name, alias) = at.param(suffix);
            self.graph.param(name, alias, &[channels], role, Init::Constant(start))
        };
        let affine: Option<[ParamId; 2]> =
            affine.then(|| [param("weight", Role::Scale, 1.0), param("bias", Role::Shift, 0.0)]);
        let mean = param("running_mean", Role::RunningMean, 0.0);
        let var = param("running_var", Role::RunningVar, 1.0);
        let op = Op::BatchNorm { scale: affine.map(|a| a[0]), shift: affine.map(|a| a[1]), mean, var, epsilon: 1e-5 };
        self.graph.node(at.path(), op, &[x])
    }

    pub fn relu(&mut self, at: &Scope, x: ValueId) -> Result<ValueId, IrError> {
        self.graph.node(at.path(), Op::Relu, &[x])
    }

    /// ReLU, 1x1 convolution, batch norm.
    pub fn relu_conv_bn(&mut self, at: &Scope, x: ValueId, out: usize) -> Result<ValueId, IrError> {
        let y = self.relu(&at.child("relu", ""), x)?;
        let y = self.pointwise(&at.child("pointwise", "op.1"), y, out, 1)?;
        self.norm(&at.child("norm", "op.2"), y)
    }

    /// Halves the resolution without losing pixels: ReLU, two strided 1x1 convolutions of which the second sees the image
    /// shifted by one pixel, concat, batch norm. Odd sizes are padded by one at the end first.
    pub fn factorized_reduce(&mut self, at: &Scope, x: ValueId, out: usize) -> Result<ValueId, IrError> {
        let mut y = self.relu(&at.child("relu", ""), x)?;
        let [_, h, w] = self.chw(y);
        if h % 2 == 1 || w % 2 == 1 {
            let pads = vec![[0, 0], [0, 0], [0, h % 2], [0, w % 2]];
            y = self.graph.node(at.child("pad", "").path(), Op::Pad { pads, value: 0.0 }, &[y])?;
        }
        let [_, h, w] = self.chw(y);
        let tail = |axis: usize, size: usize| Range { axis, start: 1, len: size - 1, step: 1 };
        let ranges = vec![tail(2, h), tail(3, w)];
        let shifted = self.graph.node(at.child("shift", "").path(), Op::Slice { ranges }, &[y])?;
        let a = self.pointwise(&at.child("even", "conv_1"), y, out / 2, 2)?;
        let b = self.pointwise(&at.child("odd", "conv_2"), shifted, out - out / 2, 2)?;
        let y = self.concat(&at.child("concat", ""), &[a, b])?;
        self.norm(&at.child("norm", "bn"), y)
    }

    /// Concatenation of channels.
    pub fn concat(&mut self, at: &Scope, xs: &[ValueId]) -> Result<ValueId, IrError> {
        self.graph.node(at.path(), Op::Concat { axis: 1 }, xs)
    }

    /// A linear layer with bias on `[N, I]`.
    pub fn linear(&mut self, at: &Scope, x: ValueId, out: usize) -> Result<ValueId, IrError> {
        let inner = self.graph.shape(x).dim(1).unwrap_or_default();
        let init = Init::Uniform { bound: 1.0 / (inner.max(1) as f32).sqrt() };
        let (name, alias) = at.param("weight");
        let weight = self.graph.param(name, alias, &[out, inner], Role::Weight, init);
        let (name, alias) = at.param("bias");
        let bias = Some(self.graph.param(name, alias, &[out], Role::Bias, init));
        self.graph.node(at.path(), Op::Linear { weight, bias }, &[x])
    }

    /// Channels, height and width of an image value.
    pub fn chw(&self, x: ValueId) -> [usize; 3] {
        self.graph.shape(x).chw().expect("lowering makes images until the classifier")
    }

    pub fn channels(&self, x: ValueId) -> usize {
        self.chw(x)[0]
    }

    pub fn input(&mut self, name: &str, shape: Shape) -> ValueId {
        self.graph.input(name, shape)
    }
}
