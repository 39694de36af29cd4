"""The plan turns a recipe and statistics into the integers of every matrix, the step of every
activation, and the passes that put them into the graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from goldfold.exporter.errors import UsageError
from goldfold.exporter.ir.program import Arrays, Program
from goldfold.exporter.passes.balance_channels import BalanceChannels
from goldfold.exporter.passes.base import Pass
from goldfold.exporter.passes.pack_table import PackTable
from goldfold.exporter.passes.quantize_activations import QuantizeActivations
from goldfold.exporter.passes.quantize_weights import QuantizeWeights
from goldfold.exporter.passes.rewriting.grid import Quantized, nearest, sizes
from goldfold.exporter.passes.rewriting.packed import PACKED
from goldfold.exporter.quantize import sites as all_sites
from goldfold.exporter.quantize import statistics
from goldfold.exporter.quantize.gptaq import chained
from goldfold.exporter.quantize.gptq import Order, compensated
from goldfold.exporter.quantize.qat_grid import recovered
from goldfold.exporter.quantize.reach import check_scales, step
from goldfold.exporter.quantize.recipe import Choice, Recipe
from goldfold.exporter.quantize.sites import Site
from goldfold.exporter.quantize.statistics import Activation

Progress = Callable[[int, int], None]
Rounded = MutableMapping[tuple[str, Choice], Quantized]
"""Integers computed earlier, by constant and choice."""
_NARROWEST = 16
"""The least block that halving gives: its scales take an eighth of the space of 8-bit weights."""
LEAST = 16
"""The fewest calibration texts: of n + 1 texts of one kind, the last has the largest magnitude of a
channel with a chance of 1 in n + 1, here 6 %, and is then beyond the range of the others."""
Keep = Callable[[str, Callable[[], Arrays]], Arrays]
"""(what, make) → the result of `make`, now or earlier, for one program, recipe and set of texts."""


def now(what: str, make: Callable[[], Arrays]) -> Arrays:
    """Returns the result of `make`; keeps nothing."""
    return make()


@dataclass(frozen=True)
class Planned:
    """One matrix and its choice."""

    site: Site
    choice: Choice


def check(recipe: Recipe, program: Program) -> list[Planned]:
    """Returns the recipe's choice for every site of `program`, in order.

    A block that does not divide a row is halved until it does. Raises UsageError for a rule that
    covers no site, for a row that no such block divides, and for activations that no integer kernel
    takes.
    """
    found = all_sites.find(program)
    for rule in recipe.rules:
        if not rule.optional and not any(rule.covers(site) for site in found):
            kinds = ", ".join(rule.kinds) or "any kind"
            raise UsageError(
                f"recipe {recipe.name}: a rule for {kinds} in {rule.layers!r} fits nothing in "
                f"{program.contract.model}; it has, for example, {_examples(found)}"
            )
    planned = [Planned(site, _fitted(recipe.choice(site), site)) for site in found]
    for one in planned:
        inputs, block = one.site.matrix.shape[1], one.choice.block
        static, table = one.choice.activations == "static", one.site.kind == "table"
        if static and (block or one.choice.bits in ((4,) if table else (4, 5, 6))):
            raise UsageError(
                f"recipe {recipe.name}: {one.site.place} ({one.site.kind}) has static activations: "
                "integer kernels then want 8 bits, or 7, and one scale a channel (block = 0)"
            )
        if one.choice.bits in PACKED and not table and not static:
            raise UsageError(
                f"recipe {recipe.name}: {one.site.place} ({one.site.kind}) is to have "
                f"{one.choice.bits} bits, which only a table can: say 8 or 4, or 7 beside static "
                "activations"
            )
        if one.choice.bits and block and inputs % block:
            raise UsageError(
                f"recipe {recipe.name}: {one.site.place} ({one.site.kind}) has {inputs} inputs, no "
                f"whole number of blocks of {block}"
            )
    return planned


def _fitted(choice: Choice, site: Site) -> Choice:
    """The choice with a block that divides the site's rows: the block of the recipe, or half of it,
    or a quarter, …; unchanged if no block of _NARROWEST or more does. A QAT grid is never changed.
    """
    inputs, block = site.matrix.shape[1], choice.block
    if choice.rounding == "qat":
        return choice
    while block and inputs % block and block % 2 == 0 and block // 2 >= _NARROWEST:
        block //= 2
    fits = block and inputs % block == 0
    return choice.with_(block=block) if fits else choice


def halved(recipe: Recipe, planned: Sequence[Planned]) -> str:
    """The blocks that differ from the recipe's, in words; "" if none does."""
    found = Counter(
        (recipe.choice(one.site).block, one.choice.block)
        for one in planned
        if recipe.choice(one.site).block != one.choice.block
    )
    said = (f"blocks of {a} became {b} in {n} matrices" for (a, b), n in sorted(found.items()))
    return ", ".join(said)


def _examples(found: Sequence[Site]) -> str:
    kinds: dict[str, str] = {}
    for site in found:
        kinds.setdefault(site.kind, site.place)
    return ", ".join(f"{kind} in {place}" for kind, place in kinds.items()) or "nothing at all"


def balance(
    recipe: Recipe,
    program: Program,
    sequences: Sequence[Sequence[int]],
    progress: Progress = lambda done, total: None,
    keep: Keep = now,
) -> tuple[Pass, ...]:
    """The pass that prepares `program` for quantization, if the recipe asks for it. It runs before
    the statistics, which measure its result."""
    if recipe.gains != "balance":
        return ()
    if not recipe.alpha:
        return (BalanceChannels(),)
    values = [site.x for site in all_sites.find(program) if site.x is not None]
    _check_texts(recipe, sequences)

    def reach() -> Arrays:
        found = statistics.record(
            program, values, sequences, False, lambda done: progress(done, len(sequences))
        )
        return {name: one.peak for name, one in found.items()}

    return (BalanceChannels(recipe.alpha, keep("balance", reach)),)


def learns(recipe: Recipe, program: Program) -> bool:
    """Whether the recipe's integers depend on calibration texts. Raises UsageError as `check`."""
    planned = [one for one in check(recipe, program) if one.choice.bits and one.site.x is not None]
    balanced = recipe.gains == "balance" and bool(recipe.alpha)
    return balanced or any(_wants(one.choice) or _is_link(one) for one in planned)


def _check_texts(recipe: Recipe, sequences: Sequence[Sequence[int]]) -> None:
    """Raise UsageError for calibration texts whose ranges would be those of these texts alone."""
    if not sequences:
        raise UsageError(f"recipe {recipe.name} needs calibration texts, and there are none")
    count = len({tuple(ids) for ids in sequences})
    if count < LEAST:
        texts = "text is" if count == 1 else "texts are"
        raise UsageError(
            f"recipe {recipe.name} needs calibration texts, and {count} different {texts} too few "
            f"for the ranges of any other text: give at least {LEAST}, of every script and length "
            "that is to be embedded"
        )


def passes(
    recipe: Recipe,
    program: Program,
    sequences: Sequence[Sequence[int]],
    progress: Progress = lambda done, total: None,
    keep: Keep = now,
    known: Mapping[str, Activation] | None = None,
    rounded: Rounded | None = None,
) -> tuple[Pass, ...]:
    """The passes that quantize `program`, with their numbers.

    Args:
        sequences: token ids of the calibration texts. Not run where the recipe needs none.
        progress: called with (done, total) texts, then matrices.
        keep: is called for every costly result.
        known: statistics of `program` that were recorded earlier, moments included; no text is
            run then.
        rounded: integers of matrices of `program` that were costly; read, and filled.

    Raises:
        UsageError: a rule covers no site, calibration texts are needed and missing, or a matrix is
            off the grid that it should lie on.
        RewriteError: a calibration text makes a value infinite or NaN.
    """
    planned = check(recipe, program)
    asked = any(one.site.x is not None and _wants(one.choice) for one in planned)
    chains = any(_is_link(one) and one.choice.bits for one in planned)
    if (asked and known is None) or chains:
        _check_texts(recipe, sequences)
    first: dict[str, Planned] = {}
    for one in planned:
        if one.choice.bits:
            first.setdefault(one.site.stored.name or "", one)
    worked: Arrays = {}
    if any(map(_is_work, first.values())) or any(_wants(one.choice) for one in planned):
        work = partial(_work, planned, first, program, sequences, progress, known, rounded)
        worked = keep("integers", work)
    integers = {
        name: _gathered(worked, name, one) if _is_work(one) else _rounded(one)
        for name, one in first.items()
    }
    for name, one in first.items():
        check_scales(one.site, integers[name])
    values = dict.fromkeys(
        one.site.x.name or ""
        for one in planned
        if one.choice.bits and one.choice.activations == "static" and one.site.x is not None
    )
    steps = tuple((name, float(worked[f"{name}/step"])) for name in values)
    rows = [one.site.matrix.shape[1] for one in first.values() if one.site.linear is not None]
    group = recipe.group(min(rows, default=0))
    weights = (
        (QuantizeWeights(integers, group, *_finer(recipe, first, worked)),) if integers else ()
    )
    tables = [one.choice.bits for one in first.values() if one.site.kind == "table"]
    packs = (PackTable(),) if any(bits in PACKED for bits in tables) else ()
    return (*weights, *packs, *((QuantizeActivations(steps),) if steps else ()))


def _finer(
    recipe: Recipe, first: Mapping[str, Planned], worked: Arrays
) -> tuple[dict[str, tuple[int, ...]], dict[str, int]]:
    """What of the activations that runtimes round stays finer: the channels of each value that
    stand out most, and the matrices whose input has no or two parts of 8 bits."""
    if not recipe.dynamic:
        return {}, {}
    counts: dict[str, int] = {}
    for one in first.values():
        if one.site.x is not None:
            name = one.site.x.name or ""
            counts[name] = max(counts.get(name, 0), one.choice.kept)
    kept: dict[str, tuple[int, ...]] = {}
    for name, count in counts.items():
        standing = worked.get(f"{name}/standing")
        if count and standing is not None:
            first_ones = np.argsort(-standing, kind="stable")[:count]
            kept[name] = tuple(sorted(map(int, first_ones)))
    parts = {name: one.choice.parts for name, one in first.items() if one.choice.parts != 1}
    return kept, {name: count for name, count in parts.items() if first[name].site.x is not None}


def _work(
    planned: Sequence[Planned],
    first: Mapping[str, Planned],
    program: Program,
    sequences: Sequence[Sequence[int]],
    progress: Progress,
    known: Mapping[str, Activation] | None,
    rounded: Rounded | None,
) -> Arrays:
    """Every array that needs statistics or a search: integers of each of `first`, and steps, by
    name."""
    asked = [one.site.x for one in planned if one.site.x is not None and _wants(one.choice)]
    moments = any(one.choice.rounding == "gptq" and one.choice.bits for one in planned)
    found: Mapping[str, Activation] = known or {}
    if asked and known is None:
        found = statistics.record(
            program, asked, sequences, moments, lambda done: progress(done, len(sequences))
        )
    orders = _Orders()
    arrays: Arrays = {}
    links = {name: one for name, one in first.items() if _is_link(one)}
    for done, one in enumerate(planned, start=1):
        name, x = one.site.stored.name or "", one.site.x
        seen = found.get(x.name or "") if x is not None else None
        if first.get(name) is one and _is_work(one) and name not in links:
            held = None if rounded is None else rounded.get((name, one.choice))
            held = held or _rounded(one, seen, orders)
            if rounded is not None:
                rounded[name, one.choice] = held
            arrays |= _spread(name, held)
        if one.choice.bits and one.choice.activations == "static" and seen is not None:
            assert x is not None
            arrays[f"{x.name or ''}/step"] = np.array(step(one.site, seen))
        if one.choice.bits and seen is not None:
            assert x is not None
            arrays[f"{x.name or ''}/standing"] = seen.standing
        progress(done, len(planned))
    if links:
        others = {
            name: (one.site, _gathered(arrays, name, one) if _is_work(one) else _rounded(one))
            for name, one in first.items()
            if name not in links
        }
        sites = {name: (one.site, one.choice.grid) for name, one in links.items()}
        for name, made in chained(program, sites, others, sequences, progress).items():
            arrays |= _spread(name, made)
    return arrays


def _is_link(one: Planned) -> bool:
    """Whether a matrix is rounded by GPTAQ, after all others and on their results; no table is."""
    return one.choice.rounding == "gptaq" and one.site.x is not None


def _is_work(one: Planned) -> bool:
    """Whether the integers take more than rounding to the nearest."""
    learns = one.choice.rounding in ("gptq", "gptaq") and one.site.x is not None
    return 0 < one.choice.bits < 8 or learns or one.choice.rounding == "qat"


def _spread(name: str, found: Quantized) -> Arrays:
    columns = {} if found.columns is None else {f"{name}/columns": found.columns}
    return {f"{name}/numbers": found.numbers, f"{name}/scale": found.scale, **columns}


def _gathered(arrays: Arrays, name: str, one: Planned) -> Quantized:
    numbers, scale = arrays[f"{name}/numbers"], arrays[f"{name}/scale"]
    return Quantized(one.choice.grid, numbers, scale, arrays.get(f"{name}/columns"))


def _wants(choice: Choice) -> bool:
    """Whether a choice needs statistics."""
    searched = choice.bits == 4 and choice.rounding == "nearest"
    weighed = searched or choice.rounding == "gptq"
    return bool(choice.bits) and (choice.activations == "static" or weighed or choice.kept > 0)


class _Orders:
    """The `Order` of one value at a time: the maps that read it stand side by side in the graph."""

    def __init__(self) -> None:
        self._of: Activation | None = None
        self._order: Order | None = None

    def __call__(self, seen: Activation, name: str) -> Order:
        if self._order is None or self._of is not seen:
            self._of, self._order = seen, Order.of(seen.moments / max(seen.tokens, 1), name)
        return self._order


def _rounded(
    one: Planned, seen: Activation | None = None, orders: _Orders | None = None
) -> Quantized:
    site, choice, matrix = one.site, one.choice, one.site.matrix
    if choice.rounding == "qat":
        return _recovered(site, choice)
    if (
        orders is not None
        and choice.rounding == "gptq"
        and seen is not None
        and seen.moments.ndim == 2
    ):
        return compensated(matrix, choice.grid, orders(seen, (site.x and site.x.name) or ""))
    if site.kind == "table":
        return nearest(matrix, choice.grid, search=choice.bits < 8, columns=sizes(matrix))
    importance = None if seen is None else seen.strength
    return nearest(matrix, choice.grid, importance, search=choice.bits < 8)


def _recovered(site: Site, choice: Choice) -> Quantized:
    found = recovered(site.matrix, choice.grid)
    if found is None:
        each = f"blocks of {choice.block}" if choice.block else "channels"
        raise UsageError(
            f"{site.place} ({site.kind}) does not lie on a grid of {choice.bits} bits with a scale "
            f"for {each}: say the grid that the checkpoint was trained with, or another rounding"
        )
    return found
