// Pointwise convolution (1x1, stride 1, one group) with ReLU at both ends: a matrix product y = W x + bias.
//
// Layout      x [N, k, pixels] and y [N, m, pixels], Elements, row-major.
//             w: for each block of 4 output channels [k] vec4, one lane an output channel (lanes beyond m are zero);
//             from bias_at on one vec4 for each block.
// Bindings    0 sizes, 1 x, 2 w, 3 y. Entry `aligned` moves vec4 and needs pixels to be a multiple of 4; entry `scalar`
//             takes any number.
// Workgroup   64 threads; a thread makes 4 output channels x 2 vec4 of pixels in registers, straight from storage. No
//             workgroup memory.
// Limits      threads are numbered (y * 65535 + x) * 64 + lane, so the host folds more than 65535 workgroups into y.

// What the buffers hold; the half form of the kernel says f16 here. Arithmetic is float32.
alias Element = f32;

override RELU_IN: bool = false;
override RELU_OUT: bool = false;

struct Sizes {
    threads: u32,
    k: u32,
    m: u32,
    pixels: u32,
    bias_at: u32,
}

// What one thread works on: vec4 `first` and `second` of every row of pixels, output channels from `channel` on.
struct Place {
    image: u32,
    block: u32,
    channel: u32,
    first: u32,
    second: u32,
    quads: u32,
}

@group(0) @binding(0) var<uniform> s: Sizes;
@group(0) @binding(1) var<storage, read_write> x: array<Element>;
@group(0) @binding(1) var<storage, read_write> x4: array<vec4<Element>>;
@group(0) @binding(2) var<storage, read> w: array<vec4<Element>>;
@group(0) @binding(3) var<storage, read_write> y: array<Element>;
@group(0) @binding(3) var<storage, read_write> y4: array<vec4<Element>>;

fn place(thread: u32) -> Place {
    let quads = (s.pixels + 3u) / 4u;
    let columns = (quads + 1u) / 2u;
    let blocks = (s.m + 3u) / 4u;
    let column = thread % columns;
    let block = thread / columns % blocks;
    let image = thread / columns / blocks;
    return Place(image, block, block * 4u, column, column + columns, quads);
}

fn rectified(value: vec4<f32>, on: bool) -> vec4<f32> {
    return select(value, max(value, vec4<f32>(0.0)), on);
}

// Column r is output channel r, row p pixel p.
fn outer(weight: vec4<f32>, value: vec4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(weight.x * value, weight.y * value, weight.z * value, weight.w * value);
}

fn load(at: u32, row: u32) -> vec4<f32> {
    let last = row + s.pixels - 1u;
    let i = row + at * 4u;
    let value = vec4<Element>(x[min(i, last)], x[min(i + 1u, last)], x[min(i + 2u, last)], x[min(i + 3u, last)]);
    return rectified(vec4<f32>(value), RELU_IN);
}

fn load4(at: u32, row: u32) -> vec4<f32> {
    return rectified(vec4<f32>(x4[row + at]), RELU_IN);
}

fn store(p: Place, at: u32, channel: u32, raw: vec4<f32>) {
    if (channel >= s.m || at >= p.quads) {
        return;
    }
    let value = vec4<Element>(rectified(raw, RELU_OUT));
    let column = at * 4u;
    let i = (p.image * s.m + channel) * s.pixels + column;
    y[i] = value.x;
    if (column + 1u < s.pixels) {
        y[i + 1u] = value.y;
    }
    if (column + 2u < s.pixels) {
        y[i + 2u] = value.z;
    }
    if (column + 3u < s.pixels) {
        y[i + 3u] = value.w;
    }
}

fn store4(p: Place, at: u32, channel: u32, value: vec4<f32>) {
    if (channel < s.m && at < p.quads) {
        y4[(p.image * s.m + channel) * p.quads + at] = vec4<Element>(rectified(value, RELU_OUT));
    }
}

// Four output channels of one vec4 of pixels.
fn put(p: Place, at: u32, value: mat4x4<f32>) {
    store(p, at, p.channel, value[0]);
    store(p, at, p.channel + 1u, value[1]);
    store(p, at, p.channel + 2u, value[2]);
    store(p, at, p.channel + 3u, value[3]);
}

fn put4(p: Place, at: u32, value: mat4x4<f32>) {
    store4(p, at, p.channel, value[0]);
    store4(p, at, p.channel + 1u, value[1]);
    store4(p, at, p.channel + 2u, value[2]);
    store4(p, at, p.channel + 3u, value[3]);
}

@compute @workgroup_size(64)
fn aligned(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let thread = (workgroup.y * 65535u + workgroup.x) * 64u + lane;
    if (thread >= s.threads) {
        return;
    }
    let p = place(thread);
    var a = outer(vec4<f32>(w[s.bias_at + p.block]), vec4<f32>(1.0));
    var b = a;
    let second = min(p.second, p.quads - 1u);
    for (var c = 0u; c < s.k; c++) {
        let row = (p.image * s.k + c) * p.quads;
        let first_value = load4(p.first, row);
        let second_value = load4(second, row);
        let weight = vec4<f32>(w[p.block * s.k + c]);
        a += outer(weight, first_value);
        b += outer(weight, second_value);
    }
    put4(p, p.first, a);
    put4(p, p.second, b);
}

@compute @workgroup_size(64)
fn scalar(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let thread = (workgroup.y * 65535u + workgroup.x) * 64u + lane;
    if (thread >= s.threads) {
        return;
    }
    let p = place(thread);
    var a = outer(vec4<f32>(w[s.bias_at + p.block]), vec4<f32>(1.0));
    var b = a;
    for (var c = 0u; c < s.k; c++) {
        let row = (p.image * s.k + c) * s.pixels;
        let first_value = load(p.first, row);
        let second_value = load(p.second, row);
        let weight = vec4<f32>(w[p.block * s.k + c]);
        a += outer(weight, first_value);
        b += outer(weight, second_value);
    }
    put(p, p.first, a);
    put(p, p.second, b);
}
