//! What travels inside the file besides the network: how to preprocess an image, what the classes are called, where the
//! network comes from.
//!
//! Takes and gives the key and text pairs of [`Model::metadata`](crate::ir::Model::metadata), which are ONNX
//! `metadata_props`. Preprocessing an image with it is left to the caller.
//!
//! | key | text |
//! |---|---|
//! | `Image.BitmapPixelFormat` | `Rgb8`: the channels are red, green, blue |
//! | `Image.ColorSpaceGamma` | `SRGB` |
//! | `Image.NominalPixelRange` | only where [ONNX](https://github.com/onnx/onnx/blob/main/docs/MetadataProps.md) has a word for the range that mean and std give |
//! | `classes` | JSON list of class names, in the order of the outputs |
//! | `mean`, `std` | JSON lists of three numbers: the network reads `(x - mean) / std` of pixels `x` in 0 to 1 |
//! | `input_size` | JSON list: height, width |
//! | `resize` | JSON list: the height and width that the scaled image covers before its middle of `input_size` is cut out; absent: `input_size` |
//! | `genotype` | the genotype in YAML |
//! | `config` | fingerprint of the resolved configuration of the training run, without its number of threads |
//! | `float_top1` | of a quantised model: the accuracy before it was quantised; `top1` is that of the model as it is |
//! | `quantization` | of a quantised model: the type, the calibration images, how the ranges were chosen |
//! | `dataset`, `top1`, `seed`, `license`, `producer` | name, accuracy in 0 to 1 on the test images, number, licence, program and version |

use serde_json::Value;

use super::OnnxError;

/// The metadata of an image classifier.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ModelInfo {
    /// Names of the classes, in the order of the outputs.
    pub classes: Vec<String>,
    /// Subtracted from the channels (red, green, blue), for pixels in 0 to 1.
    pub mean: [f32; 3],
    /// Divides the channels afterwards.
    pub std: [f32; 3],
    /// Height and width of the input in pixels.
    pub input_size: [usize; 2],
    /// Height and width, in pixels, that an image just covers once it is scaled (bilinear, antialiased, shape kept); then the
    /// middle of `input_size` is cut out. `None`: the same as `input_size`.
    pub resize: Option<[usize; 2]>,
    /// The genotype in YAML.
    pub genotype: Option<String>,
    /// The data set it was trained on.
    pub dataset: Option<String>,
    /// Accuracy on the test images, 0 to 1.
    pub top1: Option<f64>,
    /// The same before the model was quantised, if it was.
    pub float_top1: Option<f64>,
    /// How it was quantised.
    pub quantization: Option<String>,
    /// The seed of the training run.
    pub seed: Option<u64>,
    /// Fingerprint of the resolved configuration of the training run.
    pub config: Option<String>,
    /// The licence of the model.
    pub license: Option<String>,
    /// The program that made it, with its version.
    pub producer: Option<String>,
}

impl ModelInfo {
    /// The pairs to store, in a fixed order.
    pub fn to_metadata(&self) -> Vec<(String, String)> {
        let json = |value: Value| value.to_string();
        let floats = |x: [f32; 3]| format!("[{},{},{}]", x[0], x[1], x[2]);
        let pair = |[height, width]: [usize; 2]| format!("[{height},{width}]");
        let pairs = [
            ("Image.BitmapPixelFormat", Some("Rgb8".into())),
            ("Image.ColorSpaceGamma", Some("SRGB".into())),
            ("Image.NominalPixelRange", self.nominal_range().map(Into::into)),
            ("classes", Some(json(self.classes.as_slice().into()))),
            ("mean", Some(floats(self.mean))),
            ("std", Some(floats(self.std))),
            ("input_size", Some(pair(self.input_size))),
            ("resize", self.resize.map(pair)),
            ("dataset", self.dataset.clone()),
            ("top1", self.top1.map(|x| x.to_string())),
            ("float_top1", self.float_top1.map(|x| x.to_string())),
            ("quantization", self.quantization.clone()),
            ("seed", self.seed.map(|n| n.to_string())),
            ("config", self.config.clone()),
            ("license", self.license.clone()),
            ("producer", self.producer.clone()),
            ("genotype", self.genotype.clone()),
        ];
        pairs.into_iter().filter_map(|(key, text)| Some((key.into(), text?))).collect()
    }

    /// Reads the pairs back. Keys that are not ours are left alone.
    ///
    /// # Errors
    /// A key that preprocessing needs is missing, or a text has the wrong form.
    pub fn from_metadata(pairs: &[(String, String)]) -> Result<Self, OnnxError> {
        let text = |key: &str| pairs.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str());
        if let Some(format) = text("Image.BitmapPixelFormat").filter(|f| *f != "Rgb8") {
            return Err(error("Image.BitmapPixelFormat", format!("it is `{format}`; only Rgb8 is supported")));
        }
        let need = |key: &'static str| {
            let why = "it is missing; the model was not exported by this program, or other tools dropped its metadata";
            text(key).ok_or_else(|| error(key, why.into()))
        };
        let input_size = parse("input_size", need("input_size")?, "a JSON list of two sizes above 0", size)?;
        Ok(Self {
            classes: parse("classes", need("classes")?, "a JSON list of names", |s| serde_json::from_str(s).ok())?,
            mean: parse("mean", need("mean")?, "a JSON list of three numbers", finite)?,
            std: parse("std", need("std")?, "a JSON list of three numbers above 0", |s| {
                finite(s).filter(|std| std.iter().all(|x| *x > 0.0))
            })?,
            input_size,
            resize: optional("resize", text("resize"), "a JSON list of two sizes, none below `input_size`", |s| {
                size(s).filter(|[h, w]| *h >= input_size[0] && *w >= input_size[1])
            })?,
            genotype: text("genotype").map(Into::into),
            dataset: text("dataset").map(Into::into),
            top1: share("top1", text("top1"))?,
            float_top1: share("float_top1", text("float_top1"))?,
            quantization: text("quantization").map(Into::into),
            seed: optional("seed", text("seed"), "a whole number", |s| s.parse().ok())?,
            config: text("config").map(Into::into),
            license: text("license").map(Into::into),
            producer: text("producer").map(Into::into),
        })
    }

    /// ONNX's word for the range of the network's input, where it has one.
    fn nominal_range(&self) -> Option<&'static str> {
        match (self.mean, self.std) {
            ([0.0, 0.0, 0.0], [1.0, 1.0, 1.0]) => Some("Normalized_0_1"),
            ([0.5, 0.5, 0.5], [0.5, 0.5, 0.5]) => Some("Normalized_1_1"),
            _ => None,
        }
    }
}

fn finite(text: &str) -> Option<[f32; 3]> {
    serde_json::from_str(text).ok().filter(|x: &[f32; 3]| x.iter().all(|x| x.is_finite()))
}

fn share(key: &'static str, text: Option<&str>) -> Result<Option<f64>, OnnxError> {
    let inside = |text: &str| text.parse().ok().filter(|x| (0.0..=1.0).contains(x));
    optional(key, text, "a number from 0 to 1", inside)
}

/// Height and width.
fn size(text: &str) -> Option<[usize; 2]> {
    serde_json::from_str(text).ok().filter(|size: &[usize; 2]| !size.contains(&0))
}

fn optional<T>(
    key: &'static str,
    text: Option<&str>,
    form: &str,
    read: impl Fn(&str) -> Option<T>,
) -> Result<Option<T>, OnnxError> {
    text.map(|text| parse(key, text, form, read)).transpose()
}

fn parse<T>(key: &'static str, text: &str, form: &str, read: impl Fn(&str) -> Option<T>) -> Result<T, OnnxError> {
    read(text).ok_or_else(|| {
        let start: String = text.chars().take(60).collect();
        error(key, format!("`{start}` is not {form}"))
    })
}

fn error(key: &'static str, why: String) -> OnnxError {
    OnnxError::Metadata { key, why }
}

#[cfg(test)]
mod tests {
    use super::ModelInfo;

    fn info() -> ModelInfo {
        ModelInfo {
            classes: vec!["cat".into(), "a \"quoted\" dog, \u{e9}".into()],
            mean: [0.4914, 0.4822, 0.4465],
            std: [0.247, 0.2435, 0.2616],
            input_size: [32, 40],
            resize: Some([36, 45]),
            genotype: Some("normal:\n- [sep_conv_3x3, 0]\n".into()),
            dataset: Some("cifar10".into()),
            top1: Some(0.9741),
            float_top1: Some(0.975),
            quantization: Some("int8".into()),
            seed: Some(u64::MAX),
            config: Some("0123456789abcdef".into()),
            license: Some("MIT".into()),
            producer: Some("idarts-compile 0.1.0".into()),
        }
    }

    #[test]
    fn what_is_stored_is_read_back() {
        let bare = ModelInfo { std: [1.0; 3], input_size: [1, 1], ..ModelInfo::default() };
        for info in [info(), bare] {
            assert_eq!(ModelInfo::from_metadata(&info.to_metadata()), Ok(info));
        }
    }

    #[test]
    fn the_texts_are_those_documented() {
        let pairs = info().to_metadata();
        let check = |key: &str, expected: Option<&str>| {
            assert_eq!(pairs.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str()), expected, "{key}");
        };
        check("Image.BitmapPixelFormat", Some("Rgb8"));
        check("Image.NominalPixelRange", None);
        check("mean", Some("[0.4914,0.4822,0.4465]"));
        check("classes", Some("[\"cat\",\"a \\\"quoted\\\" dog, \u{e9}\"]"));
        check("input_size", Some("[32,40]"));
        check("resize", Some("[36,45]"));
        check("seed", Some("18446744073709551615"));
    }

    #[test]
    fn the_nominal_range_is_named_where_it_is_one_of_onnx() {
        let cases = [
            ([0.0; 3], [1.0; 3], Some("Normalized_0_1")),
            ([0.5; 3], [0.5; 3], Some("Normalized_1_1")),
            ([0.5; 3], [0.25; 3], None),
        ];
        for (mean, std, expected) in cases {
            assert_eq!(ModelInfo { mean, std, ..info() }.nominal_range(), expected);
        }
    }

    #[test]
    fn each_bad_text_is_named() {
        let check = |key: &str, text: Option<&str>, message: &str| {
            let mut pairs = info().to_metadata();
            pairs.retain(|(k, _)| k != key);
            pairs.extend(text.map(|t| (key.to_owned(), t.to_owned())));
            let error = ModelInfo::from_metadata(&pairs).expect_err(message).to_string();
            assert!(error.contains(key) && error.contains(message), "`{error}` does not say `{message}`");
        };
        check("classes", None, "is missing");
        check("classes", Some("cat, dog"), "not a JSON list of names");
        check("mean", Some("[1,2]"), "three numbers");
        check("std", Some("[1,0,1]"), "above 0");
        check("input_size", Some("[0,32]"), "above 0");
        check("input_size", Some("[-1,32]"), "above 0");
        check("resize", Some("256"), "a JSON list of two sizes");
        check("resize", Some("[31,40]"), "none below `input_size`");
        check("top1", Some("97.4"), "from 0 to 1");
        check("float_top1", Some("-1"), "from 0 to 1");
        check("seed", Some("-1"), "a whole number");
        check("Image.BitmapPixelFormat", Some("Bgr8"), "only Rgb8");
    }
}
