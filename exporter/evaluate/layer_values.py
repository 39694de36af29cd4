"""Values inside a program, by the source module they came from, and how far two sets of them are
apart.

A layer's value is the last one that leaves it: what the next layer reads. Two programs that mean
the same agree there up to a factor (scale-residual) and up to rounding, however differently they
compute inside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from goldfold.exporter.contract import ATTENTION_MASK, INPUT_IDS
from goldfold.exporter.evaluate import emulate, interpret
from goldfold.exporter.evaluate.emulate import HALF
from goldfold.exporter.ir.program import MODULE, Program

FLOATS = (ir.DataType.FLOAT, *HALF)
Group = Callable[[str], str]
"""The name of a source module → the name under which its values are looked at; "" to leave out."""


@dataclass(frozen=True)
class Apart:
    """One layer or module: 1−cos between its values here and there; infinite where not finite."""

    name: str
    distance: float


def layer_of(module: str) -> str:
    """`transformer.layers.3.mlp.up` → `transformer.layers.3`; outside layers, two names deep."""
    parts = module.split(".")
    number = next((i for i, part in enumerate(parts) if part.isdecimal()), None)
    return ".".join(parts[: 2 if number is None else number + 1])


def within(layer: str) -> Group:
    """The modules of one layer, each by itself."""
    return lambda module: module if module == layer or module.startswith(f"{layer}.") else ""


def leaving(program: Program, group: Group = layer_of) -> dict[str, ir.Value]:
    """The last floating value that leaves each group of modules, in the graph's order.

    Only values of [batch, tokens or dims, …]: what does not depend on the text says nothing.
    """
    outputs = set(program.graph.outputs)
    depends = set(program.graph.inputs)
    found: dict[str, ir.Value] = {}
    for node in program.graph:
        if not depends.intersection(node.inputs):
            continue
        depends.update(node.outputs)
        name = group(node.metadata_props.get(MODULE, ""))
        value = node.outputs[0]
        if not name or value in outputs or not _is_float(value):
            continue
        readers = [use.node for use in value.uses()]
        if any(group(reader.metadata_props.get(MODULE, "")) != name for reader in readers):
            found.pop(name, None)  # so that the order is that of the last values
            found[name] = value
    return found


def _is_float(value: ir.Value) -> bool:
    # A value whose type nobody inferred is taken to be one: running it will tell.
    return value.dtype is None or value.dtype in FLOATS


def exposed(program: Program, group: Group = layer_of) -> tuple[Program, dict[str, str]]:
    """A copy whose graph has those values as further outputs; and their names by group."""
    copy = program.copy()
    values = leaving(copy, group)
    copy.graph.outputs.extend(values.values())
    return copy, {name: value.name or "" for name, value in values.items()}


def values_of(
    program: Program, ids: np.ndarray, mask: np.ndarray, group: Group = layer_of, *, rounded: bool
) -> dict[str, np.ndarray]:
    """Each group's value on one batch, in ONNX Runtime; rounded to the declared types if asked."""
    copy, names = exposed(program, group)
    if rounded:
        copy = emulate.emulated(copy)
        # What is rounded is another value than the one that was exposed.
        behind = copy.graph.outputs[len(program.graph.outputs) :]
        names = {name: value.name or "" for name, value in zip(names, behind, strict=True)}
    session = interpret.Session(copy.model, optimise=not rounded)
    feeds = {INPUT_IDS: ids, ATTENTION_MASK: mask}
    return dict(zip(names, session.run(list(names.values()), feeds), strict=True))


def compare(
    here: Mapping[str, np.ndarray], there: Mapping[str, np.ndarray], tokens: int
) -> list[Apart]:
    """1−cos of every group that both have in the same shape, in the order of `there`.

    Of [batch, tokens, …] only the text's own `tokens` count: padding may hold anything.
    """
    found = []
    for name, mine in there.items():
        if name not in here:
            continue
        a, b = _text(here[name], tokens), _text(mine, tokens)
        if a.shape == b.shape and a.size > 1:
            found.append(Apart(name, distance(a, b)))
    return found


def _text(array: np.ndarray, tokens: int) -> np.ndarray:
    array = np.asarray(array)
    cut = array[:, :tokens] if array.ndim >= 3 else array
    return cut.astype(np.float64)


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """1−cos of two arrays as vectors, as goldfold.golden.compare computes it; infinite if not
    finite."""
    lengths = [float(np.linalg.norm(x)) for x in (a, b)]
    if not all(np.isfinite(lengths)):
        return float("inf")
    if not all(lengths):
        return 0.0 if lengths[0] == lengths[1] else 1.0
    apart = a.ravel() / lengths[0] - b.ravel() / lengths[1]
    return 0.5 * float(apart @ apart)


def first_jump(found: Sequence[Apart], noise: float) -> tuple[Apart, float] | None:
    """Where the drift grows by the largest factor, and what it was before; `noise` is what
    rounding alone may show. None if nothing is beyond the noise."""
    return _steepest(found, lambda now, before: now / max(before, noise), noise)


def largest_step(found: Sequence[Apart]) -> tuple[Apart, float] | None:
    """Where the drift grows by the largest amount: of rounding, which starts with the first op."""
    return _steepest(found, lambda now, before: now - before, 0.0)


def _steepest(
    found: Iterable[Apart], step: Callable[[float, float], float], noise: float
) -> tuple[Apart, float] | None:
    best: tuple[float, Apart, float] | None = None
    before = 0.0
    for one in found:
        if one.distance == float("inf"):
            return one, before  # nothing after it means anything
        size = step(one.distance, before)
        if one.distance > noise and (best is None or size > best[0]):
            best = (size, one, before)
        before = max(before, one.distance)
    return None if best is None else (best[1], best[2])
