"""The rows that the tables of a cut vocabulary hold: which row of the source each of them is.

That a table holds the rows which its line names is proved with every other constant (check.py);
this module asks whether the line names the rows of the tokenizer's own tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from goldfold.golden.proof import expressions
from goldfold.golden.proof.evaluate import literal
from goldfold.golden.proof.expressions import Call

_MAKERS = ("gather-kept-rows", "cut")
"""The makers of tables of kept rows, and of the list of kept ids: all of their lists count. Later
passes may write a table anew, as packed bytes: of other makers' lists those count that are as long
as the tokens are many and no mere change of order."""


def fault(derivations: Path, kept: Sequence[int]) -> str | None:
    """Returns how the rows of an artifact's tables differ from those of its tokens, in words; None
    where they do not. `kept` are the source's ids of the artifact's tokens that have a row. Raises
    GoldenError for derivations that are none."""
    wanted = np.array(kept, np.int64)
    found = 0
    for line in expressions.read(derivations).constants:
        for rows in _lists(line.value):
            if line.maker not in _MAKERS and not _may_cut(rows, len(wanted)):
                continue
            found += 1
            if not np.array_equal(rows, wanted):
                return f"{line.name} holds other rows of the source than its tokens have"
    return None if found else "nothing says which rows of the source its tokens have"


def _may_cut(rows: np.ndarray, count: int) -> bool:
    return rows.shape == (count,) and not np.array_equal(np.sort(rows), np.arange(count))


def _numbers(call: Call) -> np.ndarray:
    kind, shape, data = call.args
    return literal(kind, shape, data)


def _lists(value: Call) -> Iterator[np.ndarray]:
    """Yields the lists of rows that are taken in an expression, and one that it is itself."""
    waiting, seen = [value], set()
    while waiting:
        call = waiting.pop()
        if call in seen:
            continue
        seen.add(call)
        given: Any = call.args[2] if call.name == "take" and call.args[1] == 0 else None
        shape: Any = call.args[1] if call.name == "literal" else ()
        if call is value and len(shape) == 1:
            yield np.asarray(_numbers(call))
        if isinstance(given, Call) and given.name == "literal":
            yield np.asarray(_numbers(given))
        elif isinstance(given, Call) and given.name == "arange":
            yield given.args[1] + given.args[3] * np.arange(given.args[2])
        waiting += [arg for arg in call.args if isinstance(arg, Call)]
