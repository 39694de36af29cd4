"""The errors that a user can mend, each with its exit code.

A `GoldfoldError` carries one line: what is wrong, where, and what to do. The command line prints
that line and exits with `code`; it prints the traceback only with `--debug`.

| code | class | meaning |
|---|---|---|
| 0 | (none) | every artifact passed, or was proved: what stands for it ran and held the gate |
| 1 | `GateMissed` | an artifact missed its gate, or did not run here where that was required |
| 2 | `UsageError` | the command line asks for something that does not exist |
| 2 | `TextError` | a text cannot be embedded: it has no tokens, or one that the model lacks |
| 3 | `ModelError` | the source model cannot be opened, is unsafe, or holds the unknown |
| 4 | `TargetError` | a target is not installed here, or does not offer what was asked of it |
| 5 | `OutputError` | the output folder cannot be written, or holds something that is not ours |
| 6 | `ArtifactError` | an artifact folder is damaged, failed its gate, or is not an artifact |
| 7 | `RewriteError` | a fault of goldfold's: a pass or a lowering went wrong |
| 75 | `Busy` | more texts wait for a `Batcher` than it may keep; no command ends with it |
| 130 | (Ctrl-C) | interrupted; nothing half-made is left |

A gate is on golden embeddings, and on retrieval where an artifact is judged. `--require-run` of
`goldfold export` and `verify` requires that an artifact itself runs here, in its precision.

If several artifacts fail for different reasons, the highest of their codes counts: a fault of
goldfold's is worse than a target that lacks something, and that is worse than a missed gate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from goldfold.exporter.artifact.result import Result
    from goldfold.exporter.artifact.unbuilt import Failure


class GoldfoldError(Exception):
    """A failure with a one-line explanation. `code` is the process's exit code."""

    code = 7
    results: Sequence[Result] = ()
    """The artifacts that `export` built before it raised this error, each in its place."""
    failures: Sequence[Failure] = ()
    """The artifacts that `export` could not build when it raised this error, with their reasons."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Returns what pickle needs: the message and the attributes, whatever the constructor's
        arguments. An error that cannot be unpickled breaks the pool of processes that it comes
        from."""
        return _said, (type(self), self.args, vars(self))


class GateMissed(GoldfoldError):
    code = 1


class UsageError(GoldfoldError):
    code = 2


class TextError(UsageError):
    """Some texts cannot be embedded. `reasons` says why, by each text's index among all texts;
    `texts` are those from index `first` on."""

    def __init__(
        self, reasons: Mapping[int, str], texts: Sequence[str] = (), first: int = 0
    ) -> None:
        self.reasons = dict(sorted(reasons.items()))
        place, why = next(iter(self.reasons.items()))
        begun = f" ({texts[place - first][:40]!r})" if place - first < len(texts) else ""
        others = [str(other) for other in self.reasons if other != place]
        more = f"; so cannot texts {', '.join(others[:10])}" if others else ""
        more += f" and {len(others) - 10} more" if len(others) > 10 else ""
        super().__init__(f"text {place}{begun} {why}{more}")


class Busy(GoldfoldError):
    """More texts wait for a batcher than it may keep: try again, later. Its code is sysexits'
    EX_TEMPFAIL; no command ends with it."""

    code = 75


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


def _said(kind: type[GoldfoldError], words: tuple[Any, ...], known: dict[str, Any]) -> Any:
    error = kind.__new__(kind, *words)
    error.args = words
    vars(error).update(known)
    return error
