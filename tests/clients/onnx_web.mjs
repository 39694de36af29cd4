// Opens a graph in onnxruntime-web (WebAssembly, one thread), embeds three tokens, and prints the
// peak of the process's memory:
//
//   node onnx_web.mjs NODE_MODULES GRAPH.onnx [WEIGHTS...]

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { basename, join, resolve } from "node:path";
import { pathToFileURL } from "node:url";

const [modules, graph, ...weights] = process.argv.slice(2);
const require = createRequire(pathToFileURL(join(resolve(modules), "here.js")));
const ort = await import(pathToFileURL(require.resolve("onnxruntime-web")));
ort.env.wasm.numThreads = 1;
const read = (file) => new Uint8Array(readFileSync(file));
const externalData = weights.map((file) => ({ path: basename(file), data: read(file) }));
const session = await ort.InferenceSession.create(read(graph), { executionProviders: ["wasm"], externalData });
const tensor = (values) => new ort.Tensor("int64", BigInt64Array.from(values), [1, values.length]);
const outputs = await session.run({ input_ids: tensor([2n, 100n, 1n]), attention_mask: tensor([1n, 1n, 1n]) });
for (const [name, made] of Object.entries(outputs)) console.log(name, made.dims, made.data.slice(0, 3));
console.log(`onnxruntime-web ${ort.env.versions.web}, peak ${(process.resourceUsage().maxRSS / 1e6).toFixed(1)} GB`);
