// y = value: the border that padding adds, before the image is copied into it.
//
// Layout      y has `threads` vec4; buffers are multiples of 16 bytes, so the last may be partly unused.
// Bindings    0 sizes, 1 y.
// Workgroup   64 threads; a thread makes one vec4. No workgroup memory.
// Limits      threads are numbered (y * 65535 + x) * 64 + lane, so the host folds more than 65535 workgroups into y.

// What the buffers hold; the half form of the kernel says f16 here. Arithmetic is float32.
alias Element = f32;

struct Sizes {
    threads: u32,
    value: f32,
}

@group(0) @binding(0) var<uniform> s: Sizes;
@group(0) @binding(1) var<storage, read_write> y: array<vec4<Element>>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let thread = (workgroup.y * 65535u + workgroup.x) * 64u + lane;
    if (thread < s.threads) {
        y[thread] = vec4<Element>(vec4<f32>(s.value));
    }
}
