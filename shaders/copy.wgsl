// Copies a box of up to four dimensions between two tensors: slice, pad, concat and channel shuffle.
//
// Layout      element (i0, i1, i2, i3) of the box, each i below its size, goes from x[read_at + sum i * read_stride] to
//             y[write_at + sum i * write_stride]. Strides count elements and may be negative in x.
// Bindings    0 sizes, 1 x, 2 y.
// Workgroup   64 threads; a thread copies one element. No workgroup memory.
// Limits      threads are numbered (y * 65535 + x) * 64 + lane, so the host folds more than 65535 workgroups into y.

// What the buffers hold; the half form of the kernel says f16 here. Arithmetic is float32.
alias Element = f32;

struct Sizes {
    size: vec4<u32>,
    read_stride: vec4<i32>,
    write_stride: vec4<i32>,
    read_at: i32,
    write_at: i32,
    threads: u32,
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
    let i3 = thread % s.size.w;
    let rest2 = thread / s.size.w;
    let i2 = rest2 % s.size.z;
    let rest1 = rest2 / s.size.z;
    let index = vec4<i32>(i32(rest1 / s.size.y), i32(rest1 % s.size.y), i32(i2), i32(i3));
    let r = index * s.read_stride;
    let w = index * s.write_stride;
    y[s.write_at + w.x + w.y + w.z + w.w] = x[s.read_at + r.x + r.y + r.z + r.w];
}
