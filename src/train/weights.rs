//! Weights in files: safetensors or PyTorch checkpoints, under our names or under those of a PyTorch DARTS state_dict.
//!
//! Takes a file and a graph; gives [`Weights`] for it, or an error that names the tensor. Tensors of the auxiliary head may
//! be missing or surplus (it exists in training only), PyTorch's batch counters are skipped, and so are the prefixes that
//! wrappers of a PyTorch module put before its names. Files are written as safetensors with our names.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use super::tensor_file::{self, Part};
use super::torch;
use crate::ir::{Graph, Model, Tensor, Weights};

/// Why a weights file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// The file cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is no safetensors file.
    #[error("{}: not a readable safetensors file or PyTorch checkpoint: {why} (is it complete?)", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What the format's reader said.
        why: String,
    },
    /// The file is of `torch.save`, and holds something else than a state_dict.
    #[error("{}: not a readable PyTorch checkpoint: {why}", path.display())]
    Torch {
        /// The file.
        path: PathBuf,
        /// What is in it, and what would do.
        why: String,
    },
    /// A tensor is missing, surplus, or of another shape or type.
    #[error("{}: tensor `{tensor}` {why}", path.display())]
    Tensor {
        /// The file.
        path: PathBuf,
        /// The tensor's name, as in the file if it is there.
        tensor: String,
        /// What is wrong and what would do.
        why: String,
    },
}

/// The prefix of the auxiliary head's parameters, in our names and PyTorch's.
const AUXILIARY: &str = "auxiliary_head.";

/// What `DataParallel` and `torch.compile` put before the names of a module's tensors.
const WRAPPERS: [&str; 2] = ["module.", "_orig_mod."];

/// Reads every float tensor of a safetensors file or a PyTorch checkpoint (float32, 16, bfloat16, 64; others, such as
/// PyTorch's batch counters, are left out). Which of the two it is, its contents tell.
///
/// # Errors
/// When the file cannot be read or is neither.
pub fn read(path: &Path) -> Result<BTreeMap<String, Tensor>, WeightsError> {
    let bytes = std::fs::read(path).map_err(|source| WeightsError::Io { path: path.into(), source })?;
    let tensors = if torch::is_torch(&bytes) {
        torch::read(&bytes).map_err(|why| WeightsError::Torch { path: path.into(), why })?
    } else {
        safetensors(&bytes, path)?
    };
    let mut bare = BTreeMap::new();
    for (name, tensor) in tensors {
        let mut key = name.as_str();
        while let Some(rest) = WRAPPERS.iter().find_map(|wrapper| key.strip_prefix(wrapper)) {
            key = rest;
        }
        if bare.insert(key.to_owned(), tensor).is_some() {
            let why = format!("is there as `{key}` too; keep one of them");
            return Err(WeightsError::Tensor { path: path.into(), tensor: name, why });
        }
    }
    Ok(bare)
}

fn safetensors(bytes: &[u8], path: &Path) -> Result<BTreeMap<String, Tensor>, WeightsError> {
    let file =
        SafeTensors::deserialize(bytes).map_err(|e| WeightsError::Format { path: path.into(), why: e.to_string() })?;
    let floats = file.tensors().into_iter().filter_map(|(name, view)| Some((name, host(&view)?)));
    Ok(floats.collect())
}

/// Gives each parameter of `model`'s graph its tensor from `tensors`, looked up by our name, then by the PyTorch name.
///
/// # Errors
/// A missing, surplus or wrongly shaped tensor.
pub fn assign(model: &mut Model, tensors: BTreeMap<String, Tensor>, path: &Path) -> Result<(), WeightsError> {
    let mut tensors = tensors;
    let error = |tensor: &str, why: String| WeightsError::Tensor { path: path.into(), tensor: tensor.into(), why };
    for (param, slot) in model.graph.params.iter().zip(&mut model.weights.0) {
        let alias = param.alias.as_deref().unwrap_or_default();
        let key = [param.name.as_str(), alias].into_iter().find(|k| tensors.contains_key(*k));
        let Some((key, tensor)) = key.and_then(|k| Some((k, tensors.remove(k)?))) else {
            if param.name.starts_with(AUXILIARY) {
                continue;
            }
            let why = format!(
                "is missing (looked for it under this name and as `{alias}`); the file belongs to another network, or `--cells`, `--channels` or the genotype differ"
            );
            return Err(error(&param.name, why));
        };
        if tensor.shape != param.shape {
            let why = format!("has the shape {:?}, the network needs {:?}", tensor.shape, param.shape);
            return Err(error(key, why));
        }
        *slot = tensor;
    }
    match tensors.keys().find(|k| !k.starts_with(AUXILIARY) && !k.ends_with("num_batches_tracked")) {
        Some(surplus) => {
            let why = "is not part of this network; the file belongs to another one, or the genotype differs".into();
            Err(error(surplus, why))
        }
        None => Ok(()),
    }
}

/// Writes the parameters of `graph` under our names, atomically.
///
/// # Errors
/// When the file cannot be written.
pub fn write(path: &Path, graph: &Graph, weights: &Weights) -> Result<(), WeightsError> {
    let named = graph.params.iter().zip(&weights.0).map(|(p, t)| Part::floats(&p.name, &t.shape, &t.data));
    write_parts(path, &named.collect::<Vec<_>>())
}

/// Writes images `[N, 3, H, W]` as a network takes them, their labels and the logits `[N, classes]` that it gave, atomically:
/// the tensors `images`, `labels` (int64) and `logits`, what other runtimes are compared on.
///
/// # Errors
/// When the file cannot be written.
pub fn write_samples(
    path: &Path,
    images: &Tensor,
    labels: Option<&[i64]>,
    logits: &Tensor,
) -> Result<(), WeightsError> {
    let float = |name: &str, t: &Tensor| Part::floats(name, &t.shape, &t.data);
    let mut parts = vec![float("images", images), float("logits", logits)];
    if let Some(labels) = labels {
        let bytes = labels.iter().flat_map(|l| l.to_le_bytes()).collect();
        parts.push(Part { name: "labels".into(), dtype: Dtype::I64, shape: vec![labels.len()], bytes });
    }
    write_parts(path, &parts)
}

fn write_parts(path: &Path, parts: &[Part]) -> Result<(), WeightsError> {
    tensor_file::write(path, parts, None).map_err(|source| WeightsError::Io { path: path.into(), source })
}

fn host(view: &TensorView) -> Option<Tensor> {
    let bytes = view.data();
    let data = match view.dtype() {
        Dtype::F32 => numbers(bytes, f32::from_le_bytes),
        Dtype::F64 => numbers(bytes, |b| f64::from_le_bytes(b) as f32),
        Dtype::F16 => numbers(bytes, |b| half::f16::from_le_bytes(b).to_f32()),
        Dtype::BF16 => numbers(bytes, |b| half::bf16::from_le_bytes(b).to_f32()),
        _ => return None,
    };
    Some(Tensor::new(view.shape().to_vec(), data))
}

fn numbers<const N: usize>(bytes: &[u8], number: impl Fn([u8; N]) -> f32) -> Vec<f32> {
    bytes.as_chunks::<N>().0.iter().map(|b| number(*b)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{Builder, Init, Op, Role, Shape, Window};

    fn model() -> Model {
        let mut b = Builder::new("test");
        let x = b.input("input", Shape::image(3, 4, 4));
        let alias = Some("stem.0.weight".to_owned());
        let w = b.param("stem.conv.weight", alias, &[2, 3, 1, 1], Role::Weight, Init::Uniform { bound: 0.5 });
        let y = b.node("stem/conv", Op::conv(w, None, Window::valid(1, 1), 1), &[x]).unwrap();
        b.output("logits", y);
        Model::initial(b.finish(), 3)
    }

    fn message(tensors: &[(&str, &[usize])]) -> String {
        let map = tensors.iter().map(|(n, s)| (n.to_string(), Tensor::new(s.to_vec(), vec![1.0; s.iter().product()])));
        assign(&mut model(), map.collect(), Path::new("w.safetensors")).unwrap_err().to_string()
    }

    #[test]
    fn what_is_written_is_read_back_under_either_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("w.safetensors");
        let source = model();
        write(&path, &source.graph, &source.weights).unwrap();
        let mut tensors = read(&path).unwrap();
        let mut target = Model::initial(source.graph.clone(), 99);
        assign(&mut target, tensors.clone(), &path).unwrap();
        assert_eq!(target.weights, source.weights);

        let tensor = tensors.remove("stem.conv.weight").unwrap();
        tensors.insert("stem.0.weight".into(), tensor);
        tensors.insert("auxiliary_head.classifier.bias".into(), Tensor::new([1], vec![0.0]));
        let mut target = Model::initial(source.graph.clone(), 98);
        assign(&mut target, tensors, &path).unwrap();
        assert_eq!(target.weights, source.weights);
    }

    #[test]
    fn checkpoints_of_pytorch_give_the_weights_whatever_wraps_the_module() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/torch");
        for file in ["state_dict.pt", "legacy.pt", "checkpoint.pth.tar", "legacy.pth.tar"] {
            let path = folder.join(file);
            let mut target = model();
            assign(&mut target, read(&path).unwrap(), &path).unwrap();
            assert_eq!(target.weights.0[0].data, [0.0, 0.125, 0.25, 0.375, 0.5, 0.625], "{file}");
        }
        let error = read(&folder.join("module.pt")).unwrap_err().to_string();
        assert!(error.contains("module.pt: not a readable PyTorch checkpoint: it holds a Python object of"), "{error}");
    }

    #[test]
    fn each_misfit_names_the_tensor() {
        assert!(message(&[]).contains("`stem.conv.weight` is missing"));
        assert!(message(&[("stem.0.weight", &[2, 3, 3, 3])]).contains("`stem.0.weight` has the shape [2, 3, 3, 3]"));
        let surplus = message(&[("stem.0.weight", &[2, 3, 1, 1]), ("stem.9.weight", &[1])]);
        assert!(surplus.contains("`stem.9.weight` is not part of this network"));
    }

    #[test]
    fn a_truncated_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("w.safetensors");
        let m = model();
        write(&path, &m.graph, &m.weights).unwrap();
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - 5]).unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("is it complete?"));
    }
}
