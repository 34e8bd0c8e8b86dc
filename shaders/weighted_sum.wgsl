// One summand of a weighted sum: y = weights[index] * x, or y += weights[index] * x.
//
// Layout      x and y have `threads` vec4; buffers are multiples of 16 bytes, so the last may be partly unused.
//             weights: any number of Elements, another value of the graph.
// Bindings    0 sizes, 1 weights, 2 x, 3 y.
// Workgroup   64 threads; a thread makes one vec4. No workgroup memory.
// Limits      threads are numbered (y * 65535 + x) * 64 + lane, so the host folds more than 65535 workgroups into y.
//             One dispatch a summand: a mixed edge has eight, more than the storage buffers that a stage may bind.

// What the buffers hold; the half form of the kernel says f16 here. Arithmetic is float32.
alias Element = f32;

// Add to what y holds.
override ACCUMULATE: bool = false;

struct Sizes {
    threads: u32,
    index: u32,
}

@group(0) @binding(0) var<uniform> s: Sizes;
@group(0) @binding(1) var<storage, read_write> weights: array<Element>;
@group(0) @binding(2) var<storage, read_write> x: array<vec4<Element>>;
@group(0) @binding(3) var<storage, read_write> y: array<vec4<Element>>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let thread = (workgroup.y * 65535u + workgroup.x) * 64u + lane;
    if (thread >= s.threads) {
        return;
    }
    var sum = f32(weights[s.index]) * vec4<f32>(x[thread]);
    if (ACCUMULATE) {
        sum += vec4<f32>(y[thread]);
    }
    y[thread] = vec4<Element>(sum);
}
