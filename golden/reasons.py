"""Reasons for which an artifact misses its gate: records, from which the sentences are made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Kind = Literal[
    "goldens", "tokens", "unusable", "distance", "norm", "mean", "similarity", "retrieval",
    "unproved", "constants", "contract", "tokenizer", "companion", "score", "order",
    "nonzeros", "unseen",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Reason:
    """One way in which an artifact misses its gate. `sentence` states it; no code parses that."""

    kind: Kind
    precision: str = ""
    """The precision whose limit is exceeded."""
    text: str = ""
    """The golden text with the error; "" where the error is about all texts."""
    way: str = ""
    """The way of the run: "alone", "padded", or a row of a call (golden/calling.py)."""
    value: float | None = None
    """The measured value; None where it is no number, or not finite."""
    limit: float | None = None
    head: str = ""
    """The output with the error, where that is not the artifact's first."""
    emulated: bool = False
    """Whether the figures are the emulator's, with every value rounded to its type."""
    note: str = ""
    """Facts beside the figures, in words."""

    def __post_init__(self) -> None:
        if self.limit is None and self.kind in ("distance", "norm", "mean", "similarity", "score"):
            raise ValueError(f"a reason of the kind {self.kind} has a limit")

    @property
    def sentence(self) -> str:
        """The reason in one sentence of English."""
        said = _SENTENCES[self.kind](self)
        if self.head:
            return f"{self.head}{' emulated' if self.emulated else ''}: {said}"
        return f"Emulated: {said}" if self.emulated else said


def _over(reason: Reason, digits: int = 0) -> str:
    value = "not finite" if reason.value is None else f"{reason.value:.2e}"
    return f"{value}, over the {reason.precision} limit of {reason.limit:.{digits}e}."


_SENTENCES: dict[str, Callable[[Reason], str]] = {
    "goldens": lambda r: r.note,
    "tokens": lambda r: f"The tokens of {r.text} differ {r.note}.",
    "unusable": lambda r: f"The embedding of {r.text} ({r.way}) is not finite, or zero.",
    "distance": lambda r: f"1-cos of {r.text} ({r.way}) is {_over(r)}",
    "score": lambda r: f"A logit of {r.text} ({r.way}) is off by {_over(r)}",
    "order": lambda r: r.note,
    "nonzeros": lambda r: (
        f"{r.value:.0f} weights of {r.text} ({r.way}) are zero in one of artifact and reference"
        " alone."
    ),
    "norm": lambda r: f"The norm of {r.text} ({r.way}) is off by {_over(r, 2)}",
    "mean": lambda r: f"The mean 1-cos ({r.way}) is {_over(r)}",
    "similarity": lambda r: f"Similarities between texts ({r.way}) are off by up to {_over(r, 2)}",
    "retrieval": lambda r: r.note,
    "unproved": lambda r: r.note,
    "constants": lambda r: r.note,
    "contract": lambda r: r.note,
    "tokenizer": lambda r: r.note,
    "companion": lambda r: r.note,
    "unseen": lambda r: r.note if r.limit is None else f"{r.note} is {_over(r)}",
}
