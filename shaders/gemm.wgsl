// y = alpha * a b + beta * c for two matrices that are both values.
//
// Layout      y [rows, columns], row-major; a, b and c by strides, so that each may lie transposed or be spread
//             (stride 0).
// Bindings    0 sizes, 1 a, 2 b, 3 c (anything if beta is 0), 4 y.
// Workgroup   64 threads; a thread makes one element. No workgroup memory.
// Limits      threads are numbered (y * 65535 + x) * 64 + lane, so the host folds more than 65535 workgroups into y.

// What the buffers hold; the half form of the kernel says f16 here. Arithmetic is float32.
alias Element = f32;

struct Sizes {
    threads: u32,
    columns: u32,
    inner: u32,
    a_row: u32,
    a_inner: u32,
    b_inner: u32,
    b_column: u32,
    c_row: u32,
    c_column: u32,
    alpha: f32,
    beta: f32,
}

@group(0) @binding(0) var<uniform> s: Sizes;
@group(0) @binding(1) var<storage, read_write> a: array<Element>;
@group(0) @binding(2) var<storage, read_write> b: array<Element>;
@group(0) @binding(3) var<storage, read_write> c: array<Element>;
@group(0) @binding(4) var<storage, read_write> y: array<Element>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let thread = (workgroup.y * 65535u + workgroup.x) * 64u + lane;
    if (thread >= s.threads) {
        return;
    }
    let row = thread / s.columns;
    let column = thread % s.columns;
    var sum = 0.0;
    for (var k = 0u; k < s.inner; k++) {
        sum += f32(a[row * s.a_row + k * s.a_inner]) * f32(b[k * s.b_inner + column * s.b_column]);
    }
    sum *= s.alpha;
    if (s.beta != 0.0) {
        sum += s.beta * f32(c[row * s.c_row + column * s.c_column]);
    }
    y[thread] = Element(sum);
}
