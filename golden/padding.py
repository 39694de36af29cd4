"""Golden cases as the inputs of one call."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from goldfold.golden.store import Case


def batch_of(
    cases: Sequence[Case], pad_id: int, width: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the ids and mask of one right-padded batch, int64 [B, S] each: S is the longest
    case's, or `width`."""
    longest = width or max(len(case.token_ids) for case in cases)
    ids = np.full((len(cases), longest), pad_id, dtype=np.int64)
    mask = np.zeros_like(ids)
    for row, case in enumerate(cases):
        ids[row, : len(case.token_ids)] = case.token_ids
        mask[row, : len(case.token_ids) - case.unseen] = 1
    return ids, mask
