// Linear layer: y = x W^T + bias.
//
// Layout      x [rows, inputs] and y [rows, outputs], Elements, row-major. w: [inputs, blocks] vec4, one lane an
//             output, blocks = ceil(outputs / 4) (lanes beyond `outputs` are zero); from bias_at on [blocks] vec4 of
//             bias.
// Bindings    0 sizes, 1 x, 2 w, 3 y.
// Workgroup   64 threads; a thread makes 4 outputs of one row. No workgroup memory.
// Limits      threads are numbered (y * 65535 + x) * 64 + lane, so the host folds more than 65535 workgroups into y.

// What the buffers hold; the half form of the kernel says f16 here. Arithmetic is float32.
alias Element = f32;

struct Sizes {
    threads: u32,
    inputs: u32,
    outputs: u32,
    bias_at: u32,
}

@group(0) @binding(0) var<uniform> s: Sizes;
@group(0) @binding(1) var<storage, read_write> x: array<Element>;
@group(0) @binding(2) var<storage, read> w: array<vec4<Element>>;
@group(0) @binding(3) var<storage, read_write> y: array<Element>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let thread = (workgroup.y * 65535u + workgroup.x) * 64u + lane;
    if (thread >= s.threads) {
        return;
    }
    let blocks = (s.outputs + 3u) / 4u;
    let block = thread % blocks;
    let row = thread / blocks;
    var sum = vec4<f32>(w[s.bias_at + block]);
    for (var i = 0u; i < s.inputs; i++) {
        sum += vec4<f32>(w[i * blocks + block]) * f32(x[row * s.inputs + i]);
    }
    let column = block * 4u;
    let at = row * s.outputs + column;
    y[at] = Element(sum.x);
    if (column + 1u < s.outputs) {
        y[at + 1u] = Element(sum.y);
    }
    if (column + 2u < s.outputs) {
        y[at + 2u] = Element(sum.z);
    }
    if (column + 3u < s.outputs) {
        y[at + 3u] = Element(sum.w);
    }
}
