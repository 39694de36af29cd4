"""Bounds through ops that move numbers, select them, or repeat them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from goldfold.exporter.evaluate.extent import (
    Ball,
    Extent,
    Sizes,
    between,
    fitted,
    flat,
    hull,
    unbounded,
)
from goldfold.exporter.evaluate.extent_known import Known
from goldfold.exporter.passes.rewriting.pattern import attribute, integers

Rule = Callable[[ir.Node, "Known"], Extent]


def _axis(node: ir.Node, rank: int, default: int) -> int:
    return int(attribute(node, "axis", default)) % max(rank, 1)


def same(node: ir.Node, known: Known) -> Extent:
    return known.of(node.inputs[0])


def repeats(node: ir.Node, known: Known) -> Extent:
    """Expand and Tile: `fitted` keeps what still fits."""
    x = known.of(node.inputs[0])
    return replace(x, known=False, mass=None)


def transpose(node: ir.Node, known: Known) -> Extent:
    x = known.of(node.inputs[0])
    rank = x.lo.ndim
    perm = [int(p) for p in attribute(node, "perm", range(rank)[::-1])]
    if not rank:
        return x
    axis = None if x.ball is None else perm.index(x.ball.axis % rank) - rank
    return x.each(lambda a: a.transpose(perm), axis)


def reshape(node: ir.Node, known: Known) -> Extent:
    """Axes are followed in groups that hold the same numbers before and after, from the last axis
    on; where sizes depend on the text, one bound holds for the axes in front."""
    x = known.of(node.inputs[0])
    old, new = known.sizes(node.inputs[0]), known.sizes(node.outputs[0])
    if old is None or new is None or x.lo.ndim != len(old):
        return flat(x)
    if x.known and all(isinstance(size, int) for size in new):
        return x.each(lambda a: a.reshape([int(s) for s in new]))  # type: ignore[arg-type]
    groups, kept_old, kept_new = _groups(old, new)
    ball = _reshaped_ball(x.ball, old, new, groups)

    def change(array: np.ndarray, most: Callable[..., np.ndarray]) -> np.ndarray:
        if kept_old:
            array = most(array, axis=tuple(range(kept_old)))
        return _regrouped(array, groups, kept_old, kept_new, old, new)

    return Extent(change(x.lo, np.min), change(x.hi, np.max), ball, over=x.over)


Group = tuple[range, range]
"""Axes before and after that hold the same numbers."""


def _groups(old: Sizes, new: Sizes) -> tuple[list[Group], int, int]:
    """Groups of axes, the first first, and the numbers of axes in front of them."""
    i, j = len(old), len(new)
    groups: list[Group] = []
    while i and j:
        if old[i - 1] == new[j - 1] and old[i - 1] is not None:
            groups.insert(0, (range(i - 1, i), range(j - 1, j)))
            i, j = i - 1, j - 1
            continue
        a, b, m, n = old[i - 1], new[j - 1], i - 1, j - 1
        while isinstance(a, int) and isinstance(b, int) and a != b:
            if a < b:
                m -= 1
                size = old[m] if m >= 0 else None
                a = a * size if isinstance(size, int) else None
            else:
                n -= 1
                size = new[n] if n >= 0 else None
                b = b * size if isinstance(size, int) else None
        if not (isinstance(a, int) and isinstance(b, int)):
            break
        groups.insert(0, (range(m, i), range(n, j)))
        i, j = m, n
    return groups, i, j


def _regrouped(
    array: np.ndarray, groups: list[Group], kept_old: int, kept_new: int, old: Sizes, new: Sizes
) -> np.ndarray:
    shape_in: list[int] = []
    shape_out: list[int] = [1] * kept_new
    for before, after in groups:
        held = [array.shape[a - kept_old] for a in before]
        if all(size == 1 for size in held):
            shape_in += held
            shape_out += [1] * len(after)
        elif len(before) == len(after) == 1:
            shape_in += held
            shape_out += held
        else:
            shape_in += [int(old[a]) for a in before]  # type: ignore[arg-type]
            shape_out += [int(new[a]) for a in after]  # type: ignore[arg-type]
    return np.broadcast_to(array, shape_in).reshape(shape_out)


def _reshaped_ball(ball: Ball | None, old: Sizes, new: Sizes, groups: list[Group]) -> Ball | None:
    """The ball behind a Reshape: a part of a vector is in the whole's ball, and a whole's radius is
    the root of the sum of its parts' squares."""
    if ball is None:
        return None
    place = ball.axis % len(old)
    found = next((g for g in groups if place in g[0]), None)
    if found is None or place != found[0][-1]:
        return None
    before, after = found
    radius = ball.radius
    if len(before) > 1:
        inner = tuple(before)[:-1]
        sizes = [int(old[a]) for a in inner]  # type: ignore[arg-type]
        count = math.prod(n for a, n in zip(inner, sizes, strict=True) if radius.shape[a] == 1)
        radius = np.sqrt(count * (radius**2).sum(inner, keepdims=True))
    kept_old, kept_new = groups[0][0][0], groups[0][1][0]

    def change(array: np.ndarray) -> np.ndarray:
        if kept_old:
            array = array.max(axis=tuple(range(kept_old)))
        return _regrouped(array, groups, kept_old, kept_new, old, new)

    moved = ball
    if any(ball.center.shape[a] > 1 for a in range(kept_old)):
        moved = ball.centered()
    return Ball(
        after[-1] - len(new), change(moved.center), change(moved.scale), change(radius),
        change(moved.rest),
    )  # fmt: skip


def squeeze(node: ir.Node, known: Known) -> Extent:
    """Squeeze and Unsqueeze: the shape of the result says where the axes of size 1 went."""
    x, rank = known.of(node.inputs[0]), known.rank(node.outputs[0])
    given = integers(node.inputs[1]) if len(node.inputs) > 1 else None
    if not x.lo.ndim and node.op_type == "Unsqueeze" and x.known:
        return replace(x, lo=x.lo.reshape((1,) * (rank or 0)), hi=x.hi.reshape((1,) * (rank or 0)))
    if given is None or rank is None or not x.lo.ndim:
        return flat(x)
    if node.op_type == "Unsqueeze":
        axes = tuple(sorted(a % rank for a in given))
        places = [a for a in range(rank) if a not in axes]
        axis = None if x.ball is None else places[x.ball.axis % x.lo.ndim] - rank
        return x.each(lambda a: np.expand_dims(a, axes), axis)
    axes = tuple(a % x.lo.ndim for a in given)
    axis = None
    if x.ball is not None and x.ball.axis % x.lo.ndim not in axes:
        place = x.ball.axis % x.lo.ndim
        axis = place - sum(a < place for a in axes) - rank
    return x.each(lambda a: a.squeeze(axes), axis)


def slices(node: ir.Node, known: Known) -> Extent:
    x = known.of(node.inputs[0])
    starts, ends = integers(node.inputs[1]), integers(node.inputs[2])
    rank = x.lo.ndim
    if starts is None or ends is None or not rank:
        return fitted(replace(x, ball=None), known.sizes(node.outputs[0]))
    given = integers(node.inputs[3]) if len(node.inputs) > 3 else None
    steps = integers(node.inputs[4]) if len(node.inputs) > 4 else None
    axes = given if given is not None else list(range(len(starts)))
    cuts: dict[int, slice] = {}
    for place, axis in enumerate(axes):
        step = 1 if steps is None else steps[place]
        end = None if step < 0 and ends[place] < -(1 << 30) else ends[place]
        cuts[axis % rank] = slice(starts[place], end, step)

    def cut(array: np.ndarray) -> np.ndarray:
        return array[tuple(
            cuts[a] if a in cuts and array.shape[a] > 1 else slice(None) for a in range(rank)
        )]  # fmt: skip

    return x.each(cut, x.ball and x.ball.axis)


def split(node: ir.Node, known: Known) -> list[Extent]:
    x = known.of(node.inputs[0])
    rank = x.lo.ndim
    if not rank:
        return [flat(x)] * len(node.outputs)
    axis = _axis(node, rank, 0)
    found, start = [], 0
    for value in node.outputs:
        sizes = known.sizes(value)
        size = None if sizes is None else sizes[axis]
        if not isinstance(size, int):
            found.append(fitted(replace(x, ball=None), None))
            continue
        part = slice(start, start + size)

        def cut(array: np.ndarray, part: slice = part) -> np.ndarray:
            index = [slice(None)] * rank
            index[axis] = part if array.shape[axis] > 1 else slice(None)
            return array[tuple(index)]

        found.append(x.each(cut, x.ball and x.ball.axis))
        start += size
    return found


def concat(node: ir.Node, known: Known) -> Extent:
    parts = [known.of(value) for value in node.inputs if value is not None]
    rank = known.rank(node.outputs[0])
    if rank is None or any(part.lo.ndim != rank for part in parts):
        return hull(*(flat(part) for part in parts))
    axis = _axis(node, rank, 0)
    sizes = [known.sizes(value) for value in node.inputs]
    along = [None if s is None else s[axis] for s in sizes]
    if not all(isinstance(size, int) for size in along):
        return hull(*(fitted(part, [1] * rank) for part in parts))

    def joined(arrays: list[np.ndarray]) -> np.ndarray:
        shape = np.broadcast_shapes(
            *(tuple(1 if a == axis else n for a, n in enumerate(x.shape)) for x in arrays)
        )
        wide = [(*shape[:axis], int(n), *shape[axis + 1 :]) for n in along]  # type: ignore[arg-type]
        return np.concatenate(
            [np.broadcast_to(x, w) for x, w in zip(arrays, wide, strict=True)], axis
        )

    over = next((part.over for part in parts if part.over), "")
    every = all(part.known for part in parts)
    return Extent(
        joined([p.lo for p in parts]), joined([p.hi for p in parts]), known=every, over=over
    )


def gather(node: ir.Node, known: Known) -> Extent:
    """Rows of a table, by any ids: every column's least and largest number, and the longest row."""
    data, indices = node.inputs[:2]
    places = known.rank(indices)
    if data is None or places is None:
        return unbounded("Gather by indices of unknown shape")
    table = known.constant(data)
    if table is not None and table.ndim == 2 and _axis(node, 2, 0) == 0 and table.size:
        found = known.table(data, table)
        shape = (1,) * places + (table.shape[1],)
        lo, hi = found[0].reshape(shape), found[1].reshape(shape)
        one = np.ones((1,) * (places + 1))
        zero = np.zeros_like(one)
        return Extent(lo, hi, Ball(-1, zero, one, one * found[2], zero))
    x = known.of(data)
    rank = x.lo.ndim
    if not rank:
        return flat(x)
    axis = _axis(node, rank, 0)
    chosen = integers(indices)

    def change(array: np.ndarray, most: Callable[..., np.ndarray]) -> np.ndarray:
        if chosen is not None and array.shape[axis] > 1:
            shape = known.sizes(indices)
            return np.take(array, np.array(chosen).reshape(shape), axis)  # type: ignore[arg-type]
        array = most(array, axis=axis)
        return np.expand_dims(array, tuple(range(axis, axis + places))) if places else array

    ball = None
    if x.ball is not None and x.ball.axis % rank > axis:
        ball = x.ball.centered().each(lambda a: change(a, np.max), x.ball.axis)
    return Extent(change(x.lo, np.min), change(x.hi, np.max), ball, over=x.over)


def gather_elements(node: ir.Node, known: Known) -> Extent:
    """GatherElements, GatherND: some of the numbers, wherever; along an axis that is not gathered
    they stay in their columns."""
    x = known.of(node.inputs[0])
    if node.op_type != "GatherElements" or not x.lo.ndim:
        return flat(x)
    axis = _axis(node, x.lo.ndim, 0)
    ball = x.ball if x.ball is not None and x.ball.axis % x.lo.ndim != axis else None
    lo, hi = x.lo.min(axis, keepdims=True), x.hi.max(axis, keepdims=True)
    if ball is not None:
        # Each element may come from another place, so a vector here may be no vector there.
        indices = known.sizes(node.inputs[1])
        whole = node.inputs[1] is not None and known.repeats_along(node.inputs[1], ball.axis)
        ball = ball if whole and indices is not None else None
    if ball is not None:
        ball = ball.centered().each(lambda a: a.max(axis, keepdims=True), ball.axis)
    return Extent(lo, hi, ball, over=x.over)


def largest(node: ir.Node, known: Known) -> list[Extent]:
    """TopK: numbers of one axis in another order, and their places along it."""
    x, sizes = known.of(node.inputs[0]), known.sizes(node.inputs[0])
    if sizes is None or not x.lo.ndim:
        return [flat(x), unbounded("places along an axis of unknown size")]
    axis = _axis(node, len(sizes), -1)
    lo, hi = x.lo.min(axis, keepdims=True), x.hi.max(axis, keepdims=True)
    last = between(0, max(known.count(sizes[axis]) - 1, 0))
    return [Extent(lo, hi, over=x.over), last]


def pad(node: ir.Node, known: Known) -> Extent:
    given = known.of(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] else between(0, 0)
    return hull(flat(known.of(node.inputs[0])), flat(given))


def rotary(node: ir.Node, known: Known) -> Extent:
    """RotaryEmbedding turns pairs: (a cos − b sin, a sin + b cos) is no longer than √(a² + b²)
    times the largest √(cos² + sin²) of the tables, and a vector of pairs no longer either."""
    x, cos, sin = known.of(node.inputs[0]), node.inputs[1], node.inputs[2]
    tables = known.constant(cos), known.constant(sin)
    turn = 1.0
    if tables[0] is None or tables[1] is None:
        turn = math.hypot(known.of(cos).largest, known.of(sin).largest)
    else:
        squares = tables[0].astype(np.float64) ** 2 + tables[1].astype(np.float64) ** 2
        turn = math.sqrt(float(squares.max(initial=0.0)))
    width = None if x.lo.ndim != 4 else known.sizes(node.inputs[0])
    size = None if width is None else width[-1]
    if not isinstance(size, int) or int(attribute(node, "rotary_embedding_dim", 0)) not in (
        0,
        size,
    ):
        most = flat(x).largest * math.sqrt(2) * turn
        return replace(between(-most, most), over=x.over)
    interleaved = bool(attribute(node, "interleaved", 0))

    def paired(array: np.ndarray, most: Callable[..., np.ndarray]) -> np.ndarray:
        wide = np.broadcast_to(array, (*array.shape[:-1], size))
        shape = (size // 2, 2) if interleaved else (2, size // 2)
        pairs = wide.reshape(*array.shape[:-1], *shape)
        found = most(pairs, axis=-1 if interleaved else -2, keepdims=True)
        return np.broadcast_to(found, pairs.shape).reshape(wide.shape)

    def length(pairs: np.ndarray, axis: int, keepdims: bool) -> np.ndarray:
        return np.sqrt((pairs**2).sum(axis, keepdims=keepdims))

    box = paired(x.size, length) * turn
    ball = None
    if x.ball is not None and x.ball.axis == -1:
        around = x.ball.centered()
        ball = replace(
            around,
            center=around.center * np.zeros(size),
            scale=paired(around.scale, np.max) * turn,
            rest=paired(around.rest, length) * turn,
        )
    return Extent(-box, box, ball, over=x.over)


RULES: dict[str, Rule] = {
    "Identity": same,
    "Expand": repeats,
    "Tile": repeats,
    "Transpose": transpose,
    "Reshape": reshape,
    "Squeeze": squeeze,
    "Unsqueeze": squeeze,
    "Slice": slices,
    "Concat": concat,
    "Gather": gather,
    "GatherElements": gather_elements,
    "GatherND": gather_elements,
    "Pad": pad,
    "RotaryEmbedding": rotary,
}
