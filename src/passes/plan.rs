//! Buffer planning: which values of a graph share memory.
//!
//! Takes a graph and a batch size; gives [`Plan`], which puts every value into one of a few buffers so that two values
//! that are needed at the same time never share one. A value is needed from the node that makes it to the last node that
//! reads it; graph inputs are needed from the start, graph outputs to the end. `Flatten` and `DropPath` (the identity in
//! evaluation) change no element, so their result lies where their input lies. Creating the buffers is left to the caller.

use crate::ir::{Graph, Op, ValueId};

/// Every buffer is a multiple of this many bytes, so that a kernel may read and write whole `vec4<f32>`.
pub const BUFFER_ALIGN: u64 = 16;

/// Where the values of a graph lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Bytes of each buffer, multiples of [`BUFFER_ALIGN`].
    pub buffers: Vec<u64>,
    /// Bytes that the values would take with a buffer each.
    pub unshared_bytes: u64,
    slots: Vec<usize>,
    roots: Vec<ValueId>,
}

impl Plan {
    /// The index into [`Plan::buffers`] of the buffer that holds `value`, from its first byte on.
    pub fn buffer(&self, value: ValueId) -> usize {
        self.slots[self.roots[value.index()].index()]
    }

    /// The value whose contents `value` shares; itself unless a `Flatten` or `DropPath` made it.
    pub fn root(&self, value: ValueId) -> ValueId {
        self.roots[value.index()]
    }

    /// Bytes of all buffers.
    pub fn bytes(&self) -> u64 {
        total(&self.buffers)
    }
}

/// From the position that makes a value to the last one that needs it, both included. Position 0 is the start, node `i`
/// has position `i + 1`.
#[derive(Debug, Clone, Copy)]
struct Life {
    first: usize,
    last: usize,
}

impl Life {
    fn meets(self, other: Life) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

/// Plans the buffers of `graph` for `batch` images.
///
/// Values are placed by falling size, each into the smallest buffer that is free during its whole life. As every buffer is
/// as large as the first value in it, no buffer ever grows.
pub fn plan(graph: &Graph, batch: usize) -> Plan {
    let roots = roots(graph);
    let lives = lives(graph, &roots);
    let bytes: Vec<u64> = graph.values.iter().map(|v| padded_bytes(&v.shape.with_batch(batch))).collect();
    let mut order: Vec<usize> = (0..bytes.len()).filter(|&i| roots[i].index() == i).collect();
    order.sort_by_key(|&i| (std::cmp::Reverse(bytes[i]), lives[i].first));
    let mut buffers: Vec<u64> = Vec::new();
    let mut tenants: Vec<Vec<Life>> = Vec::new();
    let mut slots = vec![0; bytes.len()];
    for value in order {
        let free = |slot: &usize| tenants[*slot].iter().all(|life| !life.meets(lives[value]));
        // Later buffers are smaller, and all are large enough for what is still to come.
        let slot = (0..buffers.len()).rev().find(free).unwrap_or_else(|| {
            buffers.push(bytes[value]);
            tenants.push(Vec::new());
            buffers.len() - 1
        });
        tenants[slot].push(lives[value]);
        slots[value] = slot;
    }
    Plan { buffers, unshared_bytes: total(&bytes), slots, roots }
}

/// Bytes of a float32 tensor, rounded up to [`BUFFER_ALIGN`] and at least that.
fn padded_bytes(shape: &[usize]) -> u64 {
    let bytes = shape.iter().fold(4u64, |bytes, &n| bytes.saturating_mul(n as u64));
    // A size beyond all memory stays that, so that the caller's check of limits meets it.
    bytes.checked_next_multiple_of(BUFFER_ALIGN).unwrap_or(u64::MAX - u64::MAX % BUFFER_ALIGN).max(BUFFER_ALIGN)
}

fn total(bytes: &[u64]) -> u64 {
    bytes.iter().fold(0, |sum, &n| sum.saturating_add(n))
}

fn roots(graph: &Graph) -> Vec<ValueId> {
    let mut roots: Vec<ValueId> = (0..graph.values.len()).map(|i| ValueId(i as u32)).collect();
    for node in &graph.nodes {
        if shares_memory(&node.op) {
            roots[node.output.index()] = roots[node.inputs[0].index()];
        }
    }
    roots
}

fn lives(graph: &Graph, roots: &[ValueId]) -> Vec<Life> {
    let mut lives = vec![Life { first: 0, last: 0 }; graph.values.len()];
    for (i, node) in graph.nodes.iter().enumerate() {
        let now = i + 1;
        for input in &node.inputs {
            lives[roots[input.index()].index()].last = now;
        }
        if !shares_memory(&node.op) {
            lives[node.output.index()] = Life { first: now, last: now };
        }
    }
    for output in &graph.outputs {
        lives[roots[output.value.index()].index()].last = graph.nodes.len() + 1;
    }
    lives
}

/// Whether the result has the very elements of the first input, in the same order.
fn shares_memory(op: &Op) -> bool {
    match op {
        Op::Flatten { .. } | Op::DropPath => true,
        Op::Conv { .. }
        | Op::BatchNorm { .. }
        | Op::Relu
        | Op::MaxPool(_)
        | Op::AvgPool { .. }
        | Op::GlobalAvgPool
        | Op::Linear { .. }
        | Op::Add
        | Op::Concat { .. }
        | Op::Slice { .. }
        | Op::Pad { .. }
        | Op::WeightedSum { .. }
        | Op::ChannelShuffle { .. }
        | Op::Separable { .. }
        | Op::QuantizeDequantize(_)
        | Op::Mix { .. } => false,
    }
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::ir::{Builder, Shape, Window};

    /// A graph of `nodes` nodes that read random earlier values, with one to three outputs.
    fn random_graph(seed: u64, nodes: usize) -> Graph {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut b = Builder::new("random");
        let mut images: Vec<ValueId> =
            (0..rng.random_range(1..3)).map(|i| b.input(format!("input{i}"), Shape::image(4, 8, 8))).collect();
        let mut all = images.clone();
        for i in 0..nodes {
            let x = images[rng.random_range(images.len().saturating_sub(6)..images.len())];
            let same: Vec<ValueId> = images.iter().copied().filter(|v| b.shape(*v) == b.shape(x)).collect();
            let y = same[rng.random_range(0..same.len())];
            let (op, inputs) = match rng.random_range(0..7) {
                0 => (Op::Relu, vec![x]),
                1 => (Op::Add, vec![x, y]),
                2 if b.shape(x).chw().is_some_and(|[c, ..]| c < 64) => (Op::Concat { axis: 1 }, vec![x, y]),
                3 => (Op::DropPath, vec![x]),
                4 => (Op::MaxPool(Window::same(3, rng.random_range(1..3), 1)), vec![x]),
                5 => (Op::Flatten { axis: 1 }, vec![x]),
                _ => (Op::GlobalAvgPool, vec![x]),
            };
            let flat = matches!(op, Op::Flatten { .. });
            let value = b.node(format!("node{i}"), op, &inputs).unwrap();
            all.push(value);
            if !flat {
                images.push(value);
            }
        }
        for i in 0..rng.random_range(1..4) {
            b.output(format!("out{i}"), all[rng.random_range(0..all.len())]);
        }
        b.finish()
    }

    /// Runs the graph on buffers that only remember which value was written last.
    fn check_by_execution(graph: &Graph, plan: &Plan) {
        let mut holds: Vec<Option<ValueId>> = vec![None; plan.buffers.len()];
        let holds_it = |holds: &[Option<ValueId>], v: ValueId| holds[plan.buffer(v)] == Some(plan.root(v));
        for &input in &graph.inputs {
            assert_eq!(holds[plan.buffer(input)], None, "two inputs share a buffer");
            holds[plan.buffer(input)] = Some(input);
        }
        for node in &graph.nodes {
            for &input in &node.inputs {
                assert!(holds_it(&holds, input), "{} reads an overwritten value", node.name);
            }
            if !shares_memory(&node.op) {
                let slot = plan.buffer(node.output);
                assert!(node.inputs.iter().all(|v| plan.buffer(*v) != slot), "{} writes what it reads", node.name);
                holds[slot] = Some(node.output);
            }
        }
        for output in &graph.outputs {
            assert!(holds_it(&holds, output.value), "output {} was overwritten", output.name);
        }
    }

    #[test]
    fn no_live_value_is_overwritten_in_random_graphs() {
        for seed in 0..300 {
            let graph = random_graph(seed, 5 + seed as usize % 60);
            for batch in [1, 3] {
                let plan = plan(&graph, batch);
                check_by_execution(&graph, &plan);
                for (id, value) in graph.values.iter().enumerate() {
                    let room = plan.buffers[plan.buffer(ValueId(id as u32))];
                    assert!(room >= 4 * value.shape.with_batch(batch).iter().product::<usize>() as u64);
                    assert_eq!(room % BUFFER_ALIGN, 0);
                }
                assert!(plan.bytes() <= plan.unshared_bytes);
            }
        }
    }

    #[test]
    fn a_chain_needs_two_buffers_and_flatten_none() {
        let mut b = Builder::new("chain");
        let mut x = b.input("input", Shape::image(4, 8, 8));
        for i in 0..6 {
            x = b.node(format!("relu{i}"), Op::Relu, &[x]).unwrap();
        }
        let flat = b.node("flatten", Op::Flatten { axis: 1 }, &[x]).unwrap();
        b.output("out", flat);
        let graph = b.finish();
        let plan = plan(&graph, 2);
        assert_eq!(plan.buffers, [2 * 4 * 4 * 64; 2]);
        assert_eq!(plan.unshared_bytes, 8 * 2 * 4 * 4 * 64);
        assert_eq!(plan.buffer(flat), plan.buffer(x));
        assert_eq!(plan.root(flat), x);
    }

    #[test]
    fn an_input_that_is_an_output_keeps_its_buffer() {
        let mut b = Builder::new("loop");
        let x = b.input("input", Shape::image(1, 3, 3));
        let y = b.node("relu0", Op::Relu, &[x]).unwrap();
        let z = b.node("relu1", Op::Relu, &[y]).unwrap();
        b.output("same", x);
        b.output("out", z);
        let graph = b.finish();
        let plan = plan(&graph, 1);
        check_by_execution(&graph, &plan);
        assert_eq!(plan.buffers.len(), 3);
    }
}
