//! Per-channel normalisation: the constants and how they are measured.
//!
//! Takes 8-bit pixels; gives [`Normalise`], the mean and standard deviation of each colour channel on the scale 0..1, and the
//! table that turns a byte into its normalised value. Where the constants are used is left to `augment`.

use rayon::prelude::*;

/// Maps a byte `v` of channel `c` to `(v / 255 - mean[c]) / std[c]`. Channels are red, green, blue.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Normalise {
    /// Of each channel, on the scale 0..1.
    pub mean: [f32; 3],
    /// Of each channel, on the same scale; above 0.
    pub std: [f32; 3],
}

impl Normalise {
    /// The constants published with DARTS for CIFAR-10.
    pub const CIFAR10: Self =
        Self { mean: [0.491_399_68, 0.482_158_27, 0.446_531_24], std: [0.247_032_33, 0.243_485_05, 0.261_587_68] };
    /// The constants in common use for CIFAR-100.
    pub const CIFAR100: Self = Self { mean: [0.507_1, 0.486_7, 0.440_8], std: [0.267_5, 0.256_5, 0.276_1] };
    /// The constants published with torchvision's ImageNet models.
    pub const IMAGENET: Self = Self { mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225] };

    /// Mean and standard deviation over all pixels of interleaved RGB bytes. A channel that never changes gets deviation 1.
    ///
    /// Sums are integers, so the result does not depend on the number of threads.
    pub fn measure(rgb: &[u8]) -> Self {
        let pixels = (rgb.len() / 3).max(1) as f64;
        let sums = rgb.par_chunks(3 << 16).map(channel_sums).reduce(|| [[0; 2]; 3], add);
        let mean = sums.map(|[sum, _]| sum as f64 / pixels);
        let std = [0, 1, 2].map(|c| {
            let deviation = (sums[c][1] as f64 / pixels - mean[c] * mean[c]).max(0.0).sqrt();
            if deviation < 1e-6 { 255.0 } else { deviation }
        });
        Self { mean: mean.map(|v| (v / 255.0) as f32), std: std.map(|v| (v / 255.0) as f32) }
    }

    /// The normalised value of every byte, for each channel.
    pub(super) fn table(&self) -> Table {
        let column = |c: usize| std::array::from_fn(|v| (v as f32 / 255.0 - self.mean[c]) / self.std[c]);
        [column(0), column(1), column(2)]
    }
}

/// `table[channel][byte]` is the normalised value.
pub(super) type Table = [[f32; 256]; 3];

/// Sum and sum of squares per channel.
type Sums = [[u64; 2]; 3];

fn channel_sums(rgb: &[u8]) -> Sums {
    let mut sums = [[0; 2]; 3];
    for pixel in rgb.chunks_exact(3) {
        for (sum, &value) in sums.iter_mut().zip(pixel) {
            sum[0] += u64::from(value);
            sum[1] += u64::from(value) * u64::from(value);
        }
    }
    sums
}

fn add(a: Sums, b: Sums) -> Sums {
    std::array::from_fn(|c| [a[c][0] + b[c][0], a[c][1] + b[c][1]])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measures_each_channel_on_its_own() {
        // Red 0 and 255 in equal parts, green always 51, blue 0, 0, 0, 255 in turn.
        let rgb: Vec<u8> = (0..400_000)
            .flat_map(|i| [if i % 2 == 0 { 0 } else { 255 }, 51, if i % 4 == 3 { 255 } else { 0 }])
            .collect();
        let found = Normalise::measure(&rgb);
        let expected = Normalise { mean: [0.5, 0.2, 0.25], std: [0.5, 1.0, 0.1875f32.sqrt()] };
        for c in 0..3 {
            assert!((found.mean[c] - expected.mean[c]).abs() < 1e-6, "{found:?}");
            assert!((found.std[c] - expected.std[c]).abs() < 1e-6, "{found:?}");
        }
    }

    #[test]
    fn the_table_is_the_formula() {
        let table = Normalise::IMAGENET.table();
        assert_eq!(table[0][0], -0.485 / 0.229);
        assert_eq!(table[2][255], (1.0 - 0.406) / 0.225);
    }
}
