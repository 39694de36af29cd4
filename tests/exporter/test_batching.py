"""Batches: every text once, within the bounds, and no cheaper grouping exists."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, pairwise

from hypothesis import given
from hypothesis import strategies as st

from goldfold.exporter.evaluate.batches import BATCH_SCORES, BATCH_TOKENS, batches

FEWEST = 1 << 32
LENGTHS = st.lists(st.integers(1, 700), max_size=60)


def filled(lengths: Sequence[int], size: int) -> list[list[int]]:
    """The usual way: the longest text first, each batch as full as it may be."""
    found: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        room = bool(found) and (len(found[-1]) + 1) * lengths[found[-1][0]] <= BATCH_TOKENS
        if room and len(found[-1]) < size:
            found[-1].append(row)
        else:
            found.append([row])
    return found


def cost(found: Sequence[Sequence[int]], lengths: Sequence[int], call: int) -> int:
    return sum(call + len(rows) * max(lengths[row] for row in rows) for rows in found)


@given(LENGTHS, st.integers(1, 40), st.sampled_from([0, 1, 64, 500, FEWEST]))
def test_every_row_once_within_bounds_and_never_dearer_than_filling(
    lengths: list[int], size: int, call: int
) -> None:
    found = batches(lengths, size, call)
    assert sorted(row for rows in found for row in rows) == list(range(len(lengths)))
    for rows in found:
        assert 1 <= len(rows) <= size
        width = max(lengths[row] for row in rows)
        assert len(rows) * width <= BATCH_TOKENS
        assert len(rows) == 1 or len(rows) * width**2 <= BATCH_SCORES
    widest = [max(lengths[row] for row in rows) for rows in found]
    assert widest == sorted(widest, reverse=True)
    assert cost(found, lengths, call) <= cost(filled(lengths, size), lengths, call)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=8), st.sampled_from([0, 3, 20, FEWEST]))
def test_no_grouping_of_neighbours_is_cheaper(lengths: list[int], call: int) -> None:
    size, order = 3, sorted(lengths)
    ways = []
    for cuts in range(len(order)):
        for places in combinations(range(1, len(order)), cuts):
            edges = [0, *places, len(order)]
            groups = [list(range(a, b)) for a, b in pairwise(edges)]
            if all(len(group) <= size for group in groups):
                ways.append(cost(groups, order, call))
    assert cost(batches(lengths, size, call), lengths, call) == min(ways)


def test_dear_calls_are_few_and_cheap_ones_pad_nothing() -> None:
    lengths = [10, 500, 11, 490, 12]
    assert batches(lengths, 32, FEWEST) == [[1, 3, 4, 2, 0]]
    assert batches(lengths, 32, 0) == [[1], [3], [4], [2], [0]]
    assert batches(lengths, 32, 64) == [[1, 3], [4, 2, 0]]


def test_long_texts_are_bounded_in_tokens() -> None:
    lengths = [600] * 40 + [3] * 100
    found = batches(lengths, 32, FEWEST)
    assert all(len(rows) * max(lengths[row] for row in rows) <= BATCH_TOKENS for rows in found)
    assert batches([], 4, 1) == []
    assert batches([1 << 15], 4, 1) == [[0]]  # one text beyond the bound still goes in, alone
