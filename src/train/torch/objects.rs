//! The Python objects that a checkpoint may hold, in an arena.
//!
//! Takes what `pickle` makes; gives it by number, so that objects which refer to each other are neither read nor dropped by
//! recursion. What a pickle may name is a closed list; anything else is an error with its name.

use super::elements::{Kind, Storage, View};

/// The most objects a file may have; a tensor takes about twenty.
const MAX_OBJECTS: usize = 1_000_000;
/// Names one object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Id(u32);

/// One Python object.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Object {
    None,
    Int(i64),
    /// A number whose value nobody reads: floats, and integers beyond 64 bits.
    Number,
    Text(String),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    /// A class or function, not called yet.
    Global(Global),
    Storage(Storage),
    Tensor(View),
}

/// The classes and functions that a pickle may name.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Global {
    OrderedDict,
    /// `_rebuild_tensor`, `_rebuild_tensor_v2`.
    RebuildTensor,
    RebuildParameter,
    /// `torch.Size`.
    Size,
    Storage(Kind),
}

/// All objects of a pickle.
#[derive(Debug, Default)]
pub(super) struct Objects(Vec<Object>);

impl Objects {
    pub(super) fn get(&self, id: Id) -> &Object {
        &self.0[id.0 as usize]
    }

    pub(super) fn get_mut(&mut self, id: Id) -> &mut Object {
        &mut self.0[id.0 as usize]
    }

    /// Every storage that an object refers to.
    pub(super) fn storages(&self) -> impl Iterator<Item = &Storage> {
        self.0.iter().filter_map(|object| match object {
            Object::Storage(storage) => Some(storage),
            Object::None
            | Object::Int(_)
            | Object::Number
            | Object::Text(_)
            | Object::Tuple(_)
            | Object::List(_)
            | Object::Dict(_)
            | Object::Global(_)
            | Object::Tensor(_) => None,
        })
    }

    /// Gives an object its number.
    pub(super) fn add(&mut self, object: Object) -> Result<Id, String> {
        if self.0.len() >= MAX_OBJECTS {
            return Err(format!("its pickle has more than {MAX_OBJECTS} objects; no state_dict has so many"));
        }
        self.0.push(object);
        Ok(Id(self.0.len() as u32 - 1))
    }
}

impl Object {
    /// What it is, for messages.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Object::None => "None",
            Object::Int(_) | Object::Number => "a number",
            Object::Text(_) => "a text",
            Object::Tuple(_) => "a tuple",
            Object::List(_) => "a list",
            Object::Dict(_) => "a dictionary",
            Object::Global(_) => "a class",
            Object::Storage(_) => "a storage",
            Object::Tensor(_) => "a tensor",
        }
    }
}

impl Global {
    pub(super) fn find(module: &str, name: &str) -> Result<Self, String> {
        let known = match (module, name) {
            ("collections", "OrderedDict") => Some(Self::OrderedDict),
            ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => Some(Self::RebuildTensor),
            ("torch._utils", "_rebuild_parameter") => Some(Self::RebuildParameter),
            ("torch", "Size") => Some(Self::Size),
            ("torch" | "torch.cuda", storage) => Kind::of_storage(storage).map(Self::Storage),
            _ => None,
        };
        known.ok_or_else(|| {
            format!(
                "it holds a Python object of `{module}.{name}`; read are only tensors, dictionaries, lists, numbers and texts. {}",
                super::SAVE_THE_STATE_DICT
            )
        })
    }
}
