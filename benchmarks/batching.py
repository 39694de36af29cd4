"""What grouping a stream of texts into batches costs: padding, calls, seconds.

    .venv/bin/python -m benchmarks.batching out/openvino-fp32 [--precision bf16 ...] [--json FILE]

First single calls are timed at several batch × tokens, and a line is laid through them:
milliseconds = call + each · batch · tokens. call / each is what a call costs in tokens, the
constant that a target gives (`call_tokens`). Then streams of benchmarks/speed/stream.py, a new one
each round, go through `Encoder.embed` with batches filled in order of length (calls as few as can
be, the usual way) and with those that cost least by several constants, in turn.
"""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from benchmarks import harness
from benchmarks.speed import stream
from goldfold.exporter import registry
from goldfold.exporter.artifact.bundle import open_bundle
from goldfold.exporter.artifact.encoder import Encoder
from goldfold.exporter.evaluate.batches import batches
from tests.exporter.test_batching import filled

SHAPES = (
    (1, 8), (1, 16), (1, 32), (1, 64), (1, 128), (1, 256), (1, 512), (2, 64), (4, 16), (4, 32),
    (8, 16), (8, 32), (8, 64), (16, 16), (16, 64), (32, 8), (32, 16), (32, 32), (32, 64),
)  # fmt: skip
FILLED = "filled"
CONSTANTS = [16, 32, 64, 128]


class Grouped(Encoder):
    """An Encoder that groups as it is told, and counts."""

    call: int | None = None

    def batches(self, lengths: list[int], size: int) -> list[list[int]]:
        found = filled(lengths, size) if self.call is None else batches(lengths, size, self.call)
        self.calls = len(found)
        self.real = sum(lengths)
        self.padded = sum(len(rows) * max(lengths[row] for row in rows) for rows in found)
        return found


def shapes(encoder: Encoder, rounds: int) -> list[dict[str, float]]:
    """Milliseconds of the first call and the median of the later ones, at every shape."""
    rng, found = np.random.default_rng(0), []
    for batch, tokens in SHAPES:
        ids = rng.integers(4, encoder.contract.vocab_size, (batch, tokens))
        mask = np.ones_like(ids)
        call = partial(encoder.run, ids, mask)
        times = [harness.milliseconds(call) for _ in range(rounds + 1)]
        later = float(np.median(times[1:]))
        found.append({"batch": batch, "tokens": tokens, "first_ms": times[0], "ms": later})
    return found


def line(rows: list[dict[str, float]], key: str) -> tuple[float, float]:
    """(call, each) of the line through the times, by least squares of the relative error."""
    x = np.array([[1.0, row["batch"] * row["tokens"]] for row in rows])
    y = np.array([row[key] for row in rows])
    call, each = np.linalg.lstsq(x / y[:, None], np.ones(len(y)), rcond=None)[0]
    return float(call), float(each)


def streams(
    encoder: Grouped, texts: int, size: int, rounds: int, constants: list[int]
) -> dict[str, dict[str, float]]:
    """Seconds, calls and tokens of every way to group, over `rounds` streams."""
    ways: dict[str, int | None] = {FILLED: None, **{str(c): c for c in constants}}
    total = {way: {"s": 0.0, "cpu_s": 0.0, "calls": 0, "real": 0, "padded": 0} for way in ways}
    encoder.embed(stream.texts(8, seed=99))
    for place in range(rounds):
        drawn = stream.texts(texts, seed=place)
        for way in harness.turn(list(ways), place):
            encoder.call = ways[way]
            row = total[way]
            row["s"] -= time.perf_counter()
            row["cpu_s"] -= time.process_time()
            encoder.embed(drawn, prompt="", batch_size=size)
            row["s"] += time.perf_counter()
            row["cpu_s"] += time.process_time()
            row["calls"] += encoder.calls
            row["real"] += encoder.real
            row["padded"] += encoder.padded
    return total


def main(
    artifact: Annotated[Path, typer.Argument(help="An artifact folder.")],
    precision: Annotated[
        list[str] | None, typer.Option(help="What to compute in; the artifact's own by default.")
    ] = None,
    texts: Annotated[int, typer.Option(help="Texts in a stream.")] = 128,
    batch_size: Annotated[int, typer.Option(help="The most texts in a call.")] = 32,
    call: Annotated[list[int], typer.Option(help="What a call costs, in tokens.")] = CONSTANTS,
    lines: Annotated[bool, typer.Option(help="Time single calls as well.")] = True,
    rounds: Annotated[int, typer.Option(help="Streams, and later calls at each shape.")] = 5,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write JSON here.")] = None,
) -> None:
    """Time calls and streams, and print both tables."""
    opened = open_bundle(artifact, check_files=False)
    manifest, console, records = opened.manifest, Console(), []
    for asked in precision or [manifest.precision]:
        target = registry.offered(manifest.target, asked)
        run = target.load(artifact, manifest.contract, asked, None)
        record: dict[str, Any] = {"precision": asked, "computes": target.executes(asked)}
        encoder = Grouped(opened, run)
        record["shapes"] = shapes(encoder, rounds) if lines else []
        for key, said in (("ms", "again"), ("first_ms", "for the first time")) if lines else ():
            each_call, each = line(record["shapes"], key)
            record[f"{key}_line"] = {"call_ms": each_call, "token_ms": each}
            console.print(
                f"{asked}, a shape {said}: {each_call:.1f} ms a call and {each:.3f} ms a token, "
                f"so a call costs {each_call / each:.0f} tokens",
                highlight=False,
            )
        record["streams"] = streams(encoder, texts, batch_size, rounds, call)
        table = Table(
            "a call costs, in tokens", title=f"{rounds} streams of {texts} texts, {asked}"
        )
        for column in ("seconds", "of a CPU", "calls", "tokens", "padding"):
            table.add_column(column, justify="right")
        for way, row in record["streams"].items():
            table.add_row(
                way, f"{row['s']:.1f}", f"{row['cpu_s']:.1f}", f"{row['calls']}",
                f"{row['padded']}", f"{1 - row['real'] / row['padded']:.1%}",
            )  # fmt: skip
        console.print(table)
        records.append(record)
    found = {"model": manifest.contract.model, "target": manifest.target, "found": records}
    harness.record(json_file, found)


if __name__ == "__main__":
    typer.run(main)
