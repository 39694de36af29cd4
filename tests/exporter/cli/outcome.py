"""What a run of the command left behind, and how a refusal looks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from goldfold.exporter.artifact.bundle import REPORT

PAIR = ("--target", "onnxruntime", "--precision", "fp32")


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


Run = Callable[..., Outcome]


def refused(outcome: Outcome, code: int, *culprits: object) -> None:
    """One line on standard error, nothing on standard output, the documented code, the culprit."""
    assert outcome.err.endswith("\n")
    assert len(outcome.err.splitlines()) == 1, outcome.err
    assert outcome.err.startswith("error: ")
    assert "Traceback" not in outcome.err
    assert outcome.out == ""
    for culprit in culprits:
        assert str(culprit) in outcome.err
    assert outcome.code == code


def names(folder: Path) -> set[str]:
    """What lies in a folder, but for the report that every export leaves."""
    found = {path.name for path in folder.iterdir()} if folder.exists() else set()
    return found - {*REPORT}


def flip(file: Path) -> None:
    """Change one bit in the middle of a file."""
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 1
    file.write_bytes(raw)
