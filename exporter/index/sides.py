"""The two sides of a comparison: an opened artifact, or the vectors of an index with their texts.

A side embeds texts under a task, cut to the dimensions that are compared, and says what its vectors
owe: its contract, the model that it was made from, and the gate of its precision.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from goldfold.exporter import registry
from goldfold.exporter.artifact.bundle import TOKENIZER, Bundle, open_bundle
from goldfold.exporter.artifact.encoder import open_encoder
from goldfold.exporter.artifact.result import measured
from goldfold.exporter.contract import Contract, Task, unlimited
from goldfold.exporter.errors import ArtifactError, UsageError
from goldfold.exporter.progress import Stages
from goldfold.golden.gate import GATES, gate_for

UNKNOWN = GATES["bf16"].worst
"""The 1-cos of one text that an index's own vectors may be from their source: nothing says how they
were computed, and bf16 is the coarsest floating precision."""

_WINDOW = 256
"""Texts between two reports of progress."""

Embed = Callable[[Sequence[str], Task], np.ndarray]
"""(texts, task) -> float32 [N, D]; a row of NaN for a text that cannot be embedded."""


@dataclass(frozen=True)
class Side:
    """One side of a comparison."""

    name: str
    contract: Contract
    origin: str
    """The name of the source model."""
    fingerprint: str
    """sha256 over the files of the source model."""
    limit: float
    """The 1-cos of one text that the gate of its precision allows."""
    tokenizer: str
    """sha256 of its tokenizer, without the maximum length."""
    embed: Embed
    plain: Callable[[Sequence[str]], np.ndarray] | None = None
    """Embeds texts that have their prompt already; None where that cannot be asked."""
    notes: tuple[str, ...] = ()
    """What this machine computes in the artifact's place."""
    manifest: str = ""
    """The digest of its manifest."""

    def rows(
        self, texts: Sequence[str], task: Task, stages: Stages, dim: int | None = None
    ) -> np.ndarray:
        """Embed texts, `dim` leading dimensions of each, and report progress."""
        found = []
        for begin in range(0, len(texts), _WINDOW):
            found.append(self.embed(texts[begin : begin + _WINDOW], task))
            stages.step(min(begin + _WINDOW, len(texts)), len(texts))
        return cut(np.concatenate(found), dim, self.contract.normalized)


def cut(rows: np.ndarray, dim: int | None, normalized: bool) -> np.ndarray:
    """Returns the leading dimensions of [N, D], normalised again where rows are."""
    if dim is None or dim == rows.shape[1]:
        return rows
    short = rows[:, :dim]
    if not normalized:
        return short
    return short / np.maximum(np.linalg.norm(short, axis=1, keepdims=True), 1e-12)


def open_side(folder: Path, threads: int | None = None) -> Side:
    """Open an artifact as a side. Raises ArtifactError for a damaged one, UsageError for one that
    gives no embeddings, or is one route of its model."""
    opened = open_bundle(folder)
    contract = opened.manifest.contract
    if contract.task != "embedding":
        raise UsageError(
            f"{folder} gives {contract.task.replace('_', ' ')}, and compat compares embeddings; "
            "give artifacts of encoders"
        )
    if contract.route:
        raise UsageError(
            f"{folder} is the {contract.route} route of its model, and compat needs queries and "
            "documents; export the whole model"
        )
    encoder = open_encoder(opened, threads, proof=True)

    def embed(texts: Sequence[str], task: Task) -> np.ndarray:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of rows of NaN, which are counted
            return encoder.embed(texts, task=task, errors="nan")

    return Side(
        name=str(folder),
        contract=contract,
        origin=opened.manifest.origin.name,
        fingerprint=opened.manifest.origin.fingerprint,
        limit=gate_for(opened.manifest.gate).worst,
        tokenizer=_digest(folder / TOKENIZER),
        embed=embed,
        plain=lambda texts: encoder.embed(texts, "", errors="nan"),
        notes=tuple(_notes(opened)),
        manifest=opened.manifest.digest,
    )


def at(side: Side, dim: int) -> Side:
    """Returns the side with `dim` leading dimensions, normalised again where the model is."""
    if dim == side.contract.dim:
        return side
    inner, normalized = side.embed, side.contract.normalized
    contract = side.contract.with_(dim=dim, heads=())
    return replace(
        side,
        contract=contract,
        embed=lambda texts, task: cut(inner(texts, task), dim, normalized),
    )


def _digest(file: Path) -> str:
    try:
        text = file.read_text("utf-8")
    except (OSError, ValueError) as error:
        said = getattr(error, "strerror", None) or "it is no text"
        raise ArtifactError(f"{file} cannot be read: {said}") from None
    return hashlib.sha256(unlimited(text).encode()).hexdigest()


def _notes(opened: Bundle) -> list[str]:
    what, reason = measured(opened)
    floating = opened.manifest.floating
    if reason:
        return [f"{opened.path} itself: {reason}; compared instead: {what}"]
    if not registry.target(opened.manifest.target).executes(floating):
        return [f"{opened.path} in {floating}: this machine computes it in fp32"]
    return []
