// Compiles every shader with Dawn, the WebGPU of Chromium: a second opinion on the WGSL, besides naga's.
//
//   node tests/dawn.mjs MODULES     MODULES is the folder node_modules that holds the npm package `webgpu`
//
// Every entry point becomes a pipeline with the default override constants, so that its bindings and workgroup are checked
// too; where the adapter has 16-bit floats, so does every entry point of the form that stores values in them. Exits 1 if a shader does not compile. Needs a Vulkan driver that Dawn accepts:
// SwiftShader does, lavapipe up to Mesa 22.3 does not.
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';

const modules = process.argv[2];
if (!modules) throw new Error('usage: node tests/dawn.mjs MODULES');
const { create, globals } = await import(pathToFileURL(join(resolve(modules), 'webgpu/index.js')));
Object.assign(globalThis, globals);

const gpu = create([]);
const adapter = await gpu.requestAdapter();
if (!adapter) throw new Error('Dawn finds no adapter; run it as tests/drivers.sh swiftshader node ...');
const subgroups = adapter.features.has('subgroups');
const half = adapter.features.has('shader-f16');
const requiredFeatures = [...(subgroups ? ['subgroups'] : []), ...(half ? ['shader-f16'] : [])];
const device = await adapter.requestDevice({ requiredFeatures });
if (!half) console.log('SKIPPED: the forms that store values in float16: the adapter has no shader-f16');
const folder = join(dirname(fileURLToPath(import.meta.url)), '../shaders');
let compiled = 0;
const failed = [];
for (const file of readdirSync(folder).filter((name) => name.endsWith('.wgsl')).sort()) {
    const plain = readFileSync(join(folder, file), 'utf8');
    if (file.includes('_subgroup') && !subgroups) {
        console.log(`SKIPPED: ${file}: the adapter has no subgroups`);
        if (process.env.IDARTS_REQUIRE_ALL) failed.push(`${file}: skipped`);
        continue;
    }
    // naga takes subgroups as they are, and no line that enables them; WGSL wants it.
    const single = file.includes('_subgroup') ? `enable subgroups;\n${plain}` : plain;
    const forms = [single];
    if (half) forms.push(`enable f16;\n${single.replace('alias Element = f32;', 'alias Element = f16;')}`);
    for (const code of forms) await compile(file, code);
}
failed.forEach((line) => console.error(line));
console.log(`dawn: ${compiled} entry points compiled, ${failed.length} errors`);
process.exit(failed.length > 0 || compiled === 0 ? 1 : 0);

async function compile(file, code) {
    device.pushErrorScope('validation');
    const module = device.createShaderModule({ code });
    const messages = (await module.getCompilationInfo()).messages.filter((m) => m.type === 'error');
    failed.push(...messages.map((m) => `${file}:${m.lineNum}: ${m.message}`));
    await device.popErrorScope();
    if (messages.length > 0) return;
    for (const [, entryPoint] of code.matchAll(/@compute\s+@workgroup_size\([^)]*\)\s*fn\s+(\w+)/g)) {
        device.pushErrorScope('validation');
        device.createComputePipeline({ layout: 'auto', compute: { module, entryPoint } });
        const error = await device.popErrorScope();
        if (error) failed.push(`${file}:${entryPoint}: ${error.message}`);
        else compiled += 1;
    }
}
