//! float16 numbers as ONNX stores them: conversion to and from float32.
//!
//! Takes and gives bit patterns; IEEE 754 binary16, rounding to the nearest and to even at ties.

/// The float16 nearest to `x`; infinite if `x` is beyond its range.
pub(super) fn from_f32(x: f32) -> u16 {
    let bits = x.to_bits();
    let sign = ((bits >> 16) & 0x8000) as u16;
    let magnitude = bits & 0x7fff_ffff;
    if magnitude > 0x7f80_0000 {
        return sign | 0x7e00;
    }
    // Halfway between 65504, the largest float16, and the next power of two.
    if magnitude >= 0x477f_f000 {
        return sign | 0x7c00;
    }
    let exponent = (magnitude >> 23) as i32 - 127;
    let (significand, shift) = if exponent >= -14 {
        // Normal: exponent and fraction side by side, the exponent's bias changed from 127 to 15.
        (magnitude - ((127 - 15) << 23), 13)
    } else {
        // Subnormal: the leading one made explicit, then counted in units of 2^-24.
        let shift = 13 + (-14 - exponent);
        if shift > 25 {
            return sign;
        }
        ((magnitude & 0x007f_ffff) | 0x0080_0000, shift as u32)
    };
    let rest = significand & ((1 << shift) - 1);
    let half = 1 << (shift - 1);
    let kept = significand >> shift;
    let up = rest > half || (rest == half && kept & 1 == 1);
    sign | (kept + u32::from(up)) as u16
}

/// The float32 equal to the float16 with these bits.
pub(super) fn to_f32(bits: u16) -> f32 {
    let sign = if bits & 0x8000 == 0 { 1.0 } else { -1.0 };
    let fraction = f32::from(bits & 0x3ff);
    match (bits >> 10) & 0x1f {
        0 => sign * fraction * 2f32.powi(-24),
        31 if fraction == 0.0 => sign * f32::INFINITY,
        31 => f32::NAN,
        exponent => sign * (1.0 + fraction / 1024.0) * 2f32.powi(i32::from(exponent) - 15),
    }
}

#[cfg(test)]
mod tests {
    use super::{from_f32, to_f32};

    #[test]
    fn every_float16_survives_float32() {
        for bits in 0..=u16::MAX {
            let x = to_f32(bits);
            if x.is_nan() {
                assert_eq!(from_f32(x) & 0x7fff, 0x7e00);
            } else {
                assert_eq!(from_f32(x), bits, "{x}");
            }
        }
    }

    #[test]
    fn what_lies_between_goes_to_the_nearest_and_ties_to_even() {
        let cases = [
            (1.0 + 1.0 / 2048.0, 0x3c00),
            (1.0 + 3.0 / 2048.0, 0x3c02),
            (1.0 + 1.1 / 2048.0, 0x3c01),
            (65519.0, 0x7bff),
            (65520.0, 0x7c00),
            (-1e9, 0xfc00),
            (2f32.powi(-25), 0x0000),
            (2f32.powi(-25) * 1.001, 0x0001),
            (2f32.powi(-24) * 1.5, 0x0002),
            (-1e-30, 0x8000),
            (2f32.powi(-14) * (1.0 - 1.0 / 4096.0), 0x0400),
        ];
        for (x, expected) in cases {
            assert_eq!(from_f32(x), expected, "{x}");
        }
    }
}
