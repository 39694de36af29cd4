"""The meaning of a condition on pairs of tokens: whose padding it reads, and along which axes.

A condition is read as a conjunction of atoms m[i, j] ≠ 0, where m has two axes and i and j are the
places along two axes of the condition. transformers writes its masks with index arithmetic, as in
GatherND(m, [b, k]) with b and k the indices along the first and the last axis; that is an atom too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import onnx_ir as ir

from goldfold.exporter.ir.program import constant
from goldfold.exporter.passes.rewriting.pattern import (
    attribute,
    integers,
    last_axis,
    producer,
    same_size,
    scalar,
)


@dataclass(frozen=True)
class Atom:
    """source[i, j] ≠ 0, for the places i and j along these two axes."""

    source: ir.Value
    axes: tuple[int, int]


@dataclass(frozen=True)
class Condition:
    """The conjunction of atoms, as a value of so many axes; without atoms it is always true."""

    atoms: frozenset[Atom]
    rank: int


@dataclass(frozen=True)
class _Index:
    """Whole numbers that are the places along `axis`; two such in the last axis, if `and_then`."""

    axis: int
    rank: int
    and_then: int | None = None


def condition_of(value: ir.Value | None) -> Condition | None:
    """The meaning of `value`, of booleans or of numbers that stand for true where they are not 0;
    None where this module cannot read it."""
    if value is None or value.shape is None or constant(value) is not None:
        return None
    rank, node = len(value.shape), producer(value)
    if rank == 2:
        return Condition(frozenset({Atom(value, (0, 1))}), 2)
    if node is None:
        return None
    match node.op_type:
        case "Cast" if not _floats(node.inputs[0]) or value.dtype == ir.DataType.BOOL:
            return condition_of(node.inputs[0])
        case "And" | "Mul" if not _floats(value):
            parts = [condition_of(given) for given in node.inputs]
            if None in parts:
                return None
            # Broadcasting puts new axes in front.
            shifted = [_moved(part, [*range(rank)][rank - part.rank :], rank) for part in parts]  # type: ignore[union-attr]
            return Condition(frozenset().union(*(part.atoms for part in shifted)), rank)
        case "GreaterOrEqual" if scalar(node.inputs[1]) == 0:
            index = _index(node.inputs[0])
            plain = index is not None and index.and_then is None
            return Condition(frozenset(), rank) if plain else None
        case "GatherND":
            return _looked_up(node, value)
        case "Unsqueeze" | "Squeeze" | "Expand":
            found = condition_of(node.inputs[0])
            places = None if found is None else _places(node, found.rank, rank)
            if found is None or places is None:
                return None
            kept = {axis for atom in found.atoms for axis in atom.axes}
            if any(places[axis] is None for axis in kept) or not _keeps(node, kept):
                return None
            return _moved(found, places, rank)
    return None


def _floats(value: ir.Value | None) -> bool:
    return value is None or value.dtype is None or value.dtype.is_floating_point()


def _moved(found: Condition, places: Sequence[int | None], rank: int) -> Condition:
    atoms = {
        replace(atom, axes=(places[atom.axes[0]], places[atom.axes[1]]))  # type: ignore[arg-type]
        for atom in found.atoms
    }
    return Condition(frozenset(atoms), rank)


def _places(node: ir.Node, before: int, after: int) -> list[int | None] | None:
    """The axis of the result that each axis of the input becomes; None for one that is dropped."""
    if node.op_type == "Expand":
        return [*range(after)] if before == after else None
    axes = integers(node.inputs[1]) if len(node.inputs) > 1 else None
    if axes is None:
        return None
    if node.op_type == "Unsqueeze":
        new = {axis % after for axis in axes}
        return [axis for axis in range(after) if axis not in new]
    dropped = {axis % before for axis in axes}
    left = iter(range(after))
    return [None if axis in dropped else next(left) for axis in range(before)]


def _keeps(node: ir.Node, axes: set[int]) -> bool:
    """Whether an Expand leaves the sizes of these axes as they are; other ops do."""
    if node.op_type != "Expand":
        return True
    source, sizes = node.inputs[0], _sizes(node)
    if source is None or source.shape is None or sizes is None or len(sizes) != len(source.shape):
        return False
    return all(same_size(source.shape[axis], sizes[axis]) for axis in axes)


def _sizes(expand: ir.Node) -> Sequence[Any] | None:
    """The sizes that an Expand asks for: those of a value whose Shape it reads, or its result's."""
    shape = producer(expand.inputs[1], "Shape")
    whole = shape is not None and not attribute(shape, "start", 0) and "end" not in shape.attributes
    like = shape.inputs[0] if shape is not None and whole else expand.outputs[0]
    return None if like is None or like.shape is None else [*like.shape]


def _looked_up(node: ir.Node, value: ir.Value) -> Condition | None:
    """GatherND(m, [i, j]): m at the places along two axes."""
    source, index = node.inputs[0], _index(node.inputs[1])
    if source is None or source.shape is None or len(source.shape) != 2 or index is None:
        return None
    if index.and_then is None or attribute(node, "batch_dims", 0) or value.shape is None:
        return None
    axes = (index.axis, index.and_then)
    rank = index.rank - 1
    known = len(value.shape) == rank and axes[0] != axes[1]
    # Fewer places than rows would leave some out.
    if not known or not all(
        same_size(value.shape[axis], size) for axis, size in zip(axes, source.shape, strict=True)
    ):
        return None
    return Condition(frozenset({Atom(source, axes)}), rank)


def _index(value: ir.Value | None) -> _Index | None:
    node = producer(value)
    if node is None:
        return None
    match node.op_type:
        case "Range":
            from_zero = scalar(node.inputs[0]) == 0 and scalar(node.inputs[2]) == 1
            return _Index(0, 1) if from_zero else None
        case "Cast" if not _floats(value):
            return _index(node.inputs[0])
        case "Unsqueeze" | "Expand":
            found = _index(node.inputs[0])
            if found is None or found.and_then is not None:
                return None
            rank = found.rank
            if node.op_type == "Unsqueeze":
                rank += len(integers(node.inputs[1]) or ())
            places = _places(node, found.rank, rank)
            if places is None or places[found.axis] is None or not _keeps(node, {found.axis}):
                return None
            return _Index(places[found.axis], rank)  # type: ignore[arg-type]
        case "Concat" if len(node.inputs) == 2:
            one, two = (_index(given) for given in node.inputs)
            if one is None or two is None or one.rank != two.rank:
                return None
            last = one.rank - 1
            joins = last_axis(int(attribute(node, "axis", 0)), one.rank)
            plain = one.and_then is None and two.and_then is None
            if joins and plain and last not in (one.axis, two.axis) and _narrow(node):
                return _Index(one.axis, one.rank, two.axis)
    return None


def _narrow(concat: ir.Node) -> bool:
    """Whether the last axis of each input has the size 1."""
    return all(v is not None and v.shape is not None and v.shape[-1] == 1 for v in concat.inputs)
