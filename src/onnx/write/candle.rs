//! Files for candle-onnx, whose operators are fewer than those of ONNX.
//!
//! Takes one node of the IR at a time; adds its nodes where candle needs other ones than everybody else, and refuses what it
//! cannot compute, which candle itself would partly get wrong without a word (it skips `ceil_mode`). What is written is
//! ordinary ONNX, so that all other programs read it too:
//!
//! - global average pooling is a ReduceMean with its axes as attribute, which opset 18 ended;
//! - a padded average pool is a depthwise convolution with ones, times a constant map of one over the pixels in each window;
//! - a padded max pool is one without padding behind a mirrored border, where that changes no maximum (see `mirror`);
//! - convolutions must have one stride and one dilation for both axes.

use super::Writer;
use super::node::{int, ints, sliding, text};
use super::tensor;
use crate::ir::{Dim, Imported, Node, Op, Shape, Window};
use crate::onnx::proto::data_type;
use crate::onnx::{OnnxError, mirror};

/// Whom a file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Target {
    /// All programs that read ONNX.
    #[default]
    Onnx,
    /// candle-onnx as well.
    Candle,
}

impl Writer<'_> {
    /// Writes `node` in candle's way and gives the name of its result; nothing if the ordinary way is candle's too.
    pub(super) fn for_candle(&mut self, node: &Node, input: &[String]) -> Result<Option<String>, OnnxError> {
        match &node.op {
            Op::Conv { window, .. } => square(node, window).map(|()| None),
            Op::MaxPool(window) => self.mirrored(node, window, input),
            Op::AvgPool { window, count_include_pad } => self.averaged(node, window, *count_include_pad, input),
            Op::GlobalAvgPool => {
                let (shape, path) = self.place(node);
                let made = self.result_name(node.output, &path);
                let attributes = vec![ints("axes", [2, 3]), int("keepdims", 1)];
                self.push(&node.name, "ReduceMean", input.to_vec(), &made, attributes, &shape);
                Ok(Some(made))
            }
            Op::Pad { .. } => {
                Err(refuse(node, "candle pads by reflection only; leave out --keep-reduce, or --target candle"))
            }
            Op::QuantizeDequantize(_) => {
                Err(refuse(node, "candle has no quantised operators; leave out --int8, or --target candle"))
            }
            Op::Imported(Imported::Lrn { .. }) => {
                Err(refuse(node, "candle has no LRN; write it without --target candle"))
            }
            Op::Imported(Imported::Gemm { .. }) if input.len() < 3 => {
                Err(refuse(node, "candle's Gemm needs a third input; write it without --target candle"))
            }
            Op::Imported(
                Imported::Constant(_) | Imported::Elementwise(_) | Imported::Gemm { .. } | Imported::Softmax { .. },
            ) => Ok(None),
            Op::BatchNorm { .. }
            | Op::Relu
            | Op::Flatten { .. }
            | Op::Linear { .. }
            | Op::Add
            | Op::Concat { .. }
            | Op::Slice { .. }
            | Op::ChannelShuffle { .. }
            | Op::DropPath => Ok(None),
            // Not ONNX at all, which the ordinary way says.
            Op::WeightedSum { .. } | Op::Separable { .. } | Op::Mix { .. } => Ok(None),
        }
    }

    fn mirrored(&mut self, node: &Node, window: &Window, input: &[String]) -> Result<Option<String>, OnnxError> {
        if window.ceil || window.dilation != [1, 1] {
            let why = "candle's max pool has neither ceil_mode nor dilation; write it without --target candle";
            return Err(refuse(node, why));
        }
        let [top, left, bottom, right] = window.padding;
        if window.padding == [0; 4] {
            return Ok(None);
        }
        let given = self.model.graph.shape(node.inputs[0]).clone();
        let Some([c, h, w]) = given.chw().filter(|[_, h, w]| mirror::is_exact(window, [*h, *w])) else {
            let why = "candle's max pool has no padding, and a mirrored border cannot stand for it: windows must be wider than \
                       twice the padding; write it without --target candle";
            return Err(refuse(node, why));
        };
        let (shape, path) = self.place(node);
        let outer = Shape(vec![given.0[0], Dim::Fixed(c), Dim::Fixed(h + top + bottom), Dim::Fixed(w + left + right)]);
        let border = self.names.value(&format!("{path}/mirror"));
        // No third input: candle refuses one, and a mirror needs none.
        let pads = [0, 0, top, left, 0, 0, bottom, right].map(|n| n as i64);
        let read = vec![input[0].clone(), self.integers(&pads)];
        self.push(&format!("{}/mirror", node.name), "Pad", read, &border, vec![text("mode", "reflect")], &outer);
        let made = self.result_name(node.output, &path);
        let mut attributes = vec![int("ceil_mode", 0), ints("dilations", window.dilation)];
        attributes.extend(sliding(&Window { padding: [0; 4], ..*window }));
        self.push(&node.name, "MaxPool", vec![border], &made, attributes, &shape);
        Ok(Some(made))
    }

    fn averaged(
        &mut self,
        node: &Node,
        window: &Window,
        count_include_pad: bool,
        input: &[String],
    ) -> Result<Option<String>, OnnxError> {
        if window.ceil {
            return Err(refuse(node, "candle's average pool has no ceil_mode; write it without --target candle"));
        }
        if window.padding == [0; 4] && window.dilation == [1, 1] {
            return Ok(None);
        }
        square(node, window)?;
        let given = self.model.graph.shape(node.inputs[0]).clone();
        let (shape, path) = self.place(node);
        let (Some([channels, h, w]), Some([_, rows, columns])) = (given.chw(), shape.chw()) else {
            return Err(refuse(node, "its input is no image"));
        };
        let [kh, kw] = window.kernel;
        let word = format!("ones_{channels}_{kh}_{kw}");
        let ones = self.constant_floats(&word, &[channels, 1, kh, kw], &vec![1.0; channels * kh * kw]);
        let summed = self.names.value(&format!("{path}/sum"));
        let mut attributes = vec![ints("dilations", window.dilation), int("group", channels as i64)];
        attributes.extend(sliding(window));
        let read = vec![input[0].clone(), ones];
        self.push(&format!("{}/sum", node.name), "Conv", read, &summed, attributes, &shape);

        let pixels = |axis: usize, size: usize, out: usize| match count_include_pad {
            true => window.kernel[axis],
            false => {
                let first = out * window.stride[axis];
                let taps = (0..window.kernel[axis]).map(|k| first + k * window.dilation[axis]);
                taps.filter(|at| (window.padding[axis]..size + window.padding[axis]).contains(at)).count()
            }
        };
        let counts = (0..rows).flat_map(|y| (0..columns).map(move |x| (y, x)));
        // A window that lies in the border altogether averages nothing: 0, as a sum of nothing by any count.
        let shares = counts.map(|(y, x)| 1.0 / (pixels(0, h, y) * pixels(1, w, x)).max(1) as f32).collect::<Vec<_>>();
        let word = format!("shares_{rows}_{columns}");
        let shares = self.constant_floats(&word, &[1, 1, rows, columns], &shares);
        let made = self.result_name(node.output, &path);
        self.push(&node.name, "Mul", vec![summed, shares], &made, Vec::new(), &shape);
        Ok(Some(made))
    }

    /// The shape of the node's value and the path of its name.
    fn place(&self, node: &Node) -> (Shape, String) {
        let value = self.model.graph.value(node.output);
        (value.shape.clone(), value.name.clone())
    }

    fn constant_floats(&mut self, word: &str, shape: &[usize], data: &[f32]) -> String {
        let raw = data.iter().flat_map(|x| x.to_le_bytes()).collect();
        self.shared(word, tensor::tensor("", shape, data_type::FLOAT, raw))
    }
}

/// Refuses a window that moves or spreads differently in height and width: candle's convolution has one number for both.
fn square(node: &Node, window: &Window) -> Result<(), OnnxError> {
    let same = |pair: [usize; 2]| pair[0] == pair[1];
    if same(window.stride) && same(window.dilation) {
        return Ok(());
    }
    let ([sh, sw], [dh, dw]) = (window.stride, window.dilation);
    let why = format!(
        "stride {sh}x{sw}, dilation {dh}x{dw}: candle's convolution has one stride and one dilation for both axes; write the \
         network without --target candle, or build a genotype without conv_7x1_1x7"
    );
    Err(refuse(node, &why))
}

fn refuse(node: &Node, why: &str) -> OnnxError {
    OnnxError::Unsupported { node: node.name.clone(), op: node.op.name().into(), why: why.into() }
}
