"""`goldfold export --fit`: the artifact of least loss in retrieval that fits a size.

Sizes of all candidates are predicted first (sizing.py). Those that fit and whose gates are the
tightest are built, with the recipe that the search finds for this very size (knapsack.py), and
pass the gates of every export; those that pass retrieve, on texts that nothing else reads. The
least upper bound of the loss wins, and of two equal ones the smaller artifact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from goldfold.exporter import registry, report
from goldfold.exporter.artifact import bundle
from goldfold.exporter.artifact.result import Result
from goldfold.exporter.driver import exporting, own_texts
from goldfold.exporter.driver.request import Request
from goldfold.exporter.errors import GateMissed, GoldfoldError, UsageError
from goldfold.exporter.frontend.readiness import ready
from goldfold.exporter.frontend.source import open_model
from goldfold.exporter.passes import pipeline
from goldfold.exporter.progress import Listener, Stages
from goldfold.exporter.quantize import recipe as recipes
from goldfold.exporter.search import sizing, trials
from goldfold.exporter.search.fit_candidates import (
    Candidate,
    Fitted,
    Wanted,
    known,
    predict,
    scripts_of,
    whole,
)
from goldfold.exporter.search.outcome import to_toml
from goldfold.exporter.system.cache import open_cache
from goldfold.exporter.system.files import expanded
from goldfold.exporter.verification import retrieving
from goldfold.exporter.verification.goldens import ours
from goldfold.exporter.verification.judging import Fp32, Judges, check_pairs, convene, fp32_embed
from goldfold.golden.errors import Unrankable
from goldfold.golden.gate import GATES

MEASURED = 2
"""Candidates of a target that are built beside the search's own: those of the tightest gates."""


@ours()
def fit(wanted: Wanted, listener: Listener | None = None) -> Fitted:
    """Build the artifact of least loss that fits a size, one for each target.

    Raises:
        GateMissed: nothing fits, or nothing that fits passes its gate; nothing is written then.
        GoldfoldError of the kind that says whose fault it is.
    """
    stages, limit, given = Stages(listener), wanted.limit, wanted.given
    _check(wanted)
    with stages("open"):
        source = open_model(
            wanted.model,
            name=given.get("name"),
            trust_remote_code=given.get("trust_remote_code", False),
            allow_incomplete=given.get("allow_incomplete", False),
            route=given.get("route"),
        )
        embed = fp32_embed(source)  # refuses a model whose retrieval cannot be judged
        names = [f"{t}-{p}" for t in wanted.targets for p in known(wanted, t)]
        names += [f"{target}-{wanted.name}" for target in wanted.targets]
        made = not wanted.out.exists()
        bundle.check_output(wanted.out, names, given.get("force", False))
        source = ready(source, stages, open_cache(given.get("cache", True)))
    fitted = Fitted(source.name, source.fingerprint, wanted)
    try:
        with bundle.scratch(wanted.out) as scratch:
            predict(fitted, source, scratch, stages)
            trials.opened.cache_clear()  # its files are in memory until then
            judges = convene(
                stages,
                Fp32(source.name, source.fingerprint, embed),
                count=wanted.pairs,
                skip=("lee", "ranks"),
            )
            assert judges.pairs is not None
            fitted.pairs_digest = judges.pairs.digest
            for target in wanted.targets:
                _measure(fitted, target, scratch, judges, stages)
            for target in wanted.targets:
                _choose(fitted, target, limit)
            for one in fitted.candidates:
                if one.state == "chosen" and one.result is not None:
                    one.result = _published(one.result, wanted.out)
    except BaseException:
        if made and wanted.out.is_dir() and not any(wanted.out.iterdir()):
            wanted.out.rmdir()
        raise
    report.after_export(wanted.out, stages)
    return fitted


def _check(wanted: Wanted) -> None:
    """Refuse what is wrong for every model. Raises UsageError, TargetError."""
    if wanted.given.get("options", pipeline.Options()) != pipeline.Options():
        raise UsageError("--fit builds several artifacts whole: leave out --skip, --stop-after and "
                         "--dump")  # fmt: skip
    check_pairs(wanted.pairs)
    given = dict(wanted.given)
    for name in ("name", "trust_remote_code", "allow_incomplete", "cache", "route", "pairs"):
        given.pop(name, None)
    corpus = given.get("vocabulary")
    given["vocabulary"] = None if corpus is None else expanded(str(corpus))
    given["scripts"] = scripts_of(wanted)
    given["judge"] = bool(given.get("judge") and wanted.precisions)
    column, calibration = given.pop("column", None), given.pop("calibration_texts", ())
    given["texts"] = own_texts.goldens(given.get("texts", ()), column, calibration)
    given["private"] = given.pop("private_texts", False)
    given["calibration"] = own_texts.calibration(calibration, column)
    floats = [set(registry.target(target).precisions) for target in wanted.targets]
    common = [name for name in registry.FLOATS if all(name in one for one in floats)]
    Request.checked(
        targets=wanted.targets, precisions=wanted.precisions or common[:1], out=wanted.out,
        count=wanted.pairs, **given,
    )  # fmt: skip
    for target in wanted.targets:
        sizing.check_target(target)


def _measure(fitted: Fitted, target: str, scratch: Path, judges: Judges, stages: Stages) -> None:
    """Build the candidates of a target that are worth it, and measure those that pass."""
    wanted, limit = fitted.wanted, fitted.wanted.limit
    own = [one for one in fitted.candidates if one.target == target]
    fits = [one for one in own if one.size.bytes <= limit]
    for one in own:
        one.state = "not built: others have tighter gates" if one in fits else "too large"
    plain = [one for one in fits if one.name != wanted.name]
    plain.sort(key=lambda one: (GATES[one.gate].worst, -one.size.bytes))
    if not wanted.precisions:
        plain = plain[: 1 if whole(fitted, target, limit) else MEASURED]
    tried = [*plain, *(one for one in fits if one.name == wanted.name)]
    place = scratch / f"built-{target}"
    results = _built(fitted, target, tried, place, stages)
    for one in tried:
        one.result = results.get(one.name)
        if one.result is None:
            one.state = "could not be built"
            continue
        one.true = one.size.of(one.result.path)
        if not one.result.passed:
            one.state = "missed its gate"
        elif one.true > limit:
            one.state = "too large"
        else:
            with stages(f"retrieval {target}-{one.name}"):
                try:
                    one.loss = retrieving.loss_of(one.result.bundle, judges, stages)
                    one.state = "loses more"
                except Unrankable as error:
                    one.state = f"its embeddings cannot be ranked: {error}"


def _built(
    fitted: Fitted, target: str, tried: Sequence[Candidate], place: Path, stages: Stages
) -> dict[str, Result]:
    """Export some candidates of a target, and return the results by name. Raises the error of an
    export that builds none."""
    named: list[str] = []
    for one in tried:
        named.append(one.name)
        if one.recipe is not None and recipes.shipped().get(one.name) != one.recipe:
            file = place.parent / f"{one.name}.toml"
            trials.write(file, to_toml(one.recipe))
            named[-1] = str(file)
    wanted = fitted.wanted
    judged = bool(wanted.given.get("judge")) and any(one.recipe for one in tried)
    try:
        done = exporting.export(
            wanted.model, [target], named, place, listener=stages.listener,
            **{**wanted.given, "build": _own(wanted, target), "judge": judged},
        )  # fmt: skip
    except GoldfoldError as error:
        if not error.results:
            raise
        done = list(error.results)
    return {one.bundle.manifest.precision: one for one in done}


def _own(wanted: Wanted, target: str) -> Mapping[str, Any]:
    """Returns the options of the build that a target takes."""
    known = registry.target(target).Options.__struct_fields__
    return {name: one for name, one in wanted.given.get("build", {}).items() if name in known}


def _choose(fitted: Fitted, target: str, limit: int) -> None:
    """Mark the candidate of least upper bound. Raises GateMissed where none passed its gate."""
    own = [one for one in fitted.candidates if one.target == target]
    able = [one for one in own if one.loss is not None]
    if not able:
        tried = "; ".join(f"{one.name}: {one.state}" for one in own if one.size.bytes <= limit)
        raise GateMissed(
            f"--fit {fitted.wanted.text}: nothing that fits can be had for {target} ({tried})"
        )
    best = min(able, key=lambda one: (one.upper, one.true or 0))
    best.state = "chosen"


def _published(result: Result, out: Path) -> Result:
    path = bundle.publish(result.path, out, result.bundle.name, True)
    return replace(result, path=path, bundle=replace(result.bundle, path=path))
