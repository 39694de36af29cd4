"""The demonstration: a small real model from PyPI is exported for every target that works on this
machine, and compares three sentences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from goldfold.exporter import registry
from goldfold.exporter.artifact.encoder import load
from goldfold.exporter.artifact.result import Result
from goldfold.exporter.driver import exporting
from goldfold.exporter.frontend import packaged
from goldfold.exporter.progress import Listener

QUESTION = "How do plants eat?"
ANSWERS = ("Leaves turn light into sugar.", "The train leaves at noon.")


@dataclass(frozen=True)
class Example:
    """The model and the targets of a demonstration."""

    model: Path
    targets: tuple[str, ...]
    missing: Mapping[str, str]
    """Why each other target cannot be used here."""

    def export(self, out: Path, listener: Listener | None = None) -> list[Result]:
        """Export the model in fp32 and fp16, as goldfold.export does."""
        name, precisions = packaged.MINILM.name, ("fp32", "fp16")
        return exporting.export(
            self.model, self.targets, precisions, out, name=name, listener=listener
        )


def prepare() -> Example:
    """Find the model, and the targets that work here. Raises ModelError."""
    folder = packaged.locate(packaged.MINILM)
    reasons = {name: registry.unavailable(name) for name in registry.names()}
    works = tuple(name for name, reason in reasons.items() if reason is None)
    missing = {name: reason for name, reason in reasons.items() if reason is not None}
    return Example(folder, works, missing)


def similarities(artifact: Path) -> dict[str, float]:
    """Returns the cosine of each of ANSWERS to QUESTION, by an artifact."""
    question, *answers = load(artifact).embed([QUESTION, *ANSWERS])
    return {text: float(question @ row) for text, row in zip(ANSWERS, answers, strict=True)}
