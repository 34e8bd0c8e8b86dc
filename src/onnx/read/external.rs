//! Initialisers whose elements lie in files beside the model.
//!
//! Takes a decoded model and a function that gives the contents of such a file; puts the elements where the rest of the
//! reader expects them. A location must stay below the model's folder: it is checked here as text, links are left to whoever
//! opens the file.

use std::collections::HashMap;

use super::constant::fail;
use crate::onnx::OnnxError;
use crate::onnx::proto::{ModelProto, StringStringEntryProto, TensorProto};

/// Gives the contents of a file by its location, relative to the model's folder, or why it cannot be read.
pub type ExternalFiles<'a> = &'a mut dyn FnMut(&str) -> Result<Vec<u8>, String>;

/// Moves external elements into the model.
pub(super) fn embed(model: &mut ModelProto, files: ExternalFiles) -> Result<(), OnnxError> {
    let Some(graph) = &mut model.graph else { return Ok(()) };
    let mut contents: HashMap<String, Vec<u8>> = HashMap::new();
    // Many tensors may name one range; together they get no more than the files hold.
    let (mut held, mut taken) = (0usize, 0usize);
    for tensor in graph.initializer.iter_mut().filter(|t| t.data_location == 1) {
        let place = Place::of(tensor)?;
        if !contents.contains_key(place.location) {
            let bytes = files(place.location).map_err(|why| fail(&tensor.name, why))?;
            held = held.saturating_add(bytes.len());
            contents.insert(place.location.to_owned(), bytes);
        }
        let bytes = &contents[place.location];
        let length = place.length.unwrap_or(bytes.len().saturating_sub(place.offset));
        let end = place.offset.checked_add(length).filter(|end| *end <= bytes.len());
        let Some(end) = end else {
            let why = format!(
                "it has {length} bytes from {} on in `{}`, which has {} (is it complete?)",
                place.offset,
                place.location,
                bytes.len()
            );
            return Err(fail(&tensor.name, why));
        };
        taken = taken.saturating_add(length);
        if taken > held {
            return Err(fail(&tensor.name, "the tensors take more than their files hold; the model is damaged"));
        }
        let raw = bytes[place.offset..end].to_vec();
        tensor.raw_data = Some(raw);
        tensor.external_data.clear();
        tensor.data_location = 0;
    }
    Ok(())
}

/// Where a tensor's elements lie.
struct Place<'a> {
    location: &'a str,
    offset: usize,
    length: Option<usize>,
}

impl<'a> Place<'a> {
    fn of(tensor: &'a TensorProto) -> Result<Self, OnnxError> {
        let entry = |key: &str| tensor.external_data.iter().find(|e| e.key == key).map(text);
        let size = |key: &str| {
            let parse =
                |text: &str| text.parse().map_err(|_| fail(&tensor.name, format!("its {key} `{text}` is no size")));
            entry(key).map(parse).transpose()
        };
        let location = entry("location").ok_or_else(|| fail(&tensor.name, "it names no file for its contents"))?;
        if !stays_below(location) {
            let why = format!("its contents are in `{location}`; only files below the model's folder are read");
            return Err(fail(&tensor.name, why));
        }
        Ok(Self { location, offset: size("offset")?.unwrap_or(0), length: size("length")? })
    }
}

fn text(entry: &StringStringEntryProto) -> &str {
    &entry.value
}

/// Whether a location names a file in the folder or below it, on every system.
fn stays_below(location: &str) -> bool {
    !location.is_empty()
        && !location.contains(['\\', ':', '\0'])
        && location.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

#[cfg(test)]
mod tests {
    use super::stays_below;

    #[test]
    fn locations_outside_of_the_folder_are_known() {
        for good in ["weights.bin", "a/b/c.data", "..weights", "a..b"] {
            assert!(stays_below(good), "{good}");
        }
        for bad in ["", "/etc/passwd", "../x", "a/../../x", "a//b", "./x", "C:x", "a\\..\\x", "x\0"] {
            assert!(!stays_below(bad), "{bad}");
        }
    }
}
