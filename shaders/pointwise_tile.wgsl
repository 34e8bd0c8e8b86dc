// Pointwise convolution (1x1, stride 1, one group) with ReLU at both ends and the sum with another value: a matrix
// product y = W x + bias (+ z). For GPUs: what a workgroup reads several times lies in its memory.
//
// Layout      x [N, k, pixels], y and z [N, m, pixels], Elements, row-major.
//             w: for each block of 4 output channels [k] vec4, one lane an output channel (lanes beyond m are zero);
//             from bias_at on one vec4 for each block.
// Bindings    0 sizes, 1 x, 2 w, 3 z (any 16 bytes without SUM), 4 y. Entry `aligned` moves vec4 and needs pixels to
//             be a multiple of 4; entry `scalar` takes any number.
// Workgroup   64 threads make ROWS blocks of 4 output channels x 64 / ROWS vec4 of pixels, a thread one block of one
//             vec4; 6,144 B of workgroup memory, written before it is read.
// Limits      ROWS is 4 or 8. Workgroups are numbered y * 65535 + x: images, tiles of channels, tiles of pixels.

// What the buffers hold; the half form of the kernel says f16 here. Arithmetic is float32.
alias Element = f32;

override RELU_IN: bool = false;
override RELU_OUT: bool = false;
// Add z to the result.
override SUM: bool = false;
// Blocks of output channels in a tile: few make a wide tile, for layers of few channels.
override ROWS: u32 = 8;

struct Sizes {
    groups: u32,
    k: u32,
    m: u32,
    pixels: u32,
    bias_at: u32,
}

// What one thread works on: vec4 `quad` of every row of pixels, block `block` of output channels, and where in the
// tile.
struct Place {
    image: u32,
    block: u32,
    quad: u32,
    row: u32,
    column: u32,
}

// Input channels in a step.
const DEPTH: u32 = 16u;

@group(0) @binding(0) var<uniform> s: Sizes;
@group(0) @binding(1) var<storage, read_write> x: array<Element>;
@group(0) @binding(1) var<storage, read_write> x4: array<vec4<Element>>;
@group(0) @binding(2) var<storage, read> w: array<vec4<Element>>;
@group(0) @binding(3) var<storage, read_write> z: array<Element>;
@group(0) @binding(3) var<storage, read_write> z4: array<vec4<Element>>;
@group(0) @binding(4) var<storage, read_write> y: array<Element>;
@group(0) @binding(4) var<storage, read_write> y4: array<vec4<Element>>;

// [DEPTH, 64 / ROWS] vec4 of pixels and [DEPTH, ROWS] vec4 of weights.
var<workgroup> values: array<vec4<f32>, 256>;
var<workgroup> weights: array<vec4<f32>, 128>;

fn place(group: u32, lane: u32) -> Place {
    let columns = 64u / ROWS;
    let quads = (s.pixels + 3u) / 4u;
    let blocks = (s.m + 3u) / 4u;
    let across = (quads + columns - 1u) / columns;
    let down = (blocks + ROWS - 1u) / ROWS;
    let row = lane / columns;
    let column = lane % columns;
    let block = group / across % down * ROWS + row;
    return Place(group / across / down, block, group % across * columns + column, row, column);
}

fn rectified(value: vec4<f32>, on: bool) -> vec4<f32> {
    return select(value, max(value, vec4<f32>(0.0)), on);
}

// Column r is output channel r, row p pixel p.
fn outer(weight: vec4<f32>, value: vec4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(weight.x * value, weight.y * value, weight.z * value, weight.w * value);
}

// The weights of input channels `first` and on for the tile of `p`; zeros beyond k and m.
fn load_weights(p: Place, lane: u32, first: u32) {
    let blocks = (s.m + 3u) / 4u;
    for (var i = lane; i < DEPTH * ROWS; i += 64u) {
        let c = first + i % DEPTH;
        let block = p.block - p.row + i / DEPTH;
        let value = vec4<f32>(w[min(block, blocks - 1u) * s.k + min(c, s.k - 1u)]);
        weights[i % DEPTH * ROWS + i / DEPTH] = select(vec4<f32>(0.0), value, c < s.k && block < blocks);
    }
}

// One step of the product. What lies beyond the last input channel was set to zero.
fn advanced(p: Place, sum: mat4x4<f32>) -> mat4x4<f32> {
    let columns = 64u / ROWS;
    var next = sum;
    for (var c = 0u; c < DEPTH; c++) {
        next += outer(weights[c * ROWS + p.row], values[c * columns + p.column]);
    }
    return next;
}

fn bias(p: Place) -> mat4x4<f32> {
    let block = min(p.block, (s.m + 3u) / 4u - 1u);
    return outer(vec4<f32>(w[s.bias_at + block]), vec4<f32>(1.0));
}

fn load(row: u32, quad: u32) -> vec4<f32> {
    let last = row + s.pixels - 1u;
    let i = row + quad * 4u;
    return vec4<f32>(vec4<Element>(x[min(i, last)], x[min(i + 1u, last)], x[min(i + 2u, last)], x[min(i + 3u, last)]));
}

fn store(p: Place, r: u32, raw: vec4<f32>) {
    let channel = p.block * 4u + r;
    let value = rectified(raw, RELU_OUT);
    let row = (p.image * s.m + channel) * s.pixels;
    for (var i = 0u; i < 4u; i++) {
        let column = p.quad * 4u + i;
        if (channel < s.m && column < s.pixels) {
            let other = select(0.0, f32(z[select(0u, row + column, SUM)]), SUM);
            y[row + column] = Element(value[i] + other);
        }
    }
}

fn store4(p: Place, r: u32, raw: vec4<f32>) {
    let channel = p.block * 4u + r;
    if (channel < s.m && p.quad < s.pixels / 4u) {
        let at = (p.image * s.m + channel) * (s.pixels / 4u) + p.quad;
        var value = rectified(raw, RELU_OUT);
        if (SUM) {
            value += vec4<f32>(z4[at]);
        }
        y4[at] = vec4<Element>(value);
    }
}

@compute @workgroup_size(64)
fn aligned(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let group = workgroup.y * 65535u + workgroup.x;
    if (group >= s.groups) {
        return;
    }
    let p = place(group, lane);
    let columns = 64u / ROWS;
    let quads = s.pixels / 4u;
    var sum = bias(p);
    for (var first = 0u; first < s.k; first += DEPTH) {
        for (var i = lane; i < DEPTH * columns; i += 64u) {
            // A step of 64 keeps the column.
            let c = first + i / columns;
            let row = (p.image * s.k + min(c, s.k - 1u)) * quads;
            let value = vec4<f32>(x4[row + min(p.quad, quads - 1u)]);
            values[i] = select(vec4<f32>(0.0), rectified(value, RELU_IN), c < s.k);
        }
        load_weights(p, lane, first);
        workgroupBarrier();
        sum = advanced(p, sum);
        workgroupBarrier();
    }
    store4(p, 0u, sum[0]);
    store4(p, 1u, sum[1]);
    store4(p, 2u, sum[2]);
    store4(p, 3u, sum[3]);
}

@compute @workgroup_size(64)
fn scalar(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let group = workgroup.y * 65535u + workgroup.x;
    if (group >= s.groups) {
        return;
    }
    let p = place(group, lane);
    let columns = 64u / ROWS;
    var sum = bias(p);
    for (var first = 0u; first < s.k; first += DEPTH) {
        for (var i = lane; i < DEPTH * columns; i += 64u) {
            let c = first + i / columns;
            let row = (p.image * s.k + min(c, s.k - 1u)) * s.pixels;
            let value = load(row, p.quad);
            values[i] = select(vec4<f32>(0.0), rectified(value, RELU_IN), c < s.k);
        }
        load_weights(p, lane, first);
        workgroupBarrier();
        sum = advanced(p, sum);
        workgroupBarrier();
    }
    store(p, 0u, sum[0]);
    store(p, 1u, sum[1]);
    store(p, 2u, sum[2]);
    store(p, 3u, sum[3]);
}
