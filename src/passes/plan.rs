//! Buffer planning: which values of a graph share memory.
//!
//! Takes a graph, its groups, a batch size and the bytes of an element; gives [`Plan`], which puts every value into one of a
//! few buffers so that two values that are needed at the same time never share memory. A value is needed from the group that
//! makes it to the last group that reads it; graph inputs are needed from the start, graph outputs to the end. `Flatten` and
//! `DropPath` (the identity in evaluation) change no element, so their result lies where their input lies. The parts of a
//! `Concat` that follow each other in memory are made in their places in its result. Creating the buffers is left to the
//! caller.

use super::group::Group;
use crate::ir::{Graph, Op, ValueId};

/// Every buffer is a multiple of this many bytes, so that a kernel may read and write whole `vec4`s.
pub const BUFFER_ALIGN: u64 = 16;

/// A value that does not start its buffer starts at a multiple of this, the largest offset alignment that WebGPU allows.
pub const PART_ALIGN: u64 = 256;

/// Where the values of a graph lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Bytes of each buffer, multiples of [`BUFFER_ALIGN`].
    pub buffers: Vec<u64>,
    /// Bytes that the values would take with a buffer each.
    pub unshared_bytes: u64,
    slots: Vec<usize>,
    roots: Vec<Root>,
}

/// The value whose memory another one lies in, and the first byte of it there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Root {
    value: ValueId,
    offset: u64,
}

impl Plan {
    /// The index into [`Plan::buffers`] of the buffer that holds `value`.
    pub fn buffer(&self, value: ValueId) -> usize {
        self.slots[self.root(value).index()]
    }

    /// The first byte of `value` in its buffer.
    pub fn offset(&self, value: ValueId) -> u64 {
        self.roots[value.index()].offset
    }

    /// The value in whose memory `value` lies: itself unless a `Flatten` or `DropPath` made it or it is part of a `Concat`.
    pub fn root(&self, value: ValueId) -> ValueId {
        self.roots[value.index()].value
    }

    /// Whether `value`, which a `Concat` makes of `part`, already holds it.
    pub fn holds(&self, value: ValueId, part: ValueId) -> bool {
        self.root(part) == self.root(value)
    }

    /// Bytes of all buffers.
    pub fn bytes(&self) -> u64 {
        total(&self.buffers)
    }
}

/// From the position that makes a value to the last one that needs it, both included. Position 0 is the start, group `i`
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

    fn and(self, other: Life) -> Life {
        Life { first: self.first.min(other.first), last: self.last.max(other.last) }
    }
}

/// Plans the buffers of `graph`, run as `groups`, for `batch` images, with elements of `element` bytes.
///
/// Values are placed by falling size, each into the smallest buffer that is free during its whole life. As every buffer is
/// as large as the first value in it, no buffer ever grows.
pub fn plan(graph: &Graph, groups: &[Group], batch: usize, element: u64) -> Plan {
    let exact: Vec<u64> = graph.values.iter().map(|v| exact_bytes(&v.shape.with_batch(batch), element)).collect();
    let roots = roots(graph, &exact, batch);
    let bytes: Vec<u64> = exact.into_iter().map(padded).collect();
    let lives = lives(graph, groups, &roots);
    let placed = |i: &usize| roots[*i].value.index() == *i && lives[*i].is_some();
    let mut order: Vec<(usize, Life)> = (0..bytes.len()).filter(placed).filter_map(|i| Some((i, lives[i]?))).collect();
    order.sort_by_key(|(i, life)| (std::cmp::Reverse(bytes[*i]), life.first));
    let mut buffers: Vec<u64> = Vec::new();
    let mut tenants: Vec<Vec<Life>> = Vec::new();
    let mut slots = vec![0; bytes.len()];
    for (value, life) in order {
        let free = |slot: &usize| tenants[*slot].iter().all(|other| !other.meets(life));
        // Later buffers are smaller, and all are large enough for what is still to come.
        let slot = (0..buffers.len()).rev().find(free).unwrap_or_else(|| {
            buffers.push(bytes[value]);
            tenants.push(Vec::new());
            buffers.len() - 1
        });
        tenants[slot].push(life);
        slots[value] = slot;
    }
    Plan { buffers, unshared_bytes: total(&bytes), slots, roots }
}

/// Bytes of a tensor of elements of `element` bytes.
fn exact_bytes(shape: &[usize], element: u64) -> u64 {
    shape.iter().fold(element, |bytes, &n| bytes.saturating_mul(n as u64))
}

/// `bytes`, rounded up to [`BUFFER_ALIGN`] and at least that.
fn padded(bytes: u64) -> u64 {
    // A size beyond all memory stays that, so that the caller's check of limits meets it.
    bytes.checked_next_multiple_of(BUFFER_ALIGN).unwrap_or(u64::MAX - u64::MAX % BUFFER_ALIGN).max(BUFFER_ALIGN)
}

fn total(bytes: &[u64]) -> u64 {
    bytes.iter().fold(0, |sum, &n| sum.saturating_add(n))
}

fn roots(graph: &Graph, bytes: &[u64], batch: usize) -> Vec<Root> {
    let mut roots: Vec<Root> = (0..graph.values.len()).map(|i| Root { value: ValueId(i as u32), offset: 0 }).collect();
    let mut joined = vec![false; graph.values.len()];
    for input in &graph.inputs {
        joined[input.index()] = true;
    }
    for node in &graph.nodes {
        if shares_memory(&node.op) {
            // What shares the memory of another value cannot be moved into a `Concat`, nor can the other value any more.
            roots[node.output.index()] = roots[node.inputs[0].index()];
            joined[node.inputs[0].index()] = true;
            joined[node.output.index()] = true;
        }
    }
    for node in &graph.nodes {
        let Op::Concat { axis } = node.op else { continue };
        let shape = graph.shape(node.output).with_batch(batch);
        let mut ends: Vec<u64> = Vec::with_capacity(node.inputs.len());
        for part in &node.inputs {
            ends.push(ends.last().copied().unwrap_or(0).saturating_add(bytes[part.index()]));
        }
        let inside = &ends[..ends.len() - 1];
        let mut parts = node.inputs.clone();
        parts.sort();
        parts.dedup();
        let follow = shape[..axis].iter().product::<usize>() == 1 && inside.iter().all(|end| end % PART_ALIGN == 0);
        if !follow || parts.len() < node.inputs.len() || parts.iter().any(|part| joined[part.index()]) {
            continue;
        }
        for (part, start) in node.inputs.iter().zip(std::iter::once(0).chain(ends)) {
            joined[part.index()] = true;
            roots[part.index()] = Root { value: node.output, offset: start };
        }
        joined[node.output.index()] = true;
    }
    roots
}

/// The life of every root that lies in memory.
fn lives(graph: &Graph, groups: &[Group], roots: &[Root]) -> Vec<Option<Life>> {
    let mut lives: Vec<Option<Life>> = vec![None; graph.values.len()];
    let mut need = |value: ValueId, at: usize| {
        let now = Life { first: at, last: at };
        let life = &mut lives[roots[value.index()].value.index()];
        *life = Some(life.map_or(now, |life| life.and(now)));
    };
    graph.inputs.iter().for_each(|input| need(*input, 0));
    for (i, group) in groups.iter().enumerate() {
        group.reads(graph).into_iter().for_each(|read| need(read, i + 1));
        need(graph.nodes[group.last().index()].output, i + 1);
    }
    graph.outputs.iter().for_each(|output| need(output.value, groups.len() + 1));
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
        | Op::Imported(_)
        | Op::Mix { .. } => false,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::ir::{Builder, Shape, Window};
    use crate::passes::group::{Grouping, groups};

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

    const ALL: Grouping = Grouping { separable: Some(|_, _, _| true), add: true, mean: None };

    /// Runs the graph on memory that only remembers which value was written last to each 16 bytes.
    fn check_by_execution(graph: &Graph, groups: &[Group], plan: &Plan, batch: usize) {
        let place = |v: ValueId| {
            let start = plan.offset(v) / BUFFER_ALIGN;
            let end = start + padded(exact_bytes(&graph.shape(v).with_batch(batch), 4)) / BUFFER_ALIGN;
            (start..end).map(move |at| (plan.buffer(v), at))
        };
        let mut holds: HashMap<(usize, u64), ValueId> = HashMap::new();
        // What lies in the memory of a value: itself, or what it is made of without a copy.
        let mut same: Vec<Vec<ValueId>> = (0..graph.values.len()).map(|i| vec![ValueId(i as u32)]).collect();
        for &input in &graph.inputs {
            place(input).for_each(|at| assert_eq!(holds.insert(at, input), None, "two inputs share a buffer"));
        }
        let check = |holds: &HashMap<(usize, u64), ValueId>, same: &[Vec<ValueId>], v: ValueId, reader: &str| {
            let right = place(v).all(|at| holds.get(&at).is_some_and(|held| same[v.index()].contains(held)));
            assert!(right, "{reader} reads an overwritten value");
        };
        for group in groups {
            let last = &graph.nodes[group.last().index()];
            let reads = group.reads(graph);
            reads.iter().for_each(|v| check(&holds, &same, *v, &last.name));
            let inside = matches!(last.op, Op::Concat { .. }) && reads.iter().all(|v| plan.holds(last.output, *v));
            if inside || shares_memory(&last.op) {
                same[last.output.index()] = reads.iter().flat_map(|v| same[v.index()].clone()).collect();
                continue;
            }
            for at in place(last.output) {
                assert!(reads.iter().all(|v| place(*v).all(|read| read != at)), "{} writes what it reads", last.name);
                holds.insert(at, last.output);
            }
        }
        graph.outputs.iter().for_each(|output| check(&holds, &same, output.value, &output.name));
    }

    #[test]
    fn no_live_value_is_overwritten_in_random_graphs() {
        for seed in 0..300 {
            let graph = random_graph(seed, 5 + seed as usize % 60);
            for batch in [1, 3] {
                let groups = groups(&graph, if seed % 2 == 0 { ALL } else { Grouping::NONE });
                let plan = plan(&graph, &groups, batch, 4);
                check_by_execution(&graph, &groups, &plan, batch);
                for id in groups.iter().map(|group| graph.nodes[group.last().index()].output) {
                    let bytes = 4 * graph.shape(id).with_batch(batch).iter().product::<usize>() as u64;
                    assert!(plan.buffers[plan.buffer(id)] >= plan.offset(id) + bytes);
                    assert_eq!(plan.offset(id) % PART_ALIGN, 0);
                }
                assert!(plan.buffers.iter().all(|bytes| bytes % BUFFER_ALIGN == 0));
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
        let plan = plan(&graph, &groups(&graph, ALL), 2, 4);
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
        let groups = groups(&graph, ALL);
        let plan = plan(&graph, &groups, 1, 4);
        check_by_execution(&graph, &groups, &plan, 1);
        assert_eq!(plan.buffers.len(), 3);
    }

    #[test]
    fn parts_of_a_concat_are_made_in_their_places_for_one_image() {
        let mut b = Builder::new("cell");
        let x = b.input("input", Shape::image(4, 8, 8));
        let parts = ["a", "b"].map(|name| b.node(name, Op::Relu, &[x]).unwrap());
        let joined = b.node("concat", Op::Concat { axis: 1 }, &parts).unwrap();
        let again = b.node("again", Op::Concat { axis: 1 }, &[x, joined]).unwrap();
        b.output("out", again);
        let graph = b.finish();
        let groups = groups(&graph, ALL);
        for (batch, inside) in [(1, true), (2, false)] {
            let plan = plan(&graph, &groups, batch, 4);
            check_by_execution(&graph, &groups, &plan, batch);
            assert!(parts.iter().all(|part| plan.holds(joined, *part) == inside));
            assert_eq!(plan.offset(parts[1]), if inside { 4 * 4 * 64 } else { 0 });
            // The input cannot be moved.
            assert!(!plan.holds(again, x) && !plan.holds(again, joined));
        }
    }

    #[test]
    fn a_part_whose_last_bytes_are_padding_is_not_followed_by_another() {
        // 63 float32 end 4 bytes before the next part may begin; 126 float16, too.
        for (channels, element, inside) in
            [(7, 4, false), (14, 2, false), (64, 4, true), (64, 2, false), (128, 2, true)]
        {
            let mut b = Builder::new("parts");
            let x = b.input("input", Shape::image(channels, 3, 3));
            let parts = ["a", "b"].map(|name| b.node(name, Op::Relu, &[x]).unwrap());
            let joined = b.node("concat", Op::Concat { axis: 1 }, &parts).unwrap();
            b.output("out", joined);
            let graph = b.finish();
            let plan = plan(&graph, &groups(&graph, ALL), 1, element);
            assert_eq!(plan.holds(joined, parts[1]), inside, "{channels} channels of {element} bytes");
        }
    }
}
