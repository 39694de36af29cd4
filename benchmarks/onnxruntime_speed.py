"""How fast ONNX files are in ONNX Runtime, side by side with optimum's and sentence-transformers'.

    .venv/bin/python -m benchmarks.onnxruntime_speed MODEL --artifact out/onnxruntime-fp32
        [--artifact out/onnxruntime-int8] [--shape 1x16] [--quality] [--json FILE]

Every file is opened by a plain session, without any option but its number of threads, in a process
of its own, and they are timed in turn, so that a machine that slows down slows all of them; one
computes at a time. The peers are optimum's export, its levels O1 to O3 and sentence-transformers'
dynamic int8 (`benchmarks/speed/peers.py`), each the transformer alone, with the mean and the norm
in NumPy. Printed are the medians, and the least of all calls in brackets; the ratios are of
medians, to the first artifact. With --quality, 1−cos to the goldens as well. Linux only.
"""

from __future__ import annotations

import os
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from benchmarks import harness
from benchmarks.speed import measure, peers
from benchmarks.speed.client import Spec, interleave, open_all
from benchmarks.speed.roster import OPTIMUM, QINT8
from benchmarks.speed.shapes import few, shape_of
from goldfold.exporter.artifact.bundle import open_bundle
from goldfold.exporter.cli.console import open_console
from goldfold.exporter.errors import GoldfoldError
from goldfold.exporter.system import clock
from goldfold.exporter.verification.goldens import goldens_of
from goldfold.golden.store import Goldens

SHAPES = ("1x16", "1x128", "8x128", "32x64", "1x512")
PEERS = {name.removeprefix("optimum-"): file for name, file in OPTIMUM.items()} | {"qint8": QINT8}


def main(
    model: Annotated[Path, typer.Argument(help="The SentenceTransformer's folder.")],
    artifact: Annotated[list[Path], typer.Option(help="An onnxruntime artifact; repeatable.")],
    shape: Annotated[list[str], typer.Option(help="As 8x128; repeatable.")] = list(SHAPES),  # noqa: B006
    peer: Annotated[list[str], typer.Option(help="Only this peer, or none.")] = list(PEERS),  # noqa: B006
    quality: Annotated[bool, typer.Option(help="Compare with goldens too.")] = False,
    rounds: Annotated[int, typer.Option(min=1, help="Turns a side takes at a shape.")] = 5,
    seconds: Annotated[float, typer.Option(help="Timed seconds a side and shape.")] = 3.0,
    threads: Annotated[int, typer.Option(min=1, help="Of every side.")] = os.cpu_count() or 1,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write JSON here.")] = None,
) -> None:
    """Print the table and write the record."""
    try:
        bundles = [open_bundle(one) for one in artifact]
    except GoldfoldError as error:
        raise SystemExit(f"error: {error}") from None
    goldens = few(goldens_of(bundles[0])) if quality else None
    contract = bundles[0].manifest.contract
    longest = min(one.manifest.contract.max_length for one in bundles)
    specs = [_ours(one, threads) for one in artifact]
    absent: list[str] = []
    wanted = [name for name in peer if name != "none"]
    if wanted:
        try:
            specs += _peers(model, wanted, threads)
        except peers.PeerError as error:
            absent.append(str(error))
    record: dict[str, Any] = {
        "model": model.name,
        "machine": {"cpu": harness.processor(), "threads": threads},
        "versions": {"ours": dict(bundles[0].manifest.versions)},
        "shapes": {},
        "load": {},
        "quality": {},
    }
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        watch = clock.Others()
        workers, missing = open_all(stack, specs, Path(scratch) / "workers.log")
        for one in workers:
            record["load"][one.spec.name] = {"s": one.load_s, **one.ask("memory")}
        for text in shape:
            batch, tokens = shape_of(text)
            if tokens > longest:
                absent.append(f"{text}: the model's longest text has {longest} tokens")
                continue
            print(f"{batch} × {tokens} ...", file=sys.stderr, flush=True)
            asked = {"batch": batch, "tokens": tokens, "vocabulary": contract.vocab_size}
            times = interleave(workers, asked, rounds, seconds)
            record["shapes"][text] = {name: measure.spread(found) for name, found in times.items()}
        if goldens is not None:
            for one in workers:
                record["quality"][one.spec.name] = measure.quality(one, goldens)
        record["others"] = watch.share([one.pid for one in workers])
    record["absent"] = [*absent, *missing]
    harness.record(json_file, record)
    _show(record, goldens)


def _ours(artifact: Path, threads: int) -> Spec:
    name = f"{artifact.parent.name}/{artifact.name}"
    file = next(artifact.glob("*.onnx"))
    load = {
        "kind": "onnxruntime", "onnx": str(file), "threads": threads, "imports": ["onnxruntime"]
    }  # fmt: skip
    return Spec(name, Path(sys.executable), load)


def _peers(model: Path, names: list[str], threads: int) -> list[Spec]:
    """Raises PeerError where optimum exports nothing of this model."""
    folder = peers.optimum_onnx(model.absolute(), model.resolve().parent.name).folder
    found = []
    for name in names:
        file = folder / "onnx" / PEERS[name]
        load = {
            "kind": "onnxruntime", "onnx": str(file), "threads": threads, "imports": ["onnxruntime"]
        }  # fmt: skip
        found.append(Spec(name, peers.prepare(peers.ONNX), load))
    return found


def _show(record: dict[str, Any], goldens: Goldens | None) -> None:
    console = open_console()
    names = list(record["load"])
    table = Table(
        "batch × tokens", *names, box=SIMPLE_HEAD,
        title="milliseconds: median (least), times as fast as the first", title_justify="left",
    )  # fmt: skip
    for text, row in record["shapes"].items():
        first = row[names[0]]["median"]
        cells = [
            f"{row[n]['median']:.1f} ({row[n]['least']:.1f}) {first / row[n]['median']:.2f}×"
            for n in names
        ]
        table.add_row(text.replace("x", " × "), *cells)
    load = [f"{record['load'][n]['s']:.1f} s, {record['load'][n]['own'] / 1e6:.0f}" for n in names]
    table.add_row("load, own MB", *load)
    if goldens is not None:
        found = [record["quality"][n] for n in names]
        table.add_row("worst, mean 1−cos", *(f"{q['worst']:.1e}, {q['mean']:.1e}" for q in found))
    console.print(table)
    console.print(f"others used {record['others'] or 0:.0%} of the processors", highlight=False)
    for sentence in record["absent"]:
        console.print(f"not measured: {sentence}", highlight=False, markup=False)


if __name__ == "__main__":
    typer.run(main)
