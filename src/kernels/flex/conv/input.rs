//! What a convolution reads: the channels of one tensor, or of several one after the other.
//!
//! A concatenation that only convolutions of single pixels read is never written out; they find its planes where they were
//! made.
use burn::backend::flex::FlexTensor;

use super::super::buffer::View;

/// Channels of planes of one size.
pub struct Input<'a> {
    /// Of each channel its plane in the first image, with all that follows, and the floats from there to that in the next.
    channels: Vec<(&'a [f32], usize)>,
    /// Where all are of one tensor.
    whole: Option<View<'a>>,
    pub dims: [usize; 4],
}

impl<'a> Input<'a> {
    /// The channels of tensors that [`readable`](super::super::buffer::readable) has seen, alike in all but channels.
    pub fn new(tensors: &'a [FlexTensor]) -> Self {
        let views: Vec<View> = tensors.iter().map(View::new).collect();
        let [n, _, h, w] = views[0].dims;
        assert!(
            views.iter().all(|v| [v.dims[0], v.dims[2], v.dims[3]] == [n, h, w]),
            "conv2d: the inputs differ in size"
        );
        let channels: Vec<_> = views.iter().flat_map(|view| (0..view.dims[1]).map(|c| view.channel(c))).collect();
        let whole = if let [view] = views.as_slice() { Some(*view) } else { None };
        Self { dims: [n, channels.len(), h, w], channels, whole }
    }

    pub fn pixels(&self) -> usize {
        self.dims[2] * self.dims[3]
    }

    pub fn plane(&self, image: usize, channel: usize) -> &'a [f32] {
        let (data, step) = self.channels[channel];
        &data[image * step..][..self.pixels()]
    }

    /// Whether its planes are those of one tensor, and how far apart they lie there; none for planes that are not.
    pub fn stride(&self) -> Option<usize> {
        self.whole.map(|view| view.plane)
    }

    /// From the start of channel `first` to the end of channel `first + count - 1`, [`Input::stride`] apart.
    pub fn planes(&self, image: usize, first: usize, count: usize) -> &'a [f32] {
        self.whole.expect("planes that lie apart are copied").planes(image, first, count)
    }
}
