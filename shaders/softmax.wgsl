// y = exp(x - max) / sum of exp(x - max) along one axis.
//
// Layout      x and y are [outer, len, inner], row-major; a line is the `len` elements of one outer and one inner
//             index.
// Bindings    0 sizes, 1 x, 2 y.
// Workgroup   64 threads; a thread makes one line. No workgroup memory.
// Limits      threads are numbered (y * 65535 + x) * 64 + lane, so the host folds more than 65535 workgroups into y.

// What the buffers hold; the half form of the kernel says f16 here. Arithmetic is float32.
alias Element = f32;

struct Sizes {
    threads: u32,
    len: u32,
    inner: u32,
}

@group(0) @binding(0) var<uniform> s: Sizes;
@group(0) @binding(1) var<storage, read_write> x: array<Element>;
@group(0) @binding(2) var<storage, read_write> y: array<Element>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let thread = (workgroup.y * 65535u + workgroup.x) * 64u + lane;
    if (thread >= s.threads) {
        return;
    }
    let start = thread / s.inner * s.len * s.inner + thread % s.inner;
    var largest = f32(x[start]);
    for (var k = 1u; k < s.len; k++) {
        largest = max(largest, f32(x[start + k * s.inner]));
    }
    var sum = 0.0;
    for (var k = 0u; k < s.len; k++) {
        sum += exp(f32(x[start + k * s.inner]) - largest);
    }
    for (var k = 0u; k < s.len; k++) {
        y[start + k * s.inner] = Element(exp(f32(x[start + k * s.inner]) - largest) / sum);
    }
}
