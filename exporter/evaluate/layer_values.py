"""Values inside a program by their source module, and the distance between two sets of them.

A layer's value is the last one that leaves it, which the next layer reads. Two equivalent programs
agree there up to a factor (scale-residual) and up to rounding, however differently they compute
inside.
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
"""The name of a source module → the name that groups its values; "" leaves them out."""


@dataclass(frozen=True)
class Apart:
    """One layer or module, and 1−cos between its two values; infinite where one is not finite."""

    name: str
    distance: float


def layer_of(module: str) -> str:
    """The layer of a module, `transformer.layers.3` for `transformer.layers.3.mlp.up`; outside
    layers, its first two names."""
    parts = module.split(".")
    number = next((i for i, part in enumerate(parts) if part.isdecimal()), None)
    return ".".join(parts[: 2 if number is None else number + 1])


def within(layer: str) -> Group:
    """Returns the group function of one layer: each of its modules by itself."""
    return lambda module: module if module == layer or module.startswith(f"{layer}.") else ""


def leaving(program: Program, group: Group = layer_of) -> dict[str, ir.Value]:
    """The last floating value that leaves each group of modules, in the graph's order.

    Only values of [batch, tokens or dims, …] count: no other value depends on the text.
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
    # A value of unknown type counts as floating; a run shows whether it is.
    return value.dtype is None or value.dtype in FLOATS


def exposed(program: Program, group: Group = layer_of) -> tuple[Program, dict[str, str]]:
    """A copy whose graph has these values as further outputs, and the values' names by group."""
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
        # The rounded value is another one than the exposed value.
        behind = copy.graph.outputs[len(program.graph.outputs) :]
        names = {name: value.name or "" for name, value in zip(names, behind, strict=True)}
    session = interpret.Session(copy.model, optimise=not rounded)
    feeds = {INPUT_IDS: ids, ATTENTION_MASK: mask}
    return dict(zip(names, session.run(list(names.values()), feeds), strict=True))


def compare(
    here: Mapping[str, np.ndarray], there: Mapping[str, np.ndarray], tokens: int
) -> list[Apart]:
    """1−cos of every group that both have in the same shape, in the order of `there`.

    Of [batch, tokens, …] only the text's own `tokens` count: padding may hold any number.
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
    """The group where the drift grows by the largest factor, and the drift before it. `noise` is
    the drift that rounding alone may show. None if no drift is above the noise."""
    return _steepest(found, lambda now, before: now / max(before, noise), noise)


def largest_step(found: Sequence[Apart]) -> tuple[Apart, float] | None:
    """The group where the drift of rounding, which starts with the first op, grows by the largest
    amount, and the drift before it."""
    return _steepest(found, lambda now, before: now - before, 0.0)


def _steepest(
    found: Iterable[Apart], step: Callable[[float, float], float], noise: float
) -> tuple[Apart, float] | None:
    best: tuple[float, Apart, float] | None = None
    before = 0.0
    for one in found:
        if one.distance == float("inf"):
            return one, before  # the values after an infinite one have no meaning
        size = step(one.distance, before)
        if one.distance > noise and (best is None or size > best[0]):
            best = (size, one, before)
        before = max(before, one.distance)
    return None if best is None else (best[1], best[2])
