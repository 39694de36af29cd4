"""Mutations of constants: rows, columns, heads, blocks, scales, zero-points, biases, gains and
positions."""

from __future__ import annotations

import numpy as np

from tests.mutants import engine, roles
from tests.mutants.change import Change, Rng, Subject, pick, two
from tests.mutants.graph import Constant, Graph, Inapplicable, opened


def rows(rng: Rng, subject: Subject) -> Change:
    """One row, of a table of tokens as often as of a weight: zeroed, exchanged or negated."""
    graph = opened(subject.folder, subject.base.target)
    tables = roles.tables(graph, subject.base.vocabulary)
    if tables and rng.random() < 0.5:
        constant = pick(rng, tables)
        return _slice(rng, subject, graph, constant, constant.array, 0)
    constant, view, _ = _matrix(rng, graph)
    return _slice(rng, subject, graph, constant, view, 0)


def columns(rng: Rng, subject: Subject) -> Change:
    """One column of a weight."""
    graph = opened(subject.folder, subject.base.target)
    constant, view, _ = _matrix(rng, graph)
    return _slice(rng, subject, graph, constant, view, 1)


def _matrix(rng: Rng, graph: Graph) -> tuple[Constant, np.ndarray, int]:
    found = list(roles.matrices(graph))
    if not found:
        raise Inapplicable("no weight of a product")
    return pick(rng, found)


def _slice(
    rng: Rng, subject: Subject, graph: Graph, constant: Constant, view: np.ndarray, axis: int
) -> Change:
    fresh = np.moveaxis(view.copy(), axis, 0)
    word = ("row", "column")[axis]
    one, other = two(rng, len(fresh))
    way = pick(rng, ["zeroed", "exchanged", "taken"])
    if way == "zeroed":
        fresh[one] = 0
        what = f"{word} {one} of {constant.name} zeroed"
    elif way == "exchanged":
        fresh[[one, other]] = fresh[[other, one]]
        what = f"{word}s {one} and {other} of {constant.name} exchanged"
    else:
        fresh[one] = fresh[other]
        what = f"{word} {one} of {constant.name} overwritten with {word} {other}"
    return put(rng, subject, graph, constant, np.moveaxis(fresh, 0, axis), what)


def heads(rng: Rng, subject: Subject) -> Change:
    """One head of attention, in one of its weights: zeroed, or exchanged with another."""
    graph = opened(subject.folder, subject.base.target)
    width = subject.base.head
    found = []
    for constant, view, outputs in roles.matrices(graph):
        axis = roles.head_axis(graph, constant, outputs)
        if axis is not None and view.shape[axis] % width == 0:
            found.append((constant, view, axis))
    if not found:
        raise Inapplicable("no weight of attention is known by its name")
    constant, view, axis = pick(rng, found)
    fresh = np.moveaxis(view.copy(), axis, 0)
    count = len(fresh) // width
    one = int(rng.integers(count))
    here = slice(one * width, (one + 1) * width)
    if count == 1 or rng.random() < 0.5:
        fresh[here] = 0
        what = f"head {one} of {count} of {constant.name} zeroed"
    else:
        other = (one + 1 + int(rng.integers(count - 1))) % count
        there = slice(other * width, (other + 1) * width)
        fresh[here], fresh[there] = fresh[there].copy(), fresh[here].copy()
        what = f"heads {one} and {other} of {constant.name} exchanged"
    return put(rng, subject, graph, constant, np.moveaxis(fresh, 0, axis), what)


def blocks(rng: Rng, subject: Subject) -> Change:
    """A run of rows shifted by one, as where a pack or a copy begins one too late."""
    graph = opened(subject.folder, subject.base.target)
    constant, view, _ = _matrix(rng, graph)
    tables = roles.tables(graph, subject.base.vocabulary)
    if tables and rng.random() < 0.3:
        constant = pick(rng, tables)
        view = constant.array
    axis = int(rng.integers(2))
    fresh = np.moveaxis(view.copy(), axis, 0)
    size = min(int(pick(rng, [4, 16, 32])), len(fresh))
    start = int(rng.integers(len(fresh) - size + 1))
    by = int(pick(rng, [-1, 1]))
    fresh[start : start + size] = np.roll(fresh[start : start + size], by, axis=0)
    word = ("rows", "columns")[axis]
    what = f"{word} {start} to {start + size - 1} of {constant.name} shifted by {by}"
    return put(rng, subject, graph, constant, np.moveaxis(fresh, 0, axis), what)


def scales(rng: Rng, subject: Subject) -> Change:
    """One step of integers wrong, or two exchanged."""
    graph = opened(subject.folder, subject.base.target)
    found = roles.scales(graph)
    if not found:
        raise Inapplicable("no integers")
    constant = pick(rng, found)
    fresh = constant.array.copy().reshape(-1)
    one = int(rng.integers(fresh.size))
    if fresh.size > 1 and rng.random() < 0.4:
        _, other = two(rng, fresh.size)
        other = other if other != one else (one + 1) % fresh.size
        fresh[[one, other]] = fresh[[other, one]]
        what = f"steps {one} and {other} of {constant.name} exchanged"
    else:
        factor = float(pick(rng, [0.0, 0.5, 1.05, 2.0, 16.0]))
        fresh[one] = fresh[one] * factor
        what = f"step {one} of {constant.name} times {factor:g}"
    return put(rng, subject, graph, constant, fresh.reshape(constant.array.shape), what)


def zero_points(rng: Rng, subject: Subject) -> Change:
    """One zero-point, or offset of a packed table, off by one."""
    graph = opened(subject.folder, subject.base.target)
    found = roles.zeros(graph)
    if not found:
        raise Inapplicable("no zero-points")
    constant = pick(rng, found)
    fresh = constant.array.copy().reshape(-1)
    one = int(rng.integers(fresh.size))
    fresh[one] = fresh[one] + 1 if fresh[one] < 100 else fresh[one] - 1
    what = f"zero-point {one} of {constant.name} off by one"
    return put(rng, subject, graph, constant, fresh.reshape(constant.array.shape), what)


def biases(rng: Rng, subject: Subject) -> Change:
    """One number of a bias, or all of them."""
    graph = opened(subject.folder, subject.base.target)
    return _vector(rng, subject, graph, roles.biases(graph), "bias")


def gains(rng: Rng, subject: Subject) -> Change:
    """One number of a norm's gain, or all of them."""
    graph = opened(subject.folder, subject.base.target)
    return _vector(rng, subject, graph, roles.gains(graph), "gain")


def _vector(rng: Rng, subject: Subject, graph: Graph, found: list[Constant], word: str) -> Change:
    if not found:
        raise Inapplicable(f"no {word}")
    constant = pick(rng, found)
    fresh = constant.array.copy().reshape(-1)
    one, other = two(rng, fresh.size)
    way = pick(rng, ["zeroed", "doubled", "exchanged", "dropped", "nudged"])
    if way == "exchanged":
        fresh[[one, other]] = fresh[[other, one]]
        what = f"numbers {one} and {other} of the {word} {constant.name} exchanged"
    elif way == "dropped":
        fresh[:] = 0 if word == "bias" else 1
        what = f"the {word} {constant.name} dropped"
    else:
        factor = {"zeroed": 0.0, "doubled": 2.0, "nudged": 1.01}[way]
        fresh[one] = fresh[one] * factor
        what = f"number {one} of the {word} {constant.name} times {factor:g}"
    return put(rng, subject, graph, constant, fresh.reshape(constant.array.shape), what)


def positions(rng: Rng, subject: Subject) -> Change:
    """One place of a table of positions, or a run of them shifted."""
    graph = opened(subject.folder, subject.base.target)
    found = roles.positions(graph)
    if not found:
        raise Inapplicable("no table of positions")
    constant = pick(rng, found)
    table = constant.array.reshape(-1, constant.array.shape[-1])
    fresh = table.copy()
    one, other = two(rng, len(fresh))
    way = pick(rng, ["exchanged", "zeroed", "shifted", "repeated"])
    if way == "exchanged":
        fresh[[one, other]] = fresh[[other, one]]
        what = f"positions {one} and {other} of {constant.name} exchanged"
    elif way == "zeroed":
        fresh[one] = 0
        what = f"position {one} of {constant.name} zeroed"
    elif way == "shifted":
        fresh[one:] = np.roll(fresh[one:], 1, axis=0)
        what = f"positions of {constant.name} shifted by one from {one} on"
    else:
        fresh[one:] = fresh[one]
        what = f"positions of {constant.name} from {one} on all those of {one}"
    same = ""
    moved = np.flatnonzero((fresh != table).any(axis=1))
    longest = subject.base.longest
    if len(moved) and "rotary" not in constant.name.lower() and moved.min() >= longest:
        same = f"only positions from {moved.min()} on differ, and no text has over {longest} tokens"
    return put(rng, subject, graph, constant, fresh.reshape(constant.array.shape), what, same)


def put(
    rng: Rng,
    subject: Subject,
    graph: Graph,
    constant: Constant,
    fresh: np.ndarray,
    what: str,
    same: str = "",
) -> Change:
    """Write a constant; an engine's too, where there is one, or its alone."""
    fresh = fresh.reshape(constant.array.shape).astype(constant.array.dtype)
    if fresh.tobytes() == constant.array.tobytes():
        return Change(what, "not a bit of the constant changes by that")
    place = engine.place(rng, subject.folder)
    if place != "file":
        old = constant.array
        shape = (-1, old.shape[-1])
        if not engine.patch(subject.folder, old.reshape(shape), fresh.reshape(shape)):
            place = "file"
    same = same or _proof(subject, graph, constant)
    if place != "engine":
        graph.put(constant.name, fresh)
        graph.save()
    where = {"file": "", "engine": ", in the engine alone", "both": ", in file and engine"}[place]
    return Change(what + where, same)


def _proof(subject: Subject, graph: Graph, constant: Constant) -> str:
    """Why no number of this constant matters, if that is so."""
    if not graph.readers(constant.name):
        return "no node reads the constant"
    label = graph.label(constant.name)
    key = any(word in label for word in ("key.bias", "k_proj.bias", "k_lin.bias", "key_bias"))
    if key and subject.base.absolute:
        return (
            "a bias of the keys adds the same number, q·b, to all scores of a query, and softmax "
            "does not change by a number added to all"
        )
    return ""
