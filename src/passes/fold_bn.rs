//! Folds a batch norm into the convolution or linear layer that feeds it and nothing else.
//!
//! y = s (Wx + b - mean) + shift with s = scale / sqrt(var + epsilon), computed in f64. A batch norm behind anything else
//! (a pool of a supernet) stays.

use crate::ir::{Init, Model, NodeId, Op, Param, ParamId, Role, Tensor};

pub(super) fn run(model: &mut Model) -> usize {
    let mut rewrites = 0;
    for i in 0..model.graph.nodes.len() {
        rewrites += usize::from(fold(model, i).is_some());
    }
    rewrites
}

fn fold(model: &mut Model, i: usize) -> Option<()> {
    let node = &model.graph.nodes[i];
    let Op::BatchNorm { scale, shift, mean, var, epsilon } = node.op else { return None };
    let input = node.inputs[0];
    let producers = model.graph.producers();
    let maker = producers[input.index()]?.index();
    let only_reader = model.graph.consumers()[input.index()] == [NodeId(i as u32)] && !model.graph.is_output(input);
    let (Op::Conv { weight, bias, relu_out: false, .. } | Op::Linear { weight, bias }) = model.graph.nodes[maker].op
    else {
        return None;
    };
    if !only_reader || used_elsewhere(model, weight, maker) {
        return None;
    }

    let of =
        |id: Option<ParamId>, c: usize, default: f64| id.map_or(default, |id| f64::from(model.weights.get(id).data[c]));
    let channels = model.weights.get(weight).shape[0];
    let factors: Vec<f64> =
        (0..channels).map(|c| of(scale, c, 1.0) / (of(Some(var), c, 1.0) + f64::from(epsilon)).sqrt()).collect();
    let offsets: Vec<f32> = (0..channels)
        .map(|c| (factors[c] * (of(bias, c, 0.0) - of(Some(mean), c, 0.0)) + of(shift, c, 0.0)) as f32)
        .collect();

    let filters = &mut model.weights.0[weight.index()];
    let per_channel = filters.data.len() / channels;
    for (row, factor) in filters.data.chunks_mut(per_channel.max(1)).zip(&factors) {
        row.iter_mut().for_each(|w| *w = (f64::from(*w) * factor) as f32);
    }
    let source = model.graph.param(weight);
    let name = format!("{}.bias", source.name.trim_end_matches(".weight"));
    let folded = match bias {
        Some(id) => id,
        None => {
            let param = Param {
                name,
                alias: None,
                shape: vec![channels],
                role: Role::Bias,
                init: Init::Constant(0.0),
                codes: None,
            };
            model.graph.params.push(param);
            model.weights.0.push(Tensor::default());
            ParamId(model.graph.params.len() as u32 - 1)
        }
    };
    model.weights.0[folded.index()] = Tensor::new([channels], offsets);
    // The maker is one of the two, as matched above.
    if let Op::Conv { bias, .. } | Op::Linear { bias, .. } = &mut model.graph.nodes[maker].op {
        *bias = Some(folded);
    }
    for id in [weight, folded] {
        model.graph.params[id.index()].codes = None;
    }
    let output = model.graph.nodes[i].output;
    model.graph.replace_uses(output, input);
    Some(())
}

/// Whether another node reads `weight`: then its contents may not change.
fn used_elsewhere(model: &Model, weight: ParamId, node: usize) -> bool {
    model.graph.nodes.iter().enumerate().any(|(i, n)| i != node && n.op.params().contains(&weight))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::Window;
    use crate::passes::FOLD_BN;
    use crate::passes::testing::{batch_norm, model, ops, run, weight};

    #[test]
    fn a_batch_norm_behind_a_convolution_becomes_its_scale_and_bias() {
        let before = model(|b, x| {
            let w = weight(b, "c.weight", &[4, 6, 3, 3]);
            let y = b.node("c", Op::conv(w, None, Window::same(3, 1, 1), 1), &[x]).unwrap();
            batch_norm(b, "n", y, true)
        });
        let old = before.weights.0[0].data[10];
        let (after, rewrites) = run(FOLD_BN, before);
        assert_eq!((rewrites, ops(&after)), (1, vec!["conv"]));
        let factor = 1.5 / (2.0f64 + f64::from(1e-5f32)).sqrt();
        assert_eq!(after.weights.0[0].data[10], (f64::from(old) * factor) as f32);
        assert_eq!(after.weights.0[1].data, vec![(factor * -f64::from(0.3f32) - 0.25) as f32; 4]);
        assert_eq!(after.graph.params[1].name, "c.bias");
    }

    #[test]
    fn a_batch_norm_stays_behind_a_pool_or_a_convolution_that_others_read() {
        let pool = model(|b, x| {
            let y = b.node("p", Op::MaxPool(Window::same(3, 1, 1)), &[x]).unwrap();
            batch_norm(b, "n", y, false)
        });
        assert_eq!(run(FOLD_BN, pool).1, 0);
        let shared = model(|b, x| {
            let w = weight(b, "c.weight", &[6, 6, 1, 1]);
            let y = b.node("c", Op::conv(w, None, Window::valid(1, 1), 1), &[x]).unwrap();
            let z = batch_norm(b, "n", y, false);
            b.node("add", Op::Add, &[y, z]).unwrap()
        });
        assert_eq!(run(FOLD_BN, shared).1, 0);
    }
}
