//! Python's pickle, as far as a state_dict needs it.
//!
//! Takes the bytes of one pickle; gives its `objects`, and the root. Nothing is run: what a pickle would call is looked up in a
//! closed list (ordered dictionaries, tensors, parameters, storages).
//!
//! The instructions are those of [pickletools](https://docs.python.org/3/library/pickletools.html), protocols 2 to 5.

use std::collections::HashMap;

use super::elements::{MAX_RANK, Storage, View};
use super::objects::{Global, Id, Object, Objects};

/// The longest name of a storage. It is copied into every tensor that uses it.
const MAX_KEY: usize = 40;

/// A pickle that was read: its objects, the root, and the number of bytes that it took.
pub(super) struct Pickle {
    pub objects: Objects,
    pub root: Id,
    pub length: usize,
}

/// Reads the pickle that `bytes` begin with.
pub(super) fn read(bytes: &[u8]) -> Result<Pickle, String> {
    let mut machine = Machine {
        bytes,
        at: 0,
        objects: Objects::default(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
    };
    while machine.step()? {}
    let root = machine.pop()?;
    Ok(Pickle { objects: machine.objects, root, length: machine.at })
}

/// The state of a pickle that is being read.
struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    objects: Objects,
    stack: Vec<Id>,
    /// Heights of the stack at its marks.
    marks: Vec<usize>,
    memo: HashMap<u64, Id>,
}

impl<'a> Machine<'a> {
    /// Runs one instruction; false at the end.
    fn step(&mut self) -> Result<bool, String> {
        let start = self.at;
        let [code] = self.array()?;
        match code {
            b'.' => return Ok(false),
            // The protocol, and the length of a frame.
            0x80 => drop(self.take(1)?),
            0x95 => drop(self.take(8)?),
            b'(' => self.marks.push(self.stack.len()),
            b'0' => drop(self.pop()?),
            b'1' => drop(self.above_mark()?),
            b'2' => {
                let top = self.top()?;
                self.stack.push(top);
            }
            b'N' => self.push(Object::None)?,
            0x88 | 0x89 => self.push(Object::Int(i64::from(code == 0x88)))?,
            b'J' => {
                let n = i32::from_le_bytes(self.array()?);
                self.push(Object::Int(i64::from(n)))?;
            }
            b'K' => {
                let n = self.length::<1>()?;
                self.push(Object::Int(n as i64))?;
            }
            b'M' => {
                let n = self.length::<2>()?;
                self.push(Object::Int(n as i64))?;
            }
            0x8a => self.long::<1>()?,
            0x8b => self.long::<4>()?,
            b'G' => {
                self.take(8)?;
                self.push(Object::Number)?;
            }
            b'T' | b'X' => self.text::<4>()?,
            b'U' | 0x8c => self.text::<1>()?,
            0x8d => self.text::<8>()?,
            b']' => self.push(Object::List(Vec::new()))?,
            b')' => self.push(Object::Tuple(Vec::new()))?,
            b'}' => self.push(Object::Dict(Vec::new()))?,
            b't' => {
                let items = self.above_mark()?;
                self.push(Object::Tuple(items))?;
            }
            b'l' => {
                let items = self.above_mark()?;
                self.push(Object::List(items))?;
            }
            b'd' => {
                let items = self.above_mark()?;
                self.push(Object::Dict(Vec::new()))?;
                self.set_items(&items)?;
            }
            0x85..=0x87 => {
                let first = self.stack.len().checked_sub(usize::from(code - 0x84)).ok_or_else(empty)?;
                let items = self.stack.split_off(first);
                self.push(Object::Tuple(items))?;
            }
            b'a' => {
                let item = self.pop()?;
                self.append(&[item])?;
            }
            b'e' => {
                let items = self.above_mark()?;
                self.append(&items)?;
            }
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.set_items(&[key, value])?;
            }
            b'u' => {
                let items = self.above_mark()?;
                self.set_items(&items)?;
            }
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.push(Object::Global(Global::find(module, name)?))?;
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let (Object::Text(module), Object::Text(name)) = (self.objects.get(module), self.objects.get(name))
                else {
                    return Err("a class in its pickle has no name".into());
                };
                let global = Global::find(module, name)?;
                self.push(Object::Global(global))?;
            }
            b'R' | 0x81 => {
                let arguments = self.pop()?;
                let function = self.pop()?;
                let made = self.call(function, arguments)?;
                self.push(made)?;
            }
            // State of an object that was made: attributes of an ordered dictionary, which nobody reads.
            b'b' => {
                self.pop()?;
                let object = self.top()?;
                if !matches!(self.objects.get(object), Object::Dict(_) | Object::Tensor(_)) {
                    return Err(format!("its pickle gives {} attributes", self.objects.get(object).kind()));
                }
            }
            b'Q' => {
                let id = self.pop()?;
                let storage = self.storage(id)?;
                self.push(storage)?;
            }
            b'q' => self.put::<1>()?,
            b'r' => self.put::<4>()?,
            0x94 => {
                let (key, top) = (self.memo.len() as u64, self.top()?);
                self.memo.insert(key, top);
            }
            b'h' => self.fetch::<1>()?,
            b'j' => self.fetch::<4>()?,
            other => {
                let sign = other as char;
                return Err(format!("the instruction {sign:?} at byte {start} of its pickle is none of a state_dict"));
            }
        }
        Ok(true)
    }

    fn call(&self, function: Id, arguments: Id) -> Result<Object, String> {
        let (Object::Global(function), Object::Tuple(arguments)) =
            (self.objects.get(function), self.objects.get(arguments))
        else {
            return Err(format!("its pickle calls {}", self.objects.get(function).kind()));
        };
        let arguments: Vec<&Object> = arguments.iter().map(|id| self.objects.get(*id)).collect();
        match (function, arguments.as_slice()) {
            (Global::OrderedDict, []) => Ok(Object::Dict(Vec::new())),
            (Global::Size, [Object::Tuple(sizes)]) if sizes.len() <= MAX_RANK => Ok(Object::Tuple(sizes.clone())),
            (Global::RebuildParameter, [Object::Tensor(view), ..]) => Ok(Object::Tensor(view.clone())),
            (Global::RebuildTensor, [Object::Storage(storage), Object::Int(offset), shape, stride, ..]) => {
                let (shape, stride) = (self.sizes(shape)?, self.sizes(stride)?);
                let offset = usize::try_from(*offset).map_err(|_| "a tensor starts before its storage")?;
                Ok(Object::Tensor(View { storage: storage.clone(), offset, shape, stride }))
            }
            _ => Err(format!("its pickle calls {function:?} with arguments that do not fit")),
        }
    }

    /// `("storage", class, key, device, elements)`; the old form may have a part of another storage behind it.
    fn storage(&self, id: Id) -> Result<Object, String> {
        let Object::Tuple(parts) = self.objects.get(id) else {
            return Err("a reference in its pickle is not one to a storage".into());
        };
        let parts: Vec<&Object> = parts.iter().map(|id| self.objects.get(*id)).collect();
        match parts.as_slice() {
            [
                Object::Text(word),
                Object::Global(Global::Storage(kind)),
                Object::Text(key),
                _,
                Object::Int(n),
                rest @ ..,
            ] if word == "storage" && key.len() <= MAX_KEY => {
                if !matches!(rest, [] | [Object::None]) {
                    return Err(
                        "a storage is part of another one, as PyTorch 0.3 and older could write it; load the file \
                                in a newer PyTorch and save it again"
                            .into(),
                    );
                }
                let elements = usize::try_from(*n).map_err(|_| "a storage has a negative size")?;
                Ok(Object::Storage(Storage { kind: *kind, key: key.clone(), elements }))
            }
            _ => Err("a reference in its pickle is not one to a storage".into()),
        }
    }

    fn sizes(&self, object: &Object) -> Result<Vec<usize>, String> {
        let bad = || "a tensor's shape is not a tuple of sizes".to_owned();
        let Object::Tuple(sizes) = object else { return Err(bad()) };
        if sizes.len() > MAX_RANK {
            return Err(format!("a tensor has {} dimensions; at most {MAX_RANK} are read", sizes.len()));
        }
        let size = |id: &Id| match self.objects.get(*id) {
            Object::Int(n) => usize::try_from(*n).map_err(|_| bad()),
            _ => Err(bad()),
        };
        sizes.iter().map(size).collect()
    }

    fn append(&mut self, items: &[Id]) -> Result<(), String> {
        let list = self.top()?;
        match self.objects.get_mut(list) {
            Object::List(list) => list.extend(items),
            other => return Err(format!("its pickle appends to {}", other.kind())),
        }
        Ok(())
    }

    fn set_items(&mut self, items: &[Id]) -> Result<(), String> {
        let dict = self.top()?;
        let (pairs, rest) = items.as_chunks::<2>();
        match self.objects.get_mut(dict) {
            Object::Dict(entries) if rest.is_empty() => entries.extend(pairs.iter().map(|[key, value]| (*key, *value))),
            other => return Err(format!("its pickle sets items of {}", other.kind())),
        }
        Ok(())
    }

    fn push(&mut self, object: Object) -> Result<(), String> {
        let id = self.objects.add(object)?;
        self.stack.push(id);
        Ok(())
    }

    fn pop(&mut self) -> Result<Id, String> {
        // What lies below a mark belongs to another instruction.
        match self.marks.last() {
            Some(mark) if *mark >= self.stack.len() => Err(empty()),
            _ => self.stack.pop().ok_or_else(empty),
        }
    }

    fn top(&self) -> Result<Id, String> {
        self.stack.last().copied().ok_or_else(empty)
    }

    fn above_mark(&mut self) -> Result<Vec<Id>, String> {
        let mark = self.marks.pop().ok_or_else(empty)?;
        Ok(self.stack.split_off(mark.min(self.stack.len())))
    }

    fn put<const N: usize>(&mut self) -> Result<(), String> {
        let (key, top) = (self.length::<N>()?, self.top()?);
        self.memo.insert(key, top);
        Ok(())
    }

    fn fetch<const N: usize>(&mut self) -> Result<(), String> {
        let key = self.length::<N>()?;
        let id =
            *self.memo.get(&key).ok_or_else(|| format!("its pickle refers to object {key}, which is not there"))?;
        self.stack.push(id);
        Ok(())
    }

    /// An integer of any length, little-endian in two's complement.
    fn long<const N: usize>(&mut self) -> Result<(), String> {
        let length = self.length::<N>()?;
        let bytes = self.take(length)?;
        let object = match bytes.len() {
            0 => Object::Int(0),
            n @ 1..=8 => {
                let fill = if bytes[n - 1] & 0x80 == 0 { 0 } else { 0xff };
                let mut wide = [fill; 8];
                wide[..n].copy_from_slice(bytes);
                Object::Int(i64::from_le_bytes(wide))
            }
            _ => Object::Number,
        };
        self.push(object)
    }

    fn text<const N: usize>(&mut self) -> Result<(), String> {
        let length = self.length::<N>()?;
        let bytes = self.take(length)?;
        let text = std::str::from_utf8(bytes).map_err(|_| "a text in its pickle is not UTF-8")?;
        self.push(Object::Text(text.into()))
    }

    fn line(&mut self) -> Result<&'a str, String> {
        let rest = &self.bytes[self.at..];
        let end = rest.iter().position(|b| *b == b'\n').ok_or_else(cut)?;
        self.at += end + 1;
        std::str::from_utf8(&rest[..end]).map_err(|_| "a name in its pickle is not UTF-8".into())
    }

    /// A little-endian number without sign.
    fn length<const N: usize>(&mut self) -> Result<u64, String> {
        let bytes = self.array::<N>()?;
        Ok(bytes.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b)))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let bytes = self.bytes.get(self.at..).and_then(|rest| rest.first_chunk::<N>()).ok_or_else(cut)?;
        self.at += N;
        Ok(*bytes)
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], String> {
        let end = usize::try_from(length).ok().and_then(|n| self.at.checked_add(n));
        let bytes = end.and_then(|end| self.bytes.get(self.at..end)).ok_or_else(cut)?;
        self.at += bytes.len();
        Ok(bytes)
    }
}

fn empty() -> String {
    "its pickle takes from an empty stack; the file is damaged".into()
}

fn cut() -> String {
    "its pickle is cut off (is the file complete?)".into()
}
