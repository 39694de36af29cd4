"""The batches of texts that cost a runtime least, with padding and calls both counted.

A batch is padded to its longest text, so a batch of n texts, the longest of w tokens, computes n·w
tokens. Each call of the runtime also costs something by itself, and that cost is counted here in
tokens too. Among all ways to group texts, one that costs least keeps neighbours in order of length
together: swap two texts so that the longer goes to the batch with the longest text, and no batch
grows wider. The best grouping is therefore computed exactly, over the sorted lengths, from the
least cost of the first i texts:

    cost(0) = 0,  cost(i) = min over n of cost(i − n) + call + n · length(i)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from goldfold.exporter.contract import Contract

BATCH_TOKENS = 1 << 14
"""The most tokens of a batch, padding included, so that long texts do not fill memory."""
BATCH_SCORES = 1 << 25
"""The most pairs of tokens of a batch. Where attention is not fused, each head has one f32 score
per pair: 2 GiB for 16 heads. One text of 8,192 tokens alone has twice as many pairs."""
BATCH_NUMBERS = 1 << 27
"""The most logits of a batch of a sparse encoder: 512 MiB in f32."""


def room(contract: Contract) -> int:
    """The most tokens of a batch: fewer than BATCH_TOKENS where each token has a number for every
    entry of a vocabulary."""
    if contract.task != "sparse" or contract.units:
        return BATCH_TOKENS
    return min(BATCH_TOKENS, BATCH_NUMBERS // contract.dim)


def batches(
    lengths: Sequence[int], size: int, call: int, tokens: int = BATCH_TOKENS
) -> list[list[int]]:
    """Rows in batches of at most `size` texts, `tokens` tokens and BATCH_SCORES pairs of tokens,
    longest first.

    `call` is the cost of a call beside its tokens, in tokens. A text beyond the limits goes alone.
    """
    order = sorted(range(len(lengths)), key=lambda row: lengths[row])
    cost = np.zeros(len(order) + 1, dtype=np.int64)
    taken = np.zeros(len(order) + 1, dtype=np.int64)
    for end, row in enumerate(order, start=1):
        width = lengths[row]
        fitting = min(tokens // max(width, 1), BATCH_SCORES // max(width, 1) ** 2)
        most = min(size, end, max(1, fitting))
        # Counts of texts in descending order: of equal costs, fewer calls win.
        texts = np.arange(most, 0, -1)
        costs = cost[end - most : end] + call + texts * width
        best = int(costs.argmin())
        cost[end], taken[end] = costs[best], texts[best]
    found, end = [], len(order)
    while end:
        found.append(order[end - taken[end] : end][::-1])
        end -= int(taken[end])
    return found


def padded(
    texts: Sequence[Sequence[int]], contract: Contract, size: int, call: int
) -> Iterator[tuple[list[int], np.ndarray, np.ndarray]]:
    """Token ids in `batches`: rows of `texts`, then ids and mask, int64 [rows, longest] each."""
    for rows in batches([len(ids) for ids in texts], size, call, room(contract)):
        yield rows, *pad([texts[row] for row in rows], contract.pad_id)


def pad(
    texts: Sequence[Sequence[int] | np.ndarray], pad_id: int, width: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Token ids, padded on the right with `pad_id` to the longest text or to `width`, and their
    mask, 1 on tokens; int64 [texts, width] each."""
    ids = np.full((len(texts), width or max(map(len, texts))), pad_id, dtype=np.int64)
    mask = np.zeros_like(ids)
    for row, text in enumerate(texts):
        ids[row, : len(text)], mask[row, : len(text)] = text, 1
    return ids, mask
