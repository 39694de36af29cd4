"""A disk that fills up during an export: a clear error, nothing half-made, nothing lost.

The output folder is a file system in memory of a chosen size, which holds an earlier artifact and
then has room for only a part of the next. The sizes are drawn over all that an export writes.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tests.torture.tortures import cell, ground, kills

FULL = ("No space left on device", "the disk takes no more")


@dataclass
class Found:
    """What came of the disks."""

    disks: int = 0
    refused: int = 0
    enough: int = 0
    """Disks on which the export found room after all."""
    messages: dict[str, int] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    skipped: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@contextmanager
def disk(place: Path, size: int) -> Iterator[Path]:
    """A file system of `size` bytes at `place`. PermissionError if this process may not."""
    place.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
    done = subprocess.run(mount, capture_output=True, text=True)
    if done.returncode:
        raise PermissionError(done.stderr.strip())
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def size_of(folder: Path) -> int:
    """Bytes of a folder's files, each rounded up to a page, as tmpfs counts them."""
    return sum(-(-p.stat().st_size // 4096) * 4096 for p in folder.rglob("*") if p.is_file())


def torture(
    model: Path, earlier: Path, room: Path, disks: int, seed: int, found: Found | None = None,
    targets: tuple[str, ...] = ground.TARGETS, each: Callable[[], None] = lambda: None,
) -> Found:  # fmt: skip
    """`disks` exports of `model` for each target, each on a disk with less free than it needs."""
    found = found or Found()
    rng = np.random.default_rng(seed)
    for target in targets:
        name = f"{target}-fp32"
        held = size_of(earlier / name)
        for number in range(disks):
            # One draw from each part of what it writes, so that every file meets the end once.
            free = int(held * (number + rng.random()) / disks)
            try:
                with disk(room / "disk", held + free + (64 << 10)) as out:
                    shutil.copytree(earlier / name, out / name)
                    _one(model, out, target, free, earlier / name, room, found)
                each()
            except PermissionError as error:
                found.skipped = f"no file system may be mounted here: {error}"
                return found
    return found


def _one(
    model: Path, out: Path, target: str, free: int, earlier: Path, room: Path, found: Found
) -> None:
    found.disks += 1
    what = f"{target}, {free >> 10} KiB free"
    before = cell.snapshot(out / earlier.name)
    outcome = cell.attempt(kills._export(model, out, target), room)
    if outcome.code == 0:
        found.enough += 1
        if cell.attempt(kills._opens(out / earlier.name), room).code:
            found.broken.append(f"{what}: taken for exported, and cannot be opened")
        return
    found.refused += 1
    said = outcome.err.strip()
    short = f"code {outcome.code}: {said.replace(str(out), 'OUT')}"
    short = re.sub(r"\.goldfold-[^/]+", ".goldfold-…", re.sub(r" \(.*|; make .*", "", short))[:160]
    found.messages[short] = found.messages.get(short, 0) + 1
    if outcome.sudden or "Traceback (most" in said or len(said.splitlines()) != 1:
        found.broken.append(f"{what}: code {outcome.code}, not one line: {said[:300]}")
    elif outcome.code != 5 or not any(w in said for w in FULL):
        found.broken.append(f"{what}: does not say that the disk is full: {short}")
    if cell.snapshot(out / earlier.name) != before:
        found.broken.append(f"{what}: the earlier artifact has changed")
    if cell.attempt(kills._opens(out / earlier.name), room).code:
        found.broken.append(f"{what}: the earlier artifact cannot be opened")
    left = sorted(p.name for p in out.iterdir() if p.name != earlier.name)
    if left:
        found.broken.append(f"{what}: left {left[0]}")
