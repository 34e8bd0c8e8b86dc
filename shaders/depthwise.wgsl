// Depthwise convolution: every output channel reads one input channel.
//
// Layout      x [N, m / multiplier, h, w] and y [N, m, oh, ow], Elements, row-major.
//             w: [m, KH, KW] Elements; from bias_at on m Elements of bias.
// Bindings    0 sizes, 1 x, 2 w, 3 y.
// Workgroup   64 threads; a thread makes 4 neighbours of one row. No workgroup memory.
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
    m: u32,
    multiplier: u32,
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
@group(0) @binding(2) var<storage, read> w: array<Element>;
@group(0) @binding(3) var<storage, read_write> y: array<Element>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let thread = (workgroup.y * 65535u + workgroup.x) * 64u + lane;
    if (thread >= s.threads) {
        return;
    }
    let columns = (s.ow + 3u) / 4u;
    let ox = thread % columns * 4u;
    let oy = thread / columns % s.oh;
    let out_channel = thread / columns / s.oh % s.m;
    let image = thread / columns / s.oh / s.m;
    let channel = out_channel / s.multiplier;
    let plane = (image * (s.m / s.multiplier) + channel) * s.h * s.w;

    var sum = vec4<f32>(f32(w[s.bias_at + out_channel]));
    let left = vec4<i32>(i32(ox * SW) - i32(s.pad_left)) + vec4<i32>(0, i32(SW), i32(2u * SW), i32(3u * SW));
    let top = i32(oy * SH) - i32(s.pad_top);
    let last = i32(s.w) - 1;
    for (var ky = 0u; ky < KH; ky++) {
        let iy = top + i32(ky * DH);
        if (iy < 0 || iy >= i32(s.h)) {
            continue;
        }
        let row = plane + u32(iy) * s.w;
        for (var kx = 0u; kx < KW; kx++) {
            let ix = left + vec4<i32>(i32(kx * DW));
            let at = vec4<u32>(clamp(ix, vec4<i32>(0), vec4<i32>(last))) + vec4<u32>(row);
            let inside = (ix >= vec4<i32>(0)) & (ix <= vec4<i32>(last));
            let four = vec4<f32>(vec4<Element>(x[at.x], x[at.y], x[at.z], x[at.w]));
            var value = select(vec4<f32>(0.0), four, inside);
            if (RELU_IN) {
                value = max(value, vec4<f32>(0.0));
            }
            sum += value * f32(w[(out_channel * KH + ky) * KW + kx]);
        }
    }
    if (RELU_OUT) {
        sum = max(sum, vec4<f32>(0.0));
    }
    let at = ((image * s.m + out_channel) * s.oh + oy) * s.ow + ox;
    y[at] = Element(sum.x);
    if (ox + 1u < s.ow) {
        y[at + 1u] = Element(sum.y);
    }
    if (ox + 2u < s.ow) {
        y[at + 2u] = Element(sum.z);
    }
    if (ox + 3u < s.ow) {
        y[at + 3u] = Element(sum.w);
    }
}
