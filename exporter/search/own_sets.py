"""A user's own texts in a search: those that calibrate, and those on which recipes are compared."""

from __future__ import annotations

from goldfold.exporter.driver import own_texts
from goldfold.exporter.errors import UsageError
from goldfold.exporter.quantize.texts import Own
from goldfold.exporter.verification.yours import Files, listed


def own_sets(
    calibration: Files, tuning: Files, column: str | None = None
) -> tuple[tuple[Own, ...], tuple[Own, ...]]:
    """Returns both sets; either may be empty, for the built-in one. Raises UsageError as well for a
    text that is in both, by which a recipe would be judged on what it was calibrated with."""
    if column is not None and not listed(calibration) and not listed(tuning):
        raise UsageError("--column names a column of --calibration-texts or --tuning-texts")
    first = own_texts.calibration(calibration, column if listed(calibration) else None)
    second = own_texts.calibration(tuning, column if listed(tuning) else None, "--tuning-texts")
    if both := set(first) & set(second):
        raise UsageError(
            f"--tuning-texts: {len(both):,} of the {len(second):,} texts are calibration texts; a "
            "recipe is not to be compared on what it was calibrated with"
        )
    return first, second


def said(calibration: tuple[Own, ...], tuning: tuple[Own, ...]) -> tuple[str, ...]:
    """Returns a sentence on each set that is a user's own, for a recipe's comment."""
    sets = (("calibrated", "by", calibration), ("compared", "on", tuning))
    return tuple(
        f"{done} {by} {len(texts):,} texts of the user's own, sha256 {own_texts.digest(texts)}"
        for done, by, texts in sets
        if texts
    )
