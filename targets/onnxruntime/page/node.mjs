// `goldfold verify --in node`: the same folder, opened by Node instead of a browser.
//
//   node node.mjs http://127.0.0.1:PORT/TOKEN/ THREADS
import * as ort from "onnxruntime-web";
import {answer} from "./verify.mjs";

const [base, threads] = process.argv.slice(2);
await answer(new URL("answers", base), {base, threads: Number(threads), ort});
process.exit(0); // the threads of WebAssembly would keep it
