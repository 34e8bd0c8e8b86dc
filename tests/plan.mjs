// Replays a plan with Dawn, the WebGPU of Chromium: a host that knows nothing of this crate but the two files of the plan.
//
//   node tests/plan.mjs MODULES PLAN SAMPLES
//
// MODULES is the folder node_modules that holds the npm package `webgpu`, PLAN a folder that `idarts-compile plan` wrote,
// SAMPLES the `samples.safetensors` that `build` wrote beside the model; the plan's batch is the number of samples. Exits 1
// if a logit is further than 1e-4 + 1e-3 * |expected| from the trained network's.
import { readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';

const [, , modules, folder, samples] = process.argv;
if (!samples) throw new Error('usage: node tests/plan.mjs MODULES PLAN SAMPLES');
const { create, globals } = await import(pathToFileURL(join(resolve(modules), 'webgpu/index.js')));
Object.assign(globalThis, globals);

const { program, kernels } = JSON.parse(readFileSync(join(folder, 'plan.json'), 'utf8'));
if (program.storage !== 'float32') throw new Error(`the plan stores ${program.storage}; this host reads and writes float32`);
const weightBytes = readFileSync(join(folder, 'weights.bin'));
const tensors = readSafetensors(samples);

// Kept alive: without it nothing that is awaited ends.
const gpu = create([]);
const adapter = await gpu.requestAdapter();
if (!adapter) throw new Error('Dawn finds no adapter; run it as tests/drivers.sh swiftshader node ...');
const subgroups = Object.values(kernels).some((kernel) => kernel.subgroups);
const device = await adapter.requestDevice({ requiredFeatures: subgroups ? ['subgroups'] : [] });
const errors = [];
device.addEventListener('uncapturederror', (event) => errors.push(event.error.message));

const usage = GPUBufferUsage;
const upload = (bytes, flags) => {
    const buffer = device.createBuffer({ size: Math.max(16, Math.ceil(bytes.byteLength / 4) * 4), usage: flags | usage.COPY_DST });
    device.queue.writeBuffer(buffer, 0, bytes);
    return buffer;
};
const buffers = program.buffers.map((size) =>
    device.createBuffer({ size, usage: usage.STORAGE | usage.COPY_DST | usage.COPY_SRC }));
const weights = upload(weightBytes, usage.STORAGE);
const part = (buffer, offset, size) => ({ buffer, offset, size });
const place = ({ buffer, offset, bytes }) => part(buffers[buffer], offset, bytes);

const made = new Map();
const pipeline = ({ kernel, constants }) => {
    const key = JSON.stringify([kernel, constants]);
    if (!made.has(key)) {
        const { wgsl, entry, subgroups } = kernels[kernel];
        const module = device.createShaderModule({ code: subgroups ? `enable subgroups;\n${wgsl}` : wgsl });
        const compute = { module, entryPoint: entry, constants: Object.fromEntries(constants) };
        made.set(key, device.createComputePipeline({ layout: 'auto', compute }));
    }
    return made.get(key);
};
const launches = program.steps.flatMap((step) => step.dispatches).map((dispatch) => {
    const sizes = new Uint32Array(Math.ceil(dispatch.sizes.length / 4) * 4);
    sizes.set(dispatch.sizes);
    const reads = dispatch.reads.map((read) =>
        read.value ? place(read.value) : part(weights, read.weights.offset, read.weights.bytes));
    const resources = [{ buffer: upload(sizes, usage.UNIFORM) }, ...reads, place(dispatch.write)];
    const chosen = pipeline(dispatch);
    const entries = resources.map((resource, binding) => ({ binding, resource }));
    const bindings = device.createBindGroup({ layout: chosen.getBindGroupLayout(0), entries });
    return { pipeline: chosen, bindings, workgroups: dispatch.workgroups };
});

const [input] = program.inputs;
const [output] = program.outputs;
device.queue.writeBuffer(buffers[input.place.buffer], input.place.offset, tensors.images);
const count = output.shape.reduce((a, b) => a * b, 1);
const staging = device.createBuffer({ size: 4 * count, usage: usage.MAP_READ | usage.COPY_DST });
const encoder = device.createCommandEncoder();
const pass = encoder.beginComputePass();
for (const launch of launches) {
    pass.setPipeline(launch.pipeline);
    pass.setBindGroup(0, launch.bindings);
    pass.dispatchWorkgroups(...launch.workgroups);
}
pass.end();
encoder.copyBufferToBuffer(buffers[output.place.buffer], output.place.offset, staging, 0, 4 * count);
device.queue.submit([encoder.finish()]);
await staging.mapAsync(GPUMapMode.READ);
const got = new Float32Array(staging.getMappedRange().slice(0));

const expected = tensors.logits;
if (errors.length > 0 || expected.length !== got.length) {
    console.error(errors[0] ?? `${got.length} logits, expected are ${expected.length}`);
    process.exit(1);
}
const far = [...got].filter((x, i) => !(Math.abs(x - expected[i]) <= 1e-4 + 1e-3 * Math.abs(expected[i])));
const worst = Math.max(...got.map((x, i) => Math.abs(x - expected[i])));
console.log(`dawn: ${launches.length} dispatches, ${got.length} logits, largest difference ${worst.toExponential(1)}`);
process.exit(far.length > 0 ? 1 : 0);

// The float32 tensors of a safetensors file by name.
function readSafetensors(path) {
    const bytes = readFileSync(path);
    const length = Number(bytes.readBigUInt64LE(0));
    const header = JSON.parse(bytes.subarray(8, 8 + length).toString('utf8'));
    const floats = ([start, end]) => {
        const data = bytes.subarray(8 + length + start, 8 + length + end);
        return new Float32Array(data.buffer.slice(data.byteOffset, data.byteOffset + data.length));
    };
    const entries = Object.entries(header).filter(([, tensor]) => tensor.dtype === 'F32');
    return Object.fromEntries(entries.map(([name, tensor]) => [name, floats(tensor.data_offsets)]));
}
