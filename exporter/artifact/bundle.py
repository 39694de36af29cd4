"""A bundle is an artifact folder: sealed whole, and opened with every digest checked.

manifest.json    the description and the sha256 of every file; ends the bundle's identity
verdict.json     the measurements, their time and duration; outside the digests
README.md        what it is and how to use it, with the verdict; outside the digests
load.py          opens it without goldfold
card.json        what the source's card says of licence and languages
tokenizer.json   and its other files
golden/          the golden embeddings against which it is verified
LICENSE …        the source model's licence and notice files
…                the target's own files

No other file may lie there, except those that a desktop leaves in any folder.
`exporter/artifact/manifest.py` reads the manifest and the verdict of an artifact,
`exporter/artifact/scratch.py` moves an artifact to its place.
"""

from __future__ import annotations

import hashlib
import json
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from goldfold.exporter import records, registry
from goldfold.exporter.artifact.manifest import (
    FAILED,
    FORMAT,
    GOLDEN,
    MANIFEST,
    OUTSIDE,
    PIPELINE,
    README,
    REPORT,
    VERDICT,
    FileEntry,
    Manifest,
    Origin,
    VerdictRecord,
    is_artifact,
    is_byte_code,
    is_left,
    is_own,
    read_manifest,
    read_verdict,
)
from goldfold.exporter.artifact.recording import write_verdict
from goldfold.exporter.artifact.scratch import check_output, check_writable, publish, scratch
from goldfold.exporter.errors import ArtifactError
from goldfold.exporter.system.files import Identity, digest, entries, key_of, place_of
from goldfold.exporter.system.writing import check_file
from goldfold.golden import source_record
from goldfold.golden.errors import GoldenError
from goldfold.golden.reasons import Reason
from goldfold.golden.source_record import SourceRecord

TOKENIZER = "tokenizer.json"
T = TypeVar("T")
_TRIES = 20
"""Number of attempts to open an artifact that is replaced meanwhile."""


class Changed(ArtifactError):
    """A file is not what it was when it was checked."""


@dataclass(frozen=True)
class Bundle:
    """An opened artifact folder."""

    path: Path
    manifest: Manifest
    verdict: VerdictRecord | None
    seen: Mapping[str, Identity] = field(default_factory=dict, repr=False, compare=False)
    """Identities of its files at the time of the check."""

    @property
    def name(self) -> str:
        return f"{self.manifest.target}-{self.manifest.precision}"

    @property
    def size(self) -> int:
        """Total bytes of the files that the manifest names."""
        return sum(entry.size for entry in self.manifest.files.values())

    def check_unchanged(self) -> None:
        """Raise Changed if a file was written to, moved or replaced since its check. Otherwise the
        files that a runtime has opened by now are those that were checked."""
        for key, identity in self.seen.items():
            place = place_of(self.path, key)
            try:
                now = Identity.of(place)
                same = now == identity or (
                    now.resembles(identity) and digest(place) == self.manifest.files[key].sha256
                )
            except OSError:
                same = False
            if not same:
                raise Changed(f"{self.path} was changed while it was opened: {key}; try again")

    def check_bytes(self, key: str, raw: bytes) -> None:
        """Raise Changed unless `raw` has the digest that the manifest gives for the file `key`."""
        entry = self.manifest.files.get(key)
        if entry is None or hashlib.sha256(raw).hexdigest() != entry.sha256:
            raise Changed(f"{self.path} was changed since it was opened: {key}; open it again")


def seal(folder: Path, manifest: dict[str, Any]) -> Manifest:
    """Digest every file of `folder` and write its manifest. `manifest` gives all fields but
    `files`. Raises ValueError for a field that no reader would accept."""
    files = {
        key: FileEntry(sha256=digest(folder / key), size=(folder / key).stat().st_size)
        for key in sorted(files_of(folder))
    }
    sealed = records.read(Manifest, Manifest(files=files, **manifest).plain())
    (folder / MANIFEST).write_bytes(sealed.to_bytes())
    return sealed


def open_bundle(path: Path, *, check_files: bool = True, unverified: bool = False) -> Bundle:
    """Open an artifact folder and check it against its manifest.

    Raises ArtifactError naming the file that is missing, changed or too many. An artifact that
    missed its gate, or was never measured, is refused unless `unverified`. `check_files=False`
    checks sizes only. If the artifact is replaced meanwhile, the result is the earlier or the later
    one, whole.
    """
    return steadily(path, lambda: _open(path, check_files, unverified))


def steadily(path: Path, read: Callable[[], T]) -> T:
    """Returns what `read` returns for the artifact at `path`; `read` runs again if another artifact
    took its place meanwhile, or a file changed. Raises what `read` raises."""
    for left in reversed(range(_TRIES)):
        before = _folder(path)
        try:
            return read()
        except ArtifactError as error:
            same = _folder(path) == before
            if not left or (same and not isinstance(error, Changed)):
                raise
    raise AssertionError("the last try returns or raises")


def _folder(path: Path) -> Identity | None:
    try:
        return Identity.of(path)
    except OSError:
        return None


def _open(path: Path, check_files: bool, unverified: bool) -> Bundle:
    if not path.is_dir():
        raise ArtifactError(f"{path} is not an artifact folder: there is no such folder")
    manifest = read_manifest(path)
    seen = {key: _seen(path, key, entry.size) for key, entry in manifest.files.items()}
    try:
        extra = sorted(set(files_of(path)) - set(manifest.files))
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}") from None
    if extra and is_byte_code(extra[0]):
        raise ArtifactError(
            f"{path} holds {extra[0]}, byte code that Python would run unseen; remove it"
        )
    if extra:
        raise ArtifactError(f"{path} holds {extra[0]}, which its manifest does not name; remove it")
    if check_files:
        for key, entry in manifest.files.items():
            seen[key] = _checked(path, key, entry)
    verdict = read_verdict(path, manifest)
    if not unverified and (verdict is None or path.name.endswith(FAILED) or not verdict.passed):
        why = "was never verified" if verdict is None else "missed its golden gate"
        raise ArtifactError(f"{path} {why}; `goldfold verify {path}` says more")
    if not unverified and (fault := next(unproved(path, manifest), None)):
        raise ArtifactError(f"{path}: {fault.sentence} `goldfold verify {path}` says more")
    return Bundle(path, manifest, verdict, seen)


def proved(path: Path) -> SourceRecord | None:
    """Returns the record of what the export compared with the source; None if there is none. Raises
    ArtifactError."""
    try:
        return source_record.load(path / GOLDEN)
    except GoldenError as error:
        raise ArtifactError(f"{path} is damaged: {error}") from None


def unproved(path: Path, manifest: Manifest) -> Iterator[Reason]:
    """Yields how a manifest differs from what the export proved: another tokenizer, another
    companion of it, another contract."""
    record = proved(path)
    if record is None:
        return
    for name, known in {TOKENIZER: record.tokenizer, **record.companions}.items():
        found = manifest.files.get(name)
        if found is None or found.sha256 != known:
            what = "gone" if found is None else "not the file that its export proved"
            kind = "tokenizer" if name == TOKENIZER else "companion"
            yield Reason(kind, note=f"{name} is {what}.")
    if record.fingerprint != manifest.origin.fingerprint:
        note = f"{GOLDEN}/{source_record.FILE} is the record of another model."
        yield Reason("contract", note=note)
    said = json.loads(json.dumps(manifest.contract.plain()))
    for note in source_record.contract_faults(said, record.contract):
        yield Reason("contract", note=note)


def _seen(path: Path, key: str, size: int) -> Identity:
    """Returns the identity of a file on disk, which must have the size that the manifest gives."""
    file = place_of(path, key)
    try:
        regular = stat.S_ISREG(file.stat().st_mode)
        identity = Identity.of(file)
    except PermissionError as error:
        raise ArtifactError(f"{path}: {key} cannot be read: {error.strerror}") from None
    except (OSError, ValueError):
        regular = False
    if not regular:
        raise ArtifactError(f"{path} is damaged: {key} is missing; export it again")
    if identity.size != size:
        raise ArtifactError(f"{path} is damaged: {key} has the wrong size; export it again")
    return identity


def _checked(path: Path, key: str, entry: FileEntry) -> Identity:
    """Returns the identity of a file whose digest matches and that did not change meanwhile."""
    try:
        with place_of(path, key).open("rb") as file:
            before = Identity.of(file.fileno())
            found = hashlib.file_digest(file, "sha256").hexdigest()
            after = Identity.of(file.fileno())
    except OSError as error:
        raise ArtifactError(f"{path} is damaged: {key}: {error.strerror}") from None
    if found != entry.sha256:
        raise ArtifactError(f"{path} is damaged: {key} has been changed; export it again")
    if before != after:
        raise Changed(f"{path} was changed while it was opened: {key}; try again")
    return after


def check_references(path: Path, manifest: Manifest) -> None:
    """Raise ArtifactError if one of the target's files refers to a file that the manifest does not
    name: a runtime would read what nobody checked."""
    if manifest.target not in registry.names():
        return
    for key in registry.target(manifest.target).refers(path):
        if key not in manifest.files:
            raise ArtifactError(
                f"{path} is damaged: it reads {key!r}, which its manifest does not name"
            )


def files_of(folder: Path) -> Iterator[str]:
    """Yields the paths of all files, posix, relative; without the manifest, the verdict, and the
    files that a desktop leaves. Links, pipes and the like count as files. Raises OSError."""
    for entry in entries(folder):
        key = key_of(folder, entry.path)
        if not is_own(key) and not is_left(key):
            yield key


__all__ = [
    "FAILED",
    "FORMAT",
    "GOLDEN",
    "MANIFEST",
    "OUTSIDE",
    "PIPELINE",
    "README",
    "REPORT",
    "VERDICT",
    "Bundle",
    "FileEntry",
    "Manifest",
    "Origin",
    "VerdictRecord",
    "check_file",
    "check_output",
    "check_references",
    "check_writable",
    "digest",
    "files_of",
    "is_artifact",
    "open_bundle",
    "publish",
    "read_manifest",
    "scratch",
    "seal",
    "steadily",
    "write_verdict",
]
