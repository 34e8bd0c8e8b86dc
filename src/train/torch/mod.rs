//! Checkpoints of PyTorch: the tensors of a state_dict, without Python.
//!
//! Takes the bytes of a file that `torch.save` wrote, trusted in nothing: the zip form of PyTorch 1.6 and later, or the form
//! before it. Gives the float tensors by name. The state_dict may be the file's whole contents or lie under one of
//! [`STATE_DICT_KEYS`], as in the checkpoints that training scripts write; what else lies beside it is read over.
//!
//! The pickle inside is read by `pickle`, which knows dictionaries, lists, numbers, texts and tensors and runs nothing. The
//! containers are unpacked by `archive`, elements by `elements`. Memory is bounded by the size of the file.

mod archive;
mod elements;
mod objects;
mod pickle;

use std::collections::BTreeMap;

use self::archive::Archive;
use self::elements::Budget;
use self::objects::{Id, Object, Objects};
use crate::ir::Tensor;

/// Where training scripts put the state_dict in a checkpoint.
const STATE_DICT_KEYS: [&str; 4] = ["state_dict", "model_state_dict", "model", "net"];

/// Whether `bytes` look like a file of `torch.save`.
pub(super) fn is_torch(bytes: &[u8]) -> bool {
    bytes.starts_with(archive::ZIP) || bytes.starts_with(archive::LEGACY)
}

/// The float tensors of the state_dict in a file. Tensors of other types, such as batch counters, are left out.
///
/// # Errors
/// What is wrong with the file, and what would do.
pub(super) fn read(bytes: &[u8]) -> Result<BTreeMap<String, Tensor>, String> {
    let archive = Archive::open(bytes)?;
    let objects = &archive.objects;
    let entries = state_dict(objects, archive.root)?;
    let mut budget = Budget(bytes.len());
    let mut tensors = BTreeMap::new();
    for (key, value) in entries {
        let Object::Text(name) = objects.get(*key) else {
            return Err(format!("a key of the state_dict is {}, not a text", objects.get(*key).kind()));
        };
        let Object::Tensor(view) = objects.get(*value) else {
            let kind = objects.get(*value).kind();
            return Err(format!("`{name}` of the state_dict is {kind}, not a tensor; {SAVE_THE_STATE_DICT}"));
        };
        if !view.storage.kind.is_float() {
            continue;
        }
        let tensor = archive
            .storage(&view.storage)
            .and_then(|data| elements::floats(view, data, &mut budget))
            .map_err(|why| format!("tensor `{name}`: {why}"))?;
        if tensors.insert(name.clone(), tensor).is_some() {
            return Err(format!("tensor `{name}` is there twice"));
        }
    }
    if tensors.is_empty() {
        return Err(format!("it holds no float tensors; {SAVE_THE_STATE_DICT}"));
    }
    Ok(tensors)
}

const SAVE_THE_STATE_DICT: &str = "save the weights alone, in Python: torch.save(model.state_dict(), \"weights.pt\")";

/// The dictionary of tensors: the root, or what it holds under a usual key.
fn state_dict(objects: &Objects, root: Id) -> Result<&[(Id, Id)], String> {
    let Object::Dict(entries) = objects.get(root) else {
        return Err(format!("it holds {}, not a state_dict; {SAVE_THE_STATE_DICT}", objects.get(root).kind()));
    };
    for key in STATE_DICT_KEYS {
        for (name, value) in entries {
            if let (Object::Text(name), Object::Dict(inner)) = (objects.get(*name), objects.get(*value))
                && name == key
            {
                return Ok(inner);
            }
        }
    }
    Ok(entries)
}

#[cfg(test)]
mod tests;
