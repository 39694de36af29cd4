"""Latency on this machine: all artifacts of a folder are timed in turn, so that they compare.

This is a short measurement, not the benchmark of benchmarks/: full texts of random tokens, no
tokenizing, all artifacts loaded in one process with the threads that each runtime chooses. They
take turns, in another order each round, and each turn begins with an untimed call. Medians count.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from goldfold.exporter import registry
from goldfold.exporter.artifact import bundle
from goldfold.exporter.artifact.bundle import Bundle
from goldfold.exporter.artifact.encoder import Encoder, open_encoder
from goldfold.exporter.errors import ArtifactError, OutputError, TargetError
from goldfold.exporter.progress import Stages
from goldfold.exporter.records import Pace, Speed
from goldfold.exporter.system import processor
from goldfold.exporter.system.clock import Others, in_turn, timed
from goldfold.exporter.system.clock import Side as Timer

SHAPES = ((1, 16), (8, 128))
"""batch × tokens: one short text, and a batch of paragraphs."""
ROUNDS = 5
SECONDS = 2.0
"""Seconds timed per side and shape, in all rounds together; at least one call per round."""


@dataclass
class _Side:
    folder: Path
    bundle: Bundle
    encoder: Encoder
    paces: list[Pace] = field(default_factory=list)


def measure(
    folders: Sequence[Path],
    stages: Stages,
    *,
    shapes: Sequence[tuple[int, int]] = SHAPES,
    rounds: int = ROUNDS,
    seconds: float = SECONDS,
    threads: int | None = None,
) -> tuple[list[Path], dict[str, str]]:
    """Time every artifact of `folders` (artifact folders), and write the figures into its
    verdict.json.

    Returns the artifacts that were timed, and why each other was not, by folder name: it missed its
    gate, is damaged, or this machine cannot run it. A shape longer than a model's texts is left
    out.
    """
    with stages("speed"):
        sides, left = _open(folders, threads)
        others = Others()
        for batch, tokens in shapes:
            able = [side for side in sides if side.encoder.contract.max_length >= tokens]
            stages.detail(f"{batch} × {tokens}, {len(able)} artifacts in turn")
            found = in_turn([_timer(side, batch, tokens) for side in able], rounds, seconds)
            for side, times in zip(able, found, strict=True):
                low, middle, high = (round(float(np.percentile(times, p)), 3) for p in (10, 50, 90))
                pace = Pace(
                    batch=batch, tokens=tokens, median=middle, p10=low, p90=high, calls=len(times)
                )
                side.paces.append(pace)
        share = others.share()
        share = None if share is None else round(share, 3)
        taken = datetime.now(UTC).isoformat(timespec="seconds")
        names = tuple(side.folder.name for side in sides)
        for side in sides:
            speed = Speed(
                shapes=tuple(side.paces),
                cpu=processor.name(),
                processors=os.cpu_count() or 1,
                threads=threads,
                others=share,
                beside=names,
                taken=taken,
            )
            assert side.bundle.verdict is not None
            record = side.bundle.verdict.with_(speed=speed)
            bundle.write_verdict(side.folder, record)
        busy = "" if share is None else f"; others used {share:.0%} of the processors"
        stages.note(f"{len(sides)} artifacts in turn{busy}")
    return [side.folder for side in sides], left


def _open(folders: Sequence[Path], threads: int | None) -> tuple[list[_Side], dict[str, str]]:
    sides: list[_Side] = []
    left: dict[str, str] = {}
    for folder in folders:
        try:
            opened = bundle.open_bundle(folder, check_files=False)
            reason = registry.target(opened.manifest.target).cannot_run(folder)
            if reason is not None:
                left[folder.name] = reason
                continue
            bundle.check_file(folder / bundle.VERDICT, "place: figures are kept there")
            sides.append(_Side(folder, opened, open_encoder(opened, threads)))
        except (ArtifactError, TargetError, OutputError) as error:
            left[folder.name] = str(error).replace(str(folder), folder.name)
    return sides, left


def _timer(side: _Side, batch: int, tokens: int) -> Timer:
    ids = _given(side, batch, tokens)
    mask = np.ones_like(ids)
    return lambda warm, calls: timed(lambda: side.encoder.run(ids, mask), warm, calls)


def _given(side: _Side, batch: int, tokens: int) -> np.ndarray:
    """Returns the same ids for every artifact of a model."""
    size = side.encoder.contract.vocab_size
    return np.random.default_rng(tokens).integers(0, size, (batch, tokens), dtype=np.int64)
