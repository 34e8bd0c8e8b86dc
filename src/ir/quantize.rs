//! Numbers that eight bits can hold: the grid that a value is rounded to, and the codes that a parameter consists of.
//!
//! Takes intervals and numbers; gives [`Grid`], the arithmetic of [`Op::QuantizeDequantize`](super::Op::QuantizeDequantize),
//! and [`Codes`], which say that the float32 contents of a parameter are whole numbers times a scale. Everything computes on
//! float32 as before: a number is on its grid, or it is not. Choosing intervals and codes is left to `passes::quantize`.

/// The 256 numbers `(q - zero_point) * scale` for q from -128 to 127. Zero is always among them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Grid {
    /// Distance of two neighbours: a normal number above 0.
    pub scale: f32,
    /// The code of zero.
    pub zero_point: i8,
}

impl Grid {
    /// The finest grid that reaches from `low` to `high`, both finite; the interval is widened to hold zero. One of zeros
    /// alone has the scale 1.
    pub fn covering(low: f32, high: f32) -> Self {
        let (low, high) = (f64::from(low.min(0.0)), f64::from(high.max(0.0)));
        if low == high {
            return Self { scale: 1.0, zero_point: 0 };
        }
        let scale = (((high - low) / 255.0) as f32).max(f32::MIN_POSITIVE);
        // Saturates where rounding of the scale pushes it over the end.
        let zero_point = (-128.0 - low / f64::from(scale)).round_ties_even() as i8;
        Self { scale, zero_point }
    }

    /// The number of the grid nearest to `x`, to the even code where two are equally near, and the outermost one where `x`
    /// lies beyond it: what QuantizeLinear and DequantizeLinear of ONNX make of it, in their float32 arithmetic. NaN stays NaN.
    pub fn nearest(self, x: f32) -> f32 {
        let zero = f32::from(self.zero_point);
        let code = ((x / self.scale).round_ties_even() + zero).clamp(-128.0, 127.0);
        (code - zero) * self.scale
    }

    /// Whether the scale is a number that can be divided by.
    pub fn is_usable(self) -> bool {
        self.scale.is_normal() && self.scale > 0.0
    }
}

/// How large a code may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Width {
    /// -128 to 127.
    Int8,
    /// Kept within 2^22 so that its float32 product with the scale tells which code it was.
    Int32,
}

impl Width {
    /// The smallest and the largest code.
    pub fn bounds(self) -> [i32; 2] {
        match self {
            Width::Int8 => [-128, 127],
            Width::Int32 => [-(1 << 22), 1 << 22],
        }
    }
}

/// What the contents of a parameter are made of: element `x` of channel `c` is a code times `scales[c]`, rounded to float32.
#[derive(Debug, Clone, PartialEq)]
pub struct Codes {
    /// For each index of the first axis, a normal number above 0.
    pub scales: Vec<f32>,
    /// How large the codes may be.
    pub width: Width,
}

impl Codes {
    /// The codes nearest to `data`, whose first axis has as many indices as there are scales.
    pub fn nearest(&self, data: &[f32]) -> Vec<i32> {
        let [low, high] = self.width.bounds();
        let code = |(scale, x): (f32, f32)| {
            let code = (f64::from(x) / f64::from(scale)).round_ties_even();
            (code as i32).clamp(low, high)
        };
        self.by_channel(data).map(code).collect()
    }

    /// What the codes stand for.
    pub fn numbers(&self, codes: &[i32]) -> Vec<f32> {
        self.by_channel(codes).map(|(scale, code)| code as f32 * scale).collect()
    }

    /// The codes that `data` consists of, or the first element that is none.
    ///
    /// # Errors
    /// The index of that element.
    pub fn exact(&self, data: &[f32]) -> Result<Vec<i32>, usize> {
        let codes = self.nearest(data);
        let same = |(a, b): (&f32, &f32)| a == b;
        match self.numbers(&codes).iter().zip(data).position(|pair| !same(pair)) {
            Some(element) => Err(element),
            None => Ok(codes),
        }
    }

    /// Each element with the scale of its channel.
    fn by_channel<'a, T: Copy>(&'a self, data: &'a [T]) -> impl Iterator<Item = (f32, T)> + 'a {
        let per_channel = (data.len() / self.scales.len().max(1)).max(1);
        self.scales.iter().zip(data.chunks(per_channel)).flat_map(|(scale, row)| row.iter().map(move |x| (*scale, *x)))
    }
}

#[cfg(test)]
mod tests {
    use super::{Codes, Grid, Width};

    #[test]
    fn numbers_go_to_the_nearest_of_the_grid_ties_to_even_and_the_far_ones_to_its_ends() {
        let grid = Grid { scale: 0.5, zero_point: 3 };
        let cases = [
            (0.0, 0.0),
            (0.24, 0.0),
            (0.26, 0.5),
            // The quotients 0.5, 1.5, 2.5 and -0.5, -1.5.
            (0.25, 0.0),
            (0.75, 1.0),
            (1.25, 1.0),
            (-0.25, 0.0),
            (-0.75, -1.0),
            // Codes -128 and 127 are -131 and 124 steps from zero.
            (1e9, 62.0),
            (62.3, 62.0),
            (-65.4, -65.5),
            (-1e9, -65.5),
            (f32::INFINITY, 62.0),
            (f32::NEG_INFINITY, -65.5),
        ];
        for (x, expected) in cases {
            assert_eq!(grid.nearest(x), expected, "{x}");
        }
        assert!(grid.nearest(f32::NAN).is_nan());
    }

    #[test]
    fn a_grid_covers_its_interval_and_holds_zero() {
        let cases = [
            (0.0, 255.0, 1.0, -128),
            (-255.0, 0.0, 1.0, 127),
            (-128.0, 127.0, 1.0, 0),
            (-1.0, 3.0, 4.0 / 255.0, -64),
            // Widened to zero.
            (2.0, 5.1, 0.02, -128),
            (-5.1, -2.0, 0.02, 127),
            (0.0, 0.0, 1.0, 0),
            (0.0, 1e-44, f32::MIN_POSITIVE, -128),
        ];
        for (low, high, scale, zero_point) in cases {
            let grid = Grid::covering(low, high);
            assert_eq!(grid, Grid { scale, zero_point }, "{low} to {high}");
            assert!(grid.is_usable() && grid.nearest(0.0) == 0.0);
            for x in [low, high] {
                assert!((grid.nearest(x) - x).abs() <= grid.scale, "{x} of {low} to {high}");
            }
        }
        assert!(!Grid { scale: 0.0, zero_point: 0 }.is_usable());
        assert!(!Grid { scale: f32::NAN, zero_point: 0 }.is_usable());
    }

    #[test]
    fn codes_are_recovered_from_the_numbers_that_they_stand_for() {
        let codes = Codes { scales: vec![0.3, 1e-7], width: Width::Int32 };
        let given = [1 << 22, -(1 << 22) + 1, 4_194_301, 7, 0, -12345];
        let numbers = codes.numbers(&given);
        assert_eq!(codes.exact(&numbers), Ok(given.to_vec()));
        let codes = Codes { scales: vec![0.5, 2.0], width: Width::Int8 };
        assert_eq!(codes.exact(&[63.5, -64.0, 254.0, -4.0]), Ok(vec![127, -128, 127, -2]));
        assert_eq!(codes.exact(&[63.5, 64.0, 254.0, -4.0]), Err(1));
        assert_eq!(codes.exact(&[63.5, -64.0, 254.0, -3.0]), Err(3));
    }
}
