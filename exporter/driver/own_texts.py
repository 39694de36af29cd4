"""A user's own texts in an export: those that become goldens, and those that calibrate.

The two sets are kept apart: a calibration text that is a golden as well is left out, so that no
gate judges a text by which the numbers were chosen.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from goldfold.exporter.driver.request import Request
from goldfold.exporter.errors import UsageError
from goldfold.exporter.frontend import given
from goldfold.exporter.frontend.given import Text
from goldfold.exporter.frontend.source import Source
from goldfold.exporter.ir.program import Program
from goldfold.exporter.progress import Stages
from goldfold.exporter.proofs import Calibration
from goldfold.exporter.quantize import plan
from goldfold.exporter.quantize.recipe import Recipe
from goldfold.exporter.quantize.texts import Own
from goldfold.exporter.verification import yours
from goldfold.exporter.verification.yours import Files, listed
from goldfold.golden.compare import YOURS
from goldfold.golden.store import Goldens

if TYPE_CHECKING:
    from goldfold.exporter.driver.proving import Group, Session

_CALIBRATING = 4_096
"""The most calibration texts: each is run once, and its activations are added up."""
_TUNING = 1_024
"""The most tuning texts: every trial of a search runs them."""


def goldens(files: Files, column: str | None, other: Files = ()) -> tuple[Text, ...]:
    """Returns the texts that become goldens. `other` are files that --column may be for instead.
    Raises UsageError."""
    if not listed(files) and listed(other):
        return ()
    return given.read(listed(files), column)


def calibration(
    files: Files, column: str | None = None, option: str = "--calibration-texts"
) -> tuple[Own, ...]:
    """Returns the texts, or pairs, by which numbers are chosen. Warns where all letters are of one
    script. Raises UsageError, also for fewer texts than ranges can be learnt from."""
    if not listed(files):
        return ()
    for one in listed(files):
        if way := given.split(one)[1]:
            raise UsageError(
                f"{option} {one}: each text stands alone and behind the model's prompts in turn; "
                f"leave :{way[:40]} out"
            )
    most = _CALIBRATING if option == "--calibration-texts" else _TUNING
    found = given.read(listed(files), column, option, most, given.LIMIT)
    texts: list[Own] = [one.text if one.pair is None else (one.text, one.pair) for one in found]
    texts = list(dict.fromkeys(texts))
    _check_count(len(texts), f"{option} {_named(files)}")
    parts = [part for one in texts for part in ((one,) if isinstance(one, str) else one)]
    if script := given.one_script(parts):
        warnings.warn(
            f"{option} {_named(files)}: every letter is {script}: texts of other scripts may have "
            "larger values, and lose more; add some of each that is to be embedded",
            stacklevel=2,
        )
    return tuple(texts)


def added(goldens: Goldens, source: Source, request: Request, stages: Stages) -> Goldens:
    """Returns goldens with the user's own behind them, and those of earlier ones marked, where they
    are private. Raises UsageError, ModelError."""
    if request.texts:
        with stages("your texts"):
            stages.detail("sentence-transformers embeds them")
            before = len(goldens.cases)
            goldens = yours.with_yours(goldens, source, request.texts, request.max_length)
            some = len(goldens.cases) - before
            kept = "; artifacts keep digests of them" if request.private else ""
            stages.note(f"{some:,} goldens beside {before:,}{kept}")
    if request.private and all(case.kind != YOURS for case in goldens.cases):
        raise UsageError("--private-texts keeps digests of your texts, and none are given: --texts")
    return yours.private(goldens, request.private)


def apart(request: Request, goldens: Goldens) -> tuple[Request, int]:
    """Returns the request without the calibration texts that are goldens, and their number. Raises
    UsageError where too few are left."""
    if not request.calibration:
        return request, 0
    taken: set[Own] = set()
    for case in goldens.cases:
        taken |= {case.text, case.prompt + case.text, (case.text, case.pair)}
    left = tuple(one for one in request.calibration if one not in taken)
    shared = len(request.calibration) - len(left)
    if shared:
        _check_count(len(left), f"--calibration-texts: without {shared} that are goldens")
    return replace(request, calibration=left), shared


def learns(recipe: Recipe | None, program: Program) -> bool:
    """Returns whether the integers of a recipe depend on calibration texts."""
    return recipe is not None and plan.learns(recipe, program)


def calibrated(session: Session, group: Group) -> Calibration | None:
    """Returns the manifest's record of the user's own calibration texts; None where an artifact
    does not depend on any."""
    texts = session.request.calibration
    if not texts:
        return None
    if not group.learned and not group.peaks:
        what = "a floating precision" if group.recipe is None else group.recipe.name
        warnings.warn(f"--calibration-texts: {what} learns from none", stacklevel=2)
        return None
    return Calibration(count=len(texts), digest=digest(texts), shared=session.shared)


def digest(texts: Sequence[Own]) -> str:
    """Returns the sha256, in hex, of calibration or tuning texts."""
    pairs = [(one, None) if isinstance(one, str) else one for one in texts]
    return given.digest(Text("", text, "", "", pair) for text, pair in pairs)


def _check_count(count: int, where: str) -> None:
    if count < plan.LEAST:
        raise UsageError(
            f"{where}: holds {count} different texts, too few for the ranges of any other; give at "
            f"least {plan.LEAST}, of every script and length that is to be embedded"
        )


def _named(files: Files) -> str:
    return ", ".join(map(str, listed(files)))
