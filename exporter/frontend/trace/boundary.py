"""The longest text at a trace: where a table is as long as it, torch.export sees a boundary.

A table of n rows, of which a text of t tokens takes the first t, is sliced where t < n and left
whole where t = n. That is one function, and torch.export guards against t = n all the same.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from goldfold.golden.measured import WHOLE

_GUARDED = "satisfy the generated guard"


def at_the_end(
    export: Callable[[int], torch.export.ExportedProgram], most: int
) -> torch.export.ExportedProgram:
    """Returns `export(most)`, or `export(most - 1)` where a condition fails at `most` tokens alone.

    A condition that fails elsewhere as well fails again. The graph's result at `most` tokens is
    measured: golden texts of that length exist up to `WHOLE` tokens, and longer models are not
    tried again.
    """
    try:
        return export(most)
    except Exception as error:
        if _GUARDED not in str(error) or not 16 < most <= WHOLE:
            raise
        try:
            return export(most - 1)
        except Exception:
            raise error from None
