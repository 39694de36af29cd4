"""Directional derivatives of a program: a value x becomes x + δ, δ is an input of the graph, and
the outputs at +δ and −δ say how the embedding answers.

One text is repeated in a batch, and every row has its own δ, so that a batch is as many directions
as it has rows. The difference is central and in f32:

    J d = (y(x + s d) − y(x − s d)) / 2s + O(s²)

with s such that s d changes each row of x by STEP of its length. ONNX Runtime's f32 is off by about
1e-6 of an embedding of length 1, which makes 1e-6 / STEP = 5e-4 in a gain; the term that the
difference leaves out is STEP² = 4e-6 times a third derivative. A test compares it with derivatives
in f64 in torch, and with a step four times as long.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx_ir as ir

from goldfold.exporter.contract import ATTENTION_MASK, INPUT_IDS
from goldfold.exporter.errors import RewriteError
from goldfold.exporter.evaluate import interpret
from goldfold.exporter.ir.program import Program
from goldfold.exporter.passes.rewriting.writer import Writer

STEP = 2.0**-9
"""The relative size of the change of a row (root mean square over the rows that change)."""
_TOKENS = 1024
"""The most tokens of a batch: enough for the processor, and δ of a batch stays below 10 MB."""
_TINY = 1e-30

Direction = Mapping[str, np.ndarray]
"""δ by the name of a tap: f32 [tokens, channels], or [channels] behind the pooling."""


@dataclass(frozen=True)
class Tap:
    """One place where a value can be moved."""

    name: str
    value: ir.Value
    """A value of the probed graph, [batch, tokens, channels] or [batch, channels]."""
    reader: ir.Node | None = None
    """The node that reads the moved value as its first input; None: all of the value's readers."""


@dataclass(frozen=True)
class Slopes:
    """The answers to directions, row by row."""

    first: np.ndarray
    """f64 [directions, dimensions], J d across the unit embedding: its length is an angle in
    radians."""
    second: np.ndarray
    """f64 [directions, dimensions], d's second derivative across the unit embedding, halved."""


class Probe:
    """A program whose taps can be moved. Owns `program`, and changes it."""

    def __init__(
        self,
        program: Program,
        taps: Sequence[Tap],
        seen: Sequence[str] = (),
        threads: int | None = None,
    ) -> None:
        """`seen` are further values that `values` returns. Raises RewriteError if ONNX Runtime
        refuses the graph."""
        self.output = program.contract.output
        self._values = {tap.name: tap.value.name or "" for tap in taps}
        self._rank = {tap.name: len(tap.value.shape or (0, 0, 0)) for tap in taps}
        self._seen = list(seen)
        _expose(program, [*self._values.values(), *seen])
        self._inputs = {tap.name: _open(program, place, tap) for place, tap in enumerate(taps)}
        try:
            self._session = interpret.Session(program.model, threads=threads)
        except Exception as error:
            reason = (str(error).splitlines() or [""])[0]
            raise RewriteError(f"ONNX Runtime refuses the probed graph: {reason}") from error

    def values(self, ids: Sequence[int], moved: Direction | None = None) -> dict[str, np.ndarray]:
        """Returns f32 arrays of one text, without the batch's axis: every tap's value by the tap's
        name, in front of its δ, the values of `seen`, and the output."""
        names = list(dict.fromkeys([*self._values.values(), *self._seen, self.output]))
        found = dict(zip(names, self._run(ids, [moved or {}], names), strict=True))
        by_tap = {name: found[value][0] for name, value in self._values.items()}
        others = {name: found[name][0] for name in (*self._seen, self.output)}
        return {**by_tap, **others}

    def changes(self, ids: Sequence[int], moved: Direction, names: Sequence[str]) -> list:
        """Returns f32 arrays, the derivatives of the values `names` of the graph in the direction
        `moved`, without the batch's axis."""
        found = self._run(ids, [moved, {key: -array for key, array in moved.items()}], list(names))
        return [(array[0] - array[1]) / 2 for array in found]

    def slopes(self, ids: Sequence[int], directions: Sequence[tuple[Direction, float]]) -> Slopes:
        """Returns the answers to (direction, s) pairs: s is the factor by which the direction is
        shortened while it is measured (`shortened`)."""
        exact = _unit(self._run(ids, [{}], [self.output])[0])[0]
        first, second = [], []
        for part in _parts(directions, max(1, _TOKENS // (2 * len(ids)))):
            rows = [
                {key: np.float32(sign * s) * array for key, array in one.items()}
                for one, s in part
                for sign in (1.0, -1.0)
            ]
            got = _unit(self._run(ids, rows, [self.output])[0])
            size = np.array([s for _, s in part])[:, None]
            first.append((got[0::2] - got[1::2]) / (2 * size))
            second.append((got[0::2] + got[1::2] - 2 * exact) / (2 * size * size))
        across = [_across(np.concatenate(found), exact) for found in (first, second)]
        return Slopes(*across)

    def _run(
        self, ids: Sequence[int], rows: Sequence[Direction], outputs: list[str]
    ) -> list[np.ndarray]:
        batch = np.array([list(ids)] * len(rows), dtype=np.int64)
        feeds: dict[str, np.ndarray] = {
            INPUT_IDS: batch,
            ATTENTION_MASK: np.ones_like(batch),
        }
        for tap, name in self._inputs.items():
            given = next((row[tap] for row in rows if tap in row), None)
            if given is None:
                feeds[name] = np.zeros((1,) * self._rank[tap], np.float32)
                continue
            feeds[name] = np.zeros((len(rows), *given.shape), np.float32)
            for place, row in enumerate(rows):
                if tap in row:
                    feeds[name][place] = row[tap]
        return self._session.run(outputs, feeds)


def shortened(direction: Direction, values: Mapping[str, np.ndarray]) -> float:
    """Returns the factor that makes a direction STEP of the rows that it changes, root mean square
    over these rows; 1.0 for a direction of zeros."""
    found = []
    for name, array in direction.items():
        moved, length = (np.linalg.norm(x, axis=-1).ravel() for x in (array, values[name]))
        found += list(moved[moved > 0] / np.maximum(length[moved > 0], _TINY))
    size = float(np.sqrt(np.mean(np.square(found)))) if found else 0.0
    return STEP / size if size > _TINY else 1.0


def rounding_error(rows: np.ndarray, bits: int = 8) -> np.ndarray:
    """Returns f32 [..., channels], x̂ − x, where x̂ = r round(x / r) and r = max|x| / (2^(bits−1) −
    1) for each row, as the pass round-rows computes."""
    most = float(2 ** (bits - 1) - 1)
    reach = np.maximum(np.abs(rows).max(axis=-1, keepdims=True), np.float32(_TINY))
    step = (reach / np.float32(most)).astype(np.float32)
    return (step * np.rint(rows / step) - rows).astype(np.float32)


def round_rows(program: Program, taps: Sequence[Tap], bits: int = 8) -> None:
    """Make every tap of `program` pass on its value rounded, a step a row, as `rounding_error`
    says; values that several taps read are rounded once. Changes `program`."""
    most = float(2 ** (bits - 1) - 1)
    made: dict[ir.Value, ir.Value] = {}
    for tap in taps:
        readers = _readers(tap)
        if tap.value not in made:
            put = Writer(_behind(tap.value), f"{tap.value.name}.rounded", "")
            write = partial(put, type=tap.value.type)
            last = put("Constant", name="last", value_ints=[-1])
            top = write("Constant", name="most", value_float=most)
            tiny = write("Constant", name="tiny", value_float=_TINY)
            sizes = write("Abs", tap.value, name="sizes")
            size = write("Max", write("ReduceMax", sizes, last, name="reach"), tiny, name="size")
            step = write("Div", size, top, name="step")
            near = write("Round", write("Div", tap.value, step, name="near"), name="whole")
            made[tap.value] = write("Mul", near, step, name="value")
            made[tap.value].shape = tap.value.shape
        for node, place in readers:
            node.replace_input_with(place, made[tap.value])


def _open(program: Program, place: int, tap: Tap) -> str:
    """Put x + δ in front of a tap's readers; returns the name of the input δ."""
    name, value = f"goldfold.probe.{place}", tap.value
    sides = [f"probe.{place}.{axis}" for axis in range(len(value.shape or (0, 0, 0)))]
    given = ir.Value(name=name, type=value.type, shape=ir.Shape(sides))
    readers = _readers(tap)
    program.graph.inputs.append(given)
    write = Writer(_behind(value), f"{name}.moved", "")
    moved = write("Add", value, given, name="sum", type=value.type, shape=value.shape)
    for node, at in readers:
        node.replace_input_with(at, moved)
    return name


def _readers(tap: Tap) -> list[tuple[ir.Node, int]]:
    if tap.reader is not None:
        return [(tap.reader, 0)]
    return [(use.node, use.idx) for use in tap.value.uses()]


def _behind(value: ir.Value) -> ir.Node:
    """Returns the node that follows the maker of `value`."""
    maker = value.producer()
    assert maker is not None and maker.graph is not None
    nodes = list(maker.graph)
    return nodes[nodes.index(maker) + 1]


def _expose(program: Program, names: Sequence[str]) -> None:
    made = {value.name: value for node in program.graph for value in node.outputs}
    known = {value.name for value in program.graph.outputs}
    fresh = [name for name in dict.fromkeys(names) if name not in known]
    program.graph.outputs.extend(made[name] for name in fresh)


def _parts(rows: Sequence, size: int) -> Iterator[Sequence]:
    return (rows[at : at + size] for at in range(0, len(rows), size))


def _unit(rows: np.ndarray) -> np.ndarray:
    rows = rows.reshape(len(rows), -1).astype(np.float64)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), _TINY)


def _across(rows: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """Returns the rows without their part along a unit vector."""
    return rows - np.outer(rows @ unit, unit)
