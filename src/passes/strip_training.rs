//! Removes what exists for training only: drop path and every output but the first (the auxiliary head).
//!
//! What only the removed outputs needed stays behind for `dead_code`.

use crate::ir::{Model, Op};

pub(super) fn run(model: &mut Model) -> usize {
    let graph = &mut model.graph;
    let mut rewrites = graph.outputs.len().saturating_sub(1);
    graph.outputs.truncate(1);
    let drops: Vec<_> =
        graph.nodes.iter().filter(|n| matches!(n.op, Op::DropPath)).map(|n| (n.output, n.inputs[0])).collect();
    for (output, input) in drops {
        graph.replace_uses(output, input);
        rewrites += 1;
    }
    rewrites
}

#[cfg(test)]
mod tests {
    use crate::ir::Op;
    use crate::passes::STRIP_TRAINING;
    use crate::passes::testing::{model, ops, run};

    #[test]
    fn drop_path_and_the_second_output_go() {
        let before = model(|b, x| {
            let y = b.node("relu", Op::Relu, &[x]).unwrap();
            let z = b.node("drop", Op::DropPath, &[y]).unwrap();
            b.node("add", Op::Add, &[z, x]).unwrap()
        });
        let mut inner = before.into_inner();
        let extra = inner.graph.nodes[0].output;
        inner.graph.outputs.push(crate::ir::Output { name: "aux_logits".into(), value: extra });
        let (after, rewrites) = run(STRIP_TRAINING, crate::ir::verify(inner).unwrap());
        assert_eq!((rewrites, ops(&after)), (2, vec!["relu", "add"]));
        assert_eq!(after.graph.outputs.len(), 1);
    }
}
