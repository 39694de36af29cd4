"""All goldens of artifacts in the ONNX Runtime of another environment, of which it needs only this
package and numpy:

    PYTHON tests/targets/older_runtime.py ARTIFACT [ARTIFACT ...]

prints a line of JSON for each artifact: the version of ONNX Runtime, and the worst 1−cos of its
texts, alone and padded in batches of seven; or the error of the runtime in its own words.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime

BATCH = 7


def measure(folder: Path) -> dict:
    """Returns the figures of one artifact."""
    found = {"onnxruntime": onnxruntime.__version__, "artifact": str(folder)}
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    found["opset"] = manifest["options"].get("opset")
    record = json.loads((folder / "golden" / "golden.json").read_text("utf-8"))
    wanted = np.load(folder / "golden" / "embeddings.npy").astype(np.float64)
    texts = [list(map(int, case["token_ids"].split())) for case in record["cases"]]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(
            str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:
        return {**found, "refused": str(error).splitlines()[0]}
    contract = manifest["contract"]

    def run(rows: list) -> np.ndarray:
        longest = max(map(len, rows))
        ids = np.full((len(rows), longest), contract["pad_id"], np.int64)
        mask = np.zeros_like(ids)
        for row, tokens in enumerate(rows):
            ids[row, : len(tokens)], mask[row, : len(tokens)] = tokens, 1
        fed = {"input_ids": ids, "attention_mask": mask}
        return np.asarray(session.run([contract["output"]], fed)[0], np.float64)

    alone = np.concatenate([run([tokens]) for tokens in texts])
    spans = range(0, len(texts), BATCH)
    padded = np.concatenate([run(texts[start : start + BATCH]) for start in spans])
    return {
        **found,
        "texts": len(texts),
        "worst": float(apart(alone, wanted).max()),
        "padded": float(apart(padded, wanted).max()),
    }


def apart(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """1−cos of each row, as half the squared distance of unit vectors, which loses no digits."""
    one, two = (a / np.linalg.norm(a, axis=-1, keepdims=True) for a in (rows, others))
    return np.square(one - two).sum(axis=-1) / 2


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        print(json.dumps(measure(Path(argument))), flush=True)
