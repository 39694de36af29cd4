"""Lays artifacts out for a client, embeds all golden texts with it, and prints how far the vectors
are from the stored ones:

    export GOLDFOLD_NODE_MODULES=js GOLDFOLD_FASTEMBED=fe/bin/python
    .venv/bin/python -m tests.clients transformers.js out/onnxruntime-fp32
    .venv/bin/python -m tests.clients fastembed out/onnxruntime-fp32
    .venv/bin/python -m tests.clients vespa out/onnxruntime-fp32

Of several artifacts, transformers.js gets one layout, and each precision is asked for.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from goldfold.exporter.artifact.layout import lay_out
from goldfold.exporter.errors import GoldfoldError
from goldfold.golden import store
from tests.clients import running


def main() -> None:
    """Print a line for each artifact."""
    reader = argparse.ArgumentParser(prog="python -m tests.clients", description=__doc__)
    reader.add_argument("client", choices=("transformers.js", "fastembed", "vespa"))
    reader.add_argument("artifacts", nargs="+", type=Path)
    reader.add_argument("--batch", type=int, default=8)
    reader.add_argument("--drawn", action="store_true", help="compare tokens of drawn texts alone")
    asked = reader.parse_args()
    if reason := running.unavailable(asked.client):
        sys.exit(reason)
    one = asked.client == "transformers.js"
    groups = [asked.artifacts] if one else [[artifact] for artifact in asked.artifacts]
    for group in groups:
        with TemporaryDirectory() as room:
            try:
                place = lay_out(group[0], asked.client, Path(room) / "layout", group[1:]).path
            except GoldfoldError as error:
                sys.exit(f"error: {error}")
            files = {path.name: path for path in (place / "onnx").glob("*.onnx")} if one else {}
            for artifact in group:
                if asked.drawn:
                    count, other = running.drawn(asked.client, place)
                    print(f"{artifact.name}: {count} drawn texts, {len(other)} with other tokens")
                    for text in other:
                        print(f"  {text!r}")
                    continue
                dtype = _dtype(artifact) if one else "default"
                goldens = store.load(artifact / "golden")
                found = running.run(asked.client, place, goldens, dtype, asked.batch)
                print(f"{artifact.name}{f' ({dtype})' if files else ''}: {found}", flush=True)
                for said in found.pipeline:
                    print(f"  pipeline: {said}")


def _dtype(artifact: Path) -> str:
    from goldfold.exporter.artifact.manifest import read_manifest
    from goldfold.exporter.contract import Served
    from goldfold.targets.onnxruntime.transformers_js import dtype

    said = read_manifest(artifact)
    return dtype(Served(artifact, said.contract, said.precision, said.floating, said.needs))


if __name__ == "__main__":
    main()
