"""Every way a run can fail for a reason the user can mend, each with its exit code.

A `GoldfoldError` carries one line: what is wrong, where, and what to do. The command line prints
that line and exits with `code`; nothing else is ever shown unless `--debug` asks for the traceback.

| code | class | meaning |
|---|---|---|
| 1 | `GateMissed` | an artifact was built and missed its gate: golden embeddings, or retrieval |
| 2 | `UsageError` | the command line asks for something that does not exist |
| 3 | `ModelError` | the source model cannot be opened, is unsafe, or holds the unknown |
| 4 | `TargetError` | a target is not installed here, or does not offer what was asked of it |
| 5 | `OutputError` | the output folder cannot be written, or holds something that is not ours |
| 6 | `ArtifactError` | an artifact folder is damaged, failed its gate, or is not an artifact |
| 7 | `RewriteError` | a fault of goldfold's: a pass or a lowering went wrong |
| 130 | (Ctrl-C) | interrupted; nothing half-made is left |

Where several artifacts fail, each for its own reason, the highest of their codes counts: a fault of
goldfold's is worse than a target that lacks something, and that is worse than a missed gate.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from exporter.proving import Result
    from exporter.unbuilt import Failure


class GoldfoldError(Exception):
    """A failure with a one-line explanation. `code` is the process's exit code."""

    code = 7
    results: Sequence[Result] = ()
    """Raised by `export`: the artifacts that it built all the same, each in its place."""
    failures: Sequence[Failure] = ()
    """Raised by `export`: every artifact that it could not build, and why."""


class GateMissed(GoldfoldError):
    code = 1


class UsageError(GoldfoldError):
    code = 2


class ModelError(GoldfoldError):
    code = 3


class TargetError(GoldfoldError):
    code = 4


class OutputError(GoldfoldError):
    code = 5


class ArtifactError(GoldfoldError):
    code = 6


class RewriteError(GoldfoldError):
    code = 7
