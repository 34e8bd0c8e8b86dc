//! Damaged files: whatever is in them, reading gives a model or an error, never a panic, and soon.

#![cfg(test)]

use prost::Message;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::file::{file, floats, int, longs, node, tensor};
use super::sample;
use crate::ir::verify;
use crate::onnx::proto::{DimensionValue, ModelProto, TensorProto, TypeValue};
use crate::onnx::{WriteOptions, read, write};

/// The sample as a file.
fn plain() -> Vec<u8> {
    write(&sample(), &WriteOptions::default()).unwrap()
}

/// A file in which the target of a Reshape is computed, by most of the operators that compute on integers.
fn computed_target() -> Vec<u8> {
    let raw = |t: TensorProto| {
        let bytes = t.int64_data.iter().flat_map(|n| n.to_le_bytes()).collect();
        TensorProto { raw_data: Some(bytes), int64_data: Vec::new(), ..t }
    };
    let lists = [("at0", 0), ("at1", 1), ("at4", 4), ("minus", -1), ("many", 144)];
    let mut constants: Vec<TensorProto> = lists.into_iter().map(|(name, n)| raw(longs(name, &[n]))).collect();
    constants.push(TensorProto { dims: Vec::new(), ..raw(longs("zero", &[0])) });
    constants.extend([floats("w", &[4, 4, 1, 1]), floats("m", &[144, 3])]);
    let nodes = vec![
        node("Conv", "x w", "c", vec![]),
        node("Shape", "c", "s", vec![]),
        node("Gather", "s zero", "n", vec![int("axis", 0)]),
        node("Unsqueeze", "n at0", "b", vec![]),
        node("Cast", "b", "b64", vec![int("to", 7)]),
        node("Slice", "s at1 at4 at0 at1", "sizes", vec![]),
        node("ReduceProd", "sizes", "product", vec![int("keepdims", 1)]),
        node("ConstantOfShape", "at1", "one", vec![tensor("value", raw(longs("", &[1])))]),
        node("Mul", "product one", "p", vec![]),
        node("Mul", "b64 p", "all", vec![]),
        node("Div", "all b", "rest", vec![]),
        node("Add", "rest at1", "more", vec![]),
        node("Sub", "more at1", "less", vec![]),
        node("Squeeze", "less at0", "single", vec![]),
        node("Reshape", "single minus", "columns", vec![]),
        node("Concat", "b64 columns", "t", vec![int("axis", 0)]),
        node("Reshape", "c t", "f", vec![]),
        node("MatMul", "f m", "y", vec![]),
    ];
    file(nodes, constants).encode_to_vec()
}

/// Damages `whole` in `rounds` ways; gives how many of the files were read and how many refused.
fn check(whole: &[u8], rounds: usize, damage: fn(&[u8], &mut ChaCha8Rng) -> Vec<u8>) -> (usize, usize) {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let (mut accepted, mut refused) = (0, 0);
    for _ in 0..rounds {
        match read(&damage(whole, &mut rng), "damaged.onnx") {
            Ok(model) => {
                // Weights that are no numbers are found here; everything else must hold by construction.
                if let Err(error) = verify(model).map(|model| write(&model, &WriteOptions::default())) {
                    assert!(error.to_string().contains("not a finite number"), "{error}");
                }
                accepted += 1;
            }
            Err(error) => {
                assert!(!error.to_string().contains("please report it"), "{error}");
                refused += 1;
            }
        }
    }
    (accepted, refused)
}

#[test]
fn damaged_bytes_give_errors_or_models() {
    for (whole, rounds) in [(plain(), 50_000), (computed_target(), 50_000)] {
        let (accepted, refused) = check(&whole, rounds, |whole, rng| {
            let mut bytes = whole.to_vec();
            for _ in 0..rng.random_range(1..=3) {
                damage_bytes(&mut bytes, rng);
            }
            bytes
        });
        assert!(accepted > rounds / 30 && refused > rounds / 2, "{accepted} read, {refused} refused");
    }
}

#[test]
fn damaged_fields_give_errors_or_models() {
    for (whole, rounds) in [(plain(), 50_000), (computed_target(), 50_000)] {
        let (accepted, refused) = check(&whole, rounds, |whole, rng| {
            let mut file = ModelProto::decode(whole).unwrap();
            for _ in 0..rng.random_range(1..=3) {
                damage_field(&mut file, rng);
            }
            file.encode_to_vec()
        });
        assert!(accepted > rounds / 30 && refused > rounds / 2, "{accepted} read, {refused} refused");
    }
}

fn damage_bytes(bytes: &mut Vec<u8>, rng: &mut ChaCha8Rng) {
    if bytes.is_empty() {
        return;
    }
    let at = rng.random_range(0..bytes.len());
    match rng.random_range(0..12) {
        0..4 => bytes[at] ^= 1 << rng.random_range(0..8),
        4..6 => bytes[at] = rng.random(),
        6..8 => bytes[at] = [0x00, 0x7f, 0x80, 0xff][rng.random_range(0..4)],
        8 => bytes.insert(at, rng.random()),
        9 => drop(bytes.remove(at)),
        10 => bytes.truncate(at),
        _ => {
            // Part of the file a second time somewhere else.
            let piece = bytes[at..(at + rng.random_range(1..40)).min(bytes.len())].to_vec();
            let to = rng.random_range(0..=bytes.len());
            bytes.splice(to..to, piece);
        }
    }
}

/// Changes one field and keeps the envelope whole, so that the damage reaches the operators.
fn damage_field(file: &mut ModelProto, rng: &mut ChaCha8Rng) {
    let number = number(rng);
    if rng.random_ratio(1, 40) {
        file.opset_import[0].version = rng.random_range(0..30);
    }
    let graph = file.graph.as_mut().unwrap();
    let names: Vec<String> = graph.node.iter().flat_map(|n| n.input.iter().chain(&n.output).cloned()).collect();
    let name = names[rng.random_range(0..names.len())].clone();
    let other = rng.random_range(0..graph.node.len());
    let op = graph.node[other].op_type.clone();
    let places = graph.node.len();
    let node = &mut graph.node[rng.random_range(0..places)];
    match rng.random_range(0..9) {
        0 => node.op_type = op,
        1 => {
            let at = rng.random_range(0..node.input.len().max(1));
            node.input.splice(at..(at + 1).min(node.input.len()), [name]);
        }
        2 => node.output[0] = name,
        3 => drop(node.input.pop()),
        4 | 5 if !node.attribute.is_empty() => {
            let at = rng.random_range(0..node.attribute.len());
            let attribute = &mut node.attribute[at];
            attribute.i = attribute.i.map(|_| number);
            let at = rng.random_range(0..attribute.ints.len().max(1));
            attribute.ints.splice(at..(at + 1).min(attribute.ints.len()), [number]);
        }
        6 => graph.node.swap(0, other),
        7 => {
            let tensors = graph.initializer.len();
            let tensor = &mut graph.initializer[rng.random_range(0..tensors)];
            let at = rng.random_range(0..tensor.dims.len().max(1));
            match rng.random_range(0..3) {
                0 => drop(tensor.dims.splice(at..(at + 1).min(tensor.dims.len()), [number])),
                1 => tensor.data_type = number as i32,
                _ => {
                    let raw = tensor.raw_data.as_mut().unwrap();
                    let at = rng.random_range(0..raw.len() / 8 + 1) * 8;
                    raw.splice(at..(at + 8).min(raw.len()), number.to_le_bytes());
                }
            }
        }
        _ => {
            let Some(TypeValue::Tensor(tensor)) = &mut graph.input[0].r#type.as_mut().unwrap().value else { return };
            let dims = &mut tensor.shape.as_mut().unwrap().dim;
            let at = rng.random_range(0..dims.len());
            dims[at].value = Some(DimensionValue::Value(number));
        }
    }
}

fn number(rng: &mut impl Rng) -> i64 {
    match rng.random_range(0..4) {
        0 => rng.random(),
        1 => [i64::MIN, i64::MAX, i64::from(i32::MIN), i64::from(i32::MAX), 1 << 24][rng.random_range(0..5)],
        _ => rng.random_range(-10..10),
    }
}
