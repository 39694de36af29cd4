"""Layouts of a pipeline: each is laid out anew where its artifacts changed, and kept elsewhere."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from goldfold.exporter import __version__
from goldfold.exporter.artifact import bundle
from goldfold.exporter.artifact.layout import lay_out
from goldfold.exporter.errors import GoldfoldError, OutputError
from goldfold.exporter.progress import Stages
from goldfold.exporter.report.pipeline_file import Layout
from goldfold.exporter.system.cache import key


@dataclass(frozen=True)
class Laid:
    """A layout of a run."""

    place: str
    """The layout's folder, relative to that of the artifacts."""
    digest: str = ""
    """Digest of what lies there; "" where nothing was laid out."""
    note: str = ""
    """Why nothing was laid out."""
    error: GoldfoldError | None = None


def lay(
    layout: Layout, out: Path, good: Collection[str], before: Mapping[str, str], stages: Stages
) -> Laid:
    """Lay artifacts of `out` out, unless the folder holds them already (`before`: digests by
    folder). Only artifacts in `good` are laid out. A folder that the last run laid out is replaced
    whole; any other one that holds something is an error."""
    place = Path(layout.out).resolve()
    known = Path(os.path.relpath(place, out.resolve())).as_posix()  # out may move, with all of it
    bad = [name for name in layout.artifacts if name not in good]
    if bad:
        return Laid(known, note=f"{place} was left as it was: {bad[0]} did not pass.")
    folders = [out / name for name in layout.artifacts]
    try:
        wanted = key(
            layout=layout.server,
            artifacts=[bundle.read_manifest(folder).digest for folder in folders],
            goldfold=__version__,
        )
        if place.is_dir() and before.get(known) == wanted:
            return Laid(known, wanted)
        with stages(f"lay out {place.name}"):
            _replace(folders, layout.server, place, known in before)
    except GoldfoldError as error:
        return Laid(known, note=str(error), error=error)
    return Laid(known, wanted)


def _replace(folders: list[Path], server: str, place: Path, ours: bool) -> None:
    if not (ours and place.is_dir()):
        lay_out(folders[0], server, place, folders[1:])
        return
    # A new folder of the same name, which some layouts give to the model: the old one serves on.
    room = place.parent / f".{place.name[:100]}.{secrets.token_hex(8)}.new"
    try:
        room.mkdir()
        lay_out(folders[0], server, room / place.name, folders[1:])
        place.rename(room / "before")
        try:
            (room / place.name).rename(place)
        except BaseException:
            (room / "before").rename(place)
            raise
    except OSError as error:
        raise OutputError(f"cannot write {place}: {error.strerror}") from None
    finally:
        with suppress(OSError):
            shutil.rmtree(room)
