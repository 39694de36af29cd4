// A verification (`goldfold verify --in chromium` or `--in node`): jobs come from the server that
// served the folder, and each answer goes there with the request for the next job.
import {oneLine, open} from "./goldfold.mjs";

/** Answers jobs at `channel` until there are no more. `how` is for `open`. */
export async function answer(channel, how) {
  let model = null;
  let reply = await attempt(async () => {
    const begun = performance.now();
    model = await open({...how, judged: true});
    const {backend, threads, version, canaries, notes} = model;
    const seconds = (performance.now() - begun) / 1000;
    const engine = globalThis.process?.version ? `Node ${process.version}` : navigator.userAgent;
    return {backend, threads, version, canaries, notes, seconds, engine};
  });
  for (;;) {
    const next = await fetch(channel, {method: "POST", ...reply});
    if (!next.ok) throw new Error(`no verification is asked for here (${next.status})`);
    const job = await next.json();
    if (job.end) return;
    reply = await attempt(() => done(model, job));
  }
}

async function done(model, job) {
  if (job.tokenize) {
    return {ids: job.tokenize.map(({text, length}) => model.tokenize(text, length))};
  }
  const {data, dims} = await model.run(job.ids, job.mask, job.output);
  return {rows: data, shape: dims.join(",")};
}

/** The body and headers of an answer: JSON, or the numbers of a tensor as they lie in memory. */
async function attempt(call) {
  let found;
  try {
    found = await call();
  } catch (error) {
    found = {error: oneLine(error)};
  }
  if (found.rows) return {body: found.rows, headers: {"X-Shape": found.shape}};
  return {body: JSON.stringify(found), headers: {"Content-Type": "application/json"}};
}
