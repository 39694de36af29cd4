// An artifact of goldfold in a browser, or in Node: every byte is checked, then three canaries, and
// only then does anything embed. `open` is all that another page needs:
//
//   import {open} from "./goldfold.mjs";
//   const model = await open();
//   const [row] = await model.embed(["a text"], {task: "query"});

/** A fault in one sentence: what is wrong, where, what to do. */
export class Refusal extends Error {}

/** The most bytes of one file: an ArrayBuffer of more is not to be had in every browser. */
export const LIMIT = 2 ** 31 - 1;

const FORMAT = "goldfold.web/1";
const IN_NODE = typeof process !== "undefined" && process.versions?.node !== undefined;
// (module (func (result v128) (i8x16.splat (i32.const 0))))
const SIMD = [0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0];
SIMD.push(10, 8, 1, 6, 0, 65, 0, 253, 15, 11);

/**
 * Opens the artifact whose folder lies at `base`. `threads` limits the threads of WebAssembly,
 * `gpu: false` leaves WebGPU alone, `say` is told what happens, in words. `ort` is the runtime where
 * it is loaded already, as in Node. With `judged` the canaries are reported and refuse nothing.
 */
export async function open({base, threads, gpu = true, say = () => {}, ort, judged = false} = {}) {
  const root = new URL(base ?? new URL(".", import.meta.url));
  const folder = new URL(".", import.meta.url);
  checkEngine();
  const notes = [];
  const granted = threadsHere(threads, notes);
  const sheet = await record(root, "web.json");
  if (sheet.format !== FORMAT) {
    throw new Refusal(`web.json is of the format ${sheet.format}, and this page reads ${FORMAT}: ` +
      "lay the artifact out again.");
  }
  const canaries = await record(root, "canaries.json");
  for (const [name, {size}] of Object.entries(sheet.files)) checkSize(name, size);
  const read = (name) => load(root, name, sheet.files[name], say, notes);
  const [graph, config, words] = await Promise.all(
    ["model/model.onnx", "model/tokenizer_config.json", "model/tokenizer.json"].map(read));
  const tokenize = await tokenizer(folder, words, config, sheet);
  const data = [];
  for (const path of sheet.external) data.push({path, data: await read(`model/${path}`)});
  const parts = {folder, sheet, read, graph, data, granted, say, notes, ort};
  let model = null;
  if (gpu && !IN_NODE && sheet.runtime.webgpu) model = await onGpu(parts, tokenize, canaries);
  if (model === null) {
    model = new Model(sheet, await onWasm(parts), tokenize, notes);
    say("computing three canaries");
    await model.sing(canaries, judged);
  }
  for (const note of notes) say(note);
  return model;
}

/** An opened artifact. */
class Model {
  constructor(sheet, opened, tokenize, notes) {
    Object.assign(this, {sheet, tokenize, notes, ...opened});
  }

  /** Returns a Float32Array a text, prompts by the task ("", "query", "document") or by name. */
  async embed(texts, {task = "", prompt, each = () => {}} = {}) {
    const {prompts, tasks} = this.sheet;
    const name = prompt ?? tasks[task].prompt;
    if (name && !(name in prompts)) throw new Refusal(`The model has no prompt ${name}.`);
    const output = this.sheet.unpooled[name] ?? this.sheet.output;
    const rows = [];
    for (const [at, text] of texts.entries()) {
      const ids = this.tokenize((prompts[name] ?? "") + text, tasks[task].length);
      if (!ids.length) throw new Refusal(`Text ${at + 1} has no tokens, so it has no embedding.`);
      rows.push((await this.run([ids], [ids.map(() => 1)], output)).data);
      each(at + 1, texts.length);
    }
    return rows;
  }

  /** Runs token ids and a mask, both [texts][tokens]; returns the tensor of one output. */
  async run(ids, mask, output = this.sheet.output) {
    const dims = [ids.length, ids[0].length];
    const feeds = {
      [this.sheet.inputs[0]]: this.integers(0, ids.flat(), dims),
      [this.sheet.inputs[1]]: this.integers(1, mask.flat(), dims),
    };
    for (const name of Object.keys(feeds)) {
      if (!this.session.inputNames.includes(name)) delete feeds[name];
    }
    const found = (await this.session.run(feeds, [output]))[output];
    for (const tensor of Object.values(feeds)) tensor.dispose();
    return found;
  }

  integers(place, values, dims) {
    const name = this.sheet.inputs[place];
    const known = this.session.inputMetadata?.find((one) => one.name === name);
    if (known?.type === "int32") return new this.ort.Tensor("int32", Int32Array.from(values), dims);
    return new this.ort.Tensor("int64", BigInt64Array.from(values, BigInt), dims);
  }

  /** How alike two embeddings are, as the model compares them; a distance is negative. */
  similarity(one, other) {
    const kind = this.sheet.similarity;
    if (kind === "dot") return dot(one, other);
    if (kind === "euclidean") return -Math.sqrt(sum(one, (x, k) => (x - other[k]) ** 2));
    if (kind === "manhattan") return -sum(one, (x, k) => Math.abs(x - other[k]));
    const size = Math.sqrt(dot(one, one)) * Math.sqrt(dot(other, other));
    return dot(one, other) / Math.max(size, 1e-12);
  }

  /** Computes the canaries. Throws a Refusal where one differs by more than the artifact's gate. */
  async sing(canaries, judged = false) {
    const {limit, texts} = canaries;
    let fault = Array.isArray(texts) && texts.length > 0 && limit > 0
      ? null : "canaries.json holds no canaries: lay the artifact out again.";
    this.canaries = {count: fault ? 0 : texts.length, worst: 0, limit};
    for (const [at, known] of (fault ? [] : texts).entries()) {
      const said = `Canary ${at + 1} of ${texts.length} (${JSON.stringify(known.text.slice(0, 40))})`;
      const ids = this.tokenize(known.prompt + known.text, this.sheet.tasks[known.task].length);
      if (ids.length !== known.token_ids.length || ids.some((id, k) => id !== known.token_ids[k])) {
        fault ??= `${said} has other token ids here than its golden: nothing is embedded.`;
      }
      const output = known.output ?? this.sheet.output;
      const row = (await this.run([known.token_ids], [known.token_ids.map(() => 1)], output)).data;
      const apart = distance(row, known.embedding);
      this.canaries.worst = Math.max(this.canaries.worst, apart);
      if (!(apart <= limit)) {
        fault ??= `${said} is ${apart.toExponential(1)} (1−cos) from its stored vector, over the ` +
          `artifact's limit of ${limit.toExponential(0)}: nothing is embedded.`;
      }
    }
    this.canaries.fault = fault;
    if (fault && !judged) throw new Refusal(fault);
  }
}

/** 1−cos, as half the squared distance of the unit vectors; infinite for what is not finite. */
export function distance(one, other) {
  const sizes = [one, other].map((row) => Math.sqrt(dot(row, row)));
  if (one.length !== other.length || !sizes.every((size) => size > 0 && Number.isFinite(size))) {
    return Infinity;
  }
  return 0.5 * sum(one, (x, k) => (x / sizes[0] - other[k] / sizes[1]) ** 2);
}

const sum = (row, term) => {
  let total = 0;
  for (let k = 0; k < row.length; k++) total += term(row[k], k);
  return total;
};
const dot = (one, other) => sum(one, (x, k) => x * other[k]);

// --- what this engine can do

function checkEngine() {
  if (!IN_NODE && globalThis.location?.protocol === "file:") {
    throw new Refusal("This page was opened from a file, where a browser loads no modules and no " +
      "data: serve the folder over http, as `python3 -m http.server` does.");
  }
  if (typeof WebAssembly === "undefined" || !WebAssembly.validate(new Uint8Array(SIMD))) {
    throw new Refusal("This browser has no WebAssembly with SIMD, which ONNX Runtime needs: " +
      "update it, or use Chrome 91, Firefox 89, Safari 16.4 or newer.");
  }
}

function threadsHere(asked, notes) {
  const cores = globalThis.navigator?.hardwareConcurrency ?? 1;
  const wanted = Math.max(1, Math.min(asked ?? cores, IN_NODE ? 64 : 16));
  if (IN_NODE || wanted === 1 || globalThis.crossOriginIsolated) return wanted;
  notes.push("There is no shared memory, so one thread computes: serve the page with the headers " +
    "Cross-Origin-Opener-Policy: same-origin and Cross-Origin-Embedder-Policy: require-corp.");
  return 1;
}

// --- files

async function record(root, name) {
  let answer;
  try {
    answer = await fetch(new URL(name, root), {cache: "no-cache"});
  } catch {
    throw new Refusal(`${name} cannot be reached: is the server that served this page still there?`);
  }
  if (!answer.ok) throw new Refusal(`${name} is missing (${answer.status}): copy the whole folder.`);
  try {
    return await answer.json();
  } catch {
    throw new Refusal(`${name} is damaged, it is no JSON: copy the folder again.`);
  }
}

function checkSize(name, size) {
  if (size > LIMIT) {
    throw new Refusal(`${name} has ${(size / 1e9).toFixed(1)} GB, and a browser holds no file over ` +
      "2 GB: use an artifact of fewer bits, as int8 or int4.");
  }
}

/** The bytes of a file, of exactly the size and the sha256 that web.json states. */
async function load(root, name, known, say, notes) {
  if (known === undefined) throw new Refusal(`web.json does not name ${name}: it is damaged.`);
  let answer;
  try {
    answer = await fetch(new URL(name, root));
  } catch {
    throw new Refusal(`${name} cannot be reached: is the server that served this page still there?`);
  }
  if (!answer.ok) throw new Refusal(`${name} is missing (${answer.status}): copy the whole folder.`);
  let bytes;
  try {
    bytes = new Uint8Array(known.size);
  } catch {
    throw new Refusal(`There is no memory here for ${name}, ${(known.size / 1e6).toFixed(0)} MB: ` +
      "close other pages, or use an artifact of fewer bits, as int8 or int4.");
  }
  let at = 0;
  try {
    for (const reader = answer.body.getReader(); ;) {
      const {done, value} = await reader.read();
      if (done) break;
      if (at + value.length <= bytes.length) bytes.set(value, at);
      at += value.length;
      if (known.size > 1e7) say(`loading ${name}: ${Math.floor(100 * at / known.size)} %`);
    }
  } catch {
    throw new Refusal(`${name} broke off after ${at} of ${known.size} bytes: load the page again.`);
  }
  if (at !== known.size) {
    throw new Refusal(`${name} has ${at} bytes, not ${known.size}: it is not whole, or another ` +
      "file; copy the folder again.");
  }
  if (globalThis.crypto?.subtle === undefined) {
    const said = "Digests are not checked, for this page is neither https nor of this machine.";
    if (!notes.includes(said)) notes.push(said);
  } else if (await digest(bytes, name) !== known.sha256) {
    throw new Refusal(`${name} is not the file that was laid out, its sha256 differs: copy the ` +
      "folder again.");
  }
  return bytes;
}

async function digest(bytes, name) {
  let found;
  try {
    found = await crypto.subtle.digest("SHA-256", bytes);
  } catch {
    throw new Refusal(`The sha256 of ${name} cannot be computed here, for lack of memory: close ` +
      "other pages, or use an artifact of fewer bits, as int8 or int4.");
  }
  return Array.from(new Uint8Array(found), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

async function module(folder, name) {
  try {
    return await import(new URL(name, folder));
  } catch (error) {
    throw new Refusal(`${name} does not load (${oneLine(error)}): copy the folder again.`);
  }
}

// --- tokens

async function tokenizer(folder, words, config, sheet) {
  const {Tokenizer} = await module(folder, "runtime/tokenizers.min.mjs");
  const parse = (bytes) => JSON.parse(new TextDecoder().decode(bytes));
  let made;
  try {
    made = new Tokenizer(parse(words), parse(config));
  } catch (error) {
    throw new Refusal(`The tokenizer's library does not know this tokenizer: ${oneLine(error)}.`);
  }
  return (text, length) => {
    const whole = made.encode(text).ids;
    if (whole.length <= length) return whole;
    // Special tokens stand around what is cut: those of an empty text, before it and after it.
    const bare = made.encode(text, {add_special_tokens: false}).ids;
    const before = around(whole, bare);
    const after = whole.slice(before.length + bare.length);
    const kept = Math.max(0, length - before.length - after.length);
    const cut = sheet.truncation_side === "left" ? bare.slice(bare.length - kept) : bare.slice(0, kept);
    return [...before, ...cut, ...after];
  };
}

function around(whole, bare) {
  for (let at = 0; at + bare.length <= whole.length; at++) {
    if (bare.every((id, k) => whole[at + k] === id)) return whole.slice(0, at);
  }
  throw new Refusal("The tokenizer changes a text where it adds special tokens, so a long text " +
    "cannot be cut here: shorten it.");
}

// --- sessions

async function onWasm({folder, sheet, read, graph, data, granted, say, ort: given}) {
  const ort = await runtime(folder, sheet.runtime.wasm, read, given);
  ort.env.wasm.numThreads = granted;
  say(`opening the model, ${granted} thread${granted > 1 ? "s" : ""}`);
  const session = await create(ort, graph, data, {executionProviders: ["wasm"]});
  return {ort, session, backend: "wasm", threads: granted, version: ort.env.versions.web};
}

/** The model on WebGPU; null where there is none, or where it computes something else. */
async function onGpu(parts, tokenize, canaries) {
  const {folder, sheet, read, graph, data, say, notes} = parts;
  if (!(await adapter())) return null;
  let model = null;
  try {
    const ort = await runtime(folder, sheet.runtime.webgpu, read);
    ort.env.wasm.numThreads = 1;
    say("opening the model on WebGPU");
    const session = await create(ort, graph, data, {executionProviders: ["webgpu"]});
    const version = ort.env.versions.web;
    model = new Model(sheet, {ort, session, backend: "webgpu", threads: 1, version}, tokenize, notes);
    await model.sing(canaries);
    return model;
  } catch (error) {
    await model?.session.release().catch(() => {});
    notes.push(`WebGPU is not used: ${oneLine(error)}`);
    return null;
  }
}

async function adapter() {
  try {
    return await globalThis.navigator?.gpu?.requestAdapter();
  } catch {
    return null;
  }
}

async function runtime(folder, {script, loader, wasm}, read, given) {
  const ort = given ?? await module(folder, script);
  if (!given) {
    const [mjs, binary] = [loader, wasm].map((name) => new URL(name, folder).href);
    ort.env.wasm.wasmPaths = {mjs, wasm: binary};
  }
  ort.env.wasm.wasmBinary = await read(wasm); // so its digest is checked as well
  return ort;
}

async function create(ort, graph, data, how) {
  try {
    return await ort.InferenceSession.create(graph, {...how, externalData: data});
  } catch (error) {
    const size = (data.reduce((all, one) => all + one.data.length, graph.length) / 1e6).toFixed(0);
    const full = /alloc|memory|out of bounds|too (large|big)|\b\d{6,}\b/i.test(error?.message ?? error);
    throw new Refusal(`The runtime cannot open the model, ${size} MB (${oneLine(error)})` +
      (full ? ": WebAssembly has 4 GB at most; use an artifact of fewer bits, as int8 or int4." : "."));
  }
}

/** What an error says, in one line. */
export function oneLine(error) {
  return String(error?.message ?? error).replace(/\s+/g, " ").trim().slice(0, 300);
}
