"""Layouts: an artifact is deployed into a server's folder as its target describes, and safely."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from goldfold.exporter import registry
from goldfold.exporter.artifact import canaries
from goldfold.exporter.artifact.bundle import (
    MANIFEST,
    TOKENIZER,
    VERDICT,
    Bundle,
    check_writable,
    open_bundle,
    scratch,
    steadily,
)
from goldfold.exporter.artifact.encoder import open_encoder
from goldfold.exporter.artifact.manifest import Manifest, is_left, read_manifest
from goldfold.exporter.contract import Served
from goldfold.exporter.errors import ArtifactError, GoldfoldError, OutputError, UsageError
from goldfold.exporter.system import names
from goldfold.exporter.system.files import place_of

if TYPE_CHECKING:
    from goldfold.targets.base import Target


@dataclass(frozen=True)
class LaidOut:
    path: Path
    notes: tuple[str, ...]
    """Notes for the user, one sentence each."""


def lay_out(folder: Path, layout: str, out: Path, beside: Sequence[Path] = ()) -> LaidOut:
    """Lay an artifact out for a server, in the new or empty folder `out`; `beside` are artifacts of
    the same model in other precisions, for layouts that hold several.

    Every digest is checked first. Raises ArtifactError for an artifact that is damaged or missed
    its gate, UsageError for a layout that its target does not know and for artifacts that do not go
    together, OutputError if `out` holds something already, and what the target raises
    (Target.lay_out).
    """
    folders = (folder, *beside)
    manifests = [open_bundle(one, check_files=False).manifest for one in folders]
    target = _target(folders, manifests, layout)
    if out.is_dir() and any(not is_left(path.name) for path in out.iterdir()):
        raise OutputError(f"{out} holds something already; give another --out")
    if any(out.resolve().is_relative_to(one.resolve()) for one in folders):
        raise OutputError(
            f"{out} lies in the artifact, whose files are counted; give another --out"
        )
    check_writable(out, "--out")
    with scratch(out.absolute().parent) as room:
        built = room / "laid" / names.file_name(out.absolute().name)
        built.mkdir(parents=True)
        views = {one: room / f"artifact-{place}" for place, one in enumerate(folders)}
        try:
            found = [_tried(one, view) for one, view in views.items()]
            _check_one_model(folders, [one.manifest for one in found])
            notes = target.lay_out([_served(one) for one in found], layout, built)
            if layout in target.canaried:
                canaries.write(found[0], built)
        except GoldfoldError as error:  # with a message about the original folder
            said = str(error)
            for one, view in views.items():
                said = said.replace(str(view), str(one))
            raise type(error)(said) from None
        try:
            for path in out.iterdir():
                if is_left(path.name):
                    path.unlink()
            out.rmdir()
            built.rename(out)
        except OSError as error:
            raise OutputError(f"cannot write {out}: {error.strerror}") from None
    return LaidOut(out, notes)


def _target(folders: Sequence[Path], manifests: Sequence[Manifest], layout: str) -> Target:
    """Returns the target of all these artifacts, which knows the layout."""
    first = manifests[0]
    for other, manifest in zip(folders, manifests, strict=True):
        if manifest.target != first.target:
            raise UsageError(
                f"{folders[0]} is of the target {first.target}, and {other} of {manifest.target}; "
                "lay them out apart"
            )
        target = registry.offered(manifest.target, manifest.precision, manifest.needs)
    if layout not in target.layouts:
        known = ", ".join(target.layouts) or "none"
        raise UsageError(f"{target.name} has no layout {layout!r}; it has: {known}")
    if len(folders) > 1 and layout not in target.together:
        raise UsageError(f"the layout {layout} holds one artifact; lay the others out apart")
    if len({one.resolve() for one in folders}) < len(folders):
        raise UsageError("an artifact is named twice; name each once")
    return target


def _check_one_model(folders: Sequence[Path], manifests: Sequence[Manifest]) -> None:
    """Raise UsageError unless the artifacts are of one model, and take and give the same."""
    first = manifests[0]
    for folder, manifest in zip(folders[1:], manifests[1:], strict=True):
        if manifest.origin.fingerprint != first.origin.fingerprint:
            raise UsageError(f"{folders[0]} and {folder} are of different models; lay them apart")
        texts = [one.files.get(TOKENIZER) for one in (first, manifest)]
        if manifest.contract != first.contract or texts[0] != texts[1]:
            raise UsageError(
                f"{folders[0]} and {folder} differ in what they take or give (lengths, sizes, "
                "prompts or tokens); export both with the same options"
            )


def _tried(folder: Path, view: Path) -> Bundle:
    """Returns the artifact as gathered in `view`, once it has run."""
    found = steadily(folder, lambda: _gather(folder, view))
    _try(found)
    return found


def _served(found: Bundle) -> Served:
    manifest = found.manifest
    return Served(
        found.path, manifest.contract, manifest.precision, manifest.floating, manifest.needs
    )


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
