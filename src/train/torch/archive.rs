//! The two containers of `torch.save`: which bytes are the pickle, which are the storages.
//!
//! Takes the bytes of a file; gives an [`Archive`]. Since PyTorch 1.6 a file is a zip archive without compression: the entry
//! `NAME/data.pkl`, and one entry `NAME/data/KEY` for each storage. Before, it was a run of pickles (a magic number, the
//! protocol, facts about the machine, the object, the keys of the storages) with the storages behind them.

use std::collections::HashMap;
use std::ops::Range;

use super::elements::Storage;
use super::objects::{Id, Object, Objects};
use super::pickle;

/// How a zip archive begins.
pub(super) const ZIP: &[u8] = b"PK\x03\x04";
/// How a file of the old form begins: protocol 2, the magic number.
pub(super) const LEGACY: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";

/// An opened file.
pub(super) struct Archive<'a> {
    bytes: &'a [u8],
    pub objects: Objects,
    pub root: Id,
    /// Where the storages lie, by key.
    storages: HashMap<String, Range<usize>>,
}

impl<'a> Archive<'a> {
    pub(super) fn open(bytes: &'a [u8]) -> Result<Self, String> {
        if bytes.starts_with(ZIP) { Self::zip(bytes) } else { Self::legacy(bytes) }
    }

    /// The bytes of a storage.
    pub(super) fn storage(&self, storage: &Storage) -> Result<&'a [u8], String> {
        let range = self.storages.get(&storage.key);
        range.map(|range| &self.bytes[range.clone()]).ok_or_else(|| format!("its storage `{}` is missing", storage.key))
    }

    fn zip(bytes: &'a [u8]) -> Result<Self, String> {
        let entries = entries(bytes)?;
        let pickle = entries.iter().find(|(name, _)| name.ends_with("/data.pkl") || *name == "data.pkl");
        let (name, range) = pickle.ok_or("it is a zip archive without the entry data.pkl, so not one of torch.save")?;
        let folder = &name[..name.len() - "data.pkl".len()];
        let order = entries.iter().find(|(name, _)| name.strip_prefix(folder) == Some("byteorder"));
        if let Some((_, range)) = order
            && &bytes[range.clone()] != b"little"
        {
            return Err("its numbers are big-endian; save it again on a little-endian machine".into());
        }
        let pickle::Pickle { objects, root, .. } = pickle::read(&bytes[range.clone()])?;
        let data = format!("{folder}data/");
        let storages = entries
            .iter()
            .filter_map(|(name, range)| Some((name.strip_prefix(&data)?.to_owned(), range.clone())))
            .collect();
        Ok(Self { bytes, objects, root, storages })
    }

    fn legacy(bytes: &'a [u8]) -> Result<Self, String> {
        if !bytes.starts_with(LEGACY) {
            return Err("it does not begin like a file of torch.save (is it complete?)".into());
        }
        let mut at = LEGACY.len();
        let mut next = || {
            let read = pickle::read(&bytes[at..])?;
            at += read.length;
            Ok::<_, String>(read)
        };
        let protocol = next()?;
        if protocol.objects.get(protocol.root) != &Object::Int(1001) {
            return Err("the version of its form is not 1001, the only one there is".into());
        }
        let machine = next()?;
        if let Object::Dict(facts) = machine.objects.get(machine.root)
            && facts.iter().any(|(key, value)| {
                machine.objects.get(*key) == &Object::Text("little_endian".into())
                    && machine.objects.get(*value) == &Object::Int(0)
            })
        {
            return Err("its numbers are big-endian; save it again on a little-endian machine".into());
        }
        let pickle::Pickle { objects, root, .. } = next()?;
        let keys = next()?;
        let Object::List(list) = keys.objects.get(keys.root) else {
            return Err("the list of its storages is missing".into());
        };
        let known: HashMap<&str, &Storage> = objects.storages().map(|s| (s.key.as_str(), s)).collect();
        let mut storages = HashMap::new();
        for key in list {
            let Object::Text(key) = keys.objects.get(*key) else { return Err("a storage has no key".into()) };
            let kind = known.get(key.as_str()).ok_or_else(|| format!("nothing uses its storage `{key}`"))?.kind;
            let cut = || format!("storage `{key}` is cut off (is the file complete?)");
            let count = bytes.get(at..).and_then(|rest| rest.first_chunk::<8>()).ok_or_else(cut)?;
            let size = usize::try_from(i64::from_le_bytes(*count)).ok().and_then(|n| n.checked_mul(kind.size()));
            let end =
                size.and_then(|size| (at + 8).checked_add(size)).filter(|end| *end <= bytes.len()).ok_or_else(cut)?;
            storages.insert(key.clone(), at + 8..end);
            at = end;
        }
        Ok(Self { bytes, objects, root, storages })
    }
}

/// Name and place of each entry of a zip archive, from the directory at its end.
fn entries(bytes: &[u8]) -> Result<Vec<(&str, Range<usize>)>, String> {
    let damaged = || "its zip archive is damaged or cut off (is the file complete?)".to_owned();
    // The end record has 22 bytes and a comment of at most 65,535.
    let tail = bytes.len().saturating_sub(22 + 0xffff);
    let end = bytes[tail..].windows(4).rposition(|w| w == b"PK\x05\x06").map(|i| tail + i).ok_or_else(damaged)?;
    let field = |at: usize, size: usize| number(bytes, at, size).ok_or_else(damaged);
    if end + 22 + field(end + 20, 2)? > bytes.len() {
        return Err(damaged());
    }
    let (mut count, mut at) = (field(end + 10, 2)?, field(end + 16, 4)?);
    // The locator of the 64-bit end record stands right before.
    if let Some(locator) = end.checked_sub(20).filter(|at| bytes[*at..].starts_with(b"PK\x06\x07")) {
        let wide = field(locator + 8, 8)?;
        if bytes.get(wide..).is_none_or(|rest| !rest.starts_with(b"PK\x06\x06")) {
            return Err(damaged());
        }
        (count, at) = (field(wide + 32, 8)?, field(wide + 48, 8)?);
    }
    let mut found = Vec::new();
    for _ in 0..count {
        if bytes.get(at..).is_none_or(|rest| !rest.starts_with(b"PK\x01\x02")) {
            return Err(damaged());
        }
        let (method, name_length, extra_length, comment_length) =
            (field(at + 10, 2)?, field(at + 28, 2)?, field(at + 30, 2)?, field(at + 32, 2)?);
        let name =
            bytes.get(at + 46..at + 46 + name_length).and_then(|b| std::str::from_utf8(b).ok()).ok_or_else(damaged)?;
        if method != 0 {
            return Err(format!("its entry `{name}` is compressed, which torch.save does not do; save it again"));
        }
        let sizes = [field(at + 24, 4)?, field(at + 20, 4)?, field(at + 42, 4)?];
        let [size, _, local] = wide_sizes(bytes, at + 46 + name_length, extra_length, sizes).ok_or_else(damaged)?;
        if bytes.get(local..).is_none_or(|rest| !rest.starts_with(b"PK\x03\x04")) {
            return Err(damaged());
        }
        let start = local + 30 + field(local + 26, 2)? + field(local + 28, 2)?;
        let end = start.checked_add(size).filter(|end| *end <= bytes.len()).ok_or_else(damaged)?;
        found.push((name, start..end));
        at += 46 + name_length + extra_length + comment_length;
    }
    Ok(found)
}

/// Size, packed size and offset of an entry; those that are all ones stand in this order in the 64-bit extra field instead.
fn wide_sizes(bytes: &[u8], mut at: usize, length: usize, mut sizes: [usize; 3]) -> Option<[usize; 3]> {
    let end = at + length;
    while at + 4 <= end {
        let (id, long) = (number(bytes, at, 2)?, number(bytes, at + 2, 2)?);
        let mut place = at + 4;
        for value in sizes.iter_mut().filter(|v| id == 1 && **v == 0xffff_ffff) {
            *value = number(bytes, place, 8).filter(|_| place + 8 <= at + 4 + long)?;
            place += 8;
        }
        at += 4 + long;
    }
    Some(sizes)
}

/// A little-endian number of `size` bytes.
fn number(bytes: &[u8], at: usize, size: usize) -> Option<usize> {
    let bytes = bytes.get(at..at.checked_add(size)?)?;
    usize::try_from(bytes.iter().rev().fold(0u64, |n, b| n << 8 | u64::from(*b))).ok()
}
