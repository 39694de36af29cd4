"""The tuning texts, on which a search compares recipes, as token ids."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from goldfold.exporter.ir.program import Program
from goldfold.exporter.quantize.texts import LETTERS, authored, prompted, token_ids

_LENGTHS = (120, 400, 1000)
"""Tokens of the long texts, made of the others in turn; cut at the model's own maximum."""


def texts() -> tuple[str, ...]:
    """The authored texts, in the file's order."""
    return authored(Path(__file__).with_suffix(".toml"))


def sequences(program: Program, own: Sequence[str] = ()) -> list[list[int]]:
    """Token ids of every text once, behind no prompt or one of the model's in turn, then those of
    three long texts. There are fewer texts than for calibration, since every trial runs them. `own`
    are a user's, instead of the authored ones."""
    known, long = tuple(own) or texts(), []
    for number, length in enumerate(_LENGTHS):
        begin = number * len(known) // len(_LENGTHS)
        whole = " ".join((*known[begin:], *known[:begin]))
        long.append(([whole[:LETTERS] if own else whole], length))
    return token_ids(program, (prompted(program, known), None), *long)
