// y = a + b or a * b, where a and b are spread over the shape of y.
//
// Layout      element (i0, i1, i2, i3) of y, row-major, is made of a[sum i * a_stride] and b[sum i * b_stride]; a
//             stride of 0 spreads one element along the axis.
// Bindings    0 sizes, 1 a, 2 b, 3 y.
// Workgroup   64 threads; a thread makes one element. No workgroup memory.
// Limits      threads are numbered (y * 65535 + x) * 64 + lane, so the host folds more than 65535 workgroups into y.

// What the buffers hold; the half form of the kernel says f16 here. Arithmetic is float32.
alias Element = f32;

override MULTIPLY: u32 = 0u;

struct Sizes {
    size: vec4<u32>,
    a_stride: vec4<u32>,
    b_stride: vec4<u32>,
    threads: u32,
}

@group(0) @binding(0) var<uniform> s: Sizes;
@group(0) @binding(1) var<storage, read_write> a: array<Element>;
@group(0) @binding(2) var<storage, read_write> b: array<Element>;
@group(0) @binding(3) var<storage, read_write> y: array<Element>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let thread = (workgroup.y * 65535u + workgroup.x) * 64u + lane;
    if (thread >= s.threads) {
        return;
    }
    let rest2 = thread / s.size.w;
    let rest1 = rest2 / s.size.z;
    let index = vec4<u32>(rest1 / s.size.y, rest1 % s.size.y, rest2 % s.size.z, thread % s.size.w);
    let i = index * s.a_stride;
    let j = index * s.b_stride;
    let first = f32(a[i.x + i.y + i.z + i.w]);
    let second = f32(b[j.x + j.y + j.z + j.w]);
    if (MULTIPLY == 1u) {
        y[thread] = Element(first * second);
    } else {
        y[thread] = Element(first + second);
    }
}
