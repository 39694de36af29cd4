"""A pipeline's artifacts against a release: may the new queries search the old index?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from goldfold.exporter.artifact.manifest import is_artifact
from goldfold.exporter.errors import GateMissed, GoldfoldError
from goldfold.exporter.index.compatibility import How, compat
from goldfold.exporter.index.verdict import LOSS
from goldfold.exporter.progress import Listener
from goldfold.exporter.report.pipeline_file import Release


def against(
    release: Release, out: Path, names: Sequence[str], listener: Listener | None
) -> tuple[list[str], dict[str, GoldfoldError]]:
    """Compare artifacts of `out` with a release's, each with the one of its name, or all with the
    one that the release is.

    Returns a sentence for each comparison, and by name the errors of those that are not compatible
    or could not be compared. An artifact that the release does not have is new, and no error.
    """
    old, limit = Path(release.against), LOSS if release.limit is None else release.limit
    said: list[str] = []
    errors: dict[str, GoldfoldError] = {}
    for name in names:
        before = old if is_artifact(old) else old / name
        if not is_artifact(before):
            said.append(f"{name}: the release {old} has no such artifact to compare with.")
            continue
        try:
            found = compat(
                before, out / name, texts=release.texts, limit=limit, how=How(listener=listener)
            )
        except GoldfoldError as error:
            errors[name] = error
            said.append(f"{name} was not compared with {before}: {error}")
            continue
        said.append(f"{name} against {before}: {found.sentence}.")
        if not found.compatible:
            errors[name] = GateMissed(f"{name} against {before}: {found.sentence}")
    return said, errors
