// Batch norm in evaluation mode: y = x * factor + shift for every channel, with both made by the host.
//
// Layout      x and y [N, channels, inner], Elements, row-major. table: [channels] vec2 (factor, shift).
// Bindings    0 sizes, 1 x, 2 table, 3 y.
// Workgroup   64 threads; a thread makes one element. No workgroup memory.
// Limits      threads are numbered (y * 65535 + x) * 64 + lane, so the host folds more than 65535 workgroups into y.

// What the buffers hold; the half form of the kernel says f16 here. Arithmetic is float32.
alias Element = f32;

struct Sizes {
    threads: u32,
    channels: u32,
    inner: u32,
}

@group(0) @binding(0) var<uniform> s: Sizes;
@group(0) @binding(1) var<storage, read_write> x: array<Element>;
@group(0) @binding(2) var<storage, read> table: array<vec2<Element>>;
@group(0) @binding(3) var<storage, read_write> y: array<Element>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let thread = (workgroup.y * 65535u + workgroup.x) * 64u + lane;
    if (thread < s.threads) {
        let entry = vec2<f32>(table[thread / s.inner % s.channels]);
        y[thread] = Element(f32(x[thread]) * entry.x + entry.y);
    }
}
