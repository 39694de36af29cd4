"""Results: one artifact of an export or a verification, and its measurements."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from goldfold.exporter import registry
from goldfold.exporter.artifact.bundle import Bundle
from goldfold.golden.compare import Measurement
from goldfold.golden.gate import Verdict


@dataclass(frozen=True)
class Result:
    """One artifact of an export or a verification."""

    path: Path
    """Path of the artifact; ends in `.failed` if it missed its gate."""
    bundle: Bundle
    measurement: Measurement
    verdict: Verdict
    seconds: float
    """Seconds that building and verifying took."""
    unrecorded: str = ""
    """Why verdict.json could not be written, where `verify` measured and could not."""

    @property
    def passed(self) -> bool:
        return self.verdict.passed


def measured(opened: Bundle) -> tuple[str, str]:
    """Returns what is measured on this machine, and why that is not the artifact itself ("" if it
    is)."""
    target = registry.target(opened.manifest.target)
    reason = target.cannot_run(opened.path)
    if reason is None:
        return "the artifact", ""
    return target.reference_name(opened.manifest.floating), reason
