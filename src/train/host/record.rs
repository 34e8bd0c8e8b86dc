//! What each kind of node keeps for the way back.
use std::sync::Arc;

use burn::backend::flex::FlexTensor;

use super::{
    Mask,
    graph::Member,
    value::{Norm, Normal},
};
use crate::ir::{ParamId, Unit as Layers, ValueId};
use crate::kernels::{
    Window,
    cpu::{
        planes::Border,
        separable::{Lines, Unit, UnitWeights},
    },
};

/// One node's part of the tape.
pub enum Record {
    Conv(Conv),
    /// An earlier convolution made this one's value as well.
    Made,
    Norm {
        x: ValueId,
        of: Normal,
        ids: [Option<ParamId>; 2],
    },
    Relu {
        x: ValueId,
        y: FlexTensor,
    },
    MaxPool {
        x: ValueId,
        dims: [usize; 4],
        argmax: FlexTensor,
        window: Window,
        border: Border,
    },
    AvgPool {
        x: ValueId,
        dims: [usize; 4],
        window: Window,
        count_include_pad: bool,
    },
    Mean {
        x: ValueId,
        size: [usize; 2],
    },
    Reshape {
        x: ValueId,
        dims: [usize; 4],
    },
    Pad {
        x: ValueId,
        border: Border,
    },
    Crop {
        x: ValueId,
        border: Border,
    },
    Channels {
        x: ValueId,
        dims: [usize; 4],
        start: usize,
    },
    Separable(Separable),
    Mix(Mix),
}

/// Convolutions of one value.
pub struct Conv {
    pub x: ValueId,
    /// What it read, before its ReLU; only a convolution of single pixels reads several images' channels.
    pub read: Vec<FlexTensor>,
    /// Of all members.
    pub weight: FlexTensor,
    pub members: Vec<Member>,
    pub bias_id: Option<ParamId>,
    pub window: Window,
    pub groups: usize,
    pub relu_in: bool,
    /// The result, where a ReLU follows.
    pub rectified: Option<FlexTensor>,
    pub wanted_x: bool,
}

/// Separable units.
pub struct Separable {
    pub x: ValueId,
    /// What they read, before its normalisation.
    pub read: FlexTensor,
    pub lines: Option<Arc<Norm>>,
    pub units: Vec<Unit>,
    pub layers: Vec<Layers>,
    pub weights: Vec<UnitWeights>,
    /// What they made, before its normalisation.
    pub z: FlexTensor,
    pub norm: Arc<Norm>,
    pub wanted_x: bool,
}

/// A sum of channels.
pub struct Mix {
    pub terms: Vec<Part>,
}

/// A term of a sum.
pub struct Part {
    pub x: ValueId,
    pub dims: [usize; 4],
    /// Channels: first of the value, first of the result, number and distance in the result.
    pub from: usize,
    pub to: usize,
    pub len: usize,
    pub step: usize,
    pub factor: f32,
    /// The weights that the factor is the product of: value, element and contents, and whether it wants a gradient.
    pub weights: Vec<(ValueId, usize, f32, bool)>,
    pub mask: Mask,
    /// What was read, where a gradient needs it.
    pub read: Read,
    pub wanted_x: bool,
}

/// What a term of a sum read.
pub enum Read {
    Nothing,
    Dense(FlexTensor),
    Normal(Normal),
}

impl Separable {
    pub fn lines(&self) -> Option<&Lines> {
        self.lines.as_ref().map(|norm| &norm.lines)
    }
}
