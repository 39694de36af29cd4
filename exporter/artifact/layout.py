"""Layouts: an artifact is deployed into a server's folder as its target describes, and safely."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from goldfold.exporter import registry
from goldfold.exporter.artifact import canaries
from goldfold.exporter.artifact.bundle import (
    MANIFEST,
    VERDICT,
    Bundle,
    check_writable,
    open_bundle,
    scratch,
    steadily,
)
from goldfold.exporter.artifact.encoder import open_encoder
from goldfold.exporter.artifact.manifest import is_left, read_manifest
from goldfold.exporter.errors import ArtifactError, GoldfoldError, OutputError, UsageError
from goldfold.exporter.system import names
from goldfold.exporter.system.files import place_of


@dataclass(frozen=True)
class LaidOut:
    path: Path
    notes: tuple[str, ...]
    """Notes for the user, one sentence each."""


def lay_out(folder: Path, layout: str, out: Path) -> LaidOut:
    """Lay an artifact out for a server, in the new or empty folder `out`.

    Every digest is checked first. Raises ArtifactError for an artifact that is damaged or missed
    its gate, UsageError for a layout that its target does not know, OutputError if `out` holds
    something already, and what the target raises (Target.lay_out).
    """
    opened = open_bundle(folder, check_files=False)
    manifest = opened.manifest
    target = registry.offered(manifest.target, manifest.precision, manifest.needs)
    if layout not in target.layouts:
        known = ", ".join(target.layouts) or "none"
        raise UsageError(f"{target.name} has no layout {layout!r}; it has: {known}")
    if out.is_dir() and any(not is_left(path.name) for path in out.iterdir()):
        raise OutputError(f"{out} holds something already; give another --out")
    if out.resolve().is_relative_to(folder.resolve()):
        raise OutputError(
            f"{out} lies in the artifact, whose files are counted; give another --out"
        )
    check_writable(out, "--out")
    with scratch(out.absolute().parent) as room:
        view, built = room / "artifact", room / "laid" / names.file_name(out.absolute().name)
        built.mkdir(parents=True)
        try:
            found = steadily(folder, lambda: _gather(folder, view))
            _try(found)
            manifest = found.manifest
            notes = target.lay_out(view, manifest.contract, manifest.floating, layout, built)
            if layout in target.canaried:
                canaries.write(found, built)
        except GoldfoldError as error:  # with a message about the original folder
            raise type(error)(str(error).replace(str(view), str(folder))) from None
        try:
            for path in out.iterdir():
                if is_left(path.name):
                    path.unlink()
            out.rmdir()
            built.rename(out)
        except OSError as error:
            raise OutputError(f"cannot write {out}: {error.strerror}") from None
    return LaidOut(out, notes)


def _gather(folder: Path, view: Path) -> Bundle:
    """Gather the artifact's files in a new folder, every digest checked there: as hard links where
    the file system has them. Files that the manifest does not name are left out, and a file that is
    replaced meanwhile changes nothing here."""
    shutil.rmtree(view, ignore_errors=True)
    for key in (MANIFEST, VERDICT, *read_manifest(folder).files):
        place = place_of(view, key)
        place.parent.mkdir(parents=True, exist_ok=True)
        source = place_of(folder, key)
        try:
            if source.is_symlink() or key == VERDICT:  # verify may write a new verdict
                raise OSError
            os.link(source, place)
        except OSError:
            try:
                shutil.copyfile(source, place)
            except OSError as error:
                raise ArtifactError(f"{folder} is damaged: {key}: {error.strerror}") from None
    return open_bundle(view)


def _try(gathered: Bundle) -> None:
    """Raise ArtifactError unless the artifact runs as its manifest says: one token is run through
    it."""
    encoder = open_encoder(gathered, threads=1)
    encoder.run(np.zeros((1, 1), np.int64), np.ones((1, 1), np.int64))
