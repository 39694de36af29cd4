"""How fast an OpenVINO artifact is, side by side with optimum-intel and sentence-transformers.

    .venv/bin/python -m benchmarks.openvino_speed MODEL --artifact out/openvino-fp32 [--quick]

MODEL is the SentenceTransformer's folder, the artifact what `goldfold export MODEL --target
openvino` wrote; a further --artifact is timed as a further side. The peers are installed, with
exact versions, and export the model with their own tools (benchmarks/speed/peers.py), both once.
Every side of a variant is loaded in a process of its own and they are timed in turn, so that a
machine that slows down slows all of them; one computes at a time. Medians count. `least` is what
the machine's own matmul rate and memory bandwidth allow (benchmarks/speed/machine.py). Linux only.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks import harness
from benchmarks.speed import machine, measure, peers, plot, report, sides, stream
from benchmarks.speed.shapes import few, shape_of
from goldfold.exporter.artifact.bundle import open_bundle
from goldfold.exporter.cli.console import open_console
from goldfold.exporter.errors import GoldfoldError
from goldfold.exporter.verification.goldens import goldens_of

SHAPES = ((1, 16), (1, 128), (8, 128), (32, 64), (1, 512), (1, 2048))
QUICK_SHAPES = ((1, 16), (1, 128), (8, 128))
"""batch × tokens."""
RESULTS = Path(__file__).parent / "results" / "openvino_speed.json"


def main(
    model: Annotated[Path, typer.Argument(help="The SentenceTransformer's folder.")],
    artifact: Annotated[list[Path], typer.Option(help="An openvino-fp32 artifact; repeatable.")],
    variant: Annotated[list[str] | None, typer.Option(help="Only this one; repeatable.")] = None,
    shape: Annotated[list[str] | None, typer.Option(help="As 8x128; repeatable.")] = None,
    side: Annotated[list[str] | None, typer.Option(help="Only this side; repeatable.")] = None,
    quick: Annotated[bool, typer.Option(help="f32 and bf16, three shapes, no more.")] = False,
    texts: Annotated[int, typer.Option(min=0, help="Texts in the stream; 0 is none.")] = 128,
    quality: Annotated[bool, typer.Option(help="Compare with goldens too.")] = True,
    loads: Annotated[bool, typer.Option(help="Load with OpenVINO's cache too.")] = True,
    rounds: Annotated[int, typer.Option(min=1, help="Turns a side takes at a shape.")] = 5,
    seconds: Annotated[float, typer.Option(help="Timed seconds a side and shape.")] = 4.0,
    threads: Annotated[int, typer.Option(min=1, help="Of every side.")] = os.cpu_count() or 1,
    json_file: Annotated[Path, typer.Option("--json", help="The record.")] = RESULTS,
    picture: Annotated[Path | None, typer.Option(help="Also plot into this .png.")] = None,
) -> None:
    """Print the tables and write the record."""
    shapes = [shape_of(text) for text in shape] if shape else QUICK_SHAPES if quick else SHAPES
    wanted = variant or (["f32", "bf16"] if quick else [v.name for v in sides.VARIANTS])
    unknown = set(wanted) - {v.name for v in sides.VARIANTS}
    if unknown:
        raise SystemExit(f"error: no variant {', '.join(sorted(unknown))}")
    try:
        bundle = open_bundle(artifact[0])
    except GoldfoldError as error:
        raise SystemExit(f"error: {error}") from None
    goldens = None if quick or not quality else few(goldens_of(bundle))
    sizes = machine.Model.read(
        json.loads((model / "config.json").read_text("utf-8")), dict(bundle.manifest.attention)
    )
    folders, absent = _folders(model, artifact, side)
    prompt = bundle.manifest.contract.prompts.get("document", "")
    several = [] if quick or not texts else stream.texts(texts, prompt)
    started = time.perf_counter()

    def say(text: str) -> None:
        print(f"{time.perf_counter() - started:7.1f} s  {text}", file=sys.stderr, flush=True)

    record: dict[str, Any] = {
        "model": model.name,
        "machine": {"cpu": harness.processor(), "threads": threads, "system": platform.system()},
        "versions": {
            "goldfold": dict(bundle.manifest.versions),
            "peers": peers.versions(peers.MODERN),
            "st onnx": peers.versions(peers.ONNX),
        },
        "export_s": {name: made.seconds for name, made in folders.exports.items()},
        "absent": absent,
        "stream": {"texts": texts, "sha256": stream.digest(several)} if several else None,
        "variants": [],
        "loads": {},
    }
    with tempfile.TemporaryDirectory() as scratch:
        log = Path(scratch) / "workers.log"
        limits: dict[tuple[str, bool], machine.Limit] = {}
        for chosen in (v for v in sides.VARIANTS if v.name in wanted):
            key = (chosen.precision, chosen.capped)
            if key not in limits:
                say(f"the machine's limit, {chosen.precision}{', capped' * chosen.capped}")
                python = Path(sys.executable)
                limits[key] = machine.measure(chosen.precision, threads, python, chosen.env, log)
            specs = sides.specs(chosen, folders, threads, side)
            record["variants"].append(
                measure.variant(
                    chosen, specs, sizes, limits[key], shapes, several, goldens,
                    (rounds, seconds), log, say,
                )
            )  # fmt: skip
            if loads and not (quick or chosen.at_once or chosen.capped):
                say(f"{chosen.name}: loading with and without a cache")
                record["loads"][chosen.name] = measure.cached_loads(specs, log)
            harness.record(json_file, record)
    report.show(open_console(), record)
    if picture is not None:
        plot.draw(record, picture)


def _folders(
    model: Path, artifacts: list[Path], only: list[str] | None
) -> tuple[sides.Folders, list[str]]:
    """The artifacts and the exports of those peers that take part; why one of them does not."""
    key = model.resolve().name
    exports = {
        sides.OPTIMUM: lambda: peers.optimum_intel(model, key),
        sides.ST_OPENVINO: lambda: peers.sentence_transformers(model, key, "openvino"),
        sides.ST_ONNX: lambda: peers.sentence_transformers(model, key, "onnx"),
    }
    made: dict[str, peers.Exported] = {}
    absent: list[str] = []
    for name, export in exports.items():
        if only and name not in only:
            continue
        try:
            made[name] = export()
        except peers.PeerError as error:
            absent.append(str(error))
    return sides.Folders(tuple(p.absolute() for p in artifacts), model.absolute(), made), absent


if __name__ == "__main__":
    typer.run(main)
