// A separable unit in one kernel: ReLU, depthwise convolution, pointwise convolution, ReLU, and the sum with another
// value. Without DEPTHWISE it is the pointwise convolution alone. The large block in registers is for software
// adapters, where a load costs much more than a register.
//
// Layout      x [N, k, h, w / 4], y and z [N, m, oh, ow / 4], vec4 of float32, row-major; y = result, or result + z.
//             w: for each input channel the KH * KW taps of the depthwise convolution in ceil(KH * KW / 4) vec4; from
//             pointwise_at on, for each block of 12 * GROUPS output channels, [k, 3 * GROUPS] vec4, one lane an output
//             channel (lanes beyond m are zero); from bias_at on 3 * GROUPS vec4 for each block.
// Bindings    0 sizes, 1 x, 2 w, 3 z (any 16 bytes without SUM), 4 y.
// Workgroup   8 threads, so that small images still occupy several cores; a thread makes 12 * GROUPS output channels of
//             4 x 4 pixels, straight from storage. No workgroup memory.
// Limits      threads are numbered (y * 65535 + x) * 8 + lane, so the host folds more than 65535 workgroups into y.
//             w and ow are multiples of 4, kernels at most 5 x 5, PAD_LEFT at most 4; the input of 4 x 4 pixels is at
//             most 15 rows high and ends at most 11 pixels behind 4 * SW * (first column / 4).

override DEPTHWISE: bool = true;
override KH: u32 = 3;
override KW: u32 = 3;
override SH: u32 = 1;
override SW: u32 = 1;
override DH: u32 = 1;
override DW: u32 = 1;
override PAD_TOP: u32 = 1;
override PAD_LEFT: u32 = 1;
override RELU_IN: bool = false;
override RELU_OUT: bool = false;
// Add z to the result.
override SUM: bool = false;
// Twelves of output channels in a block, 1 to 3.
override GROUPS: u32 = 3;

struct Sizes {
    threads: u32,
    k: u32,
    m: u32,
    h: u32,
    w: u32,
    oh: u32,
    ow: u32,
    pointwise_at: u32,
    bias_at: u32,
}

// What one thread works on: output channels from `channel` on, pixels from row `row` and column 4 * `column` on.
struct Place {
    image: u32,
    channel: u32,
    row: u32,
    column: u32,
}

@group(0) @binding(0) var<uniform> s: Sizes;
@group(0) @binding(1) var<storage, read_write> x: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> w: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> z: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> y: array<vec4<f32>>;

// 16 pixels of one input row, the taps of one channel, the 4 x 4 results of the depthwise convolution. All indices are
// constants once the overrides are known, so these are registers.
var<private> span: array<f32, 16>;
var<private> taps: array<f32, 28>;
var<private> rows: array<vec4<f32>, 4>;

// Column r is output channel r, row p pixel p.
fn outer(weight: vec4<f32>, value: vec4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(weight.x * value, weight.y * value, weight.z * value, weight.w * value);
}

// Zero outside of the image.
fn load(plane: u32, row: i32, column: i32) -> vec4<f32> {
    let columns = i32(s.w / 4u);
    let inside = row >= 0 && row < i32(s.h) && column >= 0 && column < columns;
    let at = clamp(row, 0, i32(s.h) - 1) * columns + clamp(column, 0, columns - 1);
    let value = select(vec4<f32>(0.0), x[plane * s.h * u32(columns) + u32(at)], inside);
    return select(value, max(value, vec4<f32>(0.0)), RELU_IN);
}

fn spread(at: u32, value: vec4<f32>) {
    span[at] = value.x;
    span[at + 1u] = value.y;
    span[at + 2u] = value.z;
    span[at + 3u] = value.w;
}

fn load_taps(at: u32, four: u32) {
    if (KH * KW > four * 4u) {
        let value = w[at + four];
        taps[four * 4u] = value.x;
        taps[four * 4u + 1u] = value.y;
        taps[four * 4u + 2u] = value.z;
        taps[four * 4u + 3u] = value.w;
    }
}

fn tap(row: u32, ky: u32, kx: u32) {
    if (kx < KW) {
        let i = 4u + kx * DW - PAD_LEFT;
        rows[row] += taps[ky * KW + kx] * vec4<f32>(span[i], span[i + SW], span[i + 2u * SW], span[i + 3u * SW]);
    }
}

// Input row j of the 4 x 4 pixels under kernel row ky for result row `row`, if they meet.
fn kernel_row(j: u32, row: u32, ky: u32) {
    if (ky < KH && j == row * SH + ky * DH) {
        tap(row, ky, 0u);
        tap(row, ky, 1u);
        tap(row, ky, 2u);
        tap(row, ky, 3u);
        tap(row, ky, 4u);
    }
}

fn result_row(j: u32, row: u32) {
    kernel_row(j, row, 0u);
    kernel_row(j, row, 1u);
    kernel_row(j, row, 2u);
    kernel_row(j, row, 3u);
    kernel_row(j, row, 4u);
}

fn input_row(j: u32, plane: u32, top: i32, column: i32) {
    if (j <= 3u * SH + (KH - 1u) * DH) {
        let row = top + i32(j);
        let last = 4u + 3u * SW + (KW - 1u) * DW - PAD_LEFT;
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
        result_row(j, 0u);
        result_row(j, 1u);
        result_row(j, 2u);
        result_row(j, 3u);
    }
}

fn depthwise(plane: u32, at: u32, top: i32, column: i32) {
    load_taps(at, 0u);
    load_taps(at, 1u);
    load_taps(at, 2u);
    load_taps(at, 3u);
    load_taps(at, 4u);
    load_taps(at, 5u);
    load_taps(at, 6u);
    rows[0] = vec4<f32>(0.0);
    rows[1] = vec4<f32>(0.0);
    rows[2] = vec4<f32>(0.0);
    rows[3] = vec4<f32>(0.0);
    input_row(0u, plane, top, column);
    input_row(1u, plane, top, column);
    input_row(2u, plane, top, column);
    input_row(3u, plane, top, column);
    input_row(4u, plane, top, column);
    input_row(5u, plane, top, column);
    input_row(6u, plane, top, column);
    input_row(7u, plane, top, column);
    input_row(8u, plane, top, column);
    input_row(9u, plane, top, column);
    input_row(10u, plane, top, column);
    input_row(11u, plane, top, column);
    input_row(12u, plane, top, column);
    input_row(13u, plane, top, column);
    input_row(14u, plane, top, column);
}

fn input(p: Place, c: u32, k: u32) {
    let plane = p.image * k + c;
    if (DEPTHWISE) {
        let top = i32(p.row * SH) - i32(PAD_TOP);
        depthwise(plane, c * ((KH * KW + 3u) / 4u), top, i32(p.column * SW));
    } else {
        rows[0] = load(plane, i32(p.row), i32(p.column));
        rows[1] = load(plane, i32(p.row + 1u), i32(p.column));
        rows[2] = load(plane, i32(p.row + 2u), i32(p.column));
        rows[3] = load(plane, i32(p.row + 3u), i32(p.column));
    }
}

fn store(p: Place, row: u32, channel: u32, raw: vec4<f32>) {
    if (channel < s.m && p.row + row < s.oh) {
        let at = ((p.image * s.m + channel) * s.oh + p.row + row) * (s.ow / 4u) + p.column;
        var value = select(raw, max(raw, vec4<f32>(0.0)), RELU_OUT);
        if (SUM) {
            value += z[at];
        }
        y[at] = value;
    }
}

// Four output channels of one row.
fn put(p: Place, row: u32, channel: u32, value: mat4x4<f32>) {
    store(p, row, channel, value[0]);
    store(p, row, channel + 1u, value[1]);
    store(p, row, channel + 2u, value[2]);
    store(p, row, channel + 3u, value[3]);
}

@compute @workgroup_size(8)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let thread = (workgroup.y * 65535u + workgroup.x) * 8u + lane;
    if (thread >= s.threads) {
        return;
    }
    let columns = s.ow / 4u;
    let heights = (s.oh + 3u) / 4u;
    let blocks = (s.m + GROUPS * 12u - 1u) / (GROUPS * 12u);
    let block = thread / columns / heights % blocks;
    let image = thread / columns / heights / blocks;
    let p = Place(image, block * GROUPS * 12u, thread / columns % heights * 4u, thread % columns);
    let bias = s.bias_at + block * GROUPS * 3u;
    let weights = s.pointwise_at + block * s.k * GROUPS * 3u;
    var a00 = outer(w[bias + 0u], vec4<f32>(1.0));
    var a01 = a00;
    var a02 = a00;
    var a03 = a00;
    var a10 = outer(w[bias + 1u], vec4<f32>(1.0));
    var a11 = a10;
    var a12 = a10;
    var a13 = a10;
    var a20 = outer(w[bias + 2u], vec4<f32>(1.0));
    var a21 = a20;
    var a22 = a20;
    var a23 = a20;
    var a30 = outer(w[bias + 3u], vec4<f32>(1.0));
    var a31 = a30;
    var a32 = a30;
    var a33 = a30;
    var a40 = outer(w[bias + 4u], vec4<f32>(1.0));
    var a41 = a40;
    var a42 = a40;
    var a43 = a40;
    var a50 = outer(w[bias + 5u], vec4<f32>(1.0));
    var a51 = a50;
    var a52 = a50;
    var a53 = a50;
    var a60 = outer(w[bias + 6u], vec4<f32>(1.0));
    var a61 = a60;
    var a62 = a60;
    var a63 = a60;
    var a70 = outer(w[bias + 7u], vec4<f32>(1.0));
    var a71 = a70;
    var a72 = a70;
    var a73 = a70;
    var a80 = outer(w[bias + 8u], vec4<f32>(1.0));
    var a81 = a80;
    var a82 = a80;
    var a83 = a80;
    for (var c = 0u; c < s.k; c++) {
        input(p, c, s.k);
        let at = weights + c * GROUPS * 3u;
        let w0 = w[at + 0u];
        a00 += outer(w0, rows[0]);
        a01 += outer(w0, rows[1]);
        a02 += outer(w0, rows[2]);
        a03 += outer(w0, rows[3]);
        let w1 = w[at + 1u];
        a10 += outer(w1, rows[0]);
        a11 += outer(w1, rows[1]);
        a12 += outer(w1, rows[2]);
        a13 += outer(w1, rows[3]);
        let w2 = w[at + 2u];
        a20 += outer(w2, rows[0]);
        a21 += outer(w2, rows[1]);
        a22 += outer(w2, rows[2]);
        a23 += outer(w2, rows[3]);
        if (GROUPS > 1u) {
            let w3 = w[at + 3u];
            a30 += outer(w3, rows[0]);
            a31 += outer(w3, rows[1]);
            a32 += outer(w3, rows[2]);
            a33 += outer(w3, rows[3]);
            let w4 = w[at + 4u];
            a40 += outer(w4, rows[0]);
            a41 += outer(w4, rows[1]);
            a42 += outer(w4, rows[2]);
            a43 += outer(w4, rows[3]);
            let w5 = w[at + 5u];
            a50 += outer(w5, rows[0]);
            a51 += outer(w5, rows[1]);
            a52 += outer(w5, rows[2]);
            a53 += outer(w5, rows[3]);
        }
        if (GROUPS > 2u) {
            let w6 = w[at + 6u];
            a60 += outer(w6, rows[0]);
            a61 += outer(w6, rows[1]);
            a62 += outer(w6, rows[2]);
            a63 += outer(w6, rows[3]);
            let w7 = w[at + 7u];
            a70 += outer(w7, rows[0]);
            a71 += outer(w7, rows[1]);
            a72 += outer(w7, rows[2]);
            a73 += outer(w7, rows[3]);
            let w8 = w[at + 8u];
            a80 += outer(w8, rows[0]);
            a81 += outer(w8, rows[1]);
            a82 += outer(w8, rows[2]);
            a83 += outer(w8, rows[3]);
        }
    }
    put(p, 0u, p.channel + 0u, a00);
    put(p, 1u, p.channel + 0u, a01);
    put(p, 2u, p.channel + 0u, a02);
    put(p, 3u, p.channel + 0u, a03);
    put(p, 0u, p.channel + 4u, a10);
    put(p, 1u, p.channel + 4u, a11);
    put(p, 2u, p.channel + 4u, a12);
    put(p, 3u, p.channel + 4u, a13);
    put(p, 0u, p.channel + 8u, a20);
    put(p, 1u, p.channel + 8u, a21);
    put(p, 2u, p.channel + 8u, a22);
    put(p, 3u, p.channel + 8u, a23);
    if (GROUPS > 1u) {
        put(p, 0u, p.channel + 12u, a30);
        put(p, 1u, p.channel + 12u, a31);
        put(p, 2u, p.channel + 12u, a32);
        put(p, 3u, p.channel + 12u, a33);
        put(p, 0u, p.channel + 16u, a40);
        put(p, 1u, p.channel + 16u, a41);
        put(p, 2u, p.channel + 16u, a42);
        put(p, 3u, p.channel + 16u, a43);
        put(p, 0u, p.channel + 20u, a50);
        put(p, 1u, p.channel + 20u, a51);
        put(p, 2u, p.channel + 20u, a52);
        put(p, 3u, p.channel + 20u, a53);
    }
    if (GROUPS > 2u) {
        put(p, 0u, p.channel + 24u, a60);
        put(p, 1u, p.channel + 24u, a61);
        put(p, 2u, p.channel + 24u, a62);
        put(p, 3u, p.channel + 24u, a63);
        put(p, 0u, p.channel + 28u, a70);
        put(p, 1u, p.channel + 28u, a71);
        put(p, 2u, p.channel + 28u, a72);
        put(p, 3u, p.channel + 28u, a73);
        put(p, 0u, p.channel + 32u, a80);
        put(p, 1u, p.channel + 32u, a81);
        put(p, 2u, p.channel + 32u, a82);
        put(p, 3u, p.channel + 32u, a83);
    }
}
