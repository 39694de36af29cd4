"""What NNCF's weight compression makes of the same graph: size, and 1−cos on the goldens.

    goldfold export MODEL --target openvino --skip fold-norm-gain --out plain
    .venv/bin/python benchmarks/nncf_integers.py plain/openvino-fp32 [--only KIND ...]

Folded gains make outlier columns, which no quantizer should be given; so they are not folded.
NNCF runs in the peers' environment (benchmarks/peers.txt), on goldfold's own fp32 artifact for
OpenVINO, with goldfold's calibration texts where it takes data. What it makes is run in OpenVINO
with f32 around the integers and no rounding of activations, as goldfold's weight-only recipes are,
each golden text of up to 300 tokens alone. The head, which bears no 8 bits, is left to NNCF only
where it says so: elsewhere it stays floating, as in goldfold's recipes, and so do the rotary tables
always. What stays floating is saved in fp16. The record is benchmarks/results/nncf_integers.json.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.quantize_recipes import errors  # noqa: E402
from benchmarks.speed import peers  # noqa: E402
from goldfold.exporter.artifact.bundle import open_bundle  # noqa: E402
from goldfold.exporter.quantize import texts  # noqa: E402
from goldfold.golden import store  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "nncf_integers.json"
KINDS = {
    "int8, head too": {"mode": "INT8_SYM", "head": True},
    "int8": {"mode": "INT8_SYM"},
    "int8 asymmetric": {"mode": "INT8_ASYM"},
    "int4": {"mode": "INT4_SYM", "group_size": 32},
    "int4, scale estimation": {"mode": "INT4_SYM", "group_size": 32, "scale_estimation": True},
    "int4, AWQ and scale estimation": {
        "mode": "INT4_SYM", "group_size": 32, "awq": True, "scale_estimation": True,
    },
    "int4, GPTQ": {"mode": "INT4_SYM", "group_size": 32, "gptq": True},
    "int4 in 60 %, scale estimation": {
        "mode": "INT4_SYM", "group_size": 32, "scale_estimation": True, "ratio": 0.6,
    },
}  # fmt: skip

_CHILD = """
import json, sys, time
import numpy as np, openvino as ov, nncf
xml, texts, out, asked = sys.argv[1:]
how = json.loads(asked)
kept = np.load(texts)
def feed(row):
    ids = row[row >= 0][None]
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}
core = ov.Core()
model = core.read_model(xml)
how["mode"] = getattr(nncf.CompressWeightsMode, how["mode"])
left = [op.get_friendly_name() for op in model.get_ops() if op.get_type_name() == "Gather"
        and op.input(0).get_partial_shape().is_static
        and op.input(0).get_partial_shape().to_shape()[0] < 10000]
if not how.pop("head", False):
    left += [op.get_friendly_name() for op in model.get_ops() if op.get_type_name() == "MatMul"
             and op.get_output_partial_shape(0).rank.get_length() == 2]
how["ignored_scope"] = nncf.IgnoredScope(names=left)
data = any(how.get(word) for word in ("awq", "scale_estimation", "gptq")) or "ratio" in how
if data:
    rows = [feed(row) for row in kept["calibration"]]
    how |= {"dataset": nncf.Dataset(rows), "subset_size": len(rows)}
began = time.perf_counter()
model = nncf.compress_weights(model, **how)
seconds = time.perf_counter() - began
ov.save_model(model, out + "/model.xml", compress_to_fp16=True)
options = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
compiled = core.compile_model(core.read_model(out + "/model.xml"), "CPU", options)
rows = [compiled(feed(row))[0][0] for row in kept["goldens"]]
np.savez(out + "/made.npz", embeddings=np.stack(rows), seconds=seconds)
"""


def main(
    artifact: Annotated[Path, typer.Argument(help="goldfold's fp32 artifact for OpenVINO.")],
    only: Annotated[list[str] | None, typer.Option(help=f"Of {', '.join(KINDS)}.")] = None,
) -> None:
    """Print the table and write the record."""
    if unknown := set(only or ()) - set(KINDS):
        raise SystemExit(
            f"error: no kind is called {unknown.pop()!r}; there are {', '.join(KINDS)}"
        )
    bundle = open_bundle(artifact)
    goldens = store.load(artifact / "golden").within(300)
    tokenizer = Tokenizer.from_file(str(artifact / "tokenizer.json"))
    tokenizer.enable_truncation(bundle.manifest.contract.max_length)
    prompts = ["", *dict.fromkeys(bundle.manifest.contract.prompts.values())]
    authored = texts.calibration_texts()
    drafts = [*authored, *(prompts[i % len(prompts)] + text for i, text in enumerate(authored))]
    python = peers.prepare(peers.MODERN)
    record = json.loads(RESULTS.read_text("utf-8")) if RESULTS.is_file() else {}
    with tempfile.TemporaryDirectory() as room:
        given = Path(room) / "texts.npz"
        np.savez(
            given,
            calibration=_rows([one.ids for one in tokenizer.encode_batch(drafts)]),
            goldens=_rows([case.token_ids for case in goldens.cases]),
        )
        for kind in only or KINDS:
            command = [str(python), "-c", _CHILD, str(artifact / "openvino_model.xml")]
            subprocess.run([*command, str(given), room, json.dumps(KINDS[kind])], check=True)
            made = np.load(f"{room}/made.npz")
            distances = errors(made["embeddings"], np.asarray(goldens.embeddings))
            size = sum((Path(room) / f"model.{kind}").stat().st_size for kind in ("bin", "xml"))
            record[kind] = {
                "bytes": size,
                "worst": float(distances.max()),
                "mean": float(distances.mean()),
                "worst text": goldens.cases[int(distances.argmax())].id,
                "seconds": round(float(made["seconds"]), 1),
            }
            RESULTS.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    shown = Table("NNCF", "MB", "worst 1−cos", "mean", "worst text", "s", box=SIMPLE_HEAD)
    for kind, row in record.items():
        shown.add_row(
            kind, f"{row['bytes'] / 1e6:.0f}", f"{row['worst']:.1e}", f"{row['mean']:.1e}",
            row["worst text"], str(row["seconds"]),
        )  # fmt: skip
    Console().print(shown)


def _rows(sequences) -> np.ndarray:
    """int64 [texts, longest], filled up with −1."""
    found = np.full((len(sequences), max(map(len, sequences))), -1, np.int64)
    for row, ids in zip(found, sequences, strict=True):
        row[: len(ids)] = ids
    return found


if __name__ == "__main__":
    typer.run(main)
