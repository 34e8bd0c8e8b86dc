// Pointwise convolution (1x1, stride 1, one group) with ReLU at both ends: a matrix product y = W x + bias. The large
// block is for software adapters, where a load costs much more than a register.
//
// Layout      x [N, k, pixels] and y [N, m, pixels], Elements, row-major.
//             w: for each block of 12 output channels [k, 3] vec4, one lane an output channel (lanes beyond m are
//             zero); from bias_at on 3 vec4 for each block.
// Bindings    0 sizes, 1 x, 2 w, 3 y.
// Workgroup   16 threads, so that small images still occupy several cores; a thread makes 12 output channels x 4 vec4
//             of pixels in registers, straight from storage. No workgroup memory.
// Limits      threads are numbered (y * 65535 + x) * 16 + lane, so the host folds more than 65535 workgroups into y.

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

// What one thread works on: vec4 `column`, `column + columns` and so on of every row of pixels, output channels from
// `channel` on.
struct Place {
    image: u32,
    block: u32,
    channel: u32,
    column: u32,
    columns: u32,
    quads: u32,
}

@group(0) @binding(0) var<uniform> s: Sizes;
@group(0) @binding(1) var<storage, read_write> x: array<Element>;
@group(0) @binding(2) var<storage, read> w: array<vec4<Element>>;
@group(0) @binding(3) var<storage, read_write> y: array<Element>;

fn place(thread: u32) -> Place {
    let quads = (s.pixels + 3u) / 4u;
    let columns = (quads + 3u) / 4u;
    let blocks = (s.m + 11u) / 12u;
    let block = thread / columns % blocks;
    return Place(thread / columns / blocks, block, block * 12u, thread % columns, columns, quads);
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

// Four output channels of one vec4 of pixels.
fn put(p: Place, at: u32, channel: u32, value: mat4x4<f32>) {
    store(p, at, channel, value[0]);
    store(p, at, channel + 1u, value[1]);
    store(p, at, channel + 2u, value[2]);
    store(p, at, channel + 3u, value[3]);
}

@compute @workgroup_size(16)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let thread = (workgroup.y * 65535u + workgroup.x) * 16u + lane;
    if (thread >= s.threads) {
        return;
    }
    let p = place(thread);
    let q0 = p.column;
    let q1 = q0 + p.columns;
    let q2 = q1 + p.columns;
    let q3 = q2 + p.columns;
    var a00 = outer(vec4<f32>(w[s.bias_at + p.block * 3u]), vec4<f32>(1.0));
    var a01 = a00;
    var a02 = a00;
    var a03 = a00;
    var a10 = outer(vec4<f32>(w[s.bias_at + p.block * 3u + 1u]), vec4<f32>(1.0));
    var a11 = a10;
    var a12 = a10;
    var a13 = a10;
    var a20 = outer(vec4<f32>(w[s.bias_at + p.block * 3u + 2u]), vec4<f32>(1.0));
    var a21 = a20;
    var a22 = a20;
    var a23 = a20;
    for (var c = 0u; c < s.k; c++) {
        let row = (p.image * s.k + c) * s.pixels;
        let v0 = load(q0, row);
        let v1 = load(q1, row);
        let v2 = load(q2, row);
        let v3 = load(q3, row);
        let weights = (p.block * s.k + c) * 3u;
        let w0 = vec4<f32>(w[weights]);
        let w1 = vec4<f32>(w[weights + 1u]);
        let w2 = vec4<f32>(w[weights + 2u]);
        a00 += outer(w0, v0);
        a01 += outer(w0, v1);
        a02 += outer(w0, v2);
        a03 += outer(w0, v3);
        a10 += outer(w1, v0);
        a11 += outer(w1, v1);
        a12 += outer(w1, v2);
        a13 += outer(w1, v3);
        a20 += outer(w2, v0);
        a21 += outer(w2, v1);
        a22 += outer(w2, v2);
        a23 += outer(w2, v3);
    }
    put(p, q0, p.channel, a00);
    put(p, q1, p.channel, a01);
    put(p, q2, p.channel, a02);
    put(p, q3, p.channel, a03);
    put(p, q0, p.channel + 4u, a10);
    put(p, q1, p.channel + 4u, a11);
    put(p, q2, p.channel + 4u, a12);
    put(p, q3, p.channel + 4u, a13);
    put(p, q0, p.channel + 8u, a20);
    put(p, q1, p.channel + 8u, a21);
    put(p, q2, p.channel + 8u, a22);
    put(p, q3, p.channel + 8u, a23);
}
