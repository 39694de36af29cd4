"""One variant measured: load, memory, shapes, stream and quality, as one plain record."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.speed.client import Spec, Worker, WorkerError, interleave, open_all
from benchmarks.speed.machine import Limit, Model
from benchmarks.speed.sides import Variant
from goldfold.exporter.system import clock
from goldfold.golden import compare
from goldfold.golden.store import Goldens

Say = Callable[[str], None]
Shape = tuple[int, int]


def variant(
    asked: Variant,
    specs: Sequence[Spec],
    model: Model,
    limit: Limit,
    shapes: Sequence[Shape],
    stream: list[str],
    goldens: Goldens | None,
    pace: tuple[int, float],
    log: Path,
    say: Say,
) -> dict[str, Any]:
    """Everything about one variant. `pace`: rounds, and seconds a side and shape."""
    rounds, seconds = pace
    with ExitStack() as stack:
        say(f"{asked.name}: loading")
        watch = clock.Others()
        workers, absent = open_all(stack, specs, log)
        record: dict[str, Any] = {
            "variant": asked.name, "precision": asked.precision, "hint": asked.hint,
            "env": asked.env, "limit": limit.record(), "absent": absent,
            "load": {worker.spec.name: _loaded(worker, model) for worker in workers},
            "census": {}, "shapes": [], "stream": None, "quality": {},
        }  # fmt: skip
        for batch, tokens in shapes:
            say(f"{asked.name}: {batch} × {tokens}")
            request = {"batch": batch, "tokens": tokens, "vocabulary": model.vocabulary}
            if asked.at_once:
                request["flock"] = True
            times = interleave(workers, request, rounds, seconds)
            record["shapes"].append(
                {
                    "batch": batch,
                    "tokens": tokens,
                    "least_ms": model.least_ms(batch, tokens, asked.precision, limit),
                    "ms": {name: spread(found) for name, found in times.items()},
                }
            )
        if stream and not asked.at_once:
            record["stream"] = _stream(asked, workers, stream, rounds, say)
        if goldens is not None and not asked.at_once:
            for worker in workers:
                say(f"{asked.name}: quality of {worker.spec.name}")
                record["quality"][worker.spec.name] = quality(worker, goldens)
        record["others"] = watch.share([worker.pid for worker in workers])
    if not asked.at_once:
        say(f"{asked.name}: layers and kernels")
        record["census"] = census(specs, model, log)
    return record


def cached_loads(specs: Sequence[Spec], log: Path) -> dict[str, dict[str, float]]:
    """Seconds to load an IR without OpenVINO's model cache, filling it, and from it."""
    found: dict[str, dict[str, float]] = {}
    for spec in specs:
        if spec.load["kind"] != "openvino":
            continue
        with tempfile.TemporaryDirectory() as cache:
            cached = replace(spec, load={**spec.load, "cache": cache})
            row = {}
            for word, here in (("none", spec), ("filling", cached), ("cached", cached)):
                with Worker(here, log) as worker:
                    row[word] = worker.load_s
            row["cache_bytes"] = sum(file.stat().st_size for file in Path(cache).iterdir())
            found[spec.name] = row
    return found


def _loaded(worker: Worker, model: Model) -> dict[str, Any]:
    """Seconds to load, and what is resident then and after a first call."""
    before = worker.ask("memory")
    worker.ask("time", batch=1, tokens=128, vocabulary=model.vocabulary, warm=0, calls=1)
    return {"s": worker.load_s, "after_load": before, "after_a_call": worker.ask("memory")}


def census(specs: Sequence[Spec], model: Model, log: Path) -> dict[str, Any]:
    """Layers and kernels of each IR at 1 × 128, from a load of its own that counts."""
    found = {}
    for spec in specs:
        if spec.load["kind"] != "openvino":
            continue
        with Worker(replace(spec, load={**spec.load, "profile": True}), log) as worker:
            sizes = {"batch": 1, "tokens": 128, "vocabulary": model.vocabulary}
            worker.ask("time", **sizes, warm=5, calls=1)
            found[spec.name] = worker.ask("census")
    return found


def spread(times: Sequence[float]) -> dict[str, float]:
    low, middle, high = (float(np.percentile(times, p)) for p in (10, 50, 90))
    return {
        "median": middle, "least": min(times), "p10": low, "p90": high, "calls": len(times),
    }  # fmt: skip


def _stream(
    asked: Variant, workers: Sequence[Worker], texts: list[str], rounds: int, say: Say
) -> dict[str, Any]:
    """Seconds of the whole stream through each side's own encode, in turn; the median counts."""
    times: dict[str, list[float]] = {worker.spec.name: [] for worker in workers}
    finite: dict[str, bool] = {}
    refused: list[str] = []
    for place in range(min(rounds, 3)):
        for worker in workers:
            name = worker.spec.name
            if name not in times:
                continue
            say(f"{asked.name}: stream, {name}")
            try:
                answer = worker.ask("stream", texts=texts, batch=32, warm=place == 0)
            except WorkerError as error:
                refused.append(str(error))
                del times[name]
                continue
            times[name].append(answer["s"])
            finite[name] = answer["finite"]
    return {
        "s": {name: statistics.median(found) for name, found in times.items()},
        "finite": finite,
        "refused": refused,
    }


def quality(worker: Worker, goldens: Goldens) -> dict[str, Any]:
    """1−cos against the goldens, each text alone and in padded batches of mixed lengths."""
    texts = {tuple(case.token_ids): case.prompt + case.text for case in goldens.cases}

    def run(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        rows = [tuple(row[m > 0].tolist()) for row, m in zip(ids, mask, strict=True)]
        # For a side that tokenizes itself: measured are the texts behind these tokens.
        behind = [texts.get(row, "") for row in rows] if worker.spec.load.get("texts") else None
        answer = worker.ask("embed", ids=ids.tolist(), mask=mask.tolist(), texts=behind)
        return np.array(answer["embeddings"], dtype=np.float32)

    found = compare.measure(run, goldens)
    broken = [row.id for row in found.rows if not row.alone.finite or not row.padded.finite]
    padded = [row.padded.distance for row in found.rows if row.padded.finite]
    return {
        "texts": len(found.rows), "worst": found.worst, "mean": found.mean,
        "worst_padded": max(padded, default=float("inf")), "not_finite": broken,
    }  # fmt: skip
