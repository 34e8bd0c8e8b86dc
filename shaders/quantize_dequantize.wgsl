// y = (clamp(round(x / scale) + zero, -128, 127) - zero) * scale, element by element: the nearest of 256 numbers.
//
// Layout      x and y have `threads` vec4; buffers are multiples of 16 bytes, so the last may be partly unused.
// Bindings    0 sizes, 1 x, 2 y.
// Workgroup   64 threads; a thread makes one vec4. No workgroup memory.
// Limits      threads are numbered (y * 65535 + x) * 64 + lane, so the host folds more than 65535 workgroups into y.
//             round takes ties to even. A device may miss the quotient by 2.5 units in the last place: an element that
//             lies that near to the middle between two numbers may become either.

// What the buffers hold; the half form of the kernel says f16 here. Arithmetic is float32.
alias Element = f32;

struct Sizes {
    threads: u32,
    scale: f32,
    zero: f32,
}

@group(0) @binding(0) var<uniform> s: Sizes;
@group(0) @binding(1) var<storage, read_write> x: array<vec4<Element>>;
@group(0) @binding(2) var<storage, read_write> y: array<vec4<Element>>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let thread = (workgroup.y * 65535u + workgroup.x) * 64u + lane;
    if (thread < s.threads) {
        let zero = vec4<f32>(s.zero);
        let code = clamp(round(vec4<f32>(x[thread]) / s.scale) + zero, vec4<f32>(-128.0), vec4<f32>(127.0));
        y[thread] = vec4<Element>((code - zero) * s.scale);
    }
}
