//! Models whose weights lie in files beside them.

#![cfg(test)]

use prost::Message;

use super::sample;
use crate::ir::verify;
use crate::onnx::proto::{ModelProto, StringStringEntryProto};
use crate::onnx::{WriteOptions, read_with_files, write};

/// The sample with all its float weights in `location`, and the contents of that file.
fn split(location: &str) -> (ModelProto, Vec<u8>) {
    let mut file = ModelProto::decode(write(&sample(), &WriteOptions::default()).unwrap().as_slice()).unwrap();
    let mut beside = Vec::new();
    for tensor in &mut file.graph.as_mut().unwrap().initializer {
        let raw = tensor.raw_data.take().unwrap();
        let entry = |key: &str, value: String| StringStringEntryProto { key: key.into(), value };
        tensor.external_data = vec![
            entry("location", location.into()),
            entry("offset", beside.len().to_string()),
            entry("length", raw.len().to_string()),
        ];
        tensor.data_location = 1;
        beside.extend(raw);
    }
    (file, beside)
}

fn message(file: &ModelProto, beside: &[u8]) -> String {
    let mut files = |_: &str| Ok(beside.to_vec());
    read_with_files(&file.encode_to_vec(), "m.onnx", &mut files).expect_err("it is damaged").to_string()
}

#[test]
fn weights_beside_the_model_are_those_inside() {
    let whole = write(&sample(), &WriteOptions::default()).unwrap();
    let (file, beside) = split("sub/m.data");
    let mut asked = Vec::new();
    let mut files = |location: &str| {
        asked.push(location.to_owned());
        Ok(beside.clone())
    };
    let model = read_with_files(&file.encode_to_vec(), "m.onnx", &mut files).unwrap();
    assert!(write(&verify(model).unwrap(), &WriteOptions::default()).unwrap() == whole);
    assert_eq!(asked, ["sub/m.data"], "a file is opened once");
}

#[test]
fn places_that_lead_out_of_the_folder_or_the_file_are_refused() {
    for location in ["../m.data", "/etc/passwd", "a/../../b"] {
        let (file, beside) = split(location);
        let error = message(&file, &beside);
        assert!(error.contains(location) && error.contains("only files below the model's folder are read"), "{error}");
    }
    let (file, beside) = split("m.data");
    assert!(message(&file, &beside[..beside.len() - 1]).contains("(is it complete?)"));
    let mut gone = |_: &str| Err("it is not there".to_owned());
    let error = read_with_files(&file.encode_to_vec(), "m.onnx", &mut gone).unwrap_err().to_string();
    assert!(error.contains("it is not there"), "{error}");

    // Each tensor names the whole file.
    let (mut file, beside) = split("m.data");
    for tensor in &mut file.graph.as_mut().unwrap().initializer {
        tensor.external_data.truncate(1);
    }
    assert!(message(&file, &beside).contains("take more than their files hold"));
    let (mut file, beside) = split("m.data");
    let tensor = &mut file.graph.as_mut().unwrap().initializer[0];
    tensor.external_data[1].value = u64::MAX.to_string();
    assert!(message(&file, &beside).contains("(is it complete?)"));
    let tensor = &mut file.graph.as_mut().unwrap().initializer[0];
    tensor.external_data[2].value = "-1".into();
    assert!(message(&file, &beside).contains("its length `-1` is no size"));
}
