//! The operators, by name: which function reads which, and the short ones themselves.
//!
//! Takes a node; gives the name of its result in the file and the value, or nothing if the result is a constant. Sliding
//! windows are in `window`, matrix products in `linear`, operators that move elements in `shaping`.

use super::Reader;
use super::file::is_standard;
use super::view::View;
use crate::ir::{Op, Role, ValueId};
use crate::onnx::OnnxError;
use crate::onnx::proto::data_type;

/// What `operator` can read, for messages.
const SUPPORTED: &str = "Add, AveragePool, BatchNormalization, Cast (between float types), Concat, Constant, Conv, \
                         DequantizeLinear, Dropout, Flatten, Gemm, GlobalAveragePool, Identity, MatMul (by a constant), \
                         MaxPool, Pad, QuantizeLinear, Relu, Reshape (to a matrix), Slice";

/// A result: its name in the file and its value.
pub(super) type Made<'a> = (&'a str, ValueId);

impl<'a> Reader<'a> {
    /// Reads one node.
    pub(super) fn operator(&mut self, view: &View<'a>) -> Result<Option<Made<'a>>, OnnxError> {
        if !is_standard(&view.proto.domain) {
            let why = format!("operators of `{}` are not supported, only those of ONNX itself", view.proto.domain);
            return Err(view.unsupported(why));
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
            "Add" => self.add(view)?,
            "AveragePool" => self.average_pool(view)?,
            "BatchNormalization" => self.batch_norm(view)?,
            "Cast" => self.cast(view)?,
            "Concat" => self.concat(view)?,
            "Dropout" => self.dropout(view)?,
            "Flatten" => self.flatten(view)?,
            "GlobalAveragePool" => self.unary(view, Op::GlobalAvgPool)?,
            "Identity" => self.same(view)?,
            "MaxPool" => self.max_pool(view)?,
            "Pad" => self.pad(view)?,
            "Relu" => self.unary(view, Op::Relu)?,
            "Reshape" => self.reshape(view)?,
            "Slice" => self.slice(view)?,
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

    fn add(&mut self, view: &View<'a>) -> Result<ValueId, OnnxError> {
        view.at_most(2)?;
        view.only(&["axis", "broadcast", "consumed_inputs"])?;
        let (a, b) = (view.input(0)?, view.input(1)?);
        if let Some(constant) = [a, b].into_iter().find(|name| self.constants.contains(name)) {
            let why = format!(
                "it adds constant `{constant}`; supported is one number per channel, added to a convolution or matrix \
                 product that nothing else reads"
            );
            return Err(view.unsupported(why));
        }
        let inputs = [self.variable(view, 0)?, self.variable(view, 1)?];
        let [a, b] = inputs.map(|x| self.builder.shape(x));
        if a != b {
            return Err(view.unsupported(format!("the shapes {a} and {b} differ; supported are equal shapes")));
        }
        self.emit(view, Op::Add, &inputs)
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
