//! Files that PyTorch wrote (`tests/torch`), and damaged ones.

#![cfg(test)]

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{is_torch, read};
use crate::ir::Tensor;

const FILES: [(&str, &[u8]); 6] = [
    ("state_dict.pt", include_bytes!("../../../tests/torch/state_dict.pt")),
    ("legacy.pt", include_bytes!("../../../tests/torch/legacy.pt")),
    ("checkpoint.pth.tar", include_bytes!("../../../tests/torch/checkpoint.pth.tar")),
    ("legacy.pth.tar", include_bytes!("../../../tests/torch/legacy.pth.tar")),
    ("views.pt", include_bytes!("../../../tests/torch/views.pt")),
    ("module.pt", include_bytes!("../../../tests/torch/module.pt")),
];

fn file(name: &str) -> &'static [u8] {
    FILES.iter().find(|(known, _)| *known == name).expect("one of the files").1
}

fn weight() -> Tensor {
    Tensor::new([2, 3, 1, 1], (0..6).map(|i| i as f32 / 8.0).collect())
}

#[test]
fn a_state_dict_is_read_from_every_form_of_file() {
    for (name, key, names) in [
        ("state_dict.pt", "stem.0.weight", 2),
        ("legacy.pt", "stem.0.weight", 2),
        ("checkpoint.pth.tar", "module.stem.0.weight", 1),
        ("legacy.pth.tar", "module.stem.0.weight", 1),
    ] {
        assert!(is_torch(file(name)), "{name}");
        let tensors = read(file(name)).expect(name);
        // The batch counter is no float, and what lies beside the state_dict is read over.
        assert_eq!((tensors.len(), tensors.get(key)), (names, Some(&weight())), "{name}");
    }
    let tensors = read(file("legacy.pt")).unwrap();
    assert_eq!(tensors["auxiliary_head.classifier.bias"], Tensor::new([2], vec![0.5; 2]));
}

#[test]
fn every_float_type_and_every_layout_is_read() {
    let tensors = read(file("views.pt")).unwrap();
    let across = Tensor::new([2, 3], [0, 2, 4, 1, 3, 5].map(|i| i as f32 / 8.0).to_vec());
    for name in ["across", "half", "bfloat16", "double"] {
        assert_eq!(tensors[name], across, "{name}");
    }
    assert_eq!(tensors["tail"], Tensor::new([6], vec![4.0, 5.0, 6.0, 7.0, 8.0, 9.0]));
    assert_eq!(tensors["spread"], Tensor::new([2, 3], vec![1.0; 6]));
    assert_eq!(tensors["scalar"], Tensor::new([], vec![2.5]));
    assert_eq!(tensors["parameter"], Tensor::new([2], vec![1.0; 2]));
}

#[test]
fn a_whole_module_is_refused_by_the_name_of_its_class() {
    let error = read(file("module.pt")).unwrap_err();
    assert!(error.contains("`torch.nn.modules.container.Sequential`") && error.contains("state_dict()"), "{error}");
}

/// A file of the old form whose object is the given pickle.
fn legacy(pickle: &[u8]) -> Vec<u8> {
    [super::archive::LEGACY, b"\x80\x02M\xe9\x03.", b"\x80\x02}.", pickle, b"\x80\x02]."].concat()
}

#[test]
fn what_a_pickle_would_run_is_named_and_not_run() {
    let check = |pickle: &[u8], message: &str| {
        let error = read(&legacy(pickle)).unwrap_err();
        assert!(error.contains(message), "`{error}` does not say `{message}`");
    };
    check(b"\x80\x02cposix\nsystem\nX\x02\x00\x00\x00ls\x85R.", "`posix.system`");
    check(b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93.", "`builtins.eval`");
    check(b"\x80\x02ctorch\nFloatStorage\n)R.", "arguments that do not fit");
    check(b"\x80\x02K\x01.", "it holds a number, not a state_dict");
    check(b"\x80\x02}.", "it holds no float tensors");
    check(b"\x80\x02}U\x01aK\x01s.", "`a` of the state_dict is a number, not a tensor");
    check(b"\x80\x02S'a'\n.", "the instruction 'S' at byte 2");
    check(b"\x80\x02h\x05.", "refers to object 5");
    check(b"\x80\x02.", "an empty stack");
    check(b"\x80\x02X\xff\xff\xff\x7f", "is cut off");
    let many = [&b"\x80\x02"[..], &vec![b'}'; 1_000_001], b"."].concat();
    check(&many, "more than 1000000 objects");
}

#[test]
fn files_cut_short_anywhere_are_refused() {
    for (name, whole) in FILES {
        for end in 0..whole.len() {
            // The last bytes of a legacy file are its last storage, those of a zip archive its directory.
            assert!(read(&whole[..end]).is_err(), "{name} cut at {end}");
        }
    }
}

#[test]
fn damaged_files_give_tensors_or_errors() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let (mut accepted, mut refused) = (0, 0);
    for _ in 0..20_000 {
        let mut bytes = FILES[rng.random_range(0..FILES.len())].1.to_vec();
        for _ in 0..rng.random_range(1..4) {
            let at = rng.random_range(0..bytes.len());
            match rng.random_range(0..3) {
                0 => bytes[at] ^= 1 << rng.random_range(0..8),
                1 => bytes[at] = rng.random(),
                _ => drop(bytes.remove(at)),
            }
        }
        match read(&bytes) {
            Ok(tensors) => {
                // However views repeat elements, there are no more of them than bytes.
                assert!(tensors.values().map(|t| t.data.len()).sum::<usize>() <= bytes.len());
                accepted += 1;
            }
            Err(_) => refused += 1,
        }
    }
    assert!(accepted > 1000 && refused > 1000, "{accepted} read, {refused} refused");
}
