//! Operations that networks of our own do not have and models of other programs do: constants as values, broadcasting,
//! products of two values, softmax, response normalisation.
//!
//! Takes nothing; gives [`Imported`] with the rule for its result's shape. They can be run, validated and written, not
//! trained.

use super::shape::Rule;
use super::{Dim, IrError, ParamId, Shape};

/// An operation of an imported model.
#[derive(Debug, Clone, PartialEq)]
pub enum Imported {
    /// The contents of a parameter as a value; it has no inputs.
    Constant(ParamId),
    /// [Add](https://onnx.ai/onnx/operators/onnx__Add.html) or [Mul](https://onnx.ai/onnx/operators/onnx__Mul.html) of two
    /// values; where one has size 1 along an axis or lacks it, its elements count for all of the other (see [`broadcast`]).
    Elementwise(Arithmetic),
    /// [Gemm](https://onnx.ai/onnx/operators/onnx__Gemm.html): `alpha * a b + beta * c` for values `a` `[M, K]`, `b` `[K, N]`
    /// (each transposed if `transpose` says so) and, if there is a third input, `c`, spread over `[M, N]`.
    Gemm {
        /// Factor of the product.
        alpha: f32,
        /// Factor of the third input.
        beta: f32,
        /// Whether `a` is `[K, M]`, and whether `b` is `[N, K]`.
        transpose: [bool; 2],
    },
    /// [Softmax](https://onnx.ai/onnx/operators/onnx__Softmax.html) along one axis.
    Softmax {
        /// The axis, counted from the outermost.
        axis: usize,
    },
    /// [LRN](https://onnx.ai/onnx/operators/onnx__LRN.html) of an image:
    /// `x / (bias + alpha / size * sum of the squares of size channels around it) ^ beta`.
    Lrn {
        /// Channels in the sum: `(size - 1) / 2` before the own one, the rest behind it.
        size: usize,
        /// Factor of the mean square.
        alpha: f32,
        /// Exponent.
        beta: f32,
        /// Added to the scaled mean square.
        bias: f32,
    },
}

/// What is done with each pair of elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arithmetic {
    /// The sum.
    Add,
    /// The product.
    Multiply,
}

impl Imported {
    /// The name in the textual IR and in messages.
    pub fn name(&self) -> &'static str {
        match self {
            Imported::Constant(_) => "constant",
            Imported::Elementwise(Arithmetic::Add) => "broadcast_add",
            Imported::Elementwise(Arithmetic::Multiply) => "broadcast_multiply",
            Imported::Gemm { .. } => "gemm",
            Imported::Softmax { .. } => "softmax",
            Imported::Lrn { .. } => "lrn",
        }
    }

    pub(super) fn param(&self) -> Option<ParamId> {
        match self {
            Imported::Constant(value) => Some(*value),
            Imported::Elementwise(_) | Imported::Gemm { .. } | Imported::Softmax { .. } | Imported::Lrn { .. } => None,
        }
    }

    pub(super) fn param_mut(&mut self) -> Option<&mut ParamId> {
        match self {
            Imported::Constant(value) => Some(value),
            Imported::Elementwise(_) | Imported::Gemm { .. } | Imported::Softmax { .. } | Imported::Lrn { .. } => None,
        }
    }
}

/// The shape of an element-wise result: dimensions are compared from the last one on, and where they differ one of them must
/// be 1 or missing. `None` if the two do not fit, or the batch would not come first.
pub fn broadcast(a: &Shape, b: &Shape) -> Option<Shape> {
    let rank = a.rank().max(b.rank());
    let dim = |shape: &Shape, i: usize| (i + shape.rank()).checked_sub(rank).map_or(Dim::Fixed(1), |i| shape.0[i]);
    let both = |i: usize| match (dim(a, i), dim(b, i)) {
        (a, b) if a == b => Some(a),
        (Dim::Fixed(1), other) | (other, Dim::Fixed(1)) => Some(other),
        _ => None,
    };
    let shape = Shape((0..rank).map(both).collect::<Option<_>>()?);
    (!shape.0.iter().skip(1).any(|dim| *dim == Dim::Batch)).then_some(shape)
}

impl Rule<'_> {
    pub(super) fn imported(&self, op: &Imported) -> Result<Shape, IrError> {
        match op {
            Imported::Constant(value) => match (self.inputs, self.params.get(value.index())) {
                ([], Some(param)) => Ok(Shape::fixed(&param.shape)),
                ([], None) => Err(self.error("its parameter does not exist".into())),
                _ => Err(self.arity("0")),
            },
            Imported::Elementwise(_) => {
                let &[a, b] = self.inputs else { return Err(self.arity("2")) };
                broadcast(a, b).ok_or_else(|| self.error("the two shapes do not fit each other".into()))
            }
            Imported::Gemm { transpose, .. } => self.gemm(*transpose),
            Imported::Softmax { axis } => {
                let x = self.one()?;
                match x.dim(*axis) {
                    Some(_) => Ok(x.clone()),
                    None => Err(self.error(format!("axis {axis} does not exist or has no known size"))),
                }
            }
            Imported::Lrn { size, .. } => {
                let x = self.one()?;
                self.chw(x)?;
                match size {
                    0 => Err(self.error("its size must be at least 1".into())),
                    _ => Ok(x.clone()),
                }
            }
        }
    }

    fn gemm(&self, transpose: [bool; 2]) -> Result<Shape, IrError> {
        let (a, b, c) = match *self.inputs {
            [a, b] => (a, b, None),
            [a, b, c] => (a, b, Some(c)),
            _ => return Err(self.arity("2 or 3")),
        };
        let matrix = |x: &Shape, transposed: bool| match *x.0.as_slice() {
            [rows, columns] => Ok(if transposed { [columns, rows] } else { [rows, columns] }),
            _ => Err(self.error("a product is one of two matrices".into())),
        };
        let ([rows, inner], [same, columns]) = (matrix(a, transpose[0])?, matrix(b, transpose[1])?);
        if inner != same || [inner, columns].contains(&Dim::Batch) {
            return Err(
                self.error("the matrices do not fit each other, or the batch is not the rows of the first".into())
            );
        }
        let shape = Shape(vec![rows, columns]);
        match c {
            Some(c) if broadcast(c, &shape).as_ref() != Some(&shape) => {
                Err(self.error(format!("the third input does not spread over {shape}")))
            }
            _ => Ok(shape),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{Builder, Init, Op, Role};

    #[test]
    fn shapes_spread_as_in_numpy_and_the_batch_stays_first() {
        let shape =
            |dims: &[usize]| Shape(dims.iter().map(|&d| if d == 0 { Dim::Batch } else { Dim::Fixed(d) }).collect());
        type Case<'a> = (&'a [usize], &'a [usize], Option<&'a [usize]>);
        let cases: [Case; 8] = [
            (&[3, 4, 5], &[5], Some(&[3, 4, 5])),
            (&[0, 4, 5], &[4, 1], Some(&[0, 4, 5])),
            (&[0, 4, 1], &[1, 1, 6], Some(&[0, 4, 6])),
            (&[], &[2], Some(&[2])),
            (&[3], &[2], None),
            (&[0, 4], &[2, 4], None),
            // The batch of one would lie along an inner axis of the other.
            (&[0, 1], &[0], None),
            (&[0], &[7, 1], None),
        ];
        for (a, b, expected) in cases {
            let got = [broadcast(&shape(a), &shape(b)), broadcast(&shape(b), &shape(a))];
            assert_eq!(got, [expected.map(shape), expected.map(shape)], "{a:?} {b:?}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_with_the_node() {
        let gemm = |transpose| Op::Imported(Imported::Gemm { alpha: 1.0, beta: 1.0, transpose });
        let lrn = |size| Op::Imported(Imported::Lrn { size, alpha: 1.0, beta: 1.0, bias: 1.0 });
        let cases: [(Op, &[&[usize]], &str); 8] = [
            (gemm([false, false]), &[&[2, 3], &[4, 3]], "do not fit each other"),
            (gemm([true, false]), &[&[2, 3], &[3, 4]], "do not fit each other"),
            (gemm([false, true]), &[&[2, 3], &[4, 3], &[3]], "third input does not spread over [2, 4]"),
            (gemm([false, false]), &[&[2, 3], &[3]], "two matrices"),
            (Op::Imported(Imported::Softmax { axis: 2 }), &[&[2, 3]], "axis 2 does not exist"),
            (lrn(0), &[&[1, 3, 2, 2]], "size must be at least 1"),
            (lrn(3), &[&[3, 2]], "must be [N, C, H, W]"),
            (Op::Imported(Imported::Elementwise(Arithmetic::Add)), &[&[2, 3], &[2]], "do not fit"),
        ];
        for (op, shapes, why) in cases {
            let mut b = Builder::new("g");
            let inputs: Vec<_> =
                shapes.iter().enumerate().map(|(i, s)| b.input(format!("x{i}"), Shape::fixed(s))).collect();
            let error = b.node("bad", op, &inputs).unwrap_err().to_string();
            assert!(error.starts_with("node `bad`") && error.contains(why), "{error}");
        }
        let mut b = Builder::new("g");
        let x = b.input("x", Shape::fixed(&[2]));
        let value = b.param("p", None, &[4], Role::Weight, Init::Constant(0.0));
        assert!(b.node("c", Op::Imported(Imported::Constant(value)), &[x]).is_err());
        let y = b.node("c", Op::Imported(Imported::Constant(value)), &[]).unwrap();
        assert_eq!(*b.shape(y), Shape::fixed(&[4]));
    }
}
