//! What values and weights are stored as on the device: float32 or, at half the memory, float16.
//!
//! Takes numbers of the host, which are float32; gives the bytes of a buffer, and the reverse. Kernels compute in float32
//! whatever the storage is: they convert what they load and store.

use std::borrow::Cow;

use half::f16;
use serde::{Deserialize, Serialize};

/// The line of every WGSL file that says what its buffers hold.
const SINGLE: &str = "alias Element = f32;";
const HALF: &str = "alias Element = f16;";

/// The numbers in the buffers of values and weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Storage {
    /// IEEE 754 single precision.
    #[default]
    Float32,
    /// IEEE 754 half precision: 11 significant bits, nothing beyond 65,504. The adapter must have 16-bit floats in shaders.
    Float16,
}

impl Storage {
    /// Bytes of one number.
    pub fn bytes(self) -> usize {
        match self {
            Self::Float32 => 4,
            Self::Float16 => 2,
        }
    }

    /// The WGSL of a kernel whose file is `source`.
    pub fn wgsl(self, source: &'static str) -> Cow<'static, str> {
        match self {
            Self::Float32 => source.into(),
            Self::Float16 => format!("enable f16;\n{}", source.replacen(SINGLE, HALF, 1)).into(),
        }
    }

    /// `number` as it comes back from the device.
    pub(super) fn rounded(self, number: f32) -> f32 {
        match self {
            Self::Float32 => number,
            Self::Float16 => f16::from_f32(number).to_f32(),
        }
    }

    /// Bytes of `elements` numbers, as many as copies between buffers want: a multiple of 4.
    pub(super) fn copied_bytes(self, elements: usize) -> u64 {
        (self.bytes() as u64 * elements as u64).next_multiple_of(4)
    }

    /// The bytes of `numbers`, little-endian, with zeros up to a multiple of 4.
    pub(super) fn encode(self, numbers: &[f32]) -> Cow<'_, [u8]> {
        match self {
            Self::Float32 => bytemuck::cast_slice(numbers).into(),
            Self::Float16 => {
                let mut bytes: Vec<u8> = numbers.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect();
                bytes.resize(bytes.len().next_multiple_of(4), 0);
                bytes.into()
            }
        }
    }

    /// The numbers in `bytes`.
    pub(super) fn decode(self, bytes: &[u8]) -> Vec<f32> {
        match self {
            Self::Float32 => bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            Self::Float16 => bytes.as_chunks::<2>().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::Kernel;

    #[test]
    fn numbers_come_back_rounded_to_the_storage() {
        let numbers = [1.0, -0.1, 65_504.0, 1e6, 6e-8, 1e-9, 2049.0];
        let half = [1.0, -0.099_975_586, 65_504.0, f32::INFINITY, 5.960_464_5e-8, 0.0, 2048.0];
        for (storage, expected) in [(Storage::Float32, &numbers), (Storage::Float16, &half)] {
            let bytes = storage.encode(&numbers);
            assert_eq!(bytes.len() as u64, storage.copied_bytes(numbers.len()));
            assert_eq!(storage.decode(&bytes)[..numbers.len()], *expected);
        }
    }

    #[test]
    fn the_half_form_of_a_kernel_differs_in_the_line_that_says_so() {
        for kernel in Kernel::ALL {
            let (single, half) = (Storage::Float32.wgsl(kernel.source()), Storage::Float16.wgsl(kernel.source()));
            let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
            let (single, half) = (lines(&single), lines(&half));
            assert_eq!(half[0], "enable f16;");
            let differ: Vec<_> = single.iter().zip(&half[1..]).filter(|(a, b)| a != b).collect();
            assert_eq!(differ, [(&SINGLE.to_owned(), &HALF.to_owned())], "{kernel:?}");
        }
    }
}
