//! The operations of imported models.
//!
//! Takes nodes; gives their dispatches. These kernels are plain: such models are run to be validated.

use super::{Emitter, Kernel, constants, threads};
use crate::ir::{Arithmetic, Imported, Node, ValueId};
use crate::runtime::RuntimeError;
use crate::runtime::program::{Dispatch, Source};

impl Emitter<'_> {
    pub(super) fn imported(&mut self, node: &Node, op: &Imported) -> Result<Vec<Dispatch>, RuntimeError> {
        let write = self.place(node.output);
        let dispatch = match op {
            Imported::Constant(value) => {
                let numbers = self.pack.plain(self.weights.get(*value));
                let vec4s = self.elements(node.output).div_ceil(4);
                threads(Kernel::Constant, &[vec4s], vec![numbers], write)
            }
            Imported::Elementwise(arithmetic) => self.elementwise(node, *arithmetic)?,
            Imported::Gemm { alpha, beta, transpose } => self.gemm(node, [*alpha, *beta], *transpose),
            Imported::Softmax { axis } => {
                let shape = self.shape(node.output);
                let (len, inner) = (shape[*axis], shape[axis + 1..].iter().product::<usize>());
                let lines = self.elements(node.output) / len.max(1);
                threads(Kernel::Softmax, &[lines, len, inner], vec![self.read(node, 0)], write)
            }
            Imported::Lrn { size, alpha, beta, bias } => {
                let [_, channels, height, width] = self.nchw(node.output);
                let numbers = [alpha / *size as f32, *beta, *bias].map(|x| x.to_bits() as usize);
                let mut sizes = vec![self.elements(node.output), channels, height * width, *size];
                sizes.extend(numbers);
                threads(Kernel::Lrn, &sizes, vec![self.read(node, 0)], write)
            }
        };
        Ok(vec![dispatch])
    }

    fn elementwise(&self, node: &Node, arithmetic: Arithmetic) -> Result<Dispatch, RuntimeError> {
        let shape = self.shape(node.output);
        let [a, b] = [0, 1].map(|i| self.spread(node.inputs[i], &shape));
        let dims = self.merged(node, &shape, &a, &b)?;
        let sizes = dims.iter().map(|d| d.0).chain(dims.iter().map(|d| d.1 as usize));
        let mut sizes: Vec<usize> = sizes.chain(dims.iter().map(|d| d.2 as usize)).collect();
        // The uniform ends with a whole vec4.
        sizes.extend([self.elements(node.output), 0, 0, 0]);
        let multiply = u32::from(arithmetic == Arithmetic::Multiply);
        let reads = vec![self.read(node, 0), self.read(node, 1)];
        let dispatch = threads(Kernel::Broadcast, &sizes, reads, self.place(node.output));
        let workgroups = super::fold_threads(Kernel::Broadcast, self.elements(node.output));
        Ok(Dispatch { constants: constants(&[("MULTIPLY", multiply)]), workgroups, ..dispatch })
    }

    fn gemm(&self, node: &Node, factors: [f32; 2], transpose: [bool; 2]) -> Dispatch {
        let shape = self.shape(node.output);
        let strides = |input: usize, transposed: bool| {
            let columns = self.shape(node.inputs[input])[1];
            if transposed { [1, columns] } else { [columns, 1] }
        };
        let ([a_row, a_inner], [b_inner, b_column]) = (strides(0, transpose[0]), strides(1, transpose[1]));
        let inner = self.shape(node.inputs[0])[usize::from(!transpose[0])];
        let (third, c) = match node.inputs.get(2) {
            Some(c) => (self.read(node, 2), self.spread(*c, &shape)),
            None => (self.nothing(), vec![0, 0]),
        };
        let factor = |i: usize| if i == 1 && node.inputs.len() == 2 { 0.0 } else { factors[i] };
        let sizes = [
            shape[0] * shape[1],
            shape[1],
            inner,
            a_row,
            a_inner,
            b_inner,
            b_column,
            c[0] as usize,
            c[1] as usize,
            factor(0).to_bits() as usize,
            factor(1).to_bits() as usize,
        ];
        let reads: Vec<Source> = vec![self.read(node, 0), self.read(node, 1), third];
        threads(Kernel::Gemm, &sizes, reads, self.place(node.output))
    }

    /// Strides that walk over `value` as if it had `shape`: 0 where its one element counts for all.
    fn spread(&self, value: ValueId, shape: &[usize]) -> Vec<isize> {
        let own = self.shape(value);
        let missing = shape.len() - own.len();
        let strides = super::copy::strides(&own);
        let of_axis = |i: usize| if i < missing || own[i - missing] == 1 { 0 } else { strides[i - missing] };
        (0..shape.len()).map(of_axis).collect()
    }
}
