"""What several threads get out of one encoder: texts a second, memory, and whether bits stay.

    .venv/bin/python -m benchmarks.threads out/openvino-fp32 [--streams 2] [--json FILE]

Threads call `embed`, a text a call. The ways: one encoder as `load` gives it; one of `--streams`
streams; and as a caller does who trusts nothing, a lock around every call. All ways and numbers of
threads take turns in every round, in another order each, and what is printed are medians: of texts
a second, and of the ratio to a single thread of the plain encoder in the same round, which other
work on the machine moves less. Then one caller embeds a list whole, and two threads a half each.
Memory is that of a process of its own a way.
"""

from __future__ import annotations

import multiprocessing
import os
import platform
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from benchmarks import harness
from benchmarks.speed import stream
from goldfold import load
from goldfold.exporter.artifact.encoder import Encoder
from goldfold.exporter.system import clock

PLAIN, LOCKED = "plain", "a lock outside"
THREADS = [1, 2, 4, 16]
TRIES, LEAST = 40, 64
SHORT = 8
"""Words of a short text: a question, some ten tokens."""

Embed = Callable[[list[str]], np.ndarray]


def ways(folder: Path, streams: int) -> dict[str, Embed]:
    plain, several, one = load(folder), load(folder, streams=streams), threading.Lock()

    def locked(texts: list[str]) -> np.ndarray:
        with one:
            return plain.embed(texts, prompt="")

    return {
        PLAIN: lambda texts: plain.embed(texts, prompt=""),
        f"{streams} streams": lambda texts: several.embed(texts, prompt=""),
        LOCKED: locked,
    }


def kinds() -> dict[str, list[str]]:
    drawn = stream.texts(512)
    return {"short": [" ".join(text.split()[:SHORT]) for text in drawn], "mixed": drawn}


def pace(embed: Embed, texts: list[str], threads: int) -> tuple[float, float]:
    """Texts a second where so many threads embed these, each the next that is left; and the share
    of the processors that other processes used meanwhile."""
    left, start = iter(texts), threading.Barrier(threads + 1)

    def work() -> None:
        start.wait()
        for text in left:
            embed([text])

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    start.wait()
    began, others = time.perf_counter(), clock.Others()
    for worker in workers:
        worker.join()
    return len(texts) / (time.perf_counter() - began), others.share() or 0.0


def paces(
    made: dict[str, Embed],
    texts: list[str],
    counts: list[int],
    rounds: int,
    seconds: float,
    quiet: float,
) -> tuple[dict[tuple[str, int], list[float]], float]:
    """By way and number of threads; and the largest share that others had in a turn that counts."""
    turns = [(way, threads) for way in made for threads in counts]
    found: dict[tuple[str, int], list[float]] = {turn: [] for turn in turns}
    for embed in made.values():
        pace(embed, texts, 1)  # kernels for these lengths
    # All turns embed the same texts, as many as take one thread about so long.
    size = int(seconds * pace(made[PLAIN], texts, 1)[0])
    some, worst = texts[: min(max(size, LEAST), len(texts))], 0.0
    for place in range(rounds):
        for way, threads in harness.turn(turns, place * 5):
            tries = [pace(made[way], some, threads)]
            while tries[-1][1] > quiet and len(tries) < TRIES:
                time.sleep(seconds)
                tries.append(pace(made[way], some, threads))
            best, others = min(tries, key=lambda one: one[1])
            found[way, threads].append(best)
            worst = max(worst, others)
    return found, worst


def lists(encoder: Encoder, rounds: int, count: int) -> dict[str, float]:
    """Seconds for a list, whole and in two halves at once; medians."""
    whole, halves = [], []
    for place in range(rounds + 1):
        texts = stream.texts(count, seed=place)
        began = time.perf_counter()
        encoder.embed(texts, prompt="")
        middle = time.perf_counter()
        parts = [texts[::2], texts[1::2]]
        workers = [threading.Thread(target=encoder.embed, args=(p, "")) for p in parts]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        whole.append(middle - began)
        halves.append(time.perf_counter() - middle)
    return {"whole": float(np.median(whole[1:])), "halves": float(np.median(halves[1:]))}


def bits(made: dict[str, Embed], texts: list[str]) -> dict[str, float]:
    """The largest difference of a component to the plain encoder's; 0 is the same to the bit."""
    wanted = [made[PLAIN]([text]) for text in texts]
    return {
        way: max(float(np.abs(embed([t]) - w).max()) for t, w in zip(texts, wanted, strict=True))
        for way, embed in made.items()
    }


def memory(folder: Path, streams: int | None, threads: int) -> dict[str, float]:
    """Resident megabytes once loaded, and after `threads` threads have embedded."""
    encoder = load(folder, streams=streams)
    loaded = resident()
    texts = stream.texts(64)
    pace(lambda some: encoder.embed(some, prompt=""), texts, threads)
    return {"loaded": loaded, "used": resident()}


def resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def main(
    artifact: Annotated[Path, typer.Argument(help="An artifact folder.")],
    streams: Annotated[int, typer.Option(help="Of the second way.")] = os.cpu_count() or 1,
    threads: Annotated[list[int], typer.Option(help="Callers at once; repeatable.")] = THREADS,
    rounds: Annotated[int, typer.Option(help="Turns of everything.")] = 7,
    seconds: Annotated[float, typer.Option(help="Of a turn, about.")] = 1.0,
    quiet: Annotated[
        float, typer.Option(help="Take a turn again if others had more of the processors.")
    ] = 1.0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write JSON here.")] = None,
) -> None:
    """Time all ways in turn, and print the tables."""
    console = Console(width=100)
    fresh = multiprocessing.get_context("spawn")
    most = max(threads)
    used: dict[str, dict[str, float]] = {}
    for way, given in ((PLAIN, None), (f"{streams} streams", streams)):
        with fresh.Pool(1) as pool:
            used[way] = pool.apply(memory, (artifact, given, most))
    made = ways(artifact, streams)
    record: dict[str, Any] = {
        "artifact": artifact.name,
        "processors": os.cpu_count(),
        "system": platform.system(),
        "memory_mb": used,
        "kinds": {},
    }
    for kind, texts in kinds().items():
        found, others = paces(made, texts, threads, rounds, seconds, quiet)
        base = np.array(found[PLAIN, min(threads)])
        table = Table(f"{kind} texts", title=f"texts a second, and times one thread of {PLAIN!r}")
        for count in threads:
            table.add_column(f"{count} threads", justify="right")
        rows: dict[str, dict[str, float]] = {}
        for way in made:
            cells = []
            for count in threads:
                speeds = np.array(found[way, count])
                ratio = float(np.median(speeds / base))
                rows.setdefault(way, {})[str(count)] = float(np.median(speeds))
                rows[way][f"{count} ratio"] = ratio
                cells.append(f"{np.median(speeds):.0f}  {ratio:.2f}×")
            table.add_row(way, *cells)
        console.print(table)
        differ = bits(made, texts[:64])
        record["kinds"][kind] = {"speed": rows, "differ": differ, "others": others}
        said = ", ".join(f"{way} {value:.1e}" for way, value in differ.items() if way != PLAIN)
        console.print(
            f"largest difference to {PLAIN!r} in 64 texts: {said}; others used at most "
            f"{others:.0%} of the processors in a turn",
            highlight=False,
        )
    record["list_s"] = lists(load(artifact), rounds, 128)
    halves = record["list_s"]["whole"] / record["list_s"]["halves"]
    console.print(f"128 texts in two halves at once: {halves:.2f}× the whole", highlight=False)
    for way, row in used.items():
        console.print(
            f"{way}: {row['loaded']:.0f} MB loaded, {row['used']:.0f} after {most} threads",
            highlight=False,
        )
    harness.record(json_file, record)


if __name__ == "__main__":
    typer.run(main)
