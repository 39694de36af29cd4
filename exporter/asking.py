"""What an export was asked for, checked before any work: pairs of target and precision, options,
lengths."""

from __future__ import annotations

from collections.abc import Sequence

from exporter import registry
from exporter.errors import UsageError
from exporter.options import BuildOptions
from golden.gate import GATES
from golden.store import Goldens

ANY_LENGTH = 1 << 62
"""A model's length where it is not known yet: what is refused for it is refused for every model."""


def pairs(targets: Sequence[str], precisions: Sequence[str]) -> list[tuple[str, str]]:
    """Every pair asked for, refused here if the target does not offer it."""
    if not targets or not precisions:
        raise UsageError("name at least one --target and one --precision")
    for target in targets:
        if target not in registry.names():
            known = ", ".join(registry.names())
            raise UsageError(f"unknown target {target!r}; known: {known}")
    for precision in precisions:
        if precision not in GATES:
            raise UsageError(f"unknown precision {precision!r}; known: {', '.join(GATES)}")
    found = [(t, p) for t in dict.fromkeys(targets) for p in dict.fromkeys(precisions)]
    for target, precision in found:
        registry.offered(target, precision)
    return found


def check_sizes(dims: Sequence[int], max_length: int | None) -> None:
    """Refuse, without knowing the model, what no model has."""
    if any(dim < 1 for dim in dims) or (max_length is not None and max_length < 1):
        raise UsageError("--dims and --max-length begin at 1")
    if len(set(dims)) != len(dims):
        raise UsageError(f"--dims {','.join(map(str, dims))} names a size twice")


def shortened(goldens: Goldens, max_length: int | None) -> Goldens:
    """The goldens that fit a static limit. Raises UsageError for one that cannot be."""
    if max_length is None:
        return goldens
    if not 1 <= max_length <= goldens.max_length:
        raise UsageError(
            f"--max-length is {max_length}; {goldens.model} takes 1 … {goldens.max_length}"
        )
    fitting = goldens.within(max_length)
    if not fitting.cases:
        raise UsageError(f"--max-length {max_length}: no golden text is as short as that")
    return fitting


def settle(
    pairs: Sequence[tuple[str, str]], asked: BuildOptions, max_length: int
) -> dict[tuple[str, str], BuildOptions]:
    """What each pair is built with, refused here if its target cannot do it."""
    settled = {}
    for name, precision in pairs:
        target = registry.target(name)
        settled[name, precision] = target.settle(precision, asked.only(target.takes), max_length)
    return settled
