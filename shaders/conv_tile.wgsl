// Convolution of any kind as a matrix product y = W columns(x) + bias (+ z), ReLU at both ends. For GPUs: the columns
// of x, one row for each input channel and tap, are made tile by tile in the memory of a workgroup and lie nowhere
// else.
//
// Layout      x [N, groups * cg, h, w], y and z [N, groups * mg, oh, ow], Elements, row-major.
//             w: for each group, for each block of 4 output channels, [cg, KH, KW] vec4, one lane an output channel
//             (lanes beyond mg are zero); from bias_at on one vec4 for each group and block.
// Bindings    0 sizes, 1 x, 2 w, 3 z (any 16 bytes without SUM), 4 y.
// Workgroup   64 threads make ROWS blocks of 4 output channels x 64 / ROWS fours of pixels, a thread one block of one
//             four; 6,144 B of workgroup memory, written before it is read.
// Limits      ROWS is 4 or 8. Workgroups are numbered y * 65535 + x: images, groups, tiles of channels, tiles of
//             pixels.

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
// Add z to the result.
override SUM: bool = false;
// Blocks of output channels in a tile: few make a wide tile, for layers of few channels.
override ROWS: u32 = 8;

struct Sizes {
    workgroups: u32,
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

// What one thread works on: four pixels from `pixel` on, block `block` of the output channels of a group, and where
// in the tile; row and column of x that the first tap of each pixel reads.
struct Place {
    image: u32,
    group: u32,
    block: u32,
    pixel: u32,
    row: u32,
    column: u32,
    top: vec4<i32>,
    left: vec4<i32>,
}

// Rows of the columns of x in a step.
const DEPTH: u32 = 16u;

@group(0) @binding(0) var<uniform> s: Sizes;
@group(0) @binding(1) var<storage, read_write> x: array<Element>;
@group(0) @binding(2) var<storage, read> w: array<vec4<Element>>;
@group(0) @binding(3) var<storage, read_write> z: array<Element>;
@group(0) @binding(4) var<storage, read_write> y: array<Element>;

// [DEPTH, 64 / ROWS] vec4 of pixels and [DEPTH, ROWS] vec4 of weights.
var<workgroup> values: array<vec4<f32>, 256>;
var<workgroup> weights: array<vec4<f32>, 128>;

fn place(workgroup: u32, lane: u32) -> Place {
    let columns = 64u / ROWS;
    let across = (s.oh * s.ow + 4u * columns - 1u) / (4u * columns);
    let down = ((s.mg + 3u) / 4u + ROWS - 1u) / ROWS;
    let row = lane / columns;
    let column = lane % columns;
    let tile = workgroup / across;
    let pixel = (workgroup % across * columns + column) * 4u;
    let four = vec4<u32>(pixel, pixel + 1u, pixel + 2u, pixel + 3u);
    let top = vec4<i32>(four / s.ow * SH) - vec4<i32>(i32(s.pad_top));
    let left = vec4<i32>(four % s.ow * SW) - vec4<i32>(i32(s.pad_left));
    let block = tile % down * ROWS + row;
    return Place(tile / down / s.groups, tile / down % s.groups, block, pixel, row, column, top, left);
}

fn rectified(value: vec4<f32>, on: bool) -> vec4<f32> {
    return select(value, max(value, vec4<f32>(0.0)), on);
}

// Column r is output channel r, row p pixel p.
fn outer(weight: vec4<f32>, value: vec4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(weight.x * value, weight.y * value, weight.z * value, weight.w * value);
}

// Zero outside of the image.
fn pixel(plane: u32, iy: i32, ix: i32) -> f32 {
    let inside = iy >= 0 && iy < i32(s.h) && ix >= 0 && ix < i32(s.w);
    let at = clamp(iy, 0, i32(s.h) - 1) * i32(s.w) + clamp(ix, 0, i32(s.w) - 1);
    return select(0.0, f32(x[plane * s.h * s.w + u32(at)]), inside);
}

// The pixels of `p` in row `depth` of the columns of x; zeros beyond the last row.
fn load(p: Place, depth: u32) -> vec4<f32> {
    let c = min(depth / (KH * KW), s.cg - 1u);
    let iy = p.top + vec4<i32>(i32(depth / KW % KH * DH));
    let ix = p.left + vec4<i32>(i32(depth % KW * DW));
    let plane = (p.image * s.groups + p.group) * s.cg + c;
    let value = vec4<f32>(
        pixel(plane, iy.x, ix.x),
        pixel(plane, iy.y, ix.y),
        pixel(plane, iy.z, ix.z),
        pixel(plane, iy.w, ix.w),
    );
    return select(vec4<f32>(0.0), rectified(value, RELU_IN), depth < s.cg * KH * KW);
}

fn store(p: Place, r: u32, raw: vec4<f32>) {
    let lane = p.block * 4u + r;
    let value = rectified(raw, RELU_OUT);
    let row = ((p.image * s.groups + p.group) * s.mg + lane) * s.oh * s.ow;
    for (var i = 0u; i < 4u; i++) {
        let column = p.pixel + i;
        if (lane < s.mg && column < s.oh * s.ow) {
            let other = select(0.0, f32(z[select(0u, row + column, SUM)]), SUM);
            y[row + column] = Element(value[i] + other);
        }
    }
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let workgroup = id.y * 65535u + id.x;
    if (workgroup >= s.workgroups) {
        return;
    }
    let p = place(workgroup, lane);
    let columns = 64u / ROWS;
    let blocks = (s.mg + 3u) / 4u;
    let depth = s.cg * KH * KW;
    let pack = p.group * blocks;
    let top = p.block - p.row;
    var sum = outer(vec4<f32>(w[s.bias_at + pack + min(p.block, blocks - 1u)]), vec4<f32>(1.0));
    for (var first = 0u; first < depth; first += DEPTH) {
        for (var i = lane; i < DEPTH * columns; i += 64u) {
            // A step of 64 keeps the column.
            values[i] = load(p, first + i / columns);
        }
        for (var i = lane; i < DEPTH * ROWS; i += 64u) {
            let d = first + i % DEPTH;
            let block = top + i / DEPTH;
            let value = vec4<f32>(w[(pack + min(block, blocks - 1u)) * depth + min(d, depth - 1u)]);
            weights[i % DEPTH * ROWS + i / DEPTH] = select(vec4<f32>(0.0), value, d < depth && block < blocks);
        }
        workgroupBarrier();
        for (var d = 0u; d < DEPTH; d++) {
            sum += outer(weights[d * ROWS + p.row], values[d * columns + p.column]);
        }
        workgroupBarrier();
    }
    store(p, 0u, sum[0]);
    store(p, 1u, sum[1]);
    store(p, 2u, sum[2]);
    store(p, 3u, sum[3]);
}
