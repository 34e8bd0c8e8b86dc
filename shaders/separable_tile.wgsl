// A separable unit in one kernel: ReLU, depthwise convolution, pointwise convolution, ReLU, and the sum with another
// value. For GPUs: a few input channels at a time, the pixels that a workgroup reads, those around them and the
// results of the depthwise convolution lie in its memory.
//
// Layout      x [N, k, h, w], y and z [N, m, oh, ow], Elements, row-major; y = result, or result + z.
//             w: for each block of 16 * BLOCKS output channels k + 1 lines of LINE vec4. Line 0 starts with the bias
//             of the block, line 1 + c with the weights of its output channels for input channel c (those beyond m
//             are zero) and goes on with the KH * KW taps of the depthwise convolution.
// Bindings    0 sizes, 1 x, 2 w, 3 z (any 16 bytes without SUM), 4 y.
// Workgroup   64 threads make 8 x 8 pixels of 16 * BLOCKS output channels, a thread 4 neighbours of one row of BLOCKS
//             fours of channels. Each of the DEPTH input channels of a step takes 4 * HALO + 256 + 16 * LINE B of
//             workgroup memory, written before it is read.
// Limits      BLOCKS is 1 to 4, DEPTH 4 or 8. HALO is what 8 x 8 pixels read of a plane, (7 * SH + (KH - 1) * DH + 1)
//             * (7 * SW + (KW - 1) * DW + 1). Workgroups are numbered y * 65535 + x: images, blocks, tiles of pixels.

// What the buffers hold; the half form of the kernel says f16 here. Arithmetic is float32.
alias Element = f32;

override KH: u32 = 3;
override KW: u32 = 3;
override SH: u32 = 1;
override SW: u32 = 1;
override DH: u32 = 1;
override DW: u32 = 1;
override HALO: u32 = 100;
override LINE: u32 = 19;
// Sixteens of output channels in a block, input channels in a step.
override BLOCKS: u32 = 4;
override DEPTH: u32 = 8;
override RELU_IN: bool = false;
override RELU_OUT: bool = false;
// Add z to the result.
override SUM: bool = false;

struct Sizes {
    groups: u32,
    blocks: u32,
    k: u32,
    m: u32,
    h: u32,
    w: u32,
    oh: u32,
    ow: u32,
    pad_top: u32,
    pad_left: u32,
}

// What one thread works on: pixels from (row, column) on, fours of output channels from `channel` on, 16 apart.
struct Place {
    image: u32,
    channel: u32,
    row: u32,
    column: u32,
}

@group(0) @binding(0) var<uniform> s: Sizes;
@group(0) @binding(1) var<storage, read_write> x: array<Element>;
@group(0) @binding(2) var<storage, read> w: array<vec4<Element>>;
@group(0) @binding(3) var<storage, read_write> z: array<Element>;
@group(0) @binding(4) var<storage, read_write> y: array<Element>;

// Of every input channel in the step: the pixels read, 16 fours of pixels of the depthwise convolution, the line of
// w.
var<workgroup> halo: array<f32, DEPTH * HALO>;
var<workgroup> values: array<vec4<f32>, DEPTH * 16>;
var<workgroup> lines: array<vec4<f32>, DEPTH * LINE>;

// Column r is output channel r, row p pixel p.
fn outer(weight: vec4<f32>, value: vec4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(weight.x * value, weight.y * value, weight.z * value, weight.w * value);
}

// Zero outside of the image and beyond the last input channel.
fn load(image: u32, c: u32, row: i32, column: i32) -> f32 {
    let inside = row >= 0 && row < i32(s.h) && column >= 0 && column < i32(s.w) && c < s.k;
    let at = clamp(row, 0, i32(s.h) - 1) * i32(s.w) + clamp(column, 0, i32(s.w) - 1);
    let plane = image * s.k + min(c, s.k - 1u);
    let value = select(0.0, f32(x[plane * s.h * s.w + u32(at)]), inside);
    return select(value, max(value, 0.0), RELU_IN);
}

// Four neighbours of the depthwise convolution of input channel `c` of the step.
fn depthwise(c: u32, row: u32, column: u32) -> vec4<f32> {
    let width = 7u * SW + (KW - 1u) * DW + 1u;
    var sum = vec4<f32>(0.0);
    for (var ky = 0u; ky < KH; ky++) {
        for (var kx = 0u; kx < KW; kx++) {
            let at = c * HALO + (row * SH + ky * DH) * width + column * SW + kx * DW;
            let tap = ky * KW + kx;
            let value = vec4<f32>(halo[at], halo[at + SW], halo[at + 2u * SW], halo[at + 3u * SW]);
            sum += lines[c * LINE + BLOCKS * 4u + tap / 4u][tap % 4u] * value;
        }
    }
    return sum;
}

fn store(p: Place, channel: u32, raw: vec4<f32>) {
    let value = select(raw, max(raw, vec4<f32>(0.0)), RELU_OUT);
    for (var i = 0u; i < 4u; i++) {
        let column = p.column + i;
        if (channel < s.m && p.row < s.oh && column < s.ow) {
            let at = ((p.image * s.m + channel) * s.oh + p.row) * s.ow + column;
            let other = select(0.0, f32(z[select(0u, at, SUM)]), SUM);
            y[at] = Element(value[i] + other);
        }
    }
}

// Four output channels.
fn put(p: Place, channel: u32, value: mat4x4<f32>) {
    store(p, channel, value[0]);
    store(p, channel + 1u, value[1]);
    store(p, channel + 2u, value[2]);
    store(p, channel + 3u, value[3]);
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let group = workgroup.y * 65535u + workgroup.x;
    if (group >= s.groups) {
        return;
    }
    let across = (s.ow + 7u) / 8u;
    let down = (s.oh + 7u) / 8u;
    let block = group / across / down % s.blocks;
    let image = group / across / down / s.blocks;
    let tile_row = group / across % down * 8u;
    let tile_column = group % across * 8u;
    let width = 7u * SW + (KW - 1u) * DW + 1u;
    let top = i32(tile_row * SH) - i32(s.pad_top);
    let left = i32(tile_column * SW) - i32(s.pad_left);
    // A thread makes four pixels of a tile, and fours of channels beginning with number `part`.
    let quad = lane % 16u;
    let part = lane / 16u;
    let row = quad / 2u;
    let column = quad % 2u * 4u;
    let p = Place(image, block * BLOCKS * 16u + part * 4u, tile_row + row, tile_column + column);
    let start = block * (s.k + 1u) * LINE;
    var a0 = outer(vec4<f32>(w[start + part]), vec4<f32>(1.0));
    var a1 = a0;
    var a2 = a0;
    var a3 = a0;
    if (BLOCKS > 1u) {
        a1 = outer(vec4<f32>(w[start + 4u + part]), vec4<f32>(1.0));
    }
    if (BLOCKS > 2u) {
        a2 = outer(vec4<f32>(w[start + 8u + part]), vec4<f32>(1.0));
    }
    if (BLOCKS > 3u) {
        a3 = outer(vec4<f32>(w[start + 12u + part]), vec4<f32>(1.0));
    }
    for (var first = 0u; first < s.k; first += DEPTH) {
        for (var i = lane; i < DEPTH * HALO; i += 64u) {
            let at = i % HALO;
            halo[i] = load(image, first + i / HALO, top + i32(at / width), left + i32(at % width));
        }
        for (var i = lane; i < DEPTH * LINE; i += 64u) {
            let c = first + i / LINE;
            let value = vec4<f32>(w[start + (min(c, s.k - 1u) + 1u) * LINE + i % LINE]);
            lines[i] = select(vec4<f32>(0.0), value, c < s.k);
        }
        workgroupBarrier();
        for (var c = part; c < DEPTH; c += 4u) {
            values[c * 16u + quad] = depthwise(c, row, column);
        }
        workgroupBarrier();
        for (var c = 0u; c < DEPTH; c++) {
            let value = values[c * 16u + quad];
            let line = c * LINE + part;
            a0 += outer(lines[line], value);
            if (BLOCKS > 1u) {
                a1 += outer(lines[line + 4u], value);
            }
            if (BLOCKS > 2u) {
                a2 += outer(lines[line + 8u], value);
            }
            if (BLOCKS > 3u) {
                a3 += outer(lines[line + 12u], value);
            }
        }
        workgroupBarrier();
    }
    put(p, p.channel, a0);
    if (BLOCKS > 1u) {
        put(p, p.channel + 16u, a1);
    }
    if (BLOCKS > 2u) {
        put(p, p.channel + 32u, a2);
    }
    if (BLOCKS > 3u) {
        put(p, p.channel + 48u, a3);
    }
}
