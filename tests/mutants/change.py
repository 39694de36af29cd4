"""What a mutation did, and the place where it did it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tests.mutants.bases import Base

Rng = np.random.Generator


@dataclass(frozen=True)
class Change:
    """One mutation, done."""

    what: str
    """What was changed, in words."""
    same: str = ""
    """The proof that the artifact is the same function all the same; empty if it is another."""


@dataclass
class Subject:
    """A folder that a mutation changes, and what the manifest will say of it."""

    base: Base
    folder: Path
    contract: Any = None
    """The contract that is sealed: a mutation may put another in its place."""
    notes: dict[str, Any] = field(default_factory=dict)


def pick(rng: Rng, found: list[Any]) -> Any:
    """One of `found`."""
    return found[int(rng.integers(len(found)))]


def two(rng: Rng, count: int) -> tuple[int, int]:
    """Two different numbers below `count`."""
    first = int(rng.integers(count))
    return first, (first + 1 + int(rng.integers(count - 1))) % count
