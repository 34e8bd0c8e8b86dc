// y = x / (bias + alpha * sum of squares of neighbouring channels) ^ beta.
//
// Layout      x and y are [N, channels, pixels], row-major; the sum goes over `size` channels, (size - 1) / 2 of
//             them before the own one; alpha is already divided by size.
// Bindings    0 sizes, 1 x, 2 y.
// Workgroup   64 threads; a thread makes one element. No workgroup memory.
// Limits      threads are numbered (y * 65535 + x) * 64 + lane, so the host folds more than 65535 workgroups into y.

// What the buffers hold; the half form of the kernel says f16 here. Arithmetic is float32.
alias Element = f32;

struct Sizes {
    threads: u32,
    channels: u32,
    pixels: u32,
    size: u32,
    alpha: f32,
    beta: f32,
    bias: f32,
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
    let channel = thread / s.pixels % s.channels;
    let before = (s.size - 1u) / 2u;
    let first = channel - min(before, channel);
    let end = min(channel + s.size - before, s.channels);
    let plane = thread - channel * s.pixels;
    var sum = 0.0;
    for (var k = first; k < end; k++) {
        let value = f32(x[plane + k * s.pixels]);
        sum += value * value;
    }
    y[thread] = Element(f32(x[thread]) / pow(s.bias + s.alpha * sum, s.beta));
}
