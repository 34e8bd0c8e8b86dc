//! Random changes of brightness, contrast, saturation and hue.
//!
//! Takes 8-bit RGB pixels and the strengths; changes the pixels. The operations and the random order of the four are those of
//! torchvision's ColorJitter on Pillow images; hue is turned in floating point where Pillow rounds it to 8 bits first.

use rand::seq::SliceRandom;
use rand::{Rng, RngExt};

/// Brightness, contrast and saturation are scaled by a factor from `1 - v` (at least 0) to `1 + v`; hue is turned by up to `v` of
/// the colour circle, `v <= 0.5`. A strength of 0 leaves its property alone.
pub(super) fn jitter(rgb: &mut [u8], [brightness, contrast, saturation, hue]: [f32; 4], rng: &mut impl Rng) {
    let mut factor = |strength: f32| rng.random_range((1.0 - strength).max(0.0)..=1.0 + strength);
    let changes = [
        Change::Brightness(factor(brightness)),
        Change::Contrast(factor(contrast)),
        Change::Saturation(factor(saturation)),
        Change::Hue(rng.random_range(-hue..=hue)),
    ];
    let mut order = [0, 1, 2, 3];
    order.shuffle(rng);
    order.into_iter().for_each(|i| changes[i].apply(rgb));
}

/// One change with its drawn factor; hue in turns of the colour circle.
#[derive(Clone, Copy, Debug)]
enum Change {
    Brightness(f32),
    Contrast(f32),
    Saturation(f32),
    Hue(f32),
}

impl Change {
    fn apply(self, rgb: &mut [u8]) {
        match self {
            Change::Brightness(1.0) | Change::Contrast(1.0) | Change::Saturation(1.0) | Change::Hue(0.0) => {}
            Change::Brightness(factor) => rgb.iter_mut().for_each(|v| *v = blend(0.0, *v, factor)),
            Change::Contrast(factor) => {
                let total: u64 = rgb.chunks_exact(3).map(|pixel| u64::from(grey(pixel))).sum();
                let mean = (total as f64 / (rgb.len() / 3) as f64 + 0.5).floor() as f32;
                rgb.iter_mut().for_each(|v| *v = blend(mean, *v, factor));
            }
            Change::Saturation(factor) => {
                for pixel in rgb.chunks_exact_mut(3) {
                    let grey = f32::from(grey(pixel));
                    pixel.iter_mut().for_each(|v| *v = blend(grey, *v, factor));
                }
            }
            Change::Hue(turn) => rgb.chunks_exact_mut(3).for_each(|pixel| turn_hue(pixel, turn)),
        }
    }
}

/// `base` at factor 0, `value` at factor 1, beyond it above 1; rounded towards 0 and clipped to a byte.
fn blend(base: f32, value: u8, factor: f32) -> u8 {
    // A float-to-integer cast saturates.
    (base + factor * (f32::from(value) - base)) as u8
}

/// ITU-R 601 luma.
fn grey(pixel: &[u8]) -> u8 {
    let [r, g, b] = [0, 1, 2].map(|c| u32::from(pixel[c]));
    ((r * 19_595 + g * 38_470 + b * 7_471 + 0x8000) >> 16) as u8
}

/// Turns the hue of one pixel; its largest and smallest channel values stay what they are.
fn turn_hue(pixel: &mut [u8], turn: f32) {
    let [r, g, b] = [0, 1, 2].map(|c| f32::from(pixel[c]));
    let (high, low) = (r.max(g).max(b), r.min(g).min(b));
    let chroma = high - low;
    if chroma == 0.0 {
        return;
    }
    let sector = if high == r {
        (g - b) / chroma
    } else if high == g {
        2.0 + (b - r) / chroma
    } else {
        4.0 + (r - g) / chroma
    };
    let sector = (sector + 6.0 * turn).rem_euclid(6.0);
    // Each channel is a trapezium over the circle, a third of a turn apart: HSV back to RGB without a table of cases.
    for (value, shift) in pixel.iter_mut().zip([5.0, 3.0, 1.0]) {
        let k = (shift + sector) % 6.0;
        let share = k.min(4.0 - k).clamp(0.0, 1.0);
        *value = (high - chroma * share + 0.5) as u8;
    }
}

#[cfg(test)]
mod tests {
    use super::super::picture::tests::sample;
    use super::super::rng::{Purpose, stream};
    use super::*;

    /// Pillow 13's ImageEnhance and HSV shift on `sample(4, 3)`.
    #[test]
    fn each_change_agrees_with_pillow() {
        let cases: [(Change, u8, [u8; 36]); 6] = [
            (
                Change::Brightness(1.3),
                0,
                [
                    0, 0, 0, 110, 0, 9, 220, 0, 18, 0, 81, 3, 110, 81, 13, 220, 81, 22, 0, 165, 7, 110, 165, 16, 220,
                    165, 26, 0, 248, 11, 110, 248, 20, 220, 248, 29,
                ],
            ),
            (
                Change::Contrast(1.35),
                0,
                [
                    0, 0, 0, 85, 0, 0, 200, 0, 0, 0, 56, 0, 85, 56, 0, 200, 56, 0, 0, 142, 0, 85, 142, 0, 200, 142, 0,
                    0, 228, 0, 85, 228, 0, 200, 228, 2,
                ],
            ),
            (
                Change::Contrast(0.65),
                0,
                [
                    29, 29, 29, 84, 29, 33, 139, 29, 38, 29, 70, 31, 84, 70, 35, 139, 70, 40, 29, 111, 32, 84, 111, 37,
                    139, 111, 42, 29, 153, 34, 84, 153, 39, 139, 153, 44,
                ],
            ),
            (
                Change::Saturation(0.6),
                0,
                [
                    0, 0, 0, 61, 10, 14, 122, 20, 29, 14, 52, 16, 76, 63, 31, 138, 73, 46, 30, 106, 33, 91, 116, 48,
                    153, 127, 63, 45, 159, 50, 106, 170, 65, 168, 181, 80,
                ],
            ),
            // Pillow's hue has 8 bits, so it turns by 38/255 for 0.15, and rounding costs up to 6 here.
            (
                Change::Hue(38.0 / 255.0),
                6,
                [
                    0, 0, 0, 85, 66, 0, 170, 132, 0, 0, 63, 59, 40, 85, 10, 143, 170, 17, 0, 127, 120, 13, 127, 43, 80,
                    170, 20, 0, 191, 180, 16, 191, 103, 23, 191, 23,
                ],
            ),
            (
                Change::Hue(-0.2),
                6,
                [
                    0, 0, 0, 60, 0, 85, 120, 0, 170, 63, 53, 0, 85, 10, 45, 170, 17, 154, 127, 108, 0, 127, 32, 13,
                    170, 20, 91, 191, 162, 0, 191, 86, 16, 191, 23, 35,
                ],
            ),
        ];
        for (change, tolerance, expected) in cases {
            let mut rgb = sample(4, 3).rgb.into_owned();
            change.apply(&mut rgb);
            let worst = rgb.iter().zip(expected).map(|(&a, b)| a.abs_diff(b)).max();
            assert!(worst <= Some(tolerance), "{change:?}: {rgb:?}");
        }
    }

    #[test]
    fn a_whole_turn_of_the_hue_changes_nothing() {
        let before = sample(16, 16).rgb.into_owned();
        let mut after = before.clone();
        Change::Hue(1.0).apply(&mut after);
        assert!(before.iter().zip(&after).all(|(a, b)| a.abs_diff(*b) <= 1));
    }

    #[test]
    fn zero_strength_changes_nothing_and_a_strength_does() {
        let before = sample(8, 8).rgb.into_owned();
        let mut after = before.clone();
        jitter(&mut after, [0.0; 4], &mut stream(Purpose::Augment, 1, 0, 0, 0));
        assert_eq!(before, after);
        jitter(&mut after, [0.4, 0.4, 0.4, 0.2], &mut stream(Purpose::Augment, 1, 0, 0, 0));
        assert_ne!(before, after);
    }
}
