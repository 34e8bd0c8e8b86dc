//! Common subexpressions: nodes that apply the same op, with the same parameters, to the same values become one.
//!
//! In a lowered network every edge that leaves a state has its own ReLU, slice and pool; this is where they are shared.
//! Drop path is random, so two of them are never the same.

use std::collections::HashMap;

use crate::ir::{MixTerm, Model, Op, ValueId};

pub(super) fn run(model: &mut Model) -> usize {
    let graph = &mut model.graph;
    let mut same: Vec<ValueId> = (0..graph.values.len() as u32).map(ValueId).collect();
    let mut first: HashMap<(String, Vec<ValueId>), ValueId> = HashMap::new();
    let mut rewrites = 0;
    for node in &mut graph.nodes {
        for input in &mut node.inputs {
            *input = same[input.index()];
        }
        if draws(&node.op) {
            continue;
        }
        // The Debug form of an op shows every attribute and parameter id, floats exactly.
        let key = (format!("{:?}", node.op), node.inputs.clone());
        match first.get(&key) {
            Some(&earlier) => {
                same[node.output.index()] = earlier;
                rewrites += 1;
            }
            None => {
                first.insert(key, node.output);
            }
        }
    }
    for output in &mut graph.outputs {
        output.value = same[output.value.index()];
    }
    rewrites
}

/// Whether the op draws anew each time.
fn draws(op: &Op) -> bool {
    let drops = |terms: &[MixTerm]| terms.iter().any(|term| term.drop_path);
    matches!(op, Op::DropPath) || matches!(op, Op::Mix { terms, .. } if drops(terms))
}

#[cfg(test)]
mod tests {
    use crate::ir::{Op, Range};
    use crate::passes::CSE;
    use crate::passes::testing::{model, ops, run};

    #[test]
    fn equal_chains_collapse_and_different_ones_stay() {
        let slice = |start| Op::Slice { ranges: vec![Range { axis: 1, start, len: 2, step: 1 }] };
        let before = model(|b, x| {
            let chain = |b: &mut crate::ir::Builder, i: usize, start| {
                let y = b.node(format!("slice{i}"), slice(start), &[x]).unwrap();
                b.node(format!("relu{i}"), Op::Relu, &[y]).unwrap()
            };
            let (a, c, d) = (chain(b, 0, 0), chain(b, 1, 0), chain(b, 2, 1));
            let e = b.node("add0", Op::Add, &[a, c]).unwrap();
            b.node("add1", Op::Add, &[e, d]).unwrap()
        });
        let (after, rewrites) = run(CSE, before);
        assert_eq!(rewrites, 2);
        assert_eq!(ops(&after), ["slice", "relu", "slice", "relu", "add", "add"]);
        assert_eq!(after.graph.nodes[4].inputs[0], after.graph.nodes[4].inputs[1]);
    }

    #[test]
    fn two_drop_paths_stay_apart() {
        let before = model(|b, x| {
            let a = b.node("a", Op::DropPath, &[x]).unwrap();
            let c = b.node("c", Op::DropPath, &[x]).unwrap();
            b.node("add", Op::Add, &[a, c]).unwrap()
        });
        assert_eq!(run(CSE, before).1, 0);
    }
}
