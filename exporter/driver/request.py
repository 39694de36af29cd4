"""The request of an export, checked before any work: pairs of target and precision, options,
lengths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from goldfold.exporter import registry
from goldfold.exporter.artifact import bundle
from goldfold.exporter.errors import UsageError
from goldfold.exporter.frontend.given import Text
from goldfold.exporter.frontend.source import HUB_ID
from goldfold.exporter.options import Asked, Options, check_taken, own
from goldfold.exporter.passes import pipeline
from goldfold.exporter.quantize import recipe as recipes_of
from goldfold.exporter.quantize.recipe import Recipe
from goldfold.exporter.quantize.texts import Own
from goldfold.exporter.system import names
from goldfold.exporter.system.files import expanded
from goldfold.exporter.verification import unseen
from goldfold.exporter.verification.judging import check_pairs

ANY_LENGTH = 1 << 62
"""A model's length where it is not known yet: a refusal of it holds for every model."""


Pair = tuple[str, str]
"""A target and a precision, by name."""


@dataclass(frozen=True)
class Request:
    """The checked arguments of `goldfold.export` (see its docstring)."""

    targets: Sequence[str]
    precisions: Sequence[str]
    out: Path
    force: bool
    options: pipeline.Options
    verify_each: bool
    max_length: int | None
    dims: Sequence[int]
    build: Asked
    locate: bool
    judge: bool
    count: int
    """Number of docstrings and functions, where `judge` asks for them."""
    unseen: int
    """Number of unseen texts."""
    scripts: tuple[str, ...]
    """The scripts to which the vocabulary is cut, if to any."""
    vocabulary: Path | None
    """The corpus to which the vocabulary is cut, if to one."""
    texts: tuple[Text, ...]
    """The user's own texts, which become goldens."""
    private: bool
    """Whether artifacts keep digests of them alone."""
    calibration: tuple[Own, ...]
    """The user's own calibration texts, or pairs; empty for the built-in ones."""
    recipes: Mapping[str, Recipe | None]
    """The recipe of each precision, by its name; None for a floating one."""
    pairs: Sequence[Pair]
    """The pairs in the order of the request."""

    @classmethod
    def checked(cls, **asked: Any) -> Request:
        """Returns a request; refuses here what is wrong for every model. Raises UsageError,
        TargetError."""
        known = recipes(asked["precisions"])
        request = cls(**asked, recipes=known, pairs=pairs(asked["targets"], known))
        check_sizes(request.dims, request.max_length)
        kinds = {name: registry.target(name).Options for name in request.targets}
        check_taken(request.build, kinds)
        pipeline.check_skips(request.options.skip)
        cut = request.options.stop_after is not None or "set-precision" in request.options.skip
        if cut and any(precision != "fp32" for precision in known):
            raise UsageError("--stop-after and --skip set-precision leave only fp32 whole")
        if request.judge:
            check_judged(known, request.count)
        unseen.check(request.unseen)
        if request.unseen and request.cuts:
            raise UsageError(
                "--unseen draws texts for a whole vocabulary; export once without a cut to measure "
                "them, for a cut artifact gives texts that keep their tokens the same embeddings"
            )
        halved = any(registry.floating(*pair) == "fp16" for pair in request.pairs)
        if request.calibration and not halved and all(one is None for one in known.values()):
            raise UsageError(
                "--calibration-texts steers integers and fp16, and "
                f"{', '.join(known)} is neither; leave it out"
            )
        if request.scripts and request.vocabulary is not None:
            raise UsageError("--scripts and --vocabulary both cut the vocabulary; give one of them")
        return request

    @property
    def cuts(self) -> bool:
        """Whether the vocabulary is cut."""
        return bool(self.scripts) or self.vocabulary is not None

    def check_places(self) -> None:
        """Refuse folders that cannot be written, or hold other things. Raises OutputError,
        UsageError."""
        out, dump = self.out, self.options.dump
        asked = [f"{target}-{precision}" for target, precision in self.pairs]
        bundle.check_output(out, asked, self.force)
        if dump is not None:
            if dump.resolve().is_relative_to(out.resolve()):
                raise UsageError(f"--dump {dump} lies in --out; give it a place of its own")
            bundle.check_writable(dump, "--dump")

    def settled(self, max_length: int) -> dict[Pair, Options]:
        """Returns the options of each pair's build, for texts of at most `max_length` tokens.
        Raises TargetError for options that a target cannot fulfil."""
        return settle(self.pairs, self.recipes, self.build, max_length)

    def groups(self) -> dict[str, list[Pair]]:
        """Returns pairs that start from one program: all floating precisions ("", and they come
        first), and each recipe's."""
        groups: dict[str, list[Pair]] = {}
        for pair in sorted(self.pairs, key=lambda pair: self.recipes[pair[1]] is not None):
            groups.setdefault("" if self.recipes[pair[1]] is None else pair[1], []).append(pair)
        return groups


def recipes(precisions: Sequence[str]) -> dict[str, Recipe | None]:
    """Returns the recipe of each precision, by name: none, a shipped recipe, or one from a file.

    Raises UsageError for an unknown name, a file that is no recipe, and two of one name.
    """
    found: dict[str, Recipe | None] = {}
    for precision in dict.fromkeys(precisions):
        recipe = None if precision in registry.FLOATS else recipes_of.find(precision)
        if recipe is None and precision not in registry.FLOATS:
            known = ", ".join((*registry.FLOATS, *recipes_of.shipped()))
            raise UsageError(f"unknown precision {precision!r}; known: {known}, or a file.toml")
        name = precision if recipe is None else recipe.name
        from_file = precision.endswith(".toml")
        if name in found or (from_file and (name in registry.FLOATS or recipes_of.find(name))):
            raise UsageError(f"--precision {precision}: {name} is the name of another; rename it")
        found[name] = recipe
    return found


def pairs(targets: Sequence[str], asked: Mapping[str, Recipe | None]) -> list[tuple[str, str]]:
    """Returns every pair of a target and a precision of `asked` (see `recipes`), refused here if
    the target does not offer it."""
    if not targets or not asked:
        raise UsageError("name at least one --target and one --precision")
    for target in targets:
        if target not in registry.names():
            known = ", ".join(registry.names())
            raise UsageError(f"unknown target {target!r}; known: {known}")
    found = [(target, precision) for target in dict.fromkeys(targets) for precision in asked]
    for target, precision in found:
        recipe = asked[precision]
        registry.offered(target, precision, () if recipe is None else recipe.needs)
    return found


def check_judged(asked: Mapping[str, Recipe | None], pairs: int) -> None:
    """Refuse to judge an export in which nothing is quantized (see `recipes`), or by too few
    pairs."""
    check_pairs(pairs)
    if all(recipe is None for recipe in asked.values()):
        raise UsageError(
            f"--judge measures quantized artifacts, and {', '.join(asked)} is not quantized;"
            " `goldfold judge ARTIFACT` judges any artifact"
        )


def check_sizes(dims: Sequence[int], max_length: int | None) -> None:
    """Refuse, without knowing the model, sizes and lengths that no model has."""
    if any(dim < 1 for dim in dims) or (max_length is not None and max_length < 1):
        raise UsageError("--dims and --max-length begin at 1")
    if len(set(dims)) != len(dims):
        raise UsageError(f"--dims {','.join(map(str, dims))} names a size twice")


def settle(
    pairs: Sequence[tuple[str, str]],
    recipes: Mapping[str, Recipe | None],
    asked: Asked,
    max_length: int,
) -> dict[tuple[str, str], Options]:
    """Returns the options of each pair's build, refused here if its target cannot fulfil them.
    `recipes` holds the recipe of each precision (see the function of that name)."""
    settled = {}
    for name, precision in pairs:
        target = registry.target(name)
        recipe = recipes[precision]
        floating = registry.floating(name, precision, recipe and recipe.around)
        given = target.allow(recipe.needs if recipe else (), own(target.Options, asked))
        settled[name, precision] = target.settle(floating, given, max_length)
    return settled


def at_revision(model: str, revision: str | None) -> str:
    """Returns a hub id with a revision, as `open_model` takes it. Raises UsageError for a model
    that has none, or has one already."""
    if revision is None:
        return model
    if expanded(model).is_dir() or "@" in model:
        what = "names its revision" if "@" in model else "is a folder, and has no revisions"
        raise UsageError(f"{names.line(model[:80])} {what}; leave --revision out")
    if not HUB_ID.fullmatch(found := f"{model}@{revision}"):
        raise UsageError(f"{names.line(found[:80])!r} is no org/name@revision of the hub")
    return found
