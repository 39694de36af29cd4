// Embeds texts with the real transformers.js, from a folder that `goldfold layout` made.
//
//   node transformers_js.mjs NODE_MODULES LAYOUT DTYPE TEXTS.json OUT.json
//
// TEXTS.json is {texts, batch}; a batch of 0 asks for tokens alone. OUT.json has, a text: `ids` and `vectors` of the layout's own
// embed.mjs, and `plain`, the ids of the library alone with truncation.

import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { basename, dirname, join, resolve } from "node:path";
import { pathToFileURL } from "node:url";

const [modules, layout, dtype, given, out] = process.argv.slice(2);
const require = createRequire(pathToFileURL(join(resolve(modules), "here.js")));
const transformers = await import(pathToFileURL(require.resolve("@huggingface/transformers")));
const place = resolve(layout);
transformers.env.allowRemoteModels = false;
transformers.env.localModelPath = dirname(place);

const helper = await import(pathToFileURL(join(place, "embed.mjs")));
const { texts, batch } = JSON.parse(readFileSync(given, "utf8"));
const name = basename(place);
const options = dtype === "default" ? {} : { dtype };
const embed = batch ? await helper.open(transformers, name, options) : null;
const tokenizer = await transformers.AutoTokenizer.from_pretrained(name);

const vectors = [];
for (let at = 0; batch && at < texts.length; at += batch) {
  const made = await embed(texts.slice(at, at + batch), "");
  vectors.push(...made.tolist());
}
const plain = (text) => tokenizer([text], { padding: true, truncation: true }).input_ids.tolist()[0].map(Number);
const ids = (text) => {
  try {
    return helper.tokens(tokenizer, text);
  } catch (error) {
    return String(error);
  }
};
const found = {
  ids: texts.map(ids),
  plain: batch ? texts.map(plain) : [],
  vectors,
  version: transformers.env.version,
};
if (process.env.TRY_PIPELINE) {
  const extractor = await transformers.pipeline("feature-extraction", name, options);
  found.pipeline = [];
  for (const how of [{}, { pooling: "mean" }, { pooling: "cls" }]) {
    try {
      found.pipeline.push(String(await extractor(texts[0], how)));
    } catch (error) {
      found.pipeline.push(String(error));
    }
  }
}
writeFileSync(out, JSON.stringify(found));
