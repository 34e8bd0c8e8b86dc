//! What the ops that look at parts of a tensor share: windows and ranges.
//!
//! Takes nothing; gives [`Window`] with the size of its result, and [`Range`].

/// A sliding window over the two spatial dimensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Window {
    /// Height and width, at least 1.
    pub kernel: [usize; 2],
    /// Step in height and width, at least 1.
    pub stride: [usize; 2],
    /// Zeros (for max pooling: minus infinity) around the image: top, left, bottom, right.
    pub padding: [usize; 4],
    /// Distance between taps, at least 1.
    pub dilation: [usize; 2],
    /// Whether a last window that only partly covers the padded image counts (pooling only).
    pub ceil: bool,
}

impl Window {
    /// A square window that keeps the size at stride 1: padding is half the extent of the dilated kernel.
    pub fn same(kernel: usize, stride: usize, dilation: usize) -> Self {
        let pad = dilation * (kernel / 2);
        Self::new([kernel, kernel], [stride, stride], [pad, pad], [dilation, dilation])
    }

    /// A square window without padding.
    pub fn valid(kernel: usize, stride: usize) -> Self {
        Self::new([kernel, kernel], [stride, stride], [0, 0], [1, 1])
    }

    /// A window with symmetric padding (height, width).
    pub fn new(kernel: [usize; 2], stride: [usize; 2], padding: [usize; 2], dilation: [usize; 2]) -> Self {
        let [h, w] = padding;
        Self { kernel, stride, padding: [h, w, h, w], dilation, ceil: false }
    }

    /// The padding as (height, width), if top equals bottom and left equals right.
    pub fn symmetric_padding(&self) -> Option<[usize; 2]> {
        let [t, l, b, r] = self.padding;
        (t == b && l == r).then_some([t, l])
    }

    /// Pixels that the dilated kernel spans along `axis` (0: height, 1: width).
    pub fn extent(&self, axis: usize) -> usize {
        self.dilation[axis] * (self.kernel[axis] - 1) + 1
    }

    /// Size of the result along `axis` for `size` input pixels, or `None` when no window fits.
    pub fn output(&self, size: usize, axis: usize) -> Option<usize> {
        let padded = size + self.padding[axis] + self.padding[axis + 2];
        let room = padded.checked_sub(self.extent(axis))?;
        let stride = self.stride[axis];
        let mut n = room / stride + 1;
        // A window that would start in the padding behind the image is dropped, as PyTorch and ONNX do.
        if self.ceil && !room.is_multiple_of(stride) && n * stride < size + self.padding[axis] {
            n += 1;
        }
        Some(n)
    }

    /// Rows below and pixels to the right of an image of `size` that the last windows of ceil mode reach beyond its padding.
    pub fn ceil_border(&self, size: [usize; 2]) -> [usize; 2] {
        [0, 1].map(|axis| {
            let outputs = self.output(size[axis], axis).unwrap_or(1);
            let needed = (outputs - 1) * self.stride[axis] + self.extent(axis);
            let missing = needed.saturating_sub(size[axis] + self.padding[axis] + self.padding[axis + 2]);
            if self.ceil { missing } else { 0 }
        })
    }
}

/// Part of one axis: element `i` of the result is element `start + i * step` of the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Range {
    /// The axis, counted from the outermost.
    pub axis: usize,
    /// The first element.
    pub start: usize,
    /// How many elements.
    pub len: usize,
    /// Distance between elements; negative runs backwards.
    pub step: isize,
}

#[cfg(test)]
mod tests {
    use super::Window;

    #[test]
    fn output_sizes_follow_the_onnx_formula() {
        let cases = [
            (Window::same(3, 1, 1), 32, Some(32)),
            (Window::same(3, 2, 1), 32, Some(16)),
            (Window::same(5, 1, 2), 8, Some(8)),
            (Window::valid(5, 3), 8, Some(2)),
            (Window::valid(5, 2), 14, Some(5)),
            (Window::valid(3, 1), 2, None),
            (Window { ceil: true, ..Window::valid(2, 2) }, 5, Some(3)),
            (Window { ceil: true, ..Window::valid(2, 2) }, 4, Some(2)),
            // The last window would start in the padding, so it does not count.
            (Window { ceil: true, ..Window::new([1, 1], [2, 2], [1, 1], [1, 1]) }, 2, Some(2)),
        ];
        for (window, size, expected) in cases {
            assert_eq!(window.output(size, 0), expected, "{window:?} on {size}");
        }
    }
}
