// Depthwise convolution: every output channel reads one input channel, with ReLU at both ends and the sum with
// another value. For GPUs: the pixels that a workgroup reads, and those around them, lie in its memory.
//
// Layout      x [N, m / multiplier, h, w], y and z [N, m, oh, ow], Elements, row-major.
//             w: [m, KH, KW] Elements; from bias_at on m Elements of bias.
// Bindings    0 sizes, 1 x, 2 w, 3 z (any 16 bytes without SUM), 4 y.
// Workgroup   64 threads make 8 x 8 pixels of 4 planes, a thread 4 neighbours of one row; 16 * HALO B of workgroup
//             memory, written before it is read. A plane is one output channel of one image.
// Limits      HALO is what 8 x 8 pixels read of a plane, (7 * SH + (KH - 1) * DH + 1) * (7 * SW + (KW - 1) * DW + 1),
//             at most 1022. Workgroups are numbered y * 65535 + x: fours of planes, tiles of pixels.

// What the buffers hold; the half form of the kernel says f16 here. Arithmetic is float32.
alias Element = f32;

override KH: u32 = 3;
override KW: u32 = 3;
override SH: u32 = 1;
override SW: u32 = 1;
override DH: u32 = 1;
override DW: u32 = 1;
override HALO: u32 = 100;
override RELU_IN: bool = false;
override RELU_OUT: bool = false;
// Add z to the result.
override SUM: bool = false;

struct Sizes {
    groups: u32,
    planes: u32,
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
@group(0) @binding(3) var<storage, read_write> z: array<Element>;
@group(0) @binding(4) var<storage, read_write> y: array<Element>;

// What the workgroup reads, plane by plane.
var<workgroup> halo: array<f32, 4 * HALO>;

fn load(plane: u32, row: i32, column: i32) -> f32 {
    let source = plane / s.m * (s.m / s.multiplier) + plane % s.m / s.multiplier;
    let inside = row >= 0 && row < i32(s.h) && column >= 0 && column < i32(s.w) && plane < s.planes;
    let at = clamp(row, 0, i32(s.h) - 1) * i32(s.w) + clamp(column, 0, i32(s.w) - 1);
    let value = select(0.0, f32(x[select(0u, source * s.h * s.w + u32(at), inside)]), inside);
    return select(value, max(value, 0.0), RELU_IN);
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let group = workgroup.y * 65535u + workgroup.x;
    if (group >= s.groups) {
        return;
    }
    let across = (s.ow + 7u) / 8u;
    let down = (s.oh + 7u) / 8u;
    let first = group / across / down * 4u;
    let tile_row = group / across % down * 8u;
    let tile_column = group % across * 8u;
    let width = 7u * SW + (KW - 1u) * DW + 1u;
    let top = i32(tile_row * SH) - i32(s.pad_top);
    let left = i32(tile_column * SW) - i32(s.pad_left);
    for (var i = lane; i < 4u * HALO; i += 64u) {
        let at = i % HALO;
        halo[i] = load(first + i / HALO, top + i32(at / width), left + i32(at % width));
    }
    workgroupBarrier();
    let plane = first + lane / 16u;
    let row = lane / 2u % 8u;
    let column = lane % 2u * 4u;
    let channel = plane % s.m;
    var sum = vec4<f32>(f32(w[s.bias_at + channel]));
    for (var ky = 0u; ky < KH; ky++) {
        for (var kx = 0u; kx < KW; kx++) {
            let at = lane / 16u * HALO + (row * SH + ky * DH) * width + column * SW + kx * DW;
            let value = vec4<f32>(halo[at], halo[at + SW], halo[at + 2u * SW], halo[at + 3u * SW]);
            sum += f32(w[(channel * KH + ky) * KW + kx]) * value;
        }
    }
    let value = select(sum, max(sum, vec4<f32>(0.0)), RELU_OUT);
    let oy = tile_row + row;
    for (var i = 0u; i < 4u; i++) {
        let ox = tile_column + column + i;
        if (plane < s.planes && oy < s.oh && ox < s.ow) {
            let at = (plane * s.oh + oy) * s.ow + ox;
            let other = select(0.0, f32(z[select(0u, at, SUM)]), SUM);
            y[at] = Element(value[i] + other);
        }
    }
}
