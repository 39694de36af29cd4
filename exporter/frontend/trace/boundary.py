"""The longest text at a trace: where a table is as long as it, torch.export sees a boundary.

A table of n rows, of which a text of t tokens takes the first t, is sliced where t < n and left
whole where t = n. That is one function, and torch.export guards against t = n all the same.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

_GUARDED = "satisfy the generated guard"


def at_the_end(
    export: Callable[[int], torch.export.ExportedProgram], most: int
) -> torch.export.ExportedProgram:
    """Returns `export(most)`, or `export(most - 1)` where a condition fails at `most` tokens alone.

    A condition that fails elsewhere as well fails again. The graph's result at `most` tokens is
    measured with the golden text of that length, wherever longer texts are measured at all
    (golden/measured.py).
    """
    try:
        return export(most)
    except Exception as error:
        if _GUARDED not in str(error) or most < 16:
            raise
        try:
            return export(most - 1)
        except Exception:
            raise error from None
