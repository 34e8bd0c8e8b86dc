// A separable unit in one kernel: ReLU, depthwise convolution, pointwise convolution, ReLU, and the sum with another
// value. Without DEPTHWISE it is the pointwise convolution alone. For software adapters whose subgroups have 8 threads:
// a load from storage costs far more there than an exchange inside of the subgroup, so the threads load different
// weights and hand them to each other, and take the pixels beside their own from their neighbours.
//
// Layout      x [N, k, h, w / 4], y and z [N, m, oh, ow / 4], vec4 of Elements, row-major; y = result, or result + z.
//             w: for each block of 12 * GROUPS output channels k + 1 lines of 8 * EIGHTS Elements. Line 0 starts with
//             the bias of the block, line 1 + c with the weights of its output channels for input channel c (those
//             beyond m are zero) and goes on with the KH * KW taps of the depthwise convolution.
// Bindings    0 sizes, 1 x, 2 w, 3 z (any 16 bytes without SUM), 4 y.
// Workgroup   8 threads, which must be one subgroup; a thread makes 12 * GROUPS output channels of 4 pixels. No
//             workgroup memory.
// Limits      workgroups are numbered y * 65535 + x: images, blocks, eights of threads. w and ow are multiples of 4,
//             kernels at most 5 x 5, PAD_LEFT at most 4; what 4 pixels read ends at most 11 pixels behind
//             4 * SW * (first column / 4). NEIGHBOURS needs w = SW * ow, SW at most 2 and 1, 2, 4 or 8 threads a row.

// What the buffers hold; the half form of the kernel says f16 here. Arithmetic is float32.
alias Element = f32;

override DEPTHWISE: bool = true;
override KH: u32 = 3;
override KW: u32 = 3;
override SH: u32 = 1;
override SW: u32 = 1;
override DH: u32 = 1;
override DW: u32 = 1;
override PAD_TOP: u32 = 1;
override PAD_LEFT: u32 = 1;
// Add z to the result.
override SUM: bool = false;
// Twelves of output channels in a block, 1 to 3.
override GROUPS: u32 = 3;
// Eights of numbers in a line of w.
override EIGHTS: u32 = 6;
// Whether the pixels left and right of a thread's own are those of its neighbours.
override NEIGHBOURS: bool = true;

struct Sizes {
    groups: u32,
    blocks: u32,
    k: u32,
    m: u32,
    h: u32,
    w: u32,
    oh: u32,
    ow: u32,
    // Whether ReLU is applied to x, and to the result.
    relu_in: u32,
    relu_out: u32,
}

// What one thread works on: output channels from `channel` on, pixels from row `row` and column 4 * `column` on.
struct Place {
    image: u32,
    channel: u32,
    row: u32,
    column: u32,
}

@group(0) @binding(0) var<uniform> s: Sizes;
@group(0) @binding(1) var<storage, read_write> x: array<vec4<Element>>;
@group(0) @binding(2) var<storage, read> w: array<Element>;
@group(0) @binding(3) var<storage, read_write> z: array<vec4<Element>>;
@group(0) @binding(4) var<storage, read_write> y: array<vec4<Element>>;

// 16 pixels of one input row, the thread's part of the line of w that was loaded last and of the one before, and four
// results of the depthwise convolution. All indices are constants once the overrides are known, so these are registers.
var<private> span: array<f32, 16>;
var<private> line: array<f32, 8>;
var<private> weights: array<f32, 8>;
var<private> result: vec4<f32>;

// Number i of the line of w that was loaded last, and of the one before.
fn number(i: u32) -> f32 {
    return subgroupShuffle(line[i / 8u], i % 8u);
}
fn weight(i: u32) -> f32 {
    return subgroupShuffle(weights[i / 8u], i % 8u);
}

// Four output channels of `value`: column r is channel r, row p pixel p.
fn four(first: u32, value: vec4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(
        weight(first) * value,
        weight(first + 1u) * value,
        weight(first + 2u) * value,
        weight(first + 3u) * value,
    );
}

fn load_eight(at: u32, eight: u32) {
    if (eight < EIGHTS) {
        line[eight] = f32(w[at + eight * 8u]);
    }
}

fn load_line(at: u32) {
    load_eight(at, 0u);
    load_eight(at, 1u);
    load_eight(at, 2u);
    load_eight(at, 3u);
    load_eight(at, 4u);
    load_eight(at, 5u);
    load_eight(at, 6u);
    load_eight(at, 7u);
}

// Zero outside of the image.
fn load(plane: u32, row: i32, column: i32) -> vec4<f32> {
    let columns = i32(s.w / 4u);
    let inside = row >= 0 && row < i32(s.h) && column >= 0 && column < columns;
    let at = clamp(row, 0, i32(s.h) - 1) * columns + clamp(column, 0, columns - 1);
    let value = select(vec4<f32>(0.0), vec4<f32>(x[plane * s.h * u32(columns) + u32(at)]), inside);
    return select(value, max(value, vec4<f32>(0.0)), s.relu_in != 0u);
}

fn spread(at: u32, value: vec4<f32>) {
    span[at] = value.x;
    span[at + 1u] = value.y;
    span[at + 2u] = value.z;
    span[at + 3u] = value.w;
}

// The last four pixels of the thread to the left, the first four of the one to the right; zero outside of the image.
fn spread_neighbours(p: Place, lane: u32, first: vec4<f32>, last: vec4<f32>) {
    let left = subgroupShuffle(last, (lane + 7u) % 8u);
    spread(0u, select(vec4<f32>(0.0), left, p.column > 0u));
    let right = subgroupShuffle(first, (lane + 1u) % 8u);
    spread(4u + 4u * SW, select(vec4<f32>(0.0), right, p.column + 1u < s.ow / 4u));
}

fn tap(ky: u32, kx: u32) {
    if (kx < KW) {
        let i = 4u + kx * DW - PAD_LEFT;
        let value = vec4<f32>(span[i], span[i + SW], span[i + 2u * SW], span[i + 3u * SW]);
        result += number(GROUPS * 12u + ky * KW + kx) * value;
    }
}

fn kernel_row(ky: u32) {
    tap(ky, 0u);
    tap(ky, 1u);
    tap(ky, 2u);
    tap(ky, 3u);
    tap(ky, 4u);
}

fn input_row(ky: u32, plane: u32, p: Place, lane: u32) {
    if (ky < KH) {
        let row = i32(p.row * SH + ky * DH) - i32(PAD_TOP);
        let column = i32(p.column * SW);
        let last = 4u + 3u * SW + (KW - 1u) * DW - PAD_LEFT;
        if (NEIGHBOURS) {
            let first = load(plane, row, column);
            spread(4u, first);
            if (SW > 1u) {
                let second = load(plane, row, column + 1);
                spread(8u, second);
                spread_neighbours(p, lane, first, second);
            } else {
                spread_neighbours(p, lane, first, first);
            }
        } else {
            if (PAD_LEFT > 0u) {
                spread(0u, load(plane, row, column - 1));
            }
            spread(4u, load(plane, row, column));
            if (last >= 8u) {
                spread(8u, load(plane, row, column + 1));
            }
            if (last >= 12u) {
                spread(12u, load(plane, row, column + 2));
            }
        }
        kernel_row(ky);
    }
}

fn depthwise(plane: u32, p: Place, lane: u32) {
    result = vec4<f32>(0.0);
    input_row(0u, plane, p, lane);
    input_row(1u, plane, p, lane);
    input_row(2u, plane, p, lane);
    input_row(3u, plane, p, lane);
    input_row(4u, plane, p, lane);
}

fn input(p: Place, c: u32, lane: u32) {
    let plane = p.image * s.k + c;
    if (DEPTHWISE) {
        depthwise(plane, p, lane);
    } else {
        result = load(plane, i32(p.row), i32(p.column));
    }
}

fn store(p: Place, channel: u32, raw: vec4<f32>) {
    if (channel < s.m && p.row < s.oh) {
        let at = ((p.image * s.m + channel) * s.oh + p.row) * (s.ow / 4u) + p.column;
        var value = select(raw, max(raw, vec4<f32>(0.0)), s.relu_out != 0u);
        if (SUM) {
            value += vec4<f32>(z[at]);
        }
        y[at] = vec4<Element>(value);
    }
}

// Four output channels.
fn put(p: Place, channel: u32, value: mat4x4<f32>) {
    store(p, channel, value[0]);
    store(p, channel + 1u, value[1]);
    store(p, channel + 2u, value[2]);
    store(p, channel + 3u, value[3]);
}

@compute @workgroup_size(8)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let columns = s.ow / 4u;
    let threads = columns * s.oh;
    let eights = (threads + 7u) / 8u;
    let group = workgroup.y * 65535u + workgroup.x;
    if (group >= s.groups) {
        return;
    }
    let block = group / eights % s.blocks;
    let thread = group % eights * 8u + lane;
    // Threads behind the last one only load.
    let row = select(s.oh, thread / columns, thread < threads);
    let p = Place(group / eights / s.blocks, block * GROUPS * 12u, row, thread % columns);
    let lines = block * (s.k + 1u) * EIGHTS * 8u + lane;
    load_line(lines);
    weights = line;
    var a0 = four(0u, vec4<f32>(1.0));
    var a1 = four(4u, vec4<f32>(1.0));
    var a2 = four(8u, vec4<f32>(1.0));
    var a3 = four(12u, vec4<f32>(1.0));
    var a4 = four(16u, vec4<f32>(1.0));
    var a5 = four(20u, vec4<f32>(1.0));
    var a6 = four(24u, vec4<f32>(1.0));
    var a7 = four(28u, vec4<f32>(1.0));
    var a8 = four(32u, vec4<f32>(1.0));
    load_line(lines + EIGHTS * 8u);
    input(p, 0u, lane);
    for (var c = 0u; c < s.k; c++) {
        weights = line;
        let value = result;
        // Loads of the next input channel are under way while this one is multiplied.
        let next = min(c + 1u, s.k - 1u);
        load_line(lines + (next + 1u) * EIGHTS * 8u);
        input(p, next, lane);
        a0 += four(0u, value);
        a1 += four(4u, value);
        a2 += four(8u, value);
        if (GROUPS > 1u) {
            a3 += four(12u, value);
            a4 += four(16u, value);
            a5 += four(20u, value);
        }
        if (GROUPS > 2u) {
            a6 += four(24u, value);
            a7 += four(28u, value);
            a8 += four(32u, value);
        }
    }
    put(p, p.channel + 0u, a0);
    put(p, p.channel + 4u, a1);
    put(p, p.channel + 8u, a2);
    if (GROUPS > 1u) {
        put(p, p.channel + 12u, a3);
        put(p, p.channel + 16u, a4);
        put(p, p.channel + 20u, a5);
    }
    if (GROUPS > 2u) {
        put(p, p.channel + 24u, a6);
        put(p, p.channel + 28u, a7);
        put(p, p.channel + 32u, a8);
    }
}
