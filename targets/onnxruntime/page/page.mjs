// The page: it opens the artifact beside it, and ranks texts for a query.
import {Refusal, oneLine, open} from "./goldfold.mjs";

const at = (id) => document.getElementById(id);
const asked = new URLSearchParams(location.search);
const threads = asked.has("threads") ? Number(asked.get("threads")) : undefined;

function say(sentence) {
  at("state").textContent = sentence;
}

function refuse(error) {
  if (!(error instanceof Refusal)) console.error(error);
  const sentence = error instanceof Refusal ? error.message : `A fault of this page: ${oneLine(error)}`;
  globalThis.refuse(sentence); // start.js: on the page and in the console
}

function fill(place, sheet, task) {
  const first = new Option("none", "");
  const said = Object.keys(sheet.prompts).filter((name) => sheet.prompts[name]).sort();
  const named = said.map((name) => new Option(name, name));
  place.replaceChildren(first, ...named);
  place.value = said.includes(sheet.tasks[task].prompt) ? sheet.tasks[task].prompt : "";
  place.closest(".prompt").hidden = named.length === 0;
}

function show(model) {
  const {sheet, canaries} = model;
  document.title = `${sheet.model}, ${sheet.precision}`;
  at("model").textContent = sheet.model;
  const where = model.backend === "webgpu" ? "WebGPU"
    : `WebAssembly, ${model.threads} thread${model.threads > 1 ? "s" : ""}`;
  at("facts").textContent = `${sheet.precision}, ${sheet.dim} dimensions. ${where}. ` +
    `${canaries.count} canaries, worst 1−cos ${canaries.worst.toExponential(1)} of ` +
    `${canaries.limit.toExponential(0)}. What you type stays in this browser.`;
  at("notes").replaceChildren(...model.notes.map((note) => {
    console.warn(`goldfold: ${note}`);
    const line = document.createElement("li");
    line.textContent = note;
    return line;
  }));
  at("notes").hidden = model.notes.length === 0;
  fill(at("query-prompt"), sheet, "query");
  fill(at("texts-prompt"), sheet, "document");
  at("state").hidden = true;
  at("work").hidden = false;
  console.info(`goldfold: ready: ${at("facts").textContent}`);
}

async function rank(model) {
  const texts = at("texts").value.split("\n").map((line) => line.trim()).filter(Boolean);
  const each = (done, total) => {
    at("took").textContent = `${done} of ${total}`;
    return new Promise((next) => setTimeout(next)); // the page is drawn
  };
  const begun = performance.now();
  const prompt = at("query-prompt").value;
  const [query] = await model.embed([at("query").value], {task: "query", prompt});
  const rows = await model.embed(texts, {task: "document", prompt: at("texts-prompt").value, each});
  const seconds = (performance.now() - begun) / 1000;
  const found = texts.map((text, k) => ({text, score: model.similarity(query, rows[k])}));
  found.sort((one, other) => other.score - one.score);
  at("ranking").replaceChildren(...found.map(({text, score}) => line(text, score, found)));
  at("ranking").hidden = false;
  at("took").textContent = `${texts.length + 1} texts in ${seconds.toFixed(2)} s`;
}

function line(text, score, found) {
  const [row, bar, words, number] = ["li", "div", "span", "span"].map((n) => document.createElement(n));
  const [most, least] = [found[0].score, Math.min(0, found[found.length - 1].score)];
  bar.className = "bar";
  bar.style.width = `${most > least ? 100 * (score - least) / (most - least) : 100}%`;
  Object.assign(words, {className: "text", textContent: text});
  Object.assign(number, {className: "score", textContent: score.toFixed(4).replace("-", "−")});
  row.append(bar, words, number);
  return row;
}

async function main() {
  if (asked.has("verify")) {
    const {answer} = await import("./verify.mjs");
    const gpu = asked.get("verify") === "webgpu";
    await answer(new URL("answers", location.href), {threads, gpu, say});
    say("verified");
    return;
  }
  const model = await open({threads, gpu: asked.get("gpu") !== "no", say});
  show(model);
  at("work").addEventListener("submit", async (event) => {
    event.preventDefault();
    at("rank").disabled = true;
    try {
      await rank(model);
    } catch (error) {
      refuse(error);
    }
    at("rank").disabled = false;
  });
  await rank(model);
}

main().catch(refuse);
