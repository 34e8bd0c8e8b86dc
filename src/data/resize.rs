//! Scales a rectangle of an image: bilinear, with antialiasing when it shrinks.
//!
//! Takes 8-bit RGB pixels, a rectangle of them and a size; gives 8-bit RGB pixels of that size. The filter is the one of
//! torchvision's resize on Pillow images: a triangle as wide as the scale, applied to rows and then to columns, with the result
//! of each rounded to 8 bits. The filter sees nothing outside the rectangle, as if it had been cut out first.

use super::Picture;

/// A rectangle of an image in pixels; at least one pixel in size and inside the image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rect {
    pub top: usize,
    pub left: usize,
    pub height: usize,
    pub width: usize,
}

impl Rect {
    /// All of an image of this height and width.
    pub fn whole([height, width]: [usize; 2]) -> Self {
        Self { top: 0, left: 0, height, width }
    }
}

/// Scales the rectangle to the size `[height, width]` and returns the part of the result inside `window`, as bytes of RGB.
///
/// Only what the window needs is computed: its cost does not grow with a long shape that is mostly cut off.
pub(super) fn resize(picture: &Picture, rect: Rect, [height, width]: [usize; 2], window: Rect) -> Vec<u8> {
    let columns = taps(rect.width, width, window.left, window.width);
    let rows = taps(rect.height, height, window.top, window.height);
    let first = rows.first().map_or(0, |tap| tap.first);
    let end = rows.last().map_or(0, |tap| tap.first + tap.weights.len());
    let source = picture.rgb.chunks_exact(picture.width * 3).skip(rect.top + first).take(end - first);
    let narrow = scale_rows(source.map(|row| &row[rect.left * 3..]), &columns);
    scale_columns(&narrow, &rows, first, window.width * 3)
}

/// Contributions of neighbouring input pixels to one output pixel.
struct Taps {
    first: usize,
    /// Fixed point with [`FRACTION`] bits; the sum is 1 but for rounding.
    weights: Vec<i32>,
}

/// 8 bits for a pixel, 2 for sums that overshoot, the rest for the fraction.
const FRACTION: u32 = 32 - 8 - 2;
const HALF: i32 = 1 << (FRACTION - 1);

/// The taps of `count` output pixels from `start` on, of an axis that is scaled from one length to another.
fn taps(from: usize, to: usize, start: usize, count: usize) -> Vec<Taps> {
    let scale = from as f64 / to as f64;
    // Enlarging interpolates between two neighbours; shrinking averages all pixels under the wider triangle.
    let support = scale.max(1.0);
    let of = |out: usize| {
        let centre = (out as f64 + 0.5) * scale;
        let first = (centre - support + 0.5).max(0.0) as usize;
        let end = ((centre + support + 0.5) as usize).min(from);
        let weight = |i: usize| (1.0 - ((i as f64 + 0.5 - centre) / support).abs()).max(0.0);
        let total: f64 = (first..end).map(weight).sum();
        let fixed = |i| (weight(i) / total * f64::from(1 << FRACTION)).round() as i32;
        Taps { first, weights: (first..end).map(fixed).collect() }
    };
    (start..start + count).map(of).collect()
}

fn to_byte(sum: i32) -> u8 {
    (sum >> FRACTION).clamp(0, 255) as u8
}

fn scale_rows<'a>(rows: impl Iterator<Item = &'a [u8]>, taps: &[Taps]) -> Vec<u8> {
    let mut out = vec![];
    for row in rows {
        for tap in taps {
            let mut sums = [HALF; 3];
            for (pixel, weight) in row[tap.first * 3..].chunks_exact(3).zip(&tap.weights) {
                sums[0] += i32::from(pixel[0]) * weight;
                sums[1] += i32::from(pixel[1]) * weight;
                sums[2] += i32::from(pixel[2]) * weight;
            }
            out.extend_from_slice(&sums.map(to_byte));
        }
    }
    out
}

/// `rgb` has `stride` bytes a row and begins with the input row `first`.
fn scale_columns(rgb: &[u8], taps: &[Taps], first: usize, stride: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(taps.len() * stride);
    let mut sums = vec![0; stride];
    for tap in taps {
        sums.fill(HALF);
        for (row, &weight) in rgb[(tap.first - first) * stride..].chunks_exact(stride).zip(&tap.weights) {
            sums.iter_mut().zip(row).for_each(|(sum, &value)| *sum += i32::from(value) * weight);
        }
        out.extend(sums.iter().map(|&sum| to_byte(sum)));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::picture::tests::sample;
    use super::*;

    /// What Pillow 13 gives for `sample(24, 40).crop(box).resize(size, BILINEAR)`: rectangle, size, first and last pixels.
    #[test]
    fn agrees_with_pillow_to_the_last_bit() {
        let whole = Rect::whole([24, 40]);
        let cases: [(Rect, [usize; 2], &[u8]); 3] = [
            (
                whole,
                [3, 5],
                &[
                    27, 45, 43, 73, 45, 94, 124, 45, 150, 175, 45, 202, 221, 45, 121, 27, 122, 65, 73, 122, 116, 124,
                    122, 172, 175, 122, 193, 221, 122, 64, 27, 199, 86, 73, 199, 137, 124, 199, 193, 175, 199, 148,
                    221, 199, 48,
                ],
            ),
            (
                Rect { top: 2, left: 3, height: 11, width: 17 },
                [4, 6],
                &[
                    26, 33, 38, 43, 33, 56, 61, 33, 76, 79, 33, 96, 97, 33, 116, 113, 33, 134, 26, 60, 46, 43, 60, 64,
                    61, 60, 84, 79, 60, 104, 97, 60, 124, 113, 60, 142, 26, 88, 54, 43, 88, 72, 61, 88, 92, 79, 88,
                    112, 97, 88, 132, 113, 88, 150, 26, 115, 62, 43, 115, 80, 61, 115, 100, 79, 115, 120, 97, 115, 140,
                    113, 115, 158,
                ],
            ),
            (
                Rect { top: 2, left: 3, height: 3, width: 5 },
                [6, 7],
                &[
                    19, 21, 27, 22, 21, 31, 27, 21, 36, 31, 21, 41, 36, 21, 46, 41, 21, 51, 44, 21, 55, 19, 24, 28, 22,
                    24, 32, 27, 24, 37, 31, 24, 42, 36, 24, 47, 41, 24, 52, 44, 24, 56, 19, 29, 29, 22, 29, 33, 27, 29,
                    38, 31, 29, 43, 36, 29, 48, 41, 29, 53, 44, 29, 57, 19, 34, 31, 22, 34, 35, 27, 34, 40, 31, 34, 45,
                    36, 34, 50, 41, 34, 55, 44, 34, 59, 19, 39, 32, 22, 39, 36, 27, 39, 41, 31, 39, 46, 36, 39, 51, 41,
                    39, 56, 44, 39, 60, 19, 42, 33, 22, 42, 37, 27, 42, 42, 31, 42, 47, 36, 42, 52, 41, 42, 57, 44, 42,
                    61,
                ],
            ),
        ];
        for (rect, size, expected) in cases {
            assert_eq!(resize(&sample(24, 40), rect, size, Rect::whole(size)), expected, "{rect:?} to {size:?}");
        }
    }

    #[test]
    fn a_window_is_that_part_of_the_whole_result() {
        let (picture, rect) = (sample(24, 40), Rect { top: 1, left: 2, height: 22, width: 35 });
        let whole = resize(&picture, rect, [13, 50], Rect::whole([13, 50]));
        let window = Rect { top: 5, left: 7, height: 6, width: 11 };
        let expected: Vec<u8> = (5..11).flat_map(|y| whole[(y * 50 + 7) * 3..(y * 50 + 18) * 3].to_vec()).collect();
        assert_eq!(resize(&picture, rect, [13, 50], window), expected);
    }

    #[test]
    fn the_same_size_is_a_plain_cut() {
        let picture = sample(5, 7);
        let cut = resize(&picture, Rect { top: 1, left: 2, height: 2, width: 3 }, [2, 3], Rect::whole([2, 3]));
        let expected: Vec<u8> =
            [1, 2].iter().flat_map(|y| picture.rgb[(y * 7 + 2) * 3..(y * 7 + 5) * 3].to_vec()).collect();
        assert_eq!(cut, expected);
    }

    #[test]
    fn a_flat_colour_stays_what_it_is_at_any_size() {
        let picture = Picture { height: 9, width: 13, rgb: vec![200; 9 * 13 * 3].into() };
        for size in [[1, 1], [3, 40], [40, 3], [64, 64]] {
            let out = resize(&picture, Rect::whole([9, 13]), size, Rect::whole(size));
            assert!(out.len() == size[0] * size[1] * 3 && out.iter().all(|&v| v == 200), "{size:?}");
        }
    }
}
