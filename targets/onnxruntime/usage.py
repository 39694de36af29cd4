"""Lines of use of an artifact of ONNX Runtime (targets/usage.py)."""

from __future__ import annotations

from collections.abc import Iterator

from goldfold.exporter.contract import Contract
from goldfold.targets import usage
from goldfold.targets.usage import Use

_JAVASCRIPT = """\
// goldfold layout {folder} --for transformers.js --out laid
import * as transformers from "@huggingface/transformers";
import {{ open }} from "./laid/embed.mjs";

const embed = await open(transformers, "./laid");
const vectors = await embed(["a question"]{prompt});"""


def uses(contract: Contract, folder: str) -> Iterator[Use]:
    """Yields the ways to use one, beside goldfold and load.py."""
    found = usage.plain(
        contract,
        (
            "import numpy as np",
            "import onnxruntime as ort",
            "from tokenizers import Tokenizer",
            "",
            "options = ort.SessionOptions()  # else activations are rounded beside integers",
            'options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")',
            'session = ort.InferenceSession("model.onnx", options)',
        ),
        f'session.run(["{contract.output}"], feeds)[0]',
    )
    if found is not None:
        yield found
    if contract.task == "embedding" and contract.frame is None:
        prompt = ', "query"' if "query" in contract.prompts else ""
        yield Use(
            "JavaScript, with transformers.js",
            "js",
            _JAVASCRIPT.format(folder=folder, prompt=prompt),
            "`goldfold layout` says so where these vectors cannot be had there; `--for web` makes "
            "a page for browsers, `fastembed` and `vespa` are further layouts.",
        )
