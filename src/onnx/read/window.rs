//! Operators with a sliding window: convolution and pooling over images.
//!
//! Takes their attributes in every operator set from 6 on; gives [`Window`]s with explicit padding (`auto_pad` is resolved
//! here: shapes are known).

use super::Reader;
use super::operator::Made;
use super::view::View;
use crate::ir::{Op, Role, Shape, Tensor, ValueId, Window};
use crate::onnx::{OnnxError, mirror};

/// The largest kernel, stride, dilation or pad; keeps all arithmetic on them small.
const MAX_WINDOW: i64 = i16::MAX as i64;

/// The attributes of a max pool.
const MAX_POOL: &[&str] = &["auto_pad", "ceil_mode", "dilations", "kernel_shape", "pads", "storage_order", "strides"];

impl<'a> Reader<'a> {
    /// A convolution, with the constant that may be added behind it.
    pub(super) fn conv(&mut self, view: &View<'a>) -> Result<Made<'a>, OnnxError> {
        view.at_most(3)?;
        view.only(&["auto_pad", "dilations", "group", "kernel_shape", "pads", "strides"])?;
        let x = self.variable(view, 0)?;
        let size = self.image(view, x)?;
        let name = view.input(1)?;
        let (weight, [out, kh, kw]) = match *self.constants.dims(view, name)?.as_slice() {
            [out, _, kh, kw] => {
                if let Some((_, given)) = self.rows.iter().find(|(rows, _)| *rows == x) {
                    return Err(no_image(view, given));
                }
                (self.param(view, name, Role::Weight)?, [out, kh, kw])
            }
            // Over rows, which are images one pixel high.
            [out, per_group, k] if size[0] == 1 => {
                let rows = Tensor { shape: vec![out, per_group, 1, k], ..self.constants.floats(view, name)? };
                (self.changed(view, name, Role::Weight, rows)?, [out, 1, k])
            }
            _ => {
                let why = "the weight must have 4 dimensions, or 3: supported are convolutions of images and rows";
                return Err(view.unsupported(why));
            }
        };
        let kernel = pair(view, "kernel_shape", 1, size)?.unwrap_or([kh, kw]);
        let window = window(view, kernel, size)?;
        let groups = usize::try_from(view.int("group", 1)?).map_err(|_| view.error("attribute `group` is negative"))?;
        let own = view.optional(2).map(|name| (name, 1.0));
        let (bias, output) = self.bias(view, own, out, 2)?;
        Ok((output, self.emit(view, Op::conv(weight, bias, window, groups), &[x])?))
    }

    /// Max pooling, of which only the maxima are read.
    pub(super) fn max_pool(&mut self, view: &View<'a>) -> Result<ValueId, OnnxError> {
        view.only(MAX_POOL)?;
        let (x, window) = self.pool(view)?;
        self.emit(view, Op::MaxPool(window), &[x])
    }

    /// Average pooling.
    pub(super) fn average_pool(&mut self, view: &View<'a>) -> Result<ValueId, OnnxError> {
        view.only(&["auto_pad", "ceil_mode", "count_include_pad", "dilations", "kernel_shape", "pads", "strides"])?;
        let (x, window) = self.pool(view)?;
        let count_include_pad = view.int("count_include_pad", 0)? != 0;
        self.emit(view, Op::AvgPool { window, count_include_pad }, &[x])
    }

    /// ReduceMean over height and width, which is global average pooling.
    pub(super) fn reduce_mean(&mut self, view: &View<'a>) -> Result<ValueId, OnnxError> {
        view.at_most(2)?;
        view.only(&["axes", "keepdims", "noop_with_empty_axes"])?;
        let x = self.variable(view, 0)?;
        self.image(view, x)?;
        let axes = self.axes(view)?.unwrap_or_default();
        let mut axes = axes.into_iter().map(|axis| view.index(axis, 4, 4)).collect::<Result<Vec<_>, _>>()?;
        axes.sort_unstable();
        if axes != [2, 3] || !self.rows.is_empty() {
            return Err(
                view.unsupported(format!("over axes {axes:?}; supported are height and width of images, [2, 3]"))
            );
        }
        if view.int("keepdims", 1)? != 0 {
            return self.emit(view, Op::GlobalAvgPool, &[x]);
        }
        let name = self.node_names.claim(&format!("{}/mean", view.name));
        let mean = self.emit_as(view, name, Op::GlobalAvgPool, &[x])?;
        self.emit(view, Op::Flatten { axis: 1 }, &[mean])
    }

    /// A mirrored border of `x` that only a max pool reads, where that is the padding of the pool.
    pub(super) fn mirrored_pool(
        &mut self,
        view: &View<'a>,
        x: ValueId,
        pads: &[[usize; 2]],
    ) -> Result<Made<'a>, OnnxError> {
        let refuse = || {
            let why = "mode `reflect` is supported in front of a max pool whose windows hold what they mirror, and nowhere else";
            view.unsupported(why)
        };
        let border = view.output()?;
        let (&[[0, 0], [0, 0], rows, columns], Some(&[pool])) = (pads, self.readers.get(border).map(Vec::as_slice))
        else {
            return Err(refuse());
        };
        let size = self.image(view, x)?;
        if self.nodes[pool].op_type != "MaxPool" || self.outputs.contains(border) {
            return Err(refuse());
        }
        let view = View::new(&self.nodes[pool], &mut self.node_names);
        view.at_most(1)?;
        view.only(MAX_POOL)?;
        let kernel = pair(&view, "kernel_shape", 1, size)?.ok_or_else(refuse)?;
        // The pool sees the border as part of its image.
        let outer = [size[0].saturating_add(rows[0] + rows[1]), size[1].saturating_add(columns[0] + columns[1])];
        let inner = window(&view, kernel, outer)?;
        let padding = [rows[0], columns[0], rows[1], columns[1]];
        let window = Window { padding, ..inner };
        if inner.padding != [0; 4] || !mirror::is_exact(&window, size) {
            return Err(refuse());
        }
        self.folded.insert(pool);
        Ok((view.output()?, self.emit(&view, Op::MaxPool(window), &[x])?))
    }

    fn pool(&mut self, view: &View<'a>) -> Result<(ValueId, Window), OnnxError> {
        view.at_most(1)?;
        let x = self.variable(view, 0)?;
        let size = self.image(view, x)?;
        let kernel = pair(view, "kernel_shape", 1, size)?;
        let kernel = kernel.ok_or_else(|| view.error("attribute `kernel_shape` is missing"))?;
        Ok((x, window(view, kernel, size)?))
    }

    /// Height and width of a value that must be images.
    fn image(&self, view: &View<'a>, value: ValueId) -> Result<[usize; 2], OnnxError> {
        let shape = self.builder.shape(value);
        let [_, h, w] = shape.chw().ok_or_else(|| no_image(view, shape))?;
        Ok([h, w])
    }
}

fn no_image(view: &View, shape: &Shape) -> OnnxError {
    view.unsupported(format!("its input is {shape}; supported are images [N, C, H, W], two dimensions"))
}

fn window(view: &View, kernel: [usize; 2], size: [usize; 2]) -> Result<Window, OnnxError> {
    let stride = pair(view, "strides", 1, size)?.unwrap_or([1, 1]);
    let dilation = pair(view, "dilations", 1, size)?.unwrap_or([1, 1]);
    let ceil = view.int("ceil_mode", 0)? != 0;
    let mut window = Window { kernel, stride, padding: [0; 4], dilation, ceil };
    let auto = view.text("auto_pad", "NOTSET")?;
    match auto {
        "NOTSET" | "" => window.padding = list(view, "pads", 0, size)?.unwrap_or([0; 4]),
        "VALID" => {}
        "SAME_UPPER" | "SAME_LOWER" => {
            for axis in 0..2 {
                let steps = size[axis].div_ceil(stride[axis]).saturating_sub(1) * stride[axis];
                let total = (steps + window.extent(axis)).saturating_sub(size[axis]);
                let small = total / 2;
                let (before, after) =
                    if auto == "SAME_UPPER" { (small, total - small) } else { (total - small, small) };
                window.padding[axis] = before;
                window.padding[axis + 2] = after;
            }
        }
        other => {
            let why = format!("auto_pad `{other}` is not NOTSET, VALID, SAME_UPPER or SAME_LOWER");
            return Err(view.error(why));
        }
    }
    Ok(window)
}

fn pair(view: &View, name: &str, least: i64, size: [usize; 2]) -> Result<Option<[usize; 2]>, OnnxError> {
    list(view, name, least, size)
}

/// A list attribute of exactly `N` numbers from `least` to [`MAX_WINDOW`].
fn list<const N: usize>(
    view: &View,
    name: &str,
    least: i64,
    size: [usize; 2],
) -> Result<Option<[usize; N]>, OnnxError> {
    let Some(given) = view.ints(name)? else { return Ok(None) };
    // Of rows: the height is one pixel, which is what 1, or no padding, leaves it.
    let rows = given.iter().flat_map(|n| [least, *n]).collect::<Vec<_>>();
    let given = if size[0] == 1 && given.len() * 2 == N { rows.as_slice() } else { given };
    let Ok(numbers) = <[i64; N]>::try_from(given) else {
        let why = format!("attribute `{name}` has {} numbers; images (two dimensions) need {N}", given.len());
        return Err(view.unsupported(why));
    };
    if let Some(bad) = numbers.iter().find(|n| !(least..=MAX_WINDOW).contains(n)) {
        return Err(view.unsupported(format!("attribute `{name}` holds {bad}; supported are {least} to {MAX_WINDOW}")));
    }
    Ok(Some(numbers.map(|n| n as usize)))
}
