// Convolution of any kind: groups, stride, dilation, asymmetric padding, ReLU at both ends.
//
// Layout      x [N, groups * cg, h, w] and y [N, groups * mg, oh, ow], Elements, row-major.
//             w: for each group, for each block of 4 output channels, [cg, KH, KW] vec4, one lane an output channel
//             (lanes beyond mg are zero); from bias_at on one vec4 for each group and block.
// Bindings    0 sizes, 1 x, 2 w, 3 y.
// Workgroup   64 threads; a thread makes 4 output channels x 4 neighbours of one row. No workgroup memory.
// Limits      threads are numbered (y * 65535 + x) * 64 + lane, so the host folds more than 65535 workgroups into y.

// What the buffers hold; the half form of the kernel says f16 here. Arithmetic is float32.
alias Element = f32;

override KH: u32 = 3;
override KW: u32 = 3;
override SH: u32 = 1;
override SW: u32 = 1;
override DH: u32 = 1;
override DW: u32 = 1;
override RELU_IN: bool = false;
override RELU_OUT: bool = false;

struct Sizes {
    threads: u32,
    groups: u32,
    cg: u32,
    mg: u32,
    h: u32,
    w: u32,
    oh: u32,
    ow: u32,
    pad_top: u32,
    pad_left: u32,
    bias_at: u32,
}

@group(0) @binding(0) var<uniform> s: Sizes;
@group(0) @binding(1) var<storage, read_write> x: array<Element>;
@group(0) @binding(2) var<storage, read> w: array<vec4<Element>>;
@group(0) @binding(3) var<storage, read_write> y: array<Element>;

fn pixel(row: u32, column: i32) -> f32 {
    let inside = column >= 0 && column < i32(s.w);
    let value = select(0.0, f32(x[row + u32(clamp(column, 0, i32(s.w) - 1))]), inside);
    return select(value, max(value, 0.0), RELU_IN);
}

fn store(at: u32, column: u32, lane: u32, lanes: u32, value: f32) {
    if (lane < lanes && column < s.ow) {
        y[at + lane * s.oh * s.ow + column] = Element(select(value, max(value, 0.0), RELU_OUT));
    }
}

fn store4(at: u32, column: u32, lanes: u32, value: vec4<f32>) {
    store(at, column, 0u, lanes, value.x);
    store(at, column, 1u, lanes, value.y);
    store(at, column, 2u, lanes, value.z);
    store(at, column, 3u, lanes, value.w);
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let thread = (workgroup.y * 65535u + workgroup.x) * 64u + lane;
    if (thread >= s.threads) {
        return;
    }
    let columns = (s.ow + 3u) / 4u;
    let blocks = (s.mg + 3u) / 4u;
    let ox = thread % columns * 4u;
    let oy = thread / columns % s.oh;
    let pack = thread / columns / s.oh % (s.groups * blocks);
    let image = thread / columns / s.oh / (s.groups * blocks);
    let group = pack / blocks;
    let block = pack % blocks;

    var a0 = vec4<f32>(w[s.bias_at + pack]);
    var a1 = a0;
    var a2 = a0;
    var a3 = a0;
    let left = i32(ox * SW) - i32(s.pad_left);
    let top = i32(oy * SH) - i32(s.pad_top);
    for (var c = 0u; c < s.cg; c++) {
        let plane = ((image * s.groups + group) * s.cg + c) * s.h * s.w;
        let taps = (pack * s.cg + c) * KH * KW;
        for (var ky = 0u; ky < KH; ky++) {
            let iy = top + i32(ky * DH);
            if (iy < 0 || iy >= i32(s.h)) {
                continue;
            }
            let row = plane + u32(iy) * s.w;
            for (var kx = 0u; kx < KW; kx++) {
                let weight = vec4<f32>(w[taps + ky * KW + kx]);
                let ix = left + i32(kx * DW);
                a0 += weight * pixel(row, ix);
                a1 += weight * pixel(row, ix + i32(SW));
                a2 += weight * pixel(row, ix + i32(2u * SW));
                a3 += weight * pixel(row, ix + i32(3u * SW));
            }
        }
    }
    let lanes = s.mg - block * 4u;
    let out_channel = group * s.mg + block * 4u;
    let at = ((image * s.groups * s.mg + out_channel) * s.oh + oy) * s.ow;
    store4(at, ox, lanes, a0);
    store4(at, ox + 1u, lanes, a1);
    store4(at, ox + 2u, lanes, a2);
    store4(at, ox + 3u, lanes, a3);
}
