//! Files of named tensors, as programs that compare models exchange them.
//!
//! Takes a path; gives [`TensorFile`]. Read are safetensors, numpy's .npz and .npy, ONNX's .pb, and a folder of the latter, as
//! ONNX's test data sets are (`input_0.pb`, `output_0.pb`). Tensors of other types than floats are left out.

use std::io::{Cursor, Read};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use half::f16;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};

use crate::ir::Tensor;
use crate::onnx;

/// The most bytes of a header of numpy that are looked at.
const MAX_HEADER: usize = 1 << 16;

/// Named tensors.
#[derive(Debug)]
pub struct TensorFile {
    file: String,
    tensors: Vec<(String, Tensor)>,
}

impl TensorFile {
    /// Reads the float tensors of a file or folder; the ending says of what kind it is.
    ///
    /// # Errors
    /// It cannot be read, or is not what its ending says.
    pub fn read(path: &Path) -> Result<Self> {
        let file = path.display().to_string();
        let mut tensors = if path.is_dir() { folder(path)? } else { named(path)? };
        tensors.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(Self { file, tensors })
    }

    /// The tensor called like the first of `names` that the file has.
    pub fn find(&self, names: &[&str]) -> Option<Tensor> {
        let named = |name: &&str| self.tensors.iter().find(|(known, _)| known == name);
        names.iter().find_map(named).map(|(_, tensor)| tensor.clone())
    }

    /// As [`Self::find`]; the only tensor of the file may have any name.
    ///
    /// # Errors
    /// There is none, with the tensors there are.
    pub fn get(&self, names: &[&str]) -> Result<Tensor> {
        if let Some(tensor) = self.find(names) {
            return Ok(tensor);
        }
        match &self.tensors[..] {
            [(_, only)] => Ok(only.clone()),
            [] => bail!("{}: no tensor of type F16, F32 or F64; it needs `{}`", self.file, names.join("` or `")),
            several => {
                let have: Vec<&str> = several.iter().map(|(name, _)| name.as_str()).collect();
                bail!("{}: no tensor `{}`; it has {}", self.file, names.join("` or `"), have.join(", "))
            }
        }
    }
}

fn named(path: &Path) -> Result<Vec<(String, Tensor)>> {
    let file = path.display();
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {file}"))?;
    let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    match path.extension().and_then(|e| e.to_str()) {
        Some("npz") => npz(&bytes).with_context(|| format!("{file} is no readable npz file")),
        Some("npy") => {
            let tensor = npy(&bytes).with_context(|| format!("{file} is no readable npy file"))?;
            Ok(tensor.into_iter().map(|tensor| (stem.clone(), tensor)).collect())
        }
        Some("pb") => {
            let (name, tensor) = onnx::read_tensor(&bytes, &file.to_string())?;
            Ok(vec![(if name.is_empty() { stem } else { name }, tensor)])
        }
        _ => safetensors(&bytes).with_context(|| {
            format!("{file} is no readable safetensors file (is it complete? other endings: .npz, .npy, .pb)")
        }),
    }
}

/// The .pb files of a folder, each under the name of its file without the ending.
fn folder(path: &Path) -> Result<Vec<(String, Tensor)>> {
    let mut tensors = Vec::new();
    for entry in std::fs::read_dir(path).with_context(|| format!("cannot read {}", path.display()))? {
        let path = entry.with_context(|| format!("cannot read {}", path.display()))?.path();
        if path.extension().is_some_and(|e| e == "pb") {
            let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            tensors.extend(named(&path)?.into_iter().map(|(_, tensor)| (stem.clone(), tensor)));
        }
    }
    ensure!(!tensors.is_empty(), "{} has no .pb files, as ONNX's test data sets do", path.display());
    Ok(tensors)
}

fn safetensors(bytes: &[u8]) -> Result<Vec<(String, Tensor)>> {
    let parsed = SafeTensors::deserialize(bytes)?;
    Ok(parsed.tensors().into_iter().filter_map(|(name, view)| Some((name, floats(&view)?))).collect())
}

fn floats(view: &TensorView) -> Option<Tensor> {
    let size = match view.dtype() {
        Dtype::F16 => 2,
        Dtype::F32 => 4,
        Dtype::F64 => 8,
        _ => return None,
    };
    Some(Tensor::new(view.shape(), numbers(view.data(), size, false)))
}

/// Floats of `size` bytes each.
fn numbers(bytes: &[u8], size: usize, big_endian: bool) -> Vec<f32> {
    let number = |chunk: &[u8]| {
        let mut wide = [0; 8];
        wide[..size].copy_from_slice(chunk);
        if big_endian {
            wide[..size].reverse();
        }
        let [a, b, c, d, ..] = wide;
        match size {
            2 => f16::from_le_bytes([a, b]).to_f32(),
            4 => f32::from_le_bytes([a, b, c, d]),
            _ => f64::from_le_bytes(wide) as f32,
        }
    };
    bytes.chunks_exact(size).map(number).collect()
}

fn npz(bytes: &[u8]) -> Result<Vec<(String, Tensor)>> {
    let mut archive = zip::ZipArchive::new(Cursor::new(bytes))?;
    let mut tensors = Vec::new();
    for i in 0..archive.len() {
        let mut member = archive.by_index(i)?;
        let Some(name) = member.name().strip_suffix(".npy").map(str::to_owned) else { continue };
        // The size that the header of an array states is checked against what there is.
        let mut contents = Vec::new();
        member.read_to_end(&mut contents)?;
        let tensor = npy(&contents).with_context(|| format!("array `{name}`"))?;
        tensors.extend(tensor.map(|tensor| (name, tensor)));
    }
    Ok(tensors)
}

/// An array in the [format of numpy](https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html); `None` if it holds
/// no floats.
fn npy(bytes: &[u8]) -> Result<Option<Tensor>> {
    let rest = bytes.strip_prefix(b"\x93NUMPY").context("it does not start as an array of numpy")?;
    let (len, at) = match *rest {
        [1, _, a, b, ..] => (usize::from(u16::from_le_bytes([a, b])), 4),
        [2 | 3, _, a, b, c, d, ..] => (u32::from_le_bytes([a, b, c, d]) as usize, 6),
        _ => bail!("its version of the format is not known (1 to 3 are)"),
    };
    ensure!(len <= MAX_HEADER, "its header has {len} bytes");
    let header = rest.get(at..at + len).context("its header is cut short")?;
    let header = std::str::from_utf8(header).context("its header is no text")?;
    let data = &rest[at + len..];
    let descr = value(header, "descr")?;
    let (order, kind) = descr.trim_matches(['\'', '"']).split_at_checked(1).context("its type is empty")?;
    let size = match kind {
        "f2" => 2,
        "f4" => 4,
        "f8" => 8,
        _ => return Ok(None),
    };
    let shape = value(header, "shape")?.trim_start_matches('(').trim_end_matches(')');
    let dims = shape.split(',').map(str::trim).filter(|dim| !dim.is_empty());
    let shape: Vec<usize> = dims.map(str::parse).collect::<Result<_, _>>().context("its shape is not readable")?;
    let count = shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d)).context("its shape is too large")?;
    ensure!(count.checked_mul(size) == Some(data.len()), "its shape is {shape:?}, but it holds {} bytes", data.len());
    let numbers = numbers(data, size, order == ">");
    Ok(Some(match value(header, "fortran_order")? {
        "False" => Tensor::new(shape, numbers),
        "True" => row_major(&shape, &numbers),
        other => bail!("its fortran_order is {other}"),
    }))
}

/// The text of `key` in a header such as `{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }`.
fn value<'a>(header: &'a str, key: &str) -> Result<&'a str> {
    let missing = || format!("its header has no `{key}`");
    let (_, rest) = header.split_once(&format!("'{key}'")).with_context(missing)?;
    let rest = rest.trim_start().strip_prefix(':').with_context(missing)?.trim_start();
    let end = if rest.starts_with('(') { rest.find(')').map(|i| i + 1) } else { rest.find([',', '}']) };
    Ok(rest[..end.with_context(missing)?].trim())
}

/// An array whose first index runs fastest, in the usual order.
fn row_major(shape: &[usize], numbers: &[f32]) -> Tensor {
    let place = |flat: usize| {
        let (mut rest, mut index) = (flat, vec![0; shape.len()]);
        for (i, n) in index.iter_mut().zip(shape).rev() {
            (*i, rest) = (rest % n, rest / n);
        }
        index.iter().zip(shape).rev().fold(0, |at, (i, n)| at * n + i)
    };
    Tensor::new(shape, (0..numbers.len()).map(|flat| numbers[place(flat)]).collect())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn array(descr: &str, fortran: &str, shape: &str, data: &[u8]) -> Vec<u8> {
        let header = format!("{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': {shape}, }}\n");
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((header.len() as u16).to_le_bytes());
        bytes.extend(header.bytes());
        bytes.extend(data);
        bytes
    }

    fn bytes<const N: usize>(of: impl Fn(f32) -> [u8; N]) -> Vec<u8> {
        [1.0, 2.0, 3.0, 4.0, 5.0, 6.0].into_iter().flat_map(of).collect()
    }

    #[test]
    fn arrays_of_numpy_are_read_in_every_float_type_and_order() {
        let expected = Tensor::new([2, 3], vec![1., 2., 3., 4., 5., 6.]);
        let little = bytes(f32::to_le_bytes);
        for (descr, data) in [
            ("<f4", little.clone()),
            (">f4", bytes(f32::to_be_bytes)),
            ("<f8", bytes(|x| f64::from(x).to_le_bytes())),
            ("<f2", bytes(|x| f16::from_f32(x).to_le_bytes())),
        ] {
            assert_eq!(npy(&array(descr, "False", "(2, 3)", &data)).unwrap().unwrap(), expected, "{descr}");
        }
        let across = npy(&array("<f4", "True", "(2, 3)", &little)).unwrap().unwrap();
        assert_eq!(across, Tensor::new([2, 3], vec![1., 3., 5., 2., 4., 6.]));
        let vector = npy(&array("<f4", "False", "(6,)", &little)).unwrap().unwrap();
        assert_eq!(vector.shape, [6]);
        assert_eq!(npy(&array("<f4", "False", "()", &little[..4])).unwrap().unwrap().shape, [0usize; 0]);
        assert!(npy(&array("<i8", "False", "(2,)", &little)).unwrap().is_none());
    }

    #[test]
    fn damaged_arrays_are_refused_with_what_is_wrong() {
        let data = bytes(f32::to_le_bytes);
        let whole = array("<f4", "False", "(2, 3)", &data);
        for (bytes, why) in [
            (b"PK\x03\x04".to_vec(), "does not start as"),
            (whole[..30].to_vec(), "cut short"),
            (whole[..whole.len() - 1].to_vec(), "it holds 23 bytes"),
            (array("<f4", "False", "(4294967296, 4294967296, 4)", &data), "too large"),
            (array("<f4", "False", "(2, x)", &data), "not readable"),
            (array("<f4", "Maybe", "(2, 3)", &data), "fortran_order is Maybe"),
            (b"\x93NUMPY\x09\x00\x00\x00".to_vec(), "version"),
            (b"\x93NUMPY\x02\x00\xff\xff\xff\x7f".to_vec(), "its header has 2147483647 bytes"),
        ] {
            let error = format!("{:#}", npy(&bytes).unwrap_err());
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn files_of_every_kind_give_the_same_tensor() {
        let folder = tempfile::tempdir().unwrap();
        let data = bytes(f32::to_le_bytes);
        let array = array("<f4", "False", "(2, 3)", &data);
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("x.npy"), &array).unwrap();
        for (name, method) in [("a.npz", zip::CompressionMethod::Stored), ("b.npz", zip::CompressionMethod::Deflated)] {
            let mut zip = zip::ZipWriter::new(std::fs::File::create(path(name)).unwrap());
            for member in ["x.npy", "readme.txt", "other.npy"] {
                zip.start_file(member, zip::write::FileOptions::default().compression_method(method)).unwrap();
                zip.write_all(&array).unwrap();
            }
            zip.finish().unwrap();
        }
        let view = TensorView::new(Dtype::F32, vec![2, 3], &data).unwrap();
        safetensors::serialize_to_file([("x", view)], None, &path("x.safetensors")).unwrap();
        // A TensorProto: dimensions 2 and 3, float, name `x`, raw data.
        let mut proto = vec![0x08, 2, 0x08, 3, 0x10, 1, 0x42, 1, b'x', 0x4a, 24];
        proto.extend(&data);
        std::fs::create_dir(path("set")).unwrap();
        std::fs::write(path("x.pb"), &proto).unwrap();
        std::fs::write(path("set/input_0.pb"), &proto).unwrap();
        let expected = Tensor::new([2, 3], vec![1., 2., 3., 4., 5., 6.]);
        for name in ["x.npy", "a.npz", "b.npz", "x.safetensors", "x.pb"] {
            assert_eq!(TensorFile::read(&path(name)).unwrap().find(&["y", "x"]), Some(expected.clone()), "{name}");
        }
        assert_eq!(TensorFile::read(&path("set")).unwrap().find(&["input_0"]), Some(expected));
        let several = TensorFile::read(&path("a.npz")).unwrap().get(&["input", "images"]).unwrap_err().to_string();
        assert!(several.ends_with("a.npz: no tensor `input` or `images`; it has other, x"), "{several}");
        assert!(TensorFile::read(&path("x.npy")).unwrap().get(&["input"]).is_ok());
        std::fs::create_dir(path("empty")).unwrap();
        for name in ["empty", "absent.npz", "missing.pb"] {
            assert!(TensorFile::read(&path(name)).is_err(), "{name}");
        }
        std::fs::write(path("bad.npz"), b"PK").unwrap();
        let error = TensorFile::read(&path("bad.npz")).unwrap_err().to_string();
        assert!(error.ends_with("bad.npz is no readable npz file"), "{error}");
    }
}
