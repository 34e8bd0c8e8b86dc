//! What the user names on the command line, loaded: genotypes and ONNX models.
//!
//! Takes names and paths; gives checked [`Genotype`]s, verified [`Model`]s with what their metadata say, and the adapter that is
//! to run them. Tensors are read in `tensor_file`, images in `run`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::genotype::Genotype;
use crate::ir::{Dim, Model, Verified, verify};
use crate::onnx::{self, ModelInfo};
use crate::runtime::{AdapterChoice, Gpu, RuntimeError};

/// What a genotype argument may be, for help texts.
pub const GENOTYPE_HELP: &str = "Genotype: FILE.yaml, FILE.py, FILE.py:NAME, or a name that comes with the program (DARTS_V1, DARTS_V2, \
     PC_DARTS_cifar, PC_DARTS_image, NASNet, AmoebaNet, idarts_cifar10_seed0)";

/// The genotype that `text` names: a file, `FILE.py:NAME` for one of several in a Python file, or one that comes with the
/// program. A file of that name comes first.
///
/// # Errors
/// The file cannot be read, or what is wrong in it.
pub fn genotype(text: &str) -> Result<Genotype> {
    let path = Path::new(text);
    if let Some(genotype) = Genotype::shipped(text).filter(|_| !path.is_file()) {
        return Ok(genotype);
    }
    if let Some((file, name)) = text.rsplit_once(".py:") {
        let file = format!("{file}.py");
        let code = std::fs::read_to_string(&file).with_context(|| format!("cannot read the genotypes in {file}"))?;
        return Ok(Genotype::from_python_named(&code, Path::new(&file), name)?);
    }
    Ok(Genotype::read(path)?)
}

/// The model in an ONNX file.
///
/// # Errors
/// The file cannot be read, is no ONNX file, or holds what is not supported.
pub fn model(path: &Path) -> Result<Verified<Model>> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read the model {}", path.display()))?;
    let unusable = || format!("cannot use the model {}", path.display());
    let folder = path.parent().unwrap_or(Path::new(""));
    let mut beside = |location: &str| weights_beside(folder, location);
    let model = onnx::read_with_files(&bytes, &path.display().to_string(), &mut beside).with_context(unusable)?;
    verify(model).with_context(unusable)
}

/// The contents of a file that a model keeps its weights in. A link may not lead out of the model's folder either.
fn weights_beside(folder: &Path, location: &str) -> Result<Vec<u8>, String> {
    let cannot =
        |e: std::io::Error| format!("its contents are in `{location}` beside the model, which cannot be read: {e}");
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let root = folder.canonicalize().map_err(cannot)?;
    let file = folder.join(location).canonicalize().map_err(cannot)?;
    if !file.starts_with(root) {
        return Err(format!(
            "its contents are in `{location}`, a link that leads out of the model's folder; put the file itself there"
        ));
    }
    std::fs::read(file).map_err(cannot)
}

/// The adapter that `choice` means, opened. Its compiled pipelines are kept in the user's cache folder.
///
/// # Errors
/// As [`Gpu::open`].
pub fn gpu(choice: &AdapterChoice) -> Result<Gpu, RuntimeError> {
    let gpu = Gpu::open(choice)?;
    Ok(match cache_folder() {
        Some(folder) => gpu.keep_pipelines_in(&folder.join("pipelines")),
        None => gpu,
    })
}

/// Where this program keeps what it can make again: `IDARTS_CACHE`, else a folder in the user's one for such things.
fn cache_folder() -> Option<PathBuf> {
    let folder = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let users = || {
        let of_home = || folder("HOME").map(|home| home.join(".cache"));
        folder("XDG_CACHE_HOME").or_else(|| folder("LOCALAPPDATA")).or_else(of_home)
    };
    folder("IDARTS_CACHE").or_else(|| Some(users()?.join("idarts-compile")))
}

/// What the model's metadata say about its images and classes.
///
/// # Errors
/// Something that preprocessing needs is missing or malformed, or does not fit the graph.
pub fn info(model: &Model, path: &Path) -> Result<ModelInfo> {
    let unusable = || format!("{}: the metadata do not say how to prepare an image", path.display());
    let info = ModelInfo::from_metadata(&model.metadata).with_context(unusable)?;
    let [height, width] = info.input_size;
    let shapes: Vec<_> = model.graph.inputs.iter().map(|v| model.graph.shape(*v)).collect();
    if let [shape] = shapes[..]
        && shape.chw() == Some([3, height, width])
    {
        return Ok(info);
    }
    let found: Vec<String> = shapes.iter().map(ToString::to_string).collect();
    bail!(
        "{}: the metadata promise one input of images 3x{height}x{width}, the inputs are {}",
        path.display(),
        found.join(", ")
    )
}

/// The number of images that the model always takes, if it is fixed in the file.
pub fn fixed_batch(model: &Model) -> Option<usize> {
    let first = model.graph.inputs.first().and_then(|v| model.graph.shape(*v).0.first())?;
    match first {
        Dim::Fixed(n) => Some(*n),
        Dim::Batch => None,
    }
}
