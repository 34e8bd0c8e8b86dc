// y = w: packed numbers as a value.
//
// Layout      w and y have `threads` vec4<f32>; the last may be partly unused.
// Bindings    0 sizes, 1 w, 2 y.
// Workgroup   64 threads; a thread copies one vec4. No workgroup memory.
// Limits      threads are numbered (y * 65535 + x) * 64 + lane, so the host folds more than 65535 workgroups into y.

struct Sizes {
    threads: u32,
}

@group(0) @binding(0) var<uniform> s: Sizes;
@group(0) @binding(1) var<storage, read> w: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> y: array<vec4<f32>>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let thread = (workgroup.y * 65535u + workgroup.x) * 64u + lane;
    if (thread >= s.threads) {
        return;
    }
    y[thread] = w[thread];
}
