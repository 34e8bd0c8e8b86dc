// The mean of every plane.
//
// Layout      x [planes, pixels] and y [planes], Elements, row-major; a plane is one channel of one image.
// Bindings    0 sizes, 1 x, 2 y.
// Workgroup   64 threads make one plane; 256 B of workgroup memory, written before it is read.
// Limits      workgroups are numbered y * 65535 + x, so the host folds more than 65535 into y.

// What the buffers hold; the half form of the kernel says f16 here. Arithmetic is float32.
alias Element = f32;

struct Sizes {
    planes: u32,
    pixels: u32,
}

@group(0) @binding(0) var<uniform> s: Sizes;
@group(0) @binding(1) var<storage, read_write> x: array<Element>;
@group(0) @binding(2) var<storage, read_write> y: array<Element>;

var<workgroup> part: array<f32, 64>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let plane = workgroup.y * 65535u + workgroup.x;
    // A workgroup too many sums nothing but must reach the barriers.
    let pixels = select(0u, s.pixels, plane < s.planes);
    var sum = 0.0;
    for (var i = lane; i < pixels; i += 64u) {
        sum += f32(x[plane * s.pixels + i]);
    }
    part[lane] = sum;
    workgroupBarrier();
    for (var span = 32u; span > 0u; span /= 2u) {
        if (lane < span) {
            part[lane] += part[lane + span];
        }
        workgroupBarrier();
    }
    if (lane == 0u && plane < s.planes) {
        y[plane] = Element(part[0] / f32(s.pixels));
    }
}
