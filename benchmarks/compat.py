"""Twenty planted drifts and forty comparisons without one: what `goldfold compat` finds.

    .venv/bin/python -m benchmarks.compat [--artifacts FOLDER] [--pairs 200] [--drawn 200]

The model is the packaged all-MiniLM-L6-v2. Its artifacts are taken from FOLDER where they lie
there, and exported into it otherwise. The drifts are planted in sentence-transformers, in files of
vectors, or in what an artifact says of itself (benchmarks/compat_drifts.py); a drift is found where
the verdict is not `compatible`, or the comparison is refused. The forty comparisons are between
floating precisions, targets, batch sizes, threads, orders and stored forms of the same model: each
must be `compatible`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.table import Table

from benchmarks.compat_drifts import Planted, St, memory, plants
from goldfold import export
from goldfold.exporter.cli.console import open_console
from goldfold.exporter.contract import Task
from goldfold.exporter.errors import UsageError
from goldfold.exporter.frontend.packaged import MINILM, locate
from goldfold.exporter.index import contracts
from goldfold.exporter.index import texts as index_texts
from goldfold.exporter.index.compatibility import Asked, How, compare, of_index
from goldfold.exporter.index.sides import Side, open_side
from goldfold.exporter.index.texts import Sets
from goldfold.exporter.index.verdict import Compatibility
from goldfold.exporter.progress import Stages

NAMES = ("onnxruntime-fp32", "onnxruntime-fp16", "openvino-fp32", "openvino-fp16", "openvino-bf16")
"""The floating artifacts; all are compared with each other, both ways."""
INTEGERS = "onnxruntime-int4"


@dataclass(frozen=True)
class Bench:
    """What all comparisons share."""

    sides: dict[str, Side]
    int4: Side
    st: St
    sets: Sets


def main(
    artifacts: Annotated[Path | None, typer.Option(help="Folder of the artifacts.")] = None,
    pairs: Annotated[int, typer.Option(help="Docstrings and functions.")] = 200,
    drawn: Annotated[int, typer.Option(help="Drawn texts.")] = 200,
) -> None:
    """Print the table of planted drifts and that of comparisons without one."""
    with tempfile.TemporaryDirectory() as spare:
        folder = artifacts or Path(spare)
        _export(folder)
        bench = _bench(folder, pairs, drawn)
        console = open_console()
        found = _drifts(bench)
        console.print(found[0])
        alarms = _alarms(bench)
        console.print(alarms[0])
    print(f"{found[1]} of {found[2]} drifts found; {alarms[1]} false alarms of {alarms[2]}")
    raise typer.Exit(int(found[1] < found[2] or alarms[1] > 0))


def _export(folder: Path) -> None:
    for name in (*NAMES, INTEGERS):
        if not (folder / name).is_dir():
            target, _, precision = name.partition("-")
            export(locate(MINILM), [target], [precision], folder, locate=False)


def _bench(folder: Path, pairs: int, drawn: int) -> Bench:
    sides = {name: memory(open_side(folder / name)) for name in NAMES}
    sets = index_texts.standard(pairs, drawn, sides[NAMES[0]].contract.max_length)
    return Bench(sides, memory(open_side(folder / INTEGERS)), St(locate(MINILM)), sets)


def _drifts(bench: Bench) -> tuple[Table, int, int]:
    table = _table("planted drift", "found", "verdict", "why, or the likely cause")
    count = found = 0
    for planted in plants(bench.sides[NAMES[0]], bench.int4, bench.st):
        said = _said(bench, planted)
        count, found = count + 1, found + (said[0] != "compatible")
        table.add_row(planted.name, "yes" if said[0] != "compatible" else "NO", *said)
    return table, found, count


def _said(bench: Bench, planted: Planted) -> tuple[str, str]:
    stages = Stages()
    try:
        if planted.index is not None:
            base = bench.sides[NAMES[0]]
            texts = list(bench.sets.documents)
            rows = planted.index(base.embed(texts, "document"), texts)
            done = of_index(planted.new, rows, texts, Asked(), stages)
        else:
            contracts.size(planted.old, planted.new, None)
            done = compare(planted.old, planted.new, bench.sets, stages)
    except UsageError as error:
        return "refused", str(error)
    why = (*done.causes, *done.reasons)
    return done.verdict, why[0] if why else "-"


def _alarms(bench: Bench) -> tuple[Table, int, int]:
    table = _table("comparison without a drift", "verdict", "worst 1−cos", "loss at most")
    count = alarms = 0
    for name, done in _innocent(bench):
        count, alarms = count + 1, alarms + (done.verdict != "compatible")
        most = max((one.upper or 0.0 for one in (*done.retrieval[:2], *done.indexes)), default=0.0)
        said = done.verdict if done.verdict == "compatible" else done.sentence
        table.add_row(name, said, f"{done.drift.worst:.1e}", f"{most:.2%}")
    return table, alarms, count


def _innocent(bench: Bench) -> Iterator[tuple[str, Compatibility]]:
    """Yields forty comparisons: twenty of artifacts, both ways; then stored vectors, batch sizes,
    orders, threads and other texts."""
    stages, how = Stages(), Asked(how=How(drawn=1000))
    for old in NAMES:
        for new in NAMES:
            if old != new:
                yield (
                    f"{old} → {new}",
                    compare(bench.sides[old], bench.sides[new], bench.sets, stages),
                )
    texts = list(bench.sets.documents)
    base = bench.sides[NAMES[0]]
    for name in NAMES:
        side = bench.sides[name]
        rows = side.embed(texts, "document")
        for kind in (np.float32, np.float16):
            yield (
                f"an index in {kind.__name__} by {name}",
                of_index(base, rows.astype(kind), texts, how, stages),
            )
    order = np.random.default_rng(1).permutation(len(texts))
    changed = {
        "one text at a time": lambda some, task: np.concatenate(
            [base.embed([text], task) for text in some]
        ),
        "texts in another order": lambda some, task: _reordered(base, some, task),
        "sentence-transformers": bench.st.embed(),
        "sentence-transformers, batches of 7": bench.st.embed(batch_size=7),
        "one thread": open_side(Path(base.name), threads=1).embed,
    }
    for name, embed in changed.items():
        other = memory(replace(base, embed=embed, name=name))
        yield f"fp32 → {name}", compare(base, other, bench.sets, stages)
    some = [texts[row] for row in order]
    yield (
        "an index in another order, with its texts",
        of_index(base, base.embed(some, "document"), some, how, stages),
    )
    for seed in range(4):
        few = np.random.default_rng(seed).choice(len(bench.sets.texts), 120, replace=False)
        own = index_texts.of_texts([bench.sets.texts[row] for row in few])
        yield (
            f"other texts, seed {seed}",
            compare(bench.sides[NAMES[seed % 5]], bench.sides[NAMES[(seed + 1) % 5]], own, stages),
        )


def _reordered(base: Side, some: list[str], task: Task) -> np.ndarray:
    order = np.random.default_rng(2).permutation(len(some))
    out = np.empty((len(some), base.contract.dim), np.float32)
    out[order] = base.embed([some[row] for row in order], task)
    return out


def _table(*headings: str) -> Table:
    table = Table(pad_edge=False, box=None)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table


if __name__ == "__main__":
    typer.run(main)
