//! The textual IR: what `inspect --ir` shows and what tests compare.
//!
//! Takes a graph; gives its `Display`. One line a node: `%name: shape = op(%inputs) {attributes}`.

use std::fmt;

use super::{Graph, Imported, MixTerm, Op, ParamId, Range, Unit, Window};

impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "graph {} {{", self.name)?;
        for input in &self.inputs {
            let value = self.value(*input);
            writeln!(f, "  input %{}: {}", value.name, value.shape)?;
        }
        for node in &self.nodes {
            let inputs: Vec<String> = node.inputs.iter().map(|v| format!("%{}", self.value(*v).name)).collect();
            let value = self.value(node.output);
            write!(f, "  %{}: {} = {}({})", value.name, value.shape, node.op.name(), inputs.join(", "))?;
            writeln!(f, "{}", attributes(self, &node.op))?;
        }
        for output in &self.outputs {
            writeln!(f, "  output {} = %{}", output.name, self.value(output.value).name)?;
        }
        f.write_str("}")
    }
}

fn attributes(graph: &Graph, op: &Op) -> String {
    let param = |id: &ParamId| {
        format!("@{}{}", graph.param(*id).name, if graph.param(*id).codes.is_some() { " quantized" } else { "" })
    };
    let mut words: Vec<String> = Vec::new();
    match op {
        Op::Conv { weight, bias, window: w, groups, relu_in, relu_out } => {
            words.push(param(weight));
            words.extend(bias.as_ref().map(param));
            words.push(window(w));
            if *groups != 1 {
                words.push(format!("groups {groups}"));
            }
            words.extend(relu_in.then(|| "relu_in".into()));
            words.extend(relu_out.then(|| "relu_out".into()));
        }
        Op::BatchNorm { scale, shift, mean, var, epsilon } => {
            words.extend(scale.iter().chain(shift).chain([mean, var]).map(param));
            words.push(format!("epsilon {epsilon}"));
        }
        Op::Linear { weight, bias } => words.extend(std::iter::once(weight).chain(bias).map(param)),
        Op::MaxPool(w) => words.push(window(w)),
        Op::AvgPool { window: w, count_include_pad } => {
            words.push(window(w));
            words.extend(count_include_pad.then(|| "count_include_pad".into()));
        }
        Op::Flatten { axis } | Op::Concat { axis } => words.push(format!("axis {axis}")),
        Op::Slice { ranges } => words.extend(
            ranges
                .iter()
                .map(|Range { axis, start, len, step }| format!("axis {axis} from {start} take {len} step {step}")),
        ),
        Op::Pad { pads, value } => words.push(format!("{pads:?} with {value}")),
        Op::WeightedSum { indices } => words.push(format!("{indices:?}")),
        Op::ChannelShuffle { groups } => words.push(format!("groups {groups}")),
        Op::Separable { units } => words.extend(units.iter().map(|u: &Unit| {
            format!("from {} {} {} {}", u.from, param(&u.depthwise), window(&u.window), param(&u.pointwise))
        })),
        Op::Mix { terms, .. } => words.extend(terms.iter().map(mix_term)),
        Op::QuantizeDequantize(grid) => words.push(format!("scale {}, zero {}", grid.scale, grid.zero_point)),
        Op::Imported(imported) => words.extend(imported_words(imported, param)),
        Op::Relu | Op::GlobalAvgPool | Op::Add | Op::DropPath => {}
    }
    if words.is_empty() { String::new() } else { format!(" {{{}}}", words.join(", ")) }
}

fn imported_words(imported: &Imported, param: impl Fn(&ParamId) -> String) -> Vec<String> {
    match imported {
        Imported::Constant(value) => vec![param(value)],
        Imported::Elementwise(_) => Vec::new(),
        Imported::Gemm { alpha, beta, transpose } => vec![format!("alpha {alpha} beta {beta} transpose {transpose:?}")],
        Imported::Softmax { axis } => vec![format!("axis {axis}")],
        Imported::Lrn { size, alpha, beta, bias } => vec![format!("size {size} alpha {alpha} beta {beta} bias {bias}")],
    }
}

fn mix_term(term: &MixTerm) -> String {
    let MixTerm { input, from, len, to, step, weights, drop_path } = term;
    let weights: String = weights.iter().map(|(input, element)| format!(" * {input}[{element}]")).collect();
    let drop = if *drop_path { " dropped" } else { "" };
    format!("{to} step {step}: {input}[{from}..{}]{weights}{drop}", from + len)
}

fn window(w: &Window) -> String {
    let mut text = format!("{}x{}", w.kernel[0], w.kernel[1]);
    if w.stride != [1, 1] {
        text += &format!(" stride {}x{}", w.stride[0], w.stride[1]);
    }
    if w.padding != [0; 4] {
        text += &format!(" pad {:?}", w.padding);
    }
    if w.dilation != [1, 1] {
        text += &format!(" dilation {}x{}", w.dilation[0], w.dilation[1]);
    }
    if w.ceil {
        text += " ceil";
    }
    text
}
