//! Affine combinations of planes: what normalisations, weighted sums, concatenations, shuffles and slices of channels, and the
//! gradients of all of these, come to.
//!
//! Takes source tensors and, for each channel, the source planes with their factors; gives the channels written out, plane by
//! plane for a kernel that reads them, or as a tensor. Nothing is written that nobody reads as a whole. The way back is in
//! `products`.
mod read;

use std::{ops::Range, sync::Arc};

use burn::backend::flex::FlexTensor;

use super::buffer::{View, fill_planes, into_tensor, readable};
pub use read::Planes;
use read::Ready;

/// A tensor whose planes take part, with a factor for each image where it has one (drop path).
#[derive(Clone, Debug)]
pub struct Source {
    tensor: Arc<FlexTensor>,
    per_image: Option<Arc<[f32]>>,
}

/// One plane of a source: `x * factor + offset`, both times the factor of the image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Term {
    /// Which source.
    pub source: usize,
    /// Its channel.
    pub channel: usize,
    /// What the plane is multiplied by.
    pub factor: f32,
    /// What is added to each pixel.
    pub offset: f32,
}

/// Channels of planes of one size, each an affine combination of source planes.
#[derive(Clone, Debug)]
pub struct Combination {
    /// Images, height and width.
    pub size: [usize; 3],
    /// What the terms name.
    pub sources: Vec<Source>,
    /// The terms of each channel, in order; without any it is zero.
    pub channels: Vec<Vec<Term>>,
}

impl Source {
    /// All images alike.
    pub fn new(tensor: FlexTensor) -> Self {
        Self::scaled(tensor, None)
    }

    /// Each image times its own factor.
    pub fn scaled(tensor: FlexTensor, per_image: Option<Arc<[f32]>>) -> Self {
        Self { tensor: Arc::new(readable(tensor)), per_image }
    }

    /// The same tensor, each image times its own factor.
    pub fn with_factors(&self, per_image: Option<Arc<[f32]>>) -> Self {
        Self { tensor: self.tensor.clone(), per_image }
    }

    /// Whether every plane of the other is the one of this at the same place.
    fn is(&self, other: &Self) -> bool {
        let place = |source: &Self| {
            let layout = source.tensor.layout();
            (source.tensor.storage::<f32>().as_ptr(), layout.start_offset())
        };
        let alike = || self.tensor.layout().strides() == other.tensor.layout().strides();
        let factors = [self, other].iter().all(|source| source.per_image.is_none());
        factors && place(self) == place(other) && alike()
    }

    /// The tensor.
    pub fn tensor(&self) -> &FlexTensor {
        &self.tensor
    }

    /// The factors of the images.
    pub fn per_image(&self) -> Option<&Arc<[f32]>> {
        self.per_image.as_ref()
    }
}

impl Combination {
    /// No terms at all: zeros.
    pub fn zeros(size: [usize; 3], channels: usize) -> Self {
        Self { size, sources: Vec::new(), channels: vec![Vec::new(); channels] }
    }

    /// The channels of the tensor as they are.
    pub fn whole(tensor: FlexTensor) -> Self {
        let [n, c, h, w] = tensor.layout().shape().dims();
        let channel = |channel| vec![Term { source: 0, channel, factor: 1.0, offset: 0.0 }];
        Self { size: [n, h, w], sources: vec![Source::new(tensor)], channels: (0..c).map(channel).collect() }
    }

    /// The tensor that this is, if it is the whole of one.
    pub fn as_tensor(&self) -> Option<&FlexTensor> {
        let (tensor, count) = if self.channels.is_empty() { None } else { self.whole_at(0) }?;
        (count == self.channels.len()).then_some(tensor)
    }

    /// Tensors whose channels one after the other are the channels: sources as they are, and what lies between them written out.
    pub fn parts(&self) -> Vec<FlexTensor> {
        let (mut parts, mut at, mut written) = (Vec::new(), 0, 0);
        let write = |range: Range<usize>, parts: &mut Vec<FlexTensor>| {
            if !range.is_empty() {
                let channels = self.channels[range].to_vec();
                parts.push(Self { size: self.size, sources: self.sources.clone(), channels }.tensor());
            }
        };
        while at < self.channels.len() {
            match self.whole_at(at) {
                Some((tensor, count)) => {
                    write(written..at, &mut parts);
                    parts.push(tensor.clone());
                    at += count;
                    written = at;
                }
                None => at += 1,
            }
        }
        write(written..at, &mut parts);
        parts
    }

    /// The source that the channels from `start` on are the whole of, and how many these are.
    fn whole_at(&self, start: usize) -> Option<(&FlexTensor, usize)> {
        let &[Term { source, .. }] = self.channels[start].as_slice() else { return None };
        let Source { tensor, per_image: None } = &self.sources[source] else { return None };
        let [_, count, ..] = tensor.layout().shape().dims::<4>();
        let whole = |(channel, terms): (usize, &Vec<Term>)| {
            terms.as_slice() == [Term { source, channel, factor: 1.0, offset: 0.0 }]
        };
        let mine = self.channels.get(start..start + count)?;
        mine.iter().enumerate().all(whole).then_some((tensor, count))
    }

    /// Adds `factor` times a channel of `source` plus `offset`, for each (channel, channel of the source, factor, offset).
    pub fn add(&mut self, source: Source, terms: impl IntoIterator<Item = (usize, usize, f32, f32)>) {
        let number = self.sources.len();
        for (to, channel, factor, offset) in terms {
            self.channels[to].push(Term { source: number, channel, factor, offset });
        }
        self.sources.push(source);
    }

    /// Adds the channels of another combination to those from `start` on.
    pub fn add_all(&mut self, other: &Combination, start: usize) {
        let first = self.sources.len();
        self.sources.extend(other.sources.iter().cloned());
        for (to, from) in self.channels[start..].iter_mut().zip(&other.channels) {
            to.extend(from.iter().map(|term| Term { source: term.source + first, ..*term }));
        }
    }

    /// [`Combination::add_all`] where a plane that is there already only gets another factor and offset: it is read once.
    pub fn merge(&mut self, other: &Combination, start: usize) {
        let known = self.sources.len();
        let mut place = |source: &Source| {
            self.sources[..known].iter().position(|mine| mine.is(source)).unwrap_or_else(|| {
                self.sources.push(source.clone());
                self.sources.len() - 1
            })
        };
        let places: Vec<usize> = other.sources.iter().map(&mut place).collect();
        for (to, from) in self.channels[start..].iter_mut().zip(&other.channels) {
            for term in from {
                let source = places[term.source];
                let same = |mine: &&mut Term| mine.source == source && mine.channel == term.channel;
                match to.iter_mut().filter(|_| source < known).find(same) {
                    Some(mine) => {
                        mine.factor += term.factor;
                        mine.offset += term.offset;
                    }
                    None => to.push(Term { source, ..*term }),
                }
            }
        }
    }

    /// The channels written out.
    pub fn tensor(&self) -> FlexTensor {
        if let Some(tensor) = self.as_tensor() {
            return tensor.clone();
        }
        let dims = self.dims();
        let planes = self.planes();
        let [y] = fill_planes(dims, [dims[2] * dims[3]], self.work(), |range, [out]| planes.write_range(range, out));
        into_tensor(y, dims)
    }

    pub(super) fn dims(&self) -> [usize; 4] {
        let [n, h, w] = self.size;
        [n, self.channels.len(), h, w]
    }

    /// Elementary steps of a plane.
    pub(super) fn work(&self) -> usize {
        self.channels.iter().map(Vec::len).max().unwrap_or(0).max(1) * self.size[1] * self.size[2]
    }

    /// For reading plane by plane.
    pub fn planes(&self) -> Planes<'_> {
        let views: Vec<View> = self.sources.iter().map(|source| View::new(&source.tensor)).collect();
        let count = self.channels.iter().map(Vec::len).sum();
        let (mut terms, mut starts) = (Vec::with_capacity(count), Vec::with_capacity(self.channels.len() + 1));
        for channel in &self.channels {
            starts.push(terms.len());
            terms.extend(channel.iter().map(|&Term { source, channel, factor, offset }| {
                let (data, image) = views[source].channel(channel);
                Ready { data, image, factor, offset, per_image: self.sources[source].per_image.as_deref() }
            }));
        }
        starts.push(terms.len());
        Planes { images: self.size[0], terms, starts }
    }
}
