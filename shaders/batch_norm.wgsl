// Batch norm in evaluation mode: y = x * factor + shift for every channel, with both made by the host.
//
// Layout      x and y [N, channels, inner], float32, row-major. table: [channels] vec2 (factor, shift).
// Bindings    0 sizes, 1 x, 2 table, 3 y.
// Workgroup   64 threads; a thread makes one element. No workgroup memory.
// Limits      threads are numbered (y * 65535 + x) * 64 + lane, so the host folds more than 65535 workgroups into y.

struct Sizes {
    threads: u32,
    channels: u32,
    inner: u32,
}

@group(0) @binding(0) var<uniform> s: Sizes;
@group(0) @binding(1) var<storage, read_write> x: array<f32>;
@group(0) @binding(2) var<storage, read> table: array<vec2<f32>>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let thread = (workgroup.y * 65535u + workgroup.x) * 64u + lane;
    if (thread < s.threads) {
        let entry = table[thread / s.inner % s.channels];
        y[thread] = x[thread] * entry.x + entry.y;
    }
}
