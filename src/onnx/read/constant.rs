//! Constants of the file: initialisers, and the tensors of Constant nodes.
//!
//! Takes their messages; gives integers (slice bounds, shapes), truth values and float tensors. Contents are unpacked when
//! they are used, lengths first. Making parameters of them is left to `parameter`.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use super::view::View;
use super::{MAX_ELEMENTS, MAX_RANK};
use crate::ir::{Codes, Tensor, Width};
use crate::onnx::proto::{GraphProto, NodeProto, TensorProto, attribute_type, data_type};
use crate::onnx::{OnnxError, half};

/// The most elements that all filled constants of a model may have: 1 GiB that a few bytes of the file ask for.
const MAX_FILLED: usize = 1 << 28;

/// The most integers that a list of bounds or sizes may have.
pub(super) const MAX_LIST: usize = 64;

/// All constants of a graph.
pub(super) struct Constants<'a> {
    /// In the order of the file, initialisers first.
    sources: Vec<Cow<'a, TensorProto>>,
    /// Index into `sources` by name; several names may mean one constant.
    places: HashMap<&'a str, usize>,
    /// Which constants are one number everywhere, the first that they hold, by place; their elements are counted.
    filled: HashSet<usize>,
    filled_elements: usize,
    /// How many elements copies of other sizes may still take.
    budget: usize,
    /// How the constants that are integers become numbers, by place.
    scalings: HashMap<usize, Scaling>,
}

/// Element `q` at index `i` of `axis` stands for `(q - zeros[i]) * scales[i]`; a single scale and zero are for all.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Scaling {
    pub(super) scales: Vec<f32>,
    pub(super) zeros: Vec<i32>,
    pub(super) axis: usize,
}

impl<'a> Constants<'a> {
    /// Finds the constants of `graph`; copies of other sizes may have `budget` elements in all.
    pub(super) fn new(graph: &'a GraphProto, budget: usize) -> Result<Self, OnnxError> {
        let mut found = Self {
            sources: Vec::new(),
            places: HashMap::new(),
            filled: HashSet::new(),
            filled_elements: 0,
            budget,
            scalings: HashMap::new(),
        };
        let initializers = graph.initializer.iter().map(|t| Ok((t.name.as_str(), Cow::Borrowed(t))));
        let nodes = graph.node.iter().filter(|n| n.op_type == "Constant").map(constant_node);
        for named in initializers.chain(nodes) {
            let (name, tensor) = named?;
            if name.is_empty() || found.places.insert(name, found.sources.len()).is_some() {
                return Err(fail(name, "two constants have this name, or it is empty"));
            }
            found.sources.push(tensor);
        }
        if let Some(sparse) = graph.sparse_initializer.first() {
            let name = sparse.values.as_ref().map_or("", |t| &t.name);
            return Err(fail(name, "sparse tensors are not supported; store it densely"));
        }
        Ok(found)
    }

    /// Whether `name` is a constant.
    pub(super) fn contains(&self, name: &str) -> bool {
        self.places.contains_key(name)
    }

    /// Makes `alias` another name for constant `name`; false if `name` is no constant.
    pub(super) fn alias(&mut self, alias: &'a str, name: &str) -> bool {
        let place = self.places.get(name).copied();
        if let Some(place) = place {
            self.places.insert(alias, place);
        }
        place.is_some()
    }

    /// Makes `output` a constant of the sizes `dims`, `value` everywhere (0 if absent).
    pub(super) fn fill(
        &mut self,
        view: &View<'a>,
        output: &'a str,
        dims: Vec<i64>,
        value: Option<&TensorProto>,
    ) -> Result<(), OnnxError> {
        let number = match value {
            None => 0.0,
            Some(t) if t.data_type == data_type::FLOAT => {
                let [number] = elements(output, t, 1, &t.float_data, f32::from_le_bytes)?[..] else {
                    return Err(view.error("attribute `value` must be one number"));
                };
                number
            }
            Some(t) => {
                let why = format!("attribute `value` is {}; supported is float32", data_type::name(t.data_type));
                return Err(view.unsupported(why));
            }
        };
        let tensor =
            TensorProto { dims, float_data: vec![number], data_type: data_type::FLOAT, ..TensorProto::default() };
        self.add_filled(view, output, tensor)
    }

    fn add_filled(&mut self, view: &View<'a>, output: &'a str, tensor: TensorProto) -> Result<(), OnnxError> {
        self.filled_elements = self.filled_elements.saturating_add(dims(output, &tensor)?.1);
        if self.filled_elements > MAX_FILLED {
            return Err(
                view.unsupported(format!("filled constants of more than {MAX_FILLED} elements are not supported"))
            );
        }
        self.filled.insert(self.sources.len());
        self.add(view, output, tensor)
    }

    /// Makes `output` constant `name` with other sizes of the same product.
    pub(super) fn reshaped(
        &mut self,
        view: &View<'a>,
        output: &'a str,
        name: &str,
        shape: &[usize],
    ) -> Result<(), OnnxError> {
        let place = self.place(view, name)?;
        if self.scalings.contains_key(&place) {
            return Err(view.unsupported("on integers that stand for other numbers it is not supported"));
        }
        let (source, sizes) = (self.source(view, name)?, shape.iter().map(|n| *n as i64).collect());
        if self.filled.contains(&place) {
            let tensor = TensorProto { dims: sizes, ..source.clone() };
            return self.add_filled(view, output, tensor);
        }
        // Before the copy: a file of many short nodes must not ask for much memory.
        let left = self.budget.checked_sub(dims(name, source)?.1);
        let left = left
            .ok_or_else(|| view.unsupported("all copies of constants with other sizes are too large; store them so"))?;
        let tensor = TensorProto { dims: sizes, ..source.clone() };
        self.budget = left;
        self.add(view, output, tensor)
    }

    fn add(&mut self, view: &View<'a>, output: &'a str, tensor: TensorProto) -> Result<(), OnnxError> {
        match self.places.insert(output, self.sources.len()) {
            None => self.sources.push(Cow::Owned(tensor)),
            Some(_) => return Err(view.error(format!("its output `{output}` is already made by something else"))),
        }
        Ok(())
    }

    /// The place of constant `name` in the file.
    pub(super) fn place(&self, view: &View<'a>, name: &str) -> Result<usize, OnnxError> {
        let place = self.places.get(name).copied();
        place.ok_or_else(|| view.unsupported(format!("`{name}` must be an initialiser or come from a Constant node")))
    }

    /// The sizes of constant `name`.
    pub(super) fn dims(&self, view: &View<'a>, name: &str) -> Result<Vec<usize>, OnnxError> {
        Ok(dims(name, self.source(view, name)?)?.0)
    }

    /// A short list of integers.
    pub(super) fn integers(&self, view: &View<'a>, name: &str) -> Result<Vec<i64>, OnnxError> {
        short_list(name, self.source(view, name)?)
    }

    /// Whether constant `name` is a single integer (true) or a short list of them (false); nothing if it is neither.
    pub(super) fn is_list(&self, name: &str) -> Option<bool> {
        let place = self.places.get(name)?;
        let tensor = &self.sources[*place];
        let integers = [data_type::INT64, data_type::INT32].contains(&tensor.data_type);
        // What DequantizeLinear reads stands for other numbers.
        if !integers || self.scalings.contains_key(place) {
            return None;
        }
        match tensor.dims.as_slice() {
            [] => Some(true),
            [n] if (0..=MAX_LIST as i64).contains(n) => Some(false),
            _ => None,
        }
    }

    /// Makes `output` a constant of these integers, or of the single one.
    pub(super) fn list(
        &mut self,
        view: &View<'a>,
        output: &'a str,
        numbers: Vec<i64>,
        scalar: bool,
    ) -> Result<(), OnnxError> {
        let dims = if scalar { Vec::new() } else { vec![numbers.len() as i64] };
        let tensor = TensorProto { dims, int64_data: numbers, data_type: data_type::INT64, ..TensorProto::default() };
        self.add(view, output, tensor)
    }

    /// Whether the truth value `name` is true.
    pub(super) fn truth(&self, view: &View<'a>, name: &str) -> Result<bool, OnnxError> {
        let tensor = self.source(view, name)?;
        match (tensor.data_type, &tensor.raw_data) {
            (data_type::BOOL, Some(raw)) => Ok(raw.iter().any(|b| *b != 0)),
            (data_type::BOOL, None) => Ok(tensor.int32_data.iter().any(|b| *b != 0)),
            (other, _) => Err(fail(name, format!("its type is {}, not bool", data_type::name(other)))),
        }
    }

    /// The elements of float constant `name`, float16 widened.
    pub(super) fn floats(&self, view: &View<'a>, name: &str) -> Result<Tensor, OnnxError> {
        let place = self.place(view, name)?;
        let tensor = self.source(view, name)?;
        let (shape, count) = dims(name, tensor)?;
        if let Some(scaling) = self.scalings.get(&place) {
            let scaled = self.shifted(view, name, scaling)?.into_iter();
            let data = scaled.map(|(code, i)| code as f32 * scaling.scales[i]).collect();
            return Ok(Tensor { shape, data });
        }
        if self.filled.contains(&place) {
            return Ok(Tensor { shape, data: vec![tensor.float_data.first().copied().unwrap_or(0.0); count] });
        }
        let data = match tensor.data_type {
            data_type::FLOAT => elements(name, tensor, count, &tensor.float_data, f32::from_le_bytes)?,
            data_type::FLOAT16 => {
                // Without raw data the bits are the low halves of 32-bit integers.
                let bits: Vec<u16> = tensor.int32_data.iter().map(|i| *i as u16).collect();
                let bits = elements(name, tensor, count, &bits, u16::from_le_bytes)?;
                bits.into_iter().map(half::to_f32).collect()
            }
            other => {
                let why = format!("its type is {}; supported are float32 and float16 weights", data_type::name(other));
                return Err(fail(name, why));
            }
        };
        Ok(Tensor { shape, data })
    }

    /// The elements of constant `name`, whose type must be of 8 or 32 bits, with that type.
    pub(super) fn codes(&self, view: &View<'a>, name: &str) -> Result<(i32, Vec<i32>), OnnxError> {
        let tensor = self.source(view, name)?;
        let (_, count) = dims(name, tensor)?;
        let list = &tensor.int32_data;
        let codes = match tensor.data_type {
            data_type::INT32 => elements(name, tensor, count, list, i32::from_le_bytes)?,
            data_type::INT8 => elements(name, tensor, count, list, |[byte]: [u8; 1]| i32::from(byte as i8))?,
            data_type::UINT8 => elements(name, tensor, count, list, |[byte]: [u8; 1]| i32::from(byte))?,
            other => {
                let why = format!("its type is {}; supported here are int8, uint8 and int32", data_type::name(other));
                return Err(fail(name, why));
            }
        };
        Ok((tensor.data_type, codes))
    }

    /// Makes `output` the name of what `scaling` makes of constant `name`.
    pub(super) fn dequantize(
        &mut self,
        view: &View<'a>,
        output: &'a str,
        name: &str,
        scaling: Scaling,
    ) -> Result<(), OnnxError> {
        let place = self.place(view, name)?;
        if self.scalings.get(&place).is_some_and(|known| *known != scaling) {
            return Err(fail(name, "its integers are made numbers by two scales, which is not supported"));
        }
        self.scalings.insert(place, scaling);
        self.places.insert(output, place);
        Ok(())
    }

    /// What constant `name` consists of, if it is stored so: codes with a scale for each index of the first axis.
    pub(super) fn codes_of(&self, view: &View<'a>, name: &str) -> Result<Option<Codes>, OnnxError> {
        let Some(scaling) = self.scalings.get(&self.place(view, name)?) else { return Ok(None) };
        let (kind, _) = self.codes(view, name)?;
        let width = if kind == data_type::INT32 { Width::Int32 } else { Width::Int8 };
        let [low, high] = width.bounds().map(i64::from);
        let inside = self.shifted(view, name, scaling)?.iter().all(|(code, _)| (low..=high).contains(code));
        let usable = scaling.scales.iter().all(|scale| scale.is_normal() && *scale > 0.0);
        let Some(channels) = self.dims(view, name)?.first().copied().filter(|_| inside && usable && scaling.axis == 0)
        else {
            return Ok(None);
        };
        let scales = scaling.scales.iter().cycle().take(channels).copied().collect();
        Ok(Some(Codes { scales, width }))
    }

    /// The name of the constant at `place`: that of its integers, where `name` is what DequantizeLinear made of them.
    pub(super) fn stored_name<'b>(&'b self, place: usize, name: &'b str) -> &'b str {
        let stored = self.sources[place].name.as_str();
        if self.scalings.contains_key(&place) && !stored.is_empty() { stored } else { name }
    }

    /// The integers of constant `name` less their zero points, each with the index of its scale.
    fn shifted(&self, view: &View<'a>, name: &str, scaling: &Scaling) -> Result<Vec<(i64, usize)>, OnnxError> {
        let (_, codes) = self.codes(view, name)?;
        let dims = self.dims(view, name)?;
        let inner: usize = dims.iter().skip(scaling.axis + 1).product();
        let index = |i: usize| if scaling.scales.len() == 1 { 0 } else { i / inner.max(1) % scaling.scales.len() };
        let shift = |(i, code): (usize, i32)| (i64::from(code) - i64::from(scaling.zeros[index(i)]), index(i));
        Ok(codes.into_iter().enumerate().map(shift).collect())
    }

    fn source(&self, view: &View<'a>, name: &str) -> Result<&TensorProto, OnnxError> {
        let tensor = &self.sources[self.place(view, name)?];
        if tensor.data_location == 1 || !tensor.external_data.is_empty() {
            return Err(fail(name, "its contents are in another file, which this reading of bytes does not open"));
        }
        Ok(tensor)
    }
}

/// The integers of `tensor`, which messages call `name`.
pub(super) fn short_list(name: &str, tensor: &TensorProto) -> Result<Vec<i64>, OnnxError> {
    let (_, count) = dims(name, tensor)?;
    if count > MAX_LIST {
        return Err(fail(name, format!("it has {count} numbers; a list of bounds or sizes has at most {MAX_LIST}")));
    }
    match tensor.data_type {
        data_type::INT64 => elements(name, tensor, count, &tensor.int64_data, i64::from_le_bytes),
        data_type::INT32 => {
            let list = elements(name, tensor, count, &tensor.int32_data, i32::from_le_bytes)?;
            Ok(list.into_iter().map(i64::from).collect())
        }
        other => Err(fail(name, format!("its type is {}; supported here are int64 and int32", data_type::name(other)))),
    }
}

/// The sizes of a tensor and their product.
pub(super) fn dims(name: &str, tensor: &TensorProto) -> Result<(Vec<usize>, usize), OnnxError> {
    let rank = tensor.dims.len();
    if rank > MAX_RANK {
        return Err(fail(name, format!("it has {rank} dimensions; at most {MAX_RANK} are supported")));
    }
    let bad = || fail(name, format!("shape {:?} is negative or too large", tensor.dims));
    let mut shape = Vec::with_capacity(rank);
    let mut count = 1usize;
    for dim in &tensor.dims {
        let size = usize::try_from(*dim).map_err(|_| bad())?;
        count = count.checked_mul(size).filter(|n| *n <= MAX_ELEMENTS).ok_or_else(bad)?;
        shape.push(size);
    }
    Ok((shape, count))
}

/// The elements of a tensor from its bytes or, if it has none, from the list for its type.
pub(super) fn elements<T: Copy, const N: usize>(
    name: &str,
    tensor: &TensorProto,
    count: usize,
    list: &[T],
    decode: fn([u8; N]) -> T,
) -> Result<Vec<T>, OnnxError> {
    let raw = tensor.raw_data.as_ref().filter(|raw| !raw.is_empty());
    let Some(raw) = raw else {
        if list.len() != count {
            let why = format!("shape {:?} has {count} elements, the file holds {}", tensor.dims, list.len());
            return Err(fail(name, why));
        }
        return Ok(list.to_vec());
    };
    let (whole, rest) = raw.as_chunks::<N>();
    if whole.len() != count || !rest.is_empty() {
        let why = format!("shape {:?} has {count} elements of {N} bytes, the file holds {}", tensor.dims, raw.len());
        return Err(fail(name, why));
    }
    Ok(whole.iter().map(|bytes| decode(*bytes)).collect())
}

/// Name and tensor of a Constant node.
fn constant_node(node: &NodeProto) -> Result<(&str, Cow<'_, TensorProto>), OnnxError> {
    let name = node.output.first().map_or("", String::as_str);
    let error = |why: &str| OnnxError::Node { node: name.into(), op: "Constant".into(), why: why.into() };
    let [a] = node.attribute.as_slice() else { return Err(error("it must have exactly one attribute")) };
    let floats = |dims: Vec<i64>, float_data| {
        Cow::Owned(TensorProto { dims, float_data, data_type: data_type::FLOAT, ..TensorProto::default() })
    };
    let ints = |dims: Vec<i64>, int64_data| {
        Cow::Owned(TensorProto { dims, int64_data, data_type: data_type::INT64, ..TensorProto::default() })
    };
    let tensor = match (a.name.as_str(), a.r#type) {
        ("value", attribute_type::TENSOR | 0) => {
            Cow::Borrowed(a.t.as_ref().ok_or_else(|| error("its attribute `value` holds no tensor"))?)
        }
        ("value_float", attribute_type::FLOAT) => floats(Vec::new(), vec![a.f.unwrap_or(0.0)]),
        ("value_floats", attribute_type::FLOATS) => floats(vec![a.floats.len() as i64], a.floats.clone()),
        ("value_int", attribute_type::INT) => ints(Vec::new(), vec![a.i.unwrap_or(0)]),
        ("value_ints", attribute_type::INTS) => ints(vec![a.ints.len() as i64], a.ints.clone()),
        _ => return Err(error("supported are the attributes value, value_float(s) and value_int(s)")),
    };
    Ok((name, tensor))
}

/// An error about the contents of a constant.
pub(super) fn fail(tensor: &str, why: impl Into<String>) -> OnnxError {
    OnnxError::Tensor { tensor: tensor.into(), why: why.into() }
}
