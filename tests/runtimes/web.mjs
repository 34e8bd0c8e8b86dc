// Runs a model in onnxruntime-web on WebAssembly: node web.mjs MODEL INPUT OUTPUT N C H W, raw float32 files.
import { readFileSync, writeFileSync } from "node:fs";
import * as ort from "onnxruntime-web";

const [model, input, output, ...dims] = process.argv.slice(2);
ort.env.wasm.numThreads = 1;
const session = await ort.InferenceSession.create(readFileSync(model), { executionProviders: ["wasm"] });
const bytes = readFileSync(input);
const data = new Float32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
const results = await session.run({ input: new ort.Tensor("float32", data, dims.map(Number)) });
writeFileSync(output, Buffer.from(results.logits.data.buffer, results.logits.data.byteOffset, results.logits.data.length * 4));
