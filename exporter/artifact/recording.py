"""Writing the verdict of an artifact, and the README that shows it.

No reader sees a README beside a verdict that it does not show: the earlier README is removed before
the verdict is replaced, and the new one put in its place afterwards. A process that is killed in
between leaves an artifact without one; `goldfold verify` writes it.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from goldfold.exporter import records
from goldfold.exporter.artifact import readme
from goldfold.exporter.artifact.manifest import (
    FRESH,
    MANIFEST,
    README,
    VERDICT,
    VerdictRecord,
    read_manifest,
)
from goldfold.exporter.errors import ArtifactError, OutputError

_HOUR = 3600.0
_BY_FOLDER = {os.open, os.rename, os.unlink} <= os.supports_dir_fd


def write_verdict(folder: Path, record: VerdictRecord) -> None:
    """Write or replace verdict.json, whole or not at all, in its own artifact; and the README that
    shows it.

    Raises OutputError if it cannot be written, and if the folder holds another artifact by now.
    """
    try:
        with _at(folder) as (number, place):
            digest = _digest_at(number, place)
            if record.manifest not in ("", digest):
                raise OutputError(
                    f"{folder} was replaced while it was measured; verify what is there now"
                )
            record = records.read(VerdictRecord, record.with_(manifest=digest).plain())
            said = _readme(folder, record)
            with suppress(FileNotFoundError):
                os.unlink(place(README), dir_fd=number)
            verdict = record.to_json()
            _put(number, place, VERDICT, verdict)
            if said is not None:
                _put(number, place, README, said)
                if _bytes_at(number, place, VERDICT) != verdict.encode():
                    os.unlink(place(README), dir_fd=number)  # it shows what another has replaced
    except OSError as error:
        raise OutputError(f"cannot write {folder / VERDICT}: {error.strerror}") from None
    _clear_unfinished(folder)


def _readme(folder: Path, record: VerdictRecord) -> str | None:
    """Returns the README that shows a verdict; None of a folder whose manifest cannot be read, or
    is another by now."""
    try:
        manifest = read_manifest(folder)
    except ArtifactError:
        return None
    return readme.text(folder, manifest, record) if manifest.digest == record.manifest else None


def _put(number: int | None, place: Any, name: str, text: str) -> None:
    """Write or replace a file, whole or not at all."""
    fresh = f"{name}.{secrets.token_hex(8)}.new"
    # O_EXCL: without it, a link would be written through.
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    opened = os.open(place(fresh), flags, 0o666, dir_fd=number)
    try:
        with os.fdopen(opened, "wb") as file:
            file.write(text.encode())
        os.replace(place(fresh), place(name), src_dir_fd=number, dst_dir_fd=number)
    except BaseException:
        with suppress(OSError):
            os.unlink(place(fresh), dir_fd=number)
        raise


@contextmanager
def _at(folder: Path) -> Iterator[tuple[int | None, Any]]:
    """Yields the folder as it is now, even if another takes its place meanwhile: its file
    descriptor, and the function that names its files relative to that."""
    if not _BY_FOLDER:
        yield None, lambda name: os.fspath(folder / name)
        return
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield number, lambda name: name
    finally:
        os.close(number)


def _digest_at(number: int | None, place: Any) -> str:
    return hashlib.sha256(_bytes_at(number, place, MANIFEST)).hexdigest()


def _bytes_at(number: int | None, place: Any, name: str) -> bytes:
    opened = os.open(place(name), os.O_RDONLY | getattr(os, "O_BINARY", 0), dir_fd=number)
    with os.fdopen(opened, "rb") as file:
        return file.read()


def _clear_unfinished(folder: Path) -> None:
    """Remove the verdicts that killed processes left half-written."""
    with suppress(OSError):
        for path in folder.glob("*.new"):
            if FRESH.fullmatch(path.name) and time.time() - path.lstat().st_mtime > _HOUR:
                path.unlink()
