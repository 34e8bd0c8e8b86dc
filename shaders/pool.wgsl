// Max and average pooling with stride, dilation, asymmetric padding and ceil mode.
//
// Layout      x [planes, h, w] and y [planes, oh, ow], Elements, row-major; a plane is one channel of one image.
// Bindings    0 sizes, 1 x, 2 y.
// Workgroup   64 threads; a thread makes one element. No workgroup memory.
// Limits      threads are numbered (y * 65535 + x) * 64 + lane, so the host folds more than 65535 workgroups into y.
//             Every window must meet at least one pixel; the host checks that.

// What the buffers hold; the half form of the kernel says f16 here. Arithmetic is float32.
alias Element = f32;

override KH: u32 = 3;
override KW: u32 = 3;
override SH: u32 = 1;
override SW: u32 = 1;
override DH: u32 = 1;
override DW: u32 = 1;
// Maximum; otherwise the mean.
override MAXIMUM: bool = false;
// The mean counts padding, but never what lies beyond it.
override INCLUDE_PAD: bool = false;

struct Sizes {
    threads: u32,
    h: u32,
    w: u32,
    oh: u32,
    ow: u32,
    pad_top: u32,
    pad_left: u32,
    pad_bottom: u32,
    pad_right: u32,
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
    let left = i32(thread % s.ow * SW) - i32(s.pad_left);
    let top = i32(thread / s.ow % s.oh * SH) - i32(s.pad_top);
    let plane = thread / s.ow / s.oh * s.h * s.w;
    var best = -3.4028234e38;
    var sum = 0.0;
    var count = 0u;
    for (var ky = 0u; ky < KH; ky++) {
        let iy = top + i32(ky * DH);
        let real_row = iy >= 0 && iy < i32(s.h);
        let padded_row = iy < i32(s.h + s.pad_bottom);
        for (var kx = 0u; kx < KW; kx++) {
            let ix = left + i32(kx * DW);
            if (real_row && ix >= 0 && ix < i32(s.w)) {
                let value = f32(x[plane + u32(iy) * s.w + u32(ix)]);
                best = max(best, value);
                sum += value;
                count += 1u;
            } else if (INCLUDE_PAD && padded_row && ix < i32(s.w + s.pad_right)) {
                count += 1u;
            }
        }
    }
    y[thread] = Element(select(sum / f32(max(count, 1u)), best, MAXIMUM));
}
