//! Parameters of the IR, made from constants of the file.
//!
//! Takes constants by name and how they are used; gives [`ParamId`]s and, at the end, [`Weights`] in the order of the file.
//! A constant that many nodes read is one parameter. Changed copies (transposed, scaled, spread to channels) are counted
//! against a budget so that a small file cannot ask for much memory.

use std::collections::HashMap;

use super::Reader;
use super::constant::fail;
use super::view::View;
use crate::ir::{Codes, Graph, Init, ParamId, Role, Tensor, Weights};
use crate::onnx::OnnxError;
use crate::onnx::names::Unique;

/// The parameters made so far.
pub(super) struct Parameters {
    /// Constants used as they are, by place in the file.
    plain: HashMap<usize, ParamId>,
    /// Matrices used transposed or scaled: place, whether transposed, bits of the factor.
    matrices: HashMap<(usize, bool, u32), ParamId>,
    names: Unique,
    tensors: Vec<Tensor>,
    /// For each parameter the place of the constant that it comes from.
    places: Vec<usize>,
    /// What parameters consist of that are stored as integers.
    codes: HashMap<ParamId, Codes>,
    /// How many elements changed copies may still take.
    budget: usize,
}

impl Parameters {
    /// No parameters; changed copies of constants may have `budget` elements in all.
    pub(super) fn new(budget: usize) -> Self {
        Self {
            plain: HashMap::new(),
            matrices: HashMap::new(),
            names: Unique::default(),
            tensors: Vec::new(),
            places: Vec::new(),
            codes: HashMap::new(),
            budget,
        }
    }

    /// The contents of the parameters; sorts the parameters of `graph` into the order of the file.
    pub(super) fn into_weights(mut self, graph: &mut Graph) -> Weights {
        for (id, codes) in self.codes {
            graph.params[id.index()].codes = Some(codes);
        }
        let mut sorted: Vec<usize> = (0..self.places.len()).collect();
        sorted.sort_by_key(|old| self.places[*old]);
        let mut new = vec![ParamId(0); sorted.len()];
        for (i, old) in sorted.iter().enumerate() {
            new[*old] = ParamId(i as u32);
        }
        for node in &mut graph.nodes {
            for id in node.op.params_mut() {
                *id = new[id.index()];
            }
        }
        graph.params = sorted.iter().map(|old| graph.params[*old].clone()).collect();
        Weights(sorted.iter().map(|old| std::mem::take(&mut self.tensors[*old])).collect())
    }
}

impl<'a> Reader<'a> {
    /// Constant `name`, as it is, as a parameter.
    pub(super) fn param(&mut self, view: &View<'a>, name: &str, role: Role) -> Result<ParamId, OnnxError> {
        let place = self.constants.place(view, name)?;
        if let Some(id) = self.parameters.plain.get(&place) {
            return Ok(*id);
        }
        let tensor = self.constants.floats(view, name)?;
        let codes = self.constants.codes_of(view, name)?;
        let name = self.constants.stored_name(place, name).to_owned();
        let id = self.add_param(&name, place, role, tensor)?;
        self.parameters.codes.extend(codes.map(|codes| (id, codes)));
        self.parameters.plain.insert(place, id);
        Ok(id)
    }

    /// Constant matrix `name` as the `[O, I]` weight of a linear layer: transposed or not, times `factor`.
    pub(super) fn matrix(
        &mut self,
        view: &View<'a>,
        name: &str,
        transpose: bool,
        factor: f32,
    ) -> Result<ParamId, OnnxError> {
        let &[rows, columns] = self.constants.dims(view, name)?.as_slice() else {
            return Err(view.unsupported(format!("`{name}` must be a constant matrix")));
        };
        if !transpose && factor == 1.0 {
            return self.param(view, name, Role::Weight);
        }
        let key = (self.constants.place(view, name)?, transpose, factor.to_bits());
        if let Some(id) = self.parameters.matrices.get(&key) {
            return Ok(*id);
        }
        let Tensor { mut shape, mut data } = self.constants.floats(view, name)?;
        if transpose {
            let across = (0..columns).flat_map(|c| (0..rows).map(move |r| r * columns + c));
            data = across.map(|i| data[i]).collect();
            shape = vec![columns, rows];
        }
        data.iter_mut().for_each(|x| *x *= factor);
        let id = self.changed(view, name, Role::Weight, Tensor { shape, data })?;
        self.parameters.matrices.insert(key, id);
        Ok(id)
    }

    /// A changed copy of constant `name` as a parameter.
    pub(super) fn changed(
        &mut self,
        view: &View<'a>,
        name: &str,
        role: Role,
        tensor: Tensor,
    ) -> Result<ParamId, OnnxError> {
        let left = self.parameters.budget.checked_sub(tensor.data.len());
        let message = "changed copies of constants take far more memory than the file; it is damaged or made to harm";
        self.parameters.budget = left.ok_or_else(|| fail(name, message))?;
        let place = self.constants.place(view, name)?;
        self.add_param(name, place, role, tensor)
    }

    fn add_param(&mut self, name: &str, place: usize, role: Role, tensor: Tensor) -> Result<ParamId, OnnxError> {
        if tensor.data.is_empty() {
            return Err(fail(name, format!("shape {:?} has no elements", tensor.shape)));
        }
        let parameters = &mut self.parameters;
        // How a parameter of a finished model once started is unknown, and its contents are there.
        let name = parameters.names.claim(name);
        let id = self.builder.param(name, None, &tensor.shape, role, Init::Constant(0.0));
        parameters.places.push(place);
        parameters.tensors.push(tensor);
        Ok(id)
    }
}
