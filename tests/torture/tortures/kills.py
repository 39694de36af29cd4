"""`kill -9` in the middle of an export: what is left is whole, or refused; the next export works.

Half of the moments are drawn from the time that an export takes, half from the things it does to
files below its output folder: the process kills itself just before one of them, every renaming
first, since between two of those an artifact stands in neither place.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tests.torture.tortures import cell, ground

EVENTS = (
    "open",
    "os.rename",
    "os.mkdir",
    "os.remove",
    "os.rmdir",
    "os.truncate",
    "tempfile.mkdtemp",
)
BEYOND = 1 << 60


@dataclass
class Found:
    """What came of the kills."""

    kills: int = 0
    by_time: int = 0
    by_event: int = 0
    too_late: int = 0
    """Exports that had ended before their moment came."""
    seen: dict[str, int] = field(default_factory=dict)
    """Folders in the output folder after a kill, by what they are."""
    left_hidden: int = 0
    """Kills that left a hidden folder."""
    next_worked: int = 0
    broken: list[str] = field(default_factory=list)
    slowest_next: float = 0.0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def torture(
    model: Path, earlier: Path, room: Path, kills: int, seed: int, found: Found | None = None,
    targets: tuple[str, ...] = ground.TARGETS, each: Callable[[], None] = lambda: None,
) -> Found:  # fmt: skip
    """Kill `kills` exports of `model`, over the artifacts in `earlier`, which are of another
    model, and into nothing, in turn."""
    found = found or Found()
    rng = np.random.default_rng(seed)
    for target in targets:
        # Three of ten: an export for OpenVINO, whose tokenizer is converted, costs twice as much.
        share = kills * 3 // 10 if target == "openvino" else kills - kills * 3 // 10
        name = f"{target}-fp32"
        old = (earlier / name / "manifest.json").read_bytes()
        whole = room / "whole"
        shutil.rmtree(whole, ignore_errors=True)
        whole.mkdir(parents=True)
        start = time.monotonic()
        events = _events(model, whole, target, room)
        took = time.monotonic() - start
        new = (whole / name / "manifest.json").read_bytes()
        renames = [place for place, event in events if event == "os.rename"]
        for number in range(share):
            out = room / "out"
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir()
            if number % 4 < 3:  # three of four have something to lose
                shutil.copytree(earlier / name, out / name)
            had = (out / name).exists()
            if number % 2:
                moment: float | int = float(rng.uniform(0, took))
                outcome = cell.attempt(_export(model, out, target), room, moment)
                found.by_time += 1
            else:
                drawn = int(rng.integers(len(events)))
                moment = renames[(number // 2) % len(renames)] if number < 12 else events[drawn][0]
                outcome = cell.attempt(_export(model, out, target, moment), room)
                found.by_event += 1
            found.kills += 1
            what = f"{target}, killed at {moment:.2f}{' s' if number % 2 else '. event'}"
            if outcome.code >= 0:
                found.too_late += 1
            found.broken += [
                f"{what}: {why}" for why in _judge(out, name, had, old, new, room, found)
            ]
            _next(model, out, target, new, what, room, found)
            each()
    for name in ("out", "whole"):
        shutil.rmtree(room / name, ignore_errors=True)
    return found


def _export(model: Path, out: Path, target: str, event: int | None = None) -> Callable[[], int]:
    def work() -> int:
        ground.few_texts()
        last = BEYOND if event is None else event
        if event is not None:
            count = [0]

            def watch(name: str, args: tuple) -> None:
                if _counts(name, args, out):
                    count[0] += 1
                    if count[0] > last:
                        os.kill(os.getpid(), signal.SIGKILL)

            sys.addaudithook(watch)
        return cell.goldfold("export", model, "--target", target, "--quiet", "--out", out)()

    return work


def _counts(name: str, args: tuple, out: Path) -> bool:
    """Whether an audited event does something to a file below `out`."""
    if name not in EVENTS or not args:
        return False
    if name == "open" and not (isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)):
        return False
    return str(args[0]).startswith(f"{out}/")


def _events(model: Path, out: Path, target: str, room: Path) -> list[tuple[int, str]]:
    """What one whole export does to files, in order: (place, name)."""

    def work() -> int:
        ground.few_texts()
        seen: list[str] = []
        sys.addaudithook(lambda name, args: seen.append(name) if _counts(name, args, out) else None)
        code = cell.goldfold("export", model, "--target", target, "--quiet", "--out", out)()
        (room / "events.txt").write_text("\n".join(seen))
        return code

    outcome = cell.attempt(work, room)
    if outcome.code:
        raise RuntimeError(f"the export that is not killed fails: {outcome.err}")
    return list(enumerate((room / "events.txt").read_text().split("\n")))


def _judge(
    out: Path, name: str, had: bool, old: bytes, new: bytes, room: Path, found: Found
) -> list[str]:
    """What is wrong with what a kill left."""
    wrong = []
    left = [p for p in out.rglob("manifest.json") if p.parent.name.startswith(name)]
    hidden = [p for p in out.iterdir() if p.name.startswith(".goldfold-")]
    found.left_hidden += bool(hidden)
    folders = {p.parent for p in left} | {p for p in out.glob(f"*{name}*") if p.is_dir()}
    folders |= {p for h in hidden for p in h.iterdir() if p.is_dir()}
    for folder in sorted(folders):
        known = (
            (folder / "manifest.json").read_bytes() if (folder / "manifest.json").exists() else b""
        )
        place = "in place" if folder.parent == out else "hidden"
        kind = {old: "the earlier one", new: "the new one"}.get(known, "half-made")
        taken = cell.attempt(_opens(folder), room).code == 0
        said = f"{place}: {kind}, {'opened' if taken else 'refused'}"
        found.seen[said] = found.seen.get(said, 0) + 1
        if taken and kind == "half-made":
            wrong.append(f"{folder.name} is opened, and is neither artifact")
        if place == "in place" and not taken:
            wrong.append(f"{folder.name} stands in its place and is refused")
    everywhere = {p.read_bytes() for p in left}
    if had and old not in everywhere and not _holds(out / name, new):
        wrong.append("the earlier artifact is lost, and the new one is not there")
    return wrong


def _holds(folder: Path, manifest: bytes) -> bool:
    return (folder / "manifest.json").exists() and (
        folder / "manifest.json"
    ).read_bytes() == manifest


def _opens(folder: Path) -> Callable[[], int]:
    """What `load` and `verify` open a folder with: every digest, and the verdict."""

    def work() -> int:
        from goldfold.exporter.artifact.bundle import open_bundle
        from goldfold.exporter.errors import GoldfoldError

        try:
            open_bundle(folder)
        except GoldfoldError:
            return 6
        return 0

    return work


def _next(
    model: Path, out: Path, target: str, new: bytes, what: str, room: Path, found: Found
) -> None:
    """The next export works, and clears away what the killed one left."""
    name = f"{target}-fp32"
    outcome = cell.attempt(_export(model, out, target), room)
    found.slowest_next = max(found.slowest_next, outcome.seconds)
    left = sorted(p.name for p in out.iterdir() if p.name.startswith(".goldfold-"))
    if outcome.code:
        found.broken.append(f"{what}: the next export fails: {outcome.err[-200:]}")
    elif left:
        found.broken.append(f"{what}: the next export leaves {left[0]}")
    elif not _holds(out / name, new) or cell.attempt(_opens(out / name), room).code:
        found.broken.append(f"{what}: the next export gives another artifact")
    else:
        found.next_worked += 1
