"""An artifact laid out for a server: the target says how, here it is done safely."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from exporter import registry
from exporter.bundle import check_writable, open_bundle, scratch
from exporter.errors import OutputError, UsageError


@dataclass(frozen=True)
class LaidOut:
    path: Path
    notes: tuple[str, ...]
    """What a person should know, one sentence each."""


def lay_out(folder: Path, layout: str, out: Path) -> LaidOut:
    """Lay an artifact out for a server, in the new or empty folder `out`.

    Every digest is checked first. Raises ArtifactError for an artifact that is damaged or missed
    its gate, UsageError for a layout that its target does not know, OutputError if `out` holds
    something already, and what the target raises (Target.lay_out).
    """
    opened = open_bundle(folder)
    manifest = opened.manifest
    target = registry.offered(manifest.target, manifest.precision, manifest.needs)
    if layout not in target.layouts:
        known = ", ".join(target.layouts) or "none"
        raise UsageError(f"{target.name} has no layout {layout!r}; it has: {known}")
    if out.is_dir() and any(out.iterdir()):
        raise OutputError(f"{out} holds something already; give another --out")
    if out.resolve().is_relative_to(folder.resolve()):
        raise OutputError(
            f"{out} lies in the artifact, whose files are counted; give another --out"
        )
    check_writable(out, "--out")
    with scratch(out.parent) as room:
        built = room / out.name
        built.mkdir()
        notes = target.lay_out(folder, manifest.contract, manifest.floating, layout, built)
        try:
            out.rmdir()
            built.rename(out)
        except OSError as error:
            raise OutputError(f"cannot write {out}: {error.strerror}") from None
    return LaidOut(out, notes)
