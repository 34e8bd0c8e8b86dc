//! Elements of PyTorch tensors: storages, and the strided views of them that tensors are.
//!
//! Takes a [`View`] and the bytes of its storage; gives a dense float32 tensor. Sizes are checked before anything is
//! allocated: views may repeat elements, so that all tensors of a file together may have no more than the file has bytes.

use crate::ir::Tensor;

/// The most dimensions of a tensor.
pub(super) const MAX_RANK: usize = 8;

/// What a storage holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Half,
    BFloat16,
    Float,
    Double,
    /// No floats: this many bytes an element.
    Other(usize),
}

/// A piece of memory by the name that the file gives it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Storage {
    pub kind: Kind,
    pub key: String,
    pub elements: usize,
}

/// A tensor: element `i, j, ...` is element `offset + i * stride[0] + j * stride[1] + ...` of the storage.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct View {
    pub storage: Storage,
    pub offset: usize,
    pub shape: Vec<usize>,
    pub stride: Vec<usize>,
}

/// How many elements may still be unpacked.
pub(super) struct Budget(pub usize);

impl Kind {
    /// By the name of the class in `torch`.
    pub(super) fn of_storage(class: &str) -> Option<Self> {
        Some(match class {
            "HalfStorage" => Self::Half,
            "BFloat16Storage" => Self::BFloat16,
            "FloatStorage" => Self::Float,
            "DoubleStorage" => Self::Double,
            "ByteStorage" | "CharStorage" | "BoolStorage" => Self::Other(1),
            "ShortStorage" => Self::Other(2),
            "IntStorage" => Self::Other(4),
            "LongStorage" => Self::Other(8),
            _ => return None,
        })
    }

    pub(super) fn is_float(self) -> bool {
        !matches!(self, Self::Other(_))
    }

    /// Bytes of an element.
    pub(super) fn size(self) -> usize {
        match self {
            Self::Half | Self::BFloat16 => 2,
            Self::Float => 4,
            Self::Double => 8,
            Self::Other(size) => size,
        }
    }
}

/// The elements of `view` from the bytes of its storage.
pub(super) fn floats(view: &View, data: &[u8], budget: &mut Budget) -> Result<Tensor, String> {
    let View { storage, offset, shape, stride } = view;
    if shape.len() != stride.len() || shape.len() > MAX_RANK {
        return Err(format!("its shape {shape:?} and strides {stride:?} do not fit"));
    }
    let size = storage.kind.size();
    if storage.elements.checked_mul(size) != Some(data.len()) {
        let why =
            format!("its storage has {} elements of {size} bytes, the file holds {}", storage.elements, data.len());
        return Err(format!("{why} bytes (is it complete?)"));
    }
    let too_large = || format!("its shape {shape:?} with strides {stride:?} reaches beyond its storage");
    let count = shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d)).ok_or_else(too_large)?;
    budget.0 = budget
        .0
        .checked_sub(count)
        .ok_or("the tensors together are larger than the file; it is damaged or made to harm")?;
    if count == 0 {
        return Ok(Tensor::new(shape.clone(), Vec::new()));
    }
    let steps = shape.iter().zip(stride).map(|(n, step)| (n - 1).checked_mul(*step));
    let last = steps.into_iter().try_fold(*offset, |at, step| at.checked_add(step?)).ok_or_else(too_large)?;
    if last >= storage.elements {
        return Err(too_large());
    }
    let number = |at: usize| {
        let bytes = &data[at * size..(at + 1) * size];
        match storage.kind {
            Kind::Half => half::f16::from_le_bytes([bytes[0], bytes[1]]).to_f32(),
            Kind::BFloat16 => half::bf16::from_le_bytes([bytes[0], bytes[1]]).to_f32(),
            Kind::Float => f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]),
            Kind::Double => {
                let mut wide = [0; 8];
                wide.copy_from_slice(bytes);
                f64::from_le_bytes(wide) as f32
            }
            Kind::Other(_) => f32::NAN,
        }
    };
    let place = |mut i: usize| {
        let mut at = *offset;
        for (n, step) in shape.iter().zip(stride).rev() {
            at += i % n * step;
            i /= n;
        }
        at
    };
    Ok(Tensor::new(shape.clone(), (0..count).map(|i| number(place(i))).collect()))
}
