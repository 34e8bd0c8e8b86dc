// The mean of every plane and a linear layer behind it: y = mean(x) W^T + bias.
//
// Layout      x [rows, k, pixels] and y [rows, outputs], Elements, row-major. w: [k, blocks] vec4, one lane an
//             output, blocks = ceil(outputs / 4) (lanes beyond `outputs` are zero); from bias_at on [blocks] vec4 of
//             bias.
// Bindings    0 sizes, 1 x, 2 w, 3 y.
// Workgroup   256 threads make 16 blocks of one row, 16 threads a block; each workgroup makes the means of its row
//             anew. 12,288 B of workgroup memory, written before it is read.
// Limits      k is at most 2048. Workgroups are numbered y * 65535 + x: rows, sixteens of blocks.

// What the buffers hold; the half form of the kernel says f16 here. Arithmetic is float32.
alias Element = f32;

struct Sizes {
    groups: u32,
    k: u32,
    pixels: u32,
    outputs: u32,
    bias_at: u32,
}

@group(0) @binding(0) var<uniform> s: Sizes;
@group(0) @binding(1) var<storage, read_write> x: array<Element>;
@group(0) @binding(2) var<storage, read> w: array<vec4<Element>>;
@group(0) @binding(3) var<storage, read_write> y: array<Element>;

var<workgroup> means: array<f32, 2048>;
// What each thread adds up for its block.
var<workgroup> parts: array<vec4<f32>, 256>;

fn store(row: u32, column: u32, value: f32) {
    if (column < s.outputs) {
        y[row * s.outputs + column] = Element(value);
    }
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let group = workgroup.y * 65535u + workgroup.x;
    if (group >= s.groups) {
        return;
    }
    let blocks = (s.outputs + 3u) / 4u;
    let across = (blocks + 15u) / 16u;
    let row = group / across;
    for (var c = lane; c < s.k; c += 256u) {
        let plane = (row * s.k + c) * s.pixels;
        var sum = 0.0;
        for (var i = 0u; i < s.pixels; i++) {
            sum += f32(x[plane + i]);
        }
        means[c] = sum / f32(s.pixels);
    }
    workgroupBarrier();
    let block = group % across * 16u + lane % 16u;
    var sum = vec4<f32>(0.0);
    if (block < blocks) {
        for (var c = lane / 16u; c < s.k; c += 16u) {
            sum += vec4<f32>(w[c * blocks + block]) * means[c];
        }
    }
    parts[lane] = sum;
    workgroupBarrier();
    if (lane < 16u && block < blocks) {
        var total = vec4<f32>(w[s.bias_at + block]);
        for (var i = lane; i < 256u; i += 16u) {
            total += parts[i];
        }
        store(row, block * 4u, total.x);
        store(row, block * 4u + 1u, total.y);
        store(row, block * 4u + 2u, total.z);
        store(row, block * 4u + 3u, total.w);
    }
}
