//! Operators that move elements: each is a copy of a box, or several.
//!
//! Takes nodes; gives their dispatches. Parts of a concatenation that the plan made in their places are not copied.

use super::{Emitter, Kernel, fold_threads, unsupported};
use crate::ir::{Node, Range, ValueId};
use crate::runtime::RuntimeError;
use crate::runtime::program::Dispatch;

impl Emitter<'_> {
    pub(super) fn concat(&self, node: &Node, axis: usize) -> Result<Vec<Dispatch>, RuntimeError> {
        let write = strides(&self.shape(node.output));
        let mut done = 0;
        let part = |(i, &input): (usize, &ValueId)| {
            let shape = self.shape(input);
            let at = done * write[axis];
            done += shape[axis] as isize;
            self.copy(node, i, &shape, [(&strides(&shape), 0), (&write, at)])
        };
        // What the plan put into its place needs no copy.
        if node.inputs.iter().all(|part| self.plan.holds(node.output, *part)) {
            return Ok(Vec::new());
        }
        node.inputs.iter().enumerate().map(part).collect()
    }

    pub(super) fn slice(&self, node: &Node, ranges: &[Range]) -> Result<Dispatch, RuntimeError> {
        let mut read = strides(&self.shape(node.inputs[0]));
        let mut read_at = 0;
        for r in ranges {
            read_at += r.start as isize * read[r.axis];
            read[r.axis] *= r.step;
        }
        let shape = self.shape(node.output);
        self.copy(node, 0, &shape, [(&read, read_at), (&strides(&shape), 0)])
    }

    pub(super) fn pad(&self, node: &Node, pads: &[[usize; 2]], value: f32) -> Result<Vec<Dispatch>, RuntimeError> {
        let fill = Dispatch {
            kernel: Kernel::Fill,
            constants: Vec::new(),
            sizes: vec![self.elements(node.output).div_ceil(4) as u32, value.to_bits()],
            reads: Vec::new(),
            write: self.place(node.output),
            workgroups: fold_threads(Kernel::Fill, self.elements(node.output).div_ceil(4)),
        };
        let write = strides(&self.shape(node.output));
        let at = write.iter().zip(pads).map(|(stride, [before, _])| stride * *before as isize).sum();
        let shape = self.shape(node.inputs[0]);
        Ok(vec![fill, self.copy(node, 0, &shape, [(&strides(&shape), 0), (&write, at)])?])
    }

    pub(super) fn channel_shuffle(&self, node: &Node, groups: usize) -> Result<Dispatch, RuntimeError> {
        let [n, c, h, w] = self.nchw(node.inputs[0]);
        let pixels = (h * w) as isize;
        let shape = [n, groups, c / groups, h * w];
        let write = [c as isize * pixels, pixels, groups as isize * pixels, 1];
        self.copy(node, 0, &shape, [(&strides(&shape), 0), (&write, 0)])
    }

    /// A copy of the box `shape` from input `input`; the pairs are strides and first element where it reads and writes.
    fn copy(
        &self,
        node: &Node,
        input: usize,
        shape: &[usize],
        [(read, read_at), (write, write_at)]: [(&[isize], isize); 2],
    ) -> Result<Dispatch, RuntimeError> {
        let padded = self.merged(node, shape, read, write)?;
        let count: usize = shape.iter().product();
        let sizes = padded.iter().map(|d| d.0 as u32);
        let reads = padded.iter().map(|d| d.1 as i32 as u32);
        let writes = padded.iter().map(|d| d.2 as i32 as u32);
        let rest = [read_at as i32 as u32, write_at as i32 as u32, count as u32, 0];
        Ok(Dispatch {
            kernel: Kernel::Copy,
            constants: Vec::new(),
            sizes: sizes.chain(reads).chain(writes).chain(rest).collect(),
            reads: vec![self.read(node, input)],
            write: self.place(node.output),
            workgroups: fold_threads(Kernel::Copy, count),
        })
    }

    /// The dimensions of the box `shape`, walked with two sets of strides, in four: sizes with their strides.
    pub(super) fn merged(
        &self,
        node: &Node,
        shape: &[usize],
        first: &[isize],
        second: &[isize],
    ) -> Result<Vec<(usize, isize, isize)>, RuntimeError> {
        let mut dims: Vec<(usize, isize, isize)> = Vec::new();
        for (&size, (&first, &second)) in shape.iter().zip(first.iter().zip(second)) {
            match dims.last_mut() {
                _ if size == 1 => {}
                // The outer dimension continues where the inner one ends: they are one.
                Some(outer) if outer.1 == size as isize * first && outer.2 == size as isize * second => {
                    *outer = (outer.0 * size, first, second);
                }
                _ => dims.push((size, first, second)),
            }
        }
        if dims.len() > 4 {
            let why = format!("it walks over {} separate dimensions, at most 4 are supported", dims.len());
            return Err(unsupported(node, why));
        }
        let mut padded = vec![(1, 0, 0); 4 - dims.len()];
        padded.extend(dims);
        Ok(padded)
    }
}

pub(super) fn strides(shape: &[usize]) -> Vec<isize> {
    let mut strides = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis] as isize;
    }
    strides
}
