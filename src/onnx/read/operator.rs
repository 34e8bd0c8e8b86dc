//! The operators, by name: which function reads which, and the short ones themselves.
//!
//! Takes a node; gives the name of its result in the file and the value, or nothing if the result is a constant. Sliding
//! windows are in `window`, matrix products in `linear`, operators that move elements in `shaping`, those that only other
//! people's models have in `arithmetic`.

use super::Reader;
use super::file::is_standard;
use super::integers::FOLDED;
use super::view::View;
use crate::ir::{Arithmetic, Op, Role, ValueId};
use crate::onnx::OnnxError;
use crate::onnx::proto::data_type;

/// What `operator` can read, for messages.
const SUPPORTED: &str = "Add, AveragePool, BatchNormalization, Cast (between float types), Concat, Constant, \
                         ConstantOfShape, Conv, DequantizeLinear, Dropout, Flatten, Gemm, GlobalAveragePool, Identity, LRN, \
                         MatMul, MaxPool, Mul, Pad, QuantizeLinear, ReduceMean (over height and width), Relu, Reshape (to a matrix, or as a part of a channel \
                         shuffle), Slice, Softmax, Sum, Unsqueeze (of a constant), and arithmetic on shapes";

/// A result: its name in the file and its value.
pub(super) type Made<'a> = (&'a str, ValueId);

impl<'a> Reader<'a> {
    /// Reads one node.
    pub(super) fn operator(&mut self, view: &View<'a>) -> Result<Option<Made<'a>>, OnnxError> {
        if !is_standard(&view.proto.domain) {
            let why = format!("operators of `{}` are not supported, only those of ONNX itself", view.proto.domain);
            return Err(view.unsupported(why));
        }
        if self.fold(view)? {
            return Ok(None);
        }
        let value = match view.proto.op_type.as_str() {
            // The two that may take the Add behind them along, so that the result has the name of that.
            "Conv" => return self.conv(view).map(Some),
            "Gemm" => return self.gemm(view).map(Some),
            "MatMul" => return self.matmul(view).map(Some),
            "Identity" if self.constants.alias(view.output()?, view.input(0)?) => return Ok(None),
            "QuantizeLinear" => return self.quantize(view).map(|()| None),
            "DequantizeLinear" => match self.dequantize(view)? {
                Some(value) => value,
                None => return Ok(None),
            },
            "ConstantOfShape" => return self.filled(view).map(|()| None),
            "Unsqueeze" => return self.unsqueeze(view).map(|()| None),
            "Pad" => return self.pad(view).map(Some),
            "Reshape" => return self.reshape(view),
            "Add" => self.elementwise(view, Arithmetic::Add)?,
            "AveragePool" => self.average_pool(view)?,
            "BatchNormalization" => self.batch_norm(view)?,
            "Cast" => self.cast(view)?,
            "Concat" => self.concat(view)?,
            "Dropout" => self.dropout(view)?,
            "Flatten" => self.flatten(view)?,
            "GlobalAveragePool" => self.unary(view, Op::GlobalAvgPool)?,
            "Identity" => self.same(view)?,
            "LRN" => self.lrn(view)?,
            "MaxPool" => self.max_pool(view)?,
            "Mul" => self.elementwise(view, Arithmetic::Multiply)?,
            "ReduceMean" => self.reduce_mean(view)?,
            "Relu" => self.unary(view, Op::Relu)?,
            "Slice" => self.slice(view)?,
            "Softmax" => self.softmax(view)?,
            "Sum" => self.sum(view)?,
            "Div" | "Gather" | "ReduceProd" | "Squeeze" | "Sub" => {
                let why =
                    format!("on what the network computes it is not supported; on integers and shapes {FOLDED} are");
                return Err(view.unsupported(why));
            }
            _ => return Err(view.unsupported(format!("this operator is not supported; supported are {SUPPORTED}"))),
        };
        Ok(Some((view.output()?, value)))
    }

    /// An operator of one input without attributes.
    fn unary(&mut self, view: &View<'a>, op: Op) -> Result<ValueId, OnnxError> {
        view.at_most(1)?;
        // Old operator sets let a node name inputs whose memory it may reuse.
        view.only(&["consumed_inputs"])?;
        let x = self.variable(view, 0)?;
        self.emit(view, op, &[x])
    }

    fn same(&mut self, view: &View<'a>) -> Result<ValueId, OnnxError> {
        view.at_most(1)?;
        view.only(&[])?;
        self.variable(view, 0)
    }

    fn cast(&mut self, view: &View<'a>) -> Result<ValueId, OnnxError> {
        view.only(&["to", "saturate", "round_mode"])?;
        let to = view.int("to", 0)?;
        if ![data_type::FLOAT, data_type::FLOAT16].map(i64::from).contains(&to) {
            let name = i32::try_from(to).map_or_else(|_| to.to_string(), data_type::name);
            return Err(view.unsupported(format!("a cast to {name} is not supported, only to float32 and float16")));
        }
        self.variable(view, 0)
    }

    fn dropout(&mut self, view: &View<'a>) -> Result<ValueId, OnnxError> {
        view.only(&["ratio", "seed", "is_test", "consumed_inputs"])?;
        if let Some(training) = view.optional(2)
            && self.constants.truth(view, training)?
        {
            return Err(view.unsupported("it drops, as in training; export the model in evaluation mode"));
        }
        self.variable(view, 0)
    }

    fn batch_norm(&mut self, view: &View<'a>) -> Result<ValueId, OnnxError> {
        view.at_most(5)?;
        view.only(&["epsilon", "momentum", "spatial", "is_test", "training_mode", "consumed_inputs"])?;
        if view.int("spatial", 1)? != 1 {
            return Err(view.unsupported("statistics per pixel (spatial = 0) are not supported"));
        }
        if view.int("training_mode", 0)? != 0 {
            return Err(view.unsupported("it is in training mode; export the model in evaluation mode"));
        }
        let epsilon = view.float("epsilon", 1e-5)?;
        let x = self.variable(view, 0)?;
        let roles = [Role::Scale, Role::Shift, Role::RunningMean, Role::RunningVar];
        let mut ids = Vec::with_capacity(4);
        for (i, role) in roles.into_iter().enumerate() {
            ids.push(self.param(view, view.input(i + 1)?, role)?);
        }
        let op = Op::BatchNorm { scale: Some(ids[0]), shift: Some(ids[1]), mean: ids[2], var: ids[3], epsilon };
        self.emit(view, op, &[x])
    }
}
