"""A recipe says which matrices become integers, with how many bits, and with which preparation.

summary = "…"
gains = "balance"            # the norms' gains: "fold", "keep" or "balance"
alpha = 0.5                  # balance: how much of the spread the weights take over
dynamic = 128                # a runtime that can may round the activations of integer maps at
                             # run time, in groups of this many inputs or in a smaller block; a
                             # number below 1, such as 0.125, is a share of the shortest row,
                             # rounded down to a multiple of 16
around = "fast"              # "close": OpenVINO computes the rest in f32 instead of bf16; the
                             # fp16 of other targets is close already

[weights]                    # every linear map …
bits = 8                     # 8, 4, or 0 for floating point; 7 with static activations
block = 0                    # neighbouring inputs per scale; 0 is one scale per channel
rounding = "nearest"         # or "gptq", "gptaq", "qat"
activations = "none"         # the map's input: "none" or "static" (8 bits, one scale)
kept = 0                     # where it is rounded at run time: the number of its channels that stay
                             # floating point, those that stand out most on the calibration texts
parts = 1                    # where it is rounded at run time: 2 gives it two parts of 8 bits; 0
                             # leaves it floating point, where a runtime can choose for each map
pairs = false                # true: two neighbouring weights of one sign are at most 128 together,
                             # so that sums of 16 bits hold their products with bytes

[table]                      # … the table of embeddings, which may have 7, 6 or 5 bits as well …
bits = 8

[[rule]]                     # … and the exceptions; later rules win
kinds = ["down"]             # exporter/quantize/sites.py has the list
first = 4                    # in the first four layers alone; 0.25 is the first quarter
last = 0.25                  # in the last quarter alone; 4 is the last four layers, 1 the last one,
                             # and 1.0, which is a share, all of them
layers = "encoder.layers.?"  # a pattern of source modules; all of them if left out
activations = "none"
optional = false             # a rule that fits no matrix is an error unless this is true
"""

from __future__ import annotations

import math
import tomllib
import warnings
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from msgspec import Meta

from goldfold.exporter import records
from goldfold.exporter.errors import UsageError
from goldfold.exporter.passes.rewriting.packed import PACKED
from goldfold.exporter.records import Record
from goldfold.exporter.system.files import read_bounded
from goldfold.exporter.system.names import is_name

if TYPE_CHECKING:
    from goldfold.exporter.passes.rewriting.grid import Grid
    from goldfold.exporter.quantize.sites import Site

Kind = Literal["table", "query", "key", "value", "output", "gate", "up", "down", "head", "other"]
"""table: embeddings of tokens. query, key, value, output: around attention (a map that makes
several of them is `other`). gate, up, down: a feed-forward block; a block without a gate has only
up and down. head: on whole texts. other: all the rest."""

KINDS: tuple[Kind, ...] = get_args(Kind)
SHIPPED = Path(__file__).parent / "recipes"
LIMIT = 1 << 20
"""The most bytes of a recipe; a search writes one rule per matrix, some thousands of bytes."""

Bits = Literal[0, 4, 5, 6, 7, 8]
Rounding = Literal["nearest", "gptq", "gptaq", "qat"]
Activations = Literal["none", "static"]
Natural = Annotated[int, Meta(ge=0)]


class Choice(Record, frozen=True, kw_only=True):
    """The treatment of one matrix."""

    bits: Bits = 0
    block: Natural = 0
    rounding: Rounding = "nearest"
    """"gptq" is GPTQ; "gptaq" is GPTAQ, which rounds matrix after matrix, each on the results of
    the rounded ones before it (exporter/quantize/gptaq.py); "qat" recovers the integers that the
    matrix was made of, and refuses a matrix that was not made of integers."""
    activations: Activations = "none"
    kept: Natural = 0
    """The channels of the map's input that stay floating point, where a runtime rounds the others;
    of maps that read one value, the largest number counts."""
    parts: Literal[0, 1, 2] = 1
    """The parts of 8 bits of the map's input, where a runtime rounds it; 0 leaves it floating."""
    pairs: bool = False

    @property
    def grid(self) -> Grid:
        from goldfold.exporter.passes.rewriting.grid import Grid  # a recipe is read without it

        return Grid(self.bits, self.block, self.pairs and self.bits == 8)


class Rule(Record, frozen=True, kw_only=True):
    """An exception for some of the matrices; only the given fields count."""

    kinds: tuple[str, ...] = ()
    layers: str = "*"
    first: Annotated[int, Meta(gt=0)] | Annotated[float, Meta(gt=0)] | None = None
    """The first layers alone: an integer is how many, a float which share of all."""
    last: Annotated[int, Meta(gt=0)] | Annotated[float, Meta(gt=0)] | None = None
    """The last layers alone, likewise."""
    optional: bool = False
    """Whether the rule may fit no matrix, as in recipes for models of any form."""
    bits: Bits | None = None
    block: Natural | None = None
    rounding: Rounding | None = None
    activations: Activations | None = None
    kept: Natural | None = None
    parts: Literal[0, 1, 2] | None = None
    pairs: bool | None = None

    def __post_init__(self) -> None:
        for kind in self.kinds:
            if kind not in KINDS:
                raise ValueError(f"no kind is called {kind!r}; there are {', '.join(KINDS)}")
        for name, layers in (("first", self.first), ("last", self.last)):
            if layers is not None and not math.isfinite(layers):
                raise ValueError(f"{name} is {layers}; it must be finite")
            if isinstance(layers, float) and layers > 1:
                said = f"a share is at most 1.0, and a number of layers has no point: {layers:.0f}"
                raise ValueError(f"{name} is {layers}: {said}")

    def covers(self, site: Site) -> bool:
        pattern = self.layers if "*" in self.layers or "?" in self.layers else f"{self.layers}*"
        if site.kind == "table" and (self.first or self.last):
            return False
        if self.first is not None and site.depth >= _layers(self.first, site):
            return False
        if self.last is not None and site.depth < site.layers - _layers(self.last, site):
            return False
        return (not self.kinds or site.kind in self.kinds) and fnmatchcase(site.place, pattern)

    def change(self, choice: Choice) -> Choice:
        given = {name: getattr(self, name) for name in Choice.__struct_fields__}
        return choice.with_(**{name: value for name, value in given.items() if value is not None})


def _layers(given: float, site: Site) -> float:
    return given * site.layers if isinstance(given, float) else given


class Recipe(Record, frozen=True, kw_only=True):
    """The docstring of this module shows the form of the file."""

    name: str
    summary: str = ""
    gains: Literal["fold", "keep", "balance"] = "balance"
    alpha: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.0
    dynamic: Natural | Annotated[float, Meta(ge=0)] = 0
    around: Literal["fast", "close"] = "fast"
    weights: Choice = Choice()
    table: Choice = Choice()
    rules: tuple[Rule, ...] = ()

    def __post_init__(self) -> None:
        if self.table.activations != "none":
            raise ValueError("a table reads token ids: it has no activations to quantize")
        if self.table.rounding == "gptaq":
            raise ValueError("a table is rounded first: there is nothing to chain it to")
        if not math.isfinite(self.dynamic):
            raise ValueError(f"dynamic is {self.dynamic}; it must be finite")
        if self.dynamic >= 1 and self.dynamic % 16:
            raise ValueError(f"dynamic is {self.dynamic}: a multiple of 16, or a share below 1")

    def choice(self, site: Site) -> Choice:
        """The recipe's choice for one matrix."""
        found = self.table if site.kind == "table" else self.weights
        for rule in self.rules:
            if rule.covers(site):
                found = rule.change(found)
        return found

    def group(self, shortest: int) -> int:
        """The number of inputs that are rounded together where the shortest row has `shortest`
        inputs; 0 forbids that rounding."""
        if not 0 < self.dynamic < 1:
            return int(self.dynamic)
        return max(16, int(self.dynamic * shortest) // 16 * 16)

    @property
    def chains(self) -> bool:
        """Whether matrices are rounded one after the other, which takes many texts."""
        return "gptaq" in {self.weights.rounding, *(rule.rounding for rule in self.rules)}

    @property
    def needs(self) -> frozenset[str]:
        """The number types that a target must take (Target.quantizes)."""
        bits = {self.weights.bits, self.table.bits, *(rule.bits for rule in self.rules)}
        stored = {n if n == 4 else 8 for n in bits if n}
        return frozenset(f"int{n}" for n in stored) | (self._steps & {"static"})

    @property
    def rounds(self) -> bool:
        """Whether activations are rounded to integers: with fixed steps, or at run time."""
        return "static" in self._steps or bool(self.dynamic)

    @property
    def _steps(self) -> set[str]:
        return {self.weights.activations, *(rule.activations or "none" for rule in self.rules)}

    @property
    def gate(self) -> str:
        """The precision whose gate an artifact must pass: that of its coarsest part."""
        weights = [self.weights.bits, *(rule.bits for rule in self.rules if rule.bits is not None)]
        table = [rule.bits for rule in self.rules if "table" in rule.kinds and rule.bits]
        # Bits of a table, or 7 with static activations:
        table += [bits for bits in weights if bits in PACKED]
        if 4 in (self.table.bits, *table):
            return "small"
        if 4 in weights or 5 in (self.table.bits, *table):
            return "int4"
        narrow = any(bits in PACKED for bits in (self.table.bits, *table))
        return "int8" if self.rounds or narrow else "int8-weights"


def shipped() -> dict[str, Recipe]:
    """The recipes that ship with goldfold, by name: the quantized precisions."""
    return {path.stem: read(path) for path in sorted(SHIPPED.glob("*.toml"))}


def find(precision: str) -> Recipe | None:
    """The recipe that a precision names, shipped or as a file; None for a floating precision.

    Raises UsageError for a file that is missing or is no recipe.
    """
    if precision.endswith(".toml"):
        return read(Path(precision))
    path = SHIPPED / f"{precision}.toml"
    return read(path) if path.is_file() else None


def read(path: Path) -> Recipe:
    """Reads a recipe, named after its file. Raises UsageError that says what is wrong."""
    if not is_name(path.stem):
        raise UsageError(
            f"recipe {path}: {path.stem!r} becomes part of a folder's name: letters, digits and "
            "._+- alone, 64 at most; rename the file"
        )
    try:
        record = tomllib.loads(read_bounded(path, LIMIT).decode("utf-8"))
    except OSError as error:
        raise UsageError(f"recipe {path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # TOML, UTF-8, numbers of thousands of digits
        raise UsageError(f"recipe {path} is not TOML: {str(error)[:200]}") from None
    if "name" in record:
        raise UsageError(f"recipe {path}: name: a recipe is called what its file is; remove it")
    try:
        return made(path.stem, record)
    except RecursionError:
        raise UsageError(f"recipe {path}: it is nested too deep") from None
    except ValueError as error:
        raise UsageError(f"recipe {path}: {error}") from None


OLD_WORDS = {"compensated": "gptq", "chained": "gptaq", "on-grid": "qat"}
"""Older words for `rounding`, and the field's name that replaced each."""


class OldWord(FutureWarning):
    """A recipe uses an older word."""


def _renamed(recipe: str, value: Any) -> Any:
    """The same value with today's words; warns of each older word."""
    if isinstance(value, Mapping):
        found = {key: _renamed(recipe, item) for key, item in value.items()}
        old = found.get("rounding")
        if isinstance(old, str) and old in OLD_WORDS:
            found["rounding"] = new = OLD_WORDS[old]
            said = f'recipe {recipe}: rounding "{old}" is called "{new}" now'
            warnings.warn(said, OldWord, stacklevel=2)
        return found
    if isinstance(value, list):
        return [_renamed(recipe, item) for item in value]
    return value


def made(name: str, record: Mapping[str, Any]) -> Recipe:
    """A recipe from its file's content. Raises ValueError: the place, and what is wrong."""
    record = dict(_renamed(name, record))
    if "rules" in record:
        raise ValueError("rules: there is no such field; each rule is a [[rule]]")
    if "rule" in record:
        record["rules"] = record.pop("rule")
    return records.read(Recipe, {"name": name, **record})
