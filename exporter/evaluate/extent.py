"""An Extent holds all that the analysis of bounds knows of one value, for every text at once.

    box     lo ≤ x ≤ hi, elementwise
    ball    x = center + scale ⊙ u + rest  along one axis, with ‖u‖₂ ≤ radius and |rest| ≤ its bound
    mass    Σ|x| along the last axis ≤ mass

Arrays are f64. They have one axis for each axis of the value, of its size where the bounds differ
along it and of size 1 where one bound holds for all, as for batch and tokens always. An array of no
axes holds for every element of a value whose shape is not known.

A ball says more than its box: a row of weights meets ‖row‖₂·radius instead of Σ|row|·bound, which
is up to √d as much. RMSNormalization and LayerNormalization make balls: their result without gain
and shift has ‖u‖₂ ≤ √d, whatever they read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

Sizes = Sequence[int | str | None]
"""Sizes of a value's axes; a name or None where the size depends on the text."""

SLACK = 2.0**-30
"""The share that every sum of f64 numbers here is raised by: sums of up to 2^22 terms are off by
less than 2^-31 of the sum of their magnitudes."""


@dataclass(frozen=True)
class Ball:
    """x = center + scale ⊙ u + rest along `axis` (negative), ‖u‖₂ ≤ radius, |rest| ≤ `rest`."""

    axis: int
    center: np.ndarray
    scale: np.ndarray
    radius: np.ndarray
    rest: np.ndarray

    def each(self, change: Callable[[np.ndarray], np.ndarray], axis: int) -> Ball:
        """The ball whose arrays a move of numbers changes, `axis` being where its own axis goes."""
        arrays = (self.center, self.scale, self.radius, self.rest)
        return Ball(axis, *(change(array) for array in arrays))

    def centered(self) -> Ball:
        """A ball around 0 that holds this one."""
        return replace(self, center=self.center * 0.0, rest=self.rest + abs(self.center))

    def times(self, factor: np.ndarray) -> Ball:
        """The ball of x ⊙ factor, for one fixed factor."""
        size = abs(factor)
        return replace(
            self,
            center=self.center * factor,
            scale=self.scale * size,
            rest=self.rest * size,
        )


@dataclass(frozen=True)
class Extent:
    """Bounds on one value. `known` says that lo = hi is the value itself, a constant; `over` says
    why there is no bound, empty where there is one."""

    lo: np.ndarray
    hi: np.ndarray
    ball: Ball | None = None
    mass: np.ndarray | None = None
    known: bool = False
    over: str = ""

    @property
    def size(self) -> np.ndarray:
        """The bound on |x|, elementwise."""
        return np.maximum(-self.lo, self.hi)

    @property
    def largest(self) -> float:
        """The bound on |x| over all elements; infinite if there is none."""
        found = float(self.size.max(initial=0.0))
        return found if found == found else math.inf

    def each(self, change: Callable[[np.ndarray], np.ndarray], axis: int | None = None) -> Extent:
        """The extent whose arrays a move of numbers changes; the ball's axis goes to `axis`, and a
        ball without a place is left out."""
        keeps = self.ball is not None and axis is not None
        ball = self.ball.each(change, axis) if self.ball and keeps and axis is not None else None
        return Extent(change(self.lo), change(self.hi), ball, None, self.known, self.over)

    def norm(self, axis: int, count: float) -> np.ndarray:
        """The bound on ‖x‖₂ along `axis`, which has at most `count` elements: the box's diagonal,
        or what the ball says if that is less."""
        if not self.size.ndim:
            return np.sqrt(count) * self.size
        repeats = 1.0 if self.size.shape[axis] > 1 else count
        found = np.sqrt(repeats * (self.size**2).sum(axis, keepdims=True))
        ball = self.ball
        if ball is not None and ball.axis == axis:
            most = ball.scale.max(axis, keepdims=True) * ball.radius
            for part in (ball.center, ball.rest):
                each = 1.0 if part.shape[axis] > 1 else count
                most = most + np.sqrt(each * (part**2).sum(axis, keepdims=True))
            found = np.minimum(found, most)
        return found * (1 + SLACK)


def unbounded(reason: str) -> Extent:
    """No bound at all, and why."""
    return Extent(np.array(-math.inf), np.array(math.inf), over=reason)


def between(lo: float, hi: float) -> Extent:
    """The same two bounds for every element."""
    return Extent(np.array(float(lo)), np.array(float(hi)))


def of_constant(array: np.ndarray) -> Extent:
    """A constant: its own numbers where they are few, else the least and largest along all axes but
    the last. Read in parts, so that a table that lies in a file is never in memory whole."""
    if array.size <= 1 << 16:
        whole = array.astype(np.float64)
        return Extent(whole, whole, known=True)
    lo, hi = extremes(array.reshape(-1, array.shape[-1]))
    shape = (1,) * (array.ndim - 1) + (array.shape[-1],)
    return Extent(lo.reshape(shape), hi.reshape(shape))


_PART = 1 << 22
"""Numbers of a constant that are read at once."""


def extremes(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The least and the largest number of every column of a table, f64."""
    step = max(1, _PART // table.shape[1])
    lo, hi = np.full(table.shape[1], math.inf), np.full(table.shape[1], -math.inf)
    for start in range(0, len(table), step):
        part = _readable(table[start : start + step])
        lo, hi = np.minimum(lo, part.min(0)), np.maximum(hi, part.max(0))
    return lo, hi


def longest_row(table: np.ndarray) -> float:
    """A bound on the 2-norm of every row of a table."""
    step = max(1, _PART // table.shape[1])
    squares = 0.0
    for start in range(0, len(table), step):
        part = _readable(table[start : start + step])
        # f32 sums of squares in any order are off by at most n·2^-24 of themselves.
        found = float(np.einsum("ij,ij->i", part, part).max(initial=0.0))
        squares = max(squares, found)
    return math.sqrt(squares * (1 + table.shape[1] * 2.0**-23))


def _readable(part: np.ndarray) -> np.ndarray:
    return part if part.dtype == np.float32 else part.astype(np.float32)


def fitted(extent: Extent, sizes: Sizes | None) -> Extent:
    """The extent with one axis for each of `sizes`; bounds along an axis of another size, or of one
    that depends on the text, become one bound for all of it."""
    if sizes is None:
        return extent if not extent.lo.ndim else replace(flat(extent), known=False)
    rank, ball = len(sizes), extent.ball

    def fit(array: np.ndarray, most: Callable[..., np.ndarray]) -> np.ndarray:
        if array.ndim > rank:
            array = np.asarray(most(array))
        array = array.reshape((1,) * (rank - array.ndim) + array.shape)
        for axis, size in enumerate(sizes):
            if array.shape[axis] not in (1, size):
                array = most(array, axis=axis, keepdims=True)
        return array

    lo, hi = fit(extent.lo, np.min), fit(extent.hi, np.max)
    known = extent.known and lo.shape == tuple(sizes)
    mass = None if extent.mass is None else fit(extent.mass, np.max)
    if ball is not None and (rank < -ball.axis or extent.lo.ndim > rank):
        ball = None
    if ball is not None:
        size = sizes[ball.axis]
        parts = (ball.center, ball.scale, ball.rest)
        if not isinstance(size, int) or any(p.shape[ball.axis] not in (1, size) for p in parts):
            ball = None
    if ball is not None:
        ball = _fitted_ball(ball, rank, sizes)
    return Extent(lo, hi, ball, mass, known, extent.over)


def _fitted_ball(ball: Ball, rank: int, sizes: Sizes) -> Ball:
    arrays = [a.reshape((1,) * (rank - a.ndim) + a.shape) for a in
              (ball.center, ball.scale, ball.radius, ball.rest)]  # fmt: skip
    center, scale, radius, rest = arrays
    for axis, size in enumerate(sizes):
        if center.shape[axis] not in (1, size):
            # Different centers become one at 0, and what they were joins the rest.
            rest, center = rest + abs(center), np.zeros_like(center.max(axis, keepdims=True))
        scale, radius, rest = (
            a if a.shape[axis] in (1, size) else a.max(axis, keepdims=True)
            for a in (scale, radius, rest)
        )
    return Ball(ball.axis, center, scale, radius, rest)


def flat(extent: Extent) -> Extent:
    """One bound for all elements, and no axes."""
    lo, hi = extent.lo.min(initial=math.inf), extent.hi.max(initial=-math.inf)
    if lo > hi:  # no elements
        lo = hi = 0.0
    return Extent(np.array(lo), np.array(hi), over=extent.over)


def hull(*extents: Extent) -> Extent:
    """The least box that holds all extents."""
    lo, hi = extents[0].lo, extents[0].hi
    for extent in extents[1:]:
        lo, hi = np.minimum(lo, extent.lo), np.maximum(hi, extent.hi)
    return Extent(lo, hi, over=next((e.over for e in extents if e.over), ""))


def product(a: Extent, b: Extent) -> tuple[np.ndarray, np.ndarray]:
    """The least and largest of a·b, elementwise, for two boxes. 0 times no bound is 0: the other
    factor is some number."""
    with np.errstate(invalid="ignore"):
        corners = [np.nan_to_num(x * y, nan=0.0, posinf=math.inf, neginf=-math.inf)
                   for x in (a.lo, a.hi) for y in (b.lo, b.hi)]  # fmt: skip
    lo = np.minimum(np.minimum(corners[0], corners[1]), np.minimum(corners[2], corners[3]))
    hi = np.maximum(np.maximum(corners[0], corners[1]), np.maximum(corners[2], corners[3]))
    return lo, hi


@dataclass(frozen=True)
class Rounding:
    """The rounding of one type: |error| ≤ unit·|x| + tiny. `tiny` is half the step of subnormals
    in fp16; f32's is far below all that counts here."""

    unit: float
    tiny: float

    def of(self, extent: Extent, times: float = 1.0) -> Extent:
        """The extent after `times` roundings. Rounding keeps signs, since 0 is a number of every
        type."""
        unit, tiny = self.unit * times * (1 + SLACK), self.tiny * times
        lo = np.where(extent.lo >= 0, extent.lo * (1 - unit) - tiny, extent.lo * (1 + unit) - tiny)
        hi = np.where(extent.hi <= 0, extent.hi * (1 - unit) + tiny, extent.hi * (1 + unit) + tiny)
        lo, hi = (
            np.where(extent.lo >= 0, lo.clip(0), lo),
            np.where(extent.hi <= 0, hi.clip(max=0), hi),
        )
        ball = extent.ball
        if ball is not None:
            rest = ball.rest * (1 + unit) + abs(ball.center) * unit + tiny
            ball = replace(ball, radius=ball.radius * (1 + unit), rest=rest)
        return Extent(lo, hi, ball, extent.mass, False, extent.over)


EXACT = Rounding(0.0, 0.0)
SINGLE = Rounding(2.0**-24, 2.0**-150)
HALF = Rounding(2.0**-11, 2.0**-25)
BRAIN = Rounding(2.0**-8, 2.0**-134)
