"""All goldens of artifacts in the ONNX Runtime of another environment, of which it needs only this
package and numpy:

    PYTHON tests/targets/onnxruntime/measure.py [--to FOLDER] ARTIFACT [ARTIFACT ...]
    PYTHON tests/targets/onnxruntime/measure.py --against FOLDER ARTIFACT [ARTIFACT ...]

prints a line of JSON for each artifact: the version of ONNX Runtime, and the worst 1−cos of its
texts, alone and padded in batches of seven; or the error of the runtime in its own words. The first
keeps the vectors in a folder; the second compares with those instead of the goldens, for artifacts
of integers, whose goldens are further off than runtimes are from each other.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import onnxruntime

BATCH = 7


def measure(folder: Path, to: Path | None = None, against: Path | None = None) -> dict:
    """Returns the figures of one artifact."""
    found = {"onnxruntime": onnxruntime.__version__, "artifact": str(folder)}
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    found["opset"] = manifest["options"].get("opset")
    record = json.loads((folder / "golden" / "golden.json").read_text("utf-8"))
    name = f"{folder.parent.name}-{folder.name}.npy"
    kept = folder / "golden" / "embeddings.npy" if against is None else against / name
    wanted = np.load(kept).astype(np.float64)
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
    if to is not None:
        np.save(to / name, alone)
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
    parser = argparse.ArgumentParser()
    parser.add_argument("--to", type=Path)
    parser.add_argument("--against", type=Path)
    parser.add_argument("artifacts", nargs="+", type=Path)
    given = parser.parse_args()
    for artifact in given.artifacts:
        print(json.dumps(measure(artifact, given.to, given.against)), flush=True)
