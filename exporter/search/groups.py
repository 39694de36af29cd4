"""Groups of matrices are the units of a search: each has options, and a choice of options gives a
recipe.

A group holds the maps of one role (exporter/quantize/sites.py) in one band of layers; the table and
the head are groups by themselves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Literal

from goldfold.exporter.passes.pack_table import Layout
from goldfold.exporter.passes.rewriting.packed import PACKED
from goldfold.exporter.quantize.recipe import Choice, Recipe, Rule
from goldfold.exporter.quantize.sites import Site

Objective = Literal["size", "speed"]

FLOAT = Choice()
_FAMILIES: dict[Objective, tuple[tuple[str, ...], ...]] = {
    "size": (("query", "key"), ("value",), ("output",), ("gate", "up"), ("down",), ("other",)),
    # The input of a map is rounded once for all readers: the readers of one value are one group.
    "speed": (("query", "key", "value"), ("output",), ("gate", "up"), ("down",), ("other",)),
}
_BLOCKS = (32, 16, 8)
"""The widest block that divides the rows of a group is offered."""
_WIDE = 64
"""The block of a table between 8 and 4 bits: blocks of 32 would cost half a bit per number."""
_GAINS: dict[Objective, tuple[Literal["keep", "balance"], float]] = {
    "size": ("keep", 0.0), "speed": ("balance", 0.8),
}  # fmt: skip
"""The gains of the shipped recipes int8-weights, and int8-static, whose activations are integers
too."""


@dataclass(frozen=True, eq=False)
class Group:
    """Sites that share one choice."""

    kinds: tuple[str, ...]
    start: int
    """The first layer of the band; 0 where there are no bands."""
    stop: int | None
    """The layer behind the band; None where the band reaches to the end."""
    sites: tuple[Site, ...]
    options: tuple[Choice, ...]
    """The first option is floating point; all are rounded to the nearest."""

    @property
    def name(self) -> str:
        kind = "+".join(self.kinds)
        if not self.start and self.stop is None:
            return kind
        last = self.stop - 1 if self.stop is not None else ""
        return f"{kind} {self.start}" if last == self.start else f"{kind} {self.start}–{last}"

    @property
    def weights(self) -> int:
        return sum(site.matrix.size for site in self._distinct())

    @property
    def products(self) -> int:
        """Multiplications per token; none of a table, next to none of the head (once per text)."""
        inside = [site for site in self.sites if site.kind not in ("table", "head")]
        return sum(site.matrix.size for site in inside)

    def bytes(self, choice: Choice) -> int:
        """The size of the group's constants: integers, and a scale of two bytes each, as OpenVINO
        stores them; f32 where the choice is floating point."""
        if not choice.bits:
            return 4 * self.weights
        found = 2 * self.scales(choice)
        for site in self._distinct():
            channels, inputs = site.matrix.shape
            packed = choice.bits in PACKED and site.kind == "table"
            stored = inputs if choice.bits in PACKED else inputs * choice.bits // 8
            width = Layout(choice.bits, inputs).carriers if packed else stored
            found += channels * width
        return found

    def scales(self, choice: Choice) -> int:
        """The number of the group's scales; none where the choice is floating point."""
        if not choice.bits:
            return 0
        shapes = (site.matrix.shape for site in self._distinct())
        return sum(channels * choice.grid.blocks(inputs) for channels, inputs in shapes)

    def _distinct(self) -> list[Site]:
        return list({site.stored.name: site for site in self.sites}.values())


def find(sites: Sequence[Site], objective: Objective, takes: Set[str]) -> list[Group]:
    """The groups of a program's sites, and their options among what a target `takes`
    (Target.quantizes)."""
    layers = 1 + max((site.depth for site in sites if site.kind == "down"), default=0)
    edges = sorted({edge for edge in (layers // 6, layers // 3, 2 * layers // 3) if edge})
    bands = list(zip([0, *edges], [*edges, None], strict=True)) if layers > 1 else [(0, None)]
    found: list[Group] = []
    for kinds in (("table",), *_FAMILIES[objective], ("head",)):
        own = [site for site in sites if site.kind in kinds]
        inside = bands if kinds not in (("table",), ("head",)) else [(0, None)]
        for start, stop in inside:
            part = tuple(
                site
                for site in own
                if inside == [(0, None)]
                or (site.depth >= start and (stop is None or site.depth < stop))
            )
            if part:
                present = tuple(kind for kind in kinds if any(s.kind == kind for s in part))
                options = _options(part, objective, takes)
                found.append(Group(present, start, stop, part, options))
    return found


def _options(part: Sequence[Site], objective: Objective, takes: Set[str]) -> tuple[Choice, ...]:
    shapes = [site.matrix.shape for site in part]
    is_map = part[0].kind not in ("table", "head")
    block = next((b for b in _BLOCKS if all(inputs % b == 0 for _, inputs in shapes)), 0)
    even = all(channels % 2 == 0 and inputs % 2 == 0 for channels, inputs in shapes)
    found = [FLOAT]
    if "int8" in takes:
        found.append(Choice(bits=8))
        if block and part[0].kind != "table":
            found.append(Choice(bits=8, block=block))
        if part[0].kind == "table" and objective == "size":
            wide = _WIDE if all(inputs % _WIDE == 0 for _, inputs in shapes) else block
            found += [Choice(bits=6, block=wide), Choice(bits=5, block=wide)]
    if "int4" in takes and block and even:
        found.append(Choice(bits=4, block=block))
    if objective == "speed" and "static" in takes and "int8" in takes and is_map:
        found.append(Choice(bits=8, activations="static"))
    return tuple(found)


def word(choice: Choice) -> str:
    """A choice in one word: `float`, `int8`, `int4/32`, `int8 static`."""
    if not choice.bits:
        return "float"
    block = f"/{choice.block}" if choice.block else ""
    return f"int{choice.bits}{block}" + (" static" if choice.activations == "static" else "")


def recipe(
    name: str,
    groups: Sequence[Group],
    chosen: Sequence[Choice],
    objective: Objective,
    compensated: bool,
    summary: str = "",
) -> Recipe:
    """The recipe that gives each group its choice, with integers of maps by `gptq` or nearest."""
    table = FLOAT
    maps: dict[Group, Choice] = {}
    for group, choice in zip(groups, chosen, strict=True):
        if group.kinds == ("table",):
            table = choice
        elif compensated and choice.bits:
            maps[group] = choice.with_(rounding="gptq")
        else:
            maps[group] = choice
    weight: Counter[Choice] = Counter()
    for group, choice in maps.items():
        weight[choice] += group.weights
    usual = weight.most_common(1)[0][0] if weight else FLOAT
    gains, alpha = _GAINS[objective]
    return Recipe(
        name=name, summary=summary, gains=gains, alpha=alpha, weights=usual, table=table,
        rules=_rules(maps, usual),
    )  # fmt: skip


def _rules(maps: Mapping[Group, Choice], usual: Choice) -> tuple[Rule, ...]:
    """Rules reach from the first layer on, and later ones win: the last band's stands first."""
    found: list[Rule] = []
    families = dict.fromkeys(_family(group) for group in maps)
    for family in families:
        bands = [(group, c) for group, c in maps.items() if _family(group) == family]
        kinds = tuple(dict.fromkeys(kind for group, _ in bands for kind in group.kinds))
        around = usual
        for group, choice in reversed(bands):
            if choice != around:
                found.append(Rule(kinds=kinds, first=group.stop, **choice.plain()))
            around = choice
    return tuple(found)


def _family(group: Group) -> int:
    families = (*_FAMILIES["size"], ("head",))
    return next(at for at, kinds in enumerate(families) if group.kinds[0] in kinds)
