//! Removes nodes that no output needs, then values and parameters that nothing names, and renumbers the rest.
//!
//! Graph inputs stay even when nothing reads them: they are part of the interface.

use std::collections::HashSet;

use crate::ir::{Model, ParamId, ValueId};

pub(super) fn run(model: &mut Model) -> usize {
    let graph = &mut model.graph;
    let roots: Vec<ValueId> = graph.outputs.iter().map(|o| o.value).collect();
    let mut live = graph.reaching(&roots).into_iter();
    let before = graph.nodes.len();
    graph.nodes.retain(|_| live.next().unwrap_or(false));
    let removed = before - graph.nodes.len();

    let kept: HashSet<ValueId> = graph.inputs.iter().copied().chain(graph.nodes.iter().map(|n| n.output)).collect();
    let values = renumber(&mut graph.values, |i| kept.contains(&ValueId(i)));
    let new = |v: ValueId| ValueId(values[v.index()]);
    graph.inputs.iter_mut().for_each(|v| *v = new(*v));
    graph.outputs.iter_mut().for_each(|o| o.value = new(o.value));
    for node in &mut graph.nodes {
        node.inputs.iter_mut().for_each(|v| *v = new(*v));
        node.output = new(node.output);
    }

    let used: HashSet<ParamId> = graph.nodes.iter().flat_map(|n| n.op.params()).collect();
    renumber(&mut model.weights.0, |i| used.contains(&ParamId(i)));
    let params = renumber(&mut graph.params, |i| used.contains(&ParamId(i)));
    for node in &mut graph.nodes {
        for id in node.op.params_mut() {
            *id = ParamId(params[id.index()]);
        }
    }
    removed
}

/// Keeps the items that `keep` accepts; gives for each old index the new one (meaningless for removed items).
fn renumber<T>(items: &mut Vec<T>, keep: impl Fn(u32) -> bool) -> Vec<u32> {
    let mut map = Vec::with_capacity(items.len());
    let mut next = 0;
    for i in 0..items.len() as u32 {
        map.push(next);
        next += u32::from(keep(i));
    }
    let mut i = 0;
    items.retain(|_| {
        i += 1;
        keep(i - 1)
    });
    map
}

#[cfg(test)]
mod tests {
    use crate::ir::{Op, Window};
    use crate::passes::DEAD_CODE;
    use crate::passes::testing::{model, ops, run, weight};

    #[test]
    fn what_no_output_needs_goes_with_its_parameters() {
        let before = model(|b, x| {
            let dead = weight(b, "dead.weight", &[6, 6, 1, 1]);
            b.node("dead", Op::conv(dead, None, Window::valid(1, 1), 1), &[x]).unwrap();
            let live = weight(b, "live.weight", &[4, 6, 1, 1]);
            b.node("live", Op::conv(live, None, Window::valid(1, 1), 1), &[x]).unwrap()
        });
        let expected = before.weights.0[1].clone();
        let (after, _) = run(DEAD_CODE, before);
        assert_eq!(ops(&after), ["conv"]);
        assert_eq!(after.graph.params[0].name, "live.weight");
        assert_eq!(after.weights.0, [expected]);
        assert_eq!(after.graph.values.len(), 2);
    }
}
