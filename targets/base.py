"""What a target is. Each lives in a folder of its own and inherits only from this."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import numpy as np

from exporter.passes.base import Pass
from exporter.program import Contract, Program

Run = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(input_ids int64[B,S], attention_mask int64[B,S]) → float32[B,D]; inputs are already checked."""


class Target(ABC):
    """A runtime that artifacts are built for."""

    name: ClassVar[str]
    """As on the command line."""
    extra: ClassVar[str | None]
    """The extra of the distribution that installs what it needs; None if nothing."""
    precisions: ClassVar[tuple[str, ...]]
    """What it offers; anything else is refused before tracing."""
    typed: ClassVar[bool]
    """Whether the graph's own types are the precision; if not, half precision is a hint to the
    runtime and the graph stays in f32."""
    passes: ClassVar[tuple[Pass, ...]]
    """Its own tail after the common pipeline."""

    @abstractmethod
    def unavailable(self) -> str | None:
        """Why this machine cannot build or run it, in words; None if it can."""

    @abstractmethod
    def executes(self, precision: str) -> bool:
        """Whether the runtime on this machine really computes in `precision`. Where it does not,
        the
        emulator's figures are the proof, and the runtime's stand beside them."""

    @abstractmethod
    def versions(self) -> dict[str, str]:
        """The vendor packages that shape the artifact, by distribution name."""

    @abstractmethod
    def build(self, program: Program, precision: str, folder: Path) -> None:
        """Write the target's files into `folder`, deterministically, from a program its tail has
        seen.

        `program` may be used up. Raises RewriteError for an op it cannot spell, naming op, node and
        source module.
        """

    @abstractmethod
    def load(self, folder: Path, contract: Contract, precision: str, threads: int | None) -> Run:
        """Open what `build` wrote. Raises ArtifactError if the runtime refuses it."""

    @abstractmethod
    def census(self, folder: Path) -> dict[str, int]:
        """What the runtime really executes: kernels or nodes by kind, most frequent first."""
