"""The folder of a model, which a stranger may have laid out: its files, and whether they stay the
same.

This module reads names, links, sizes and times, and for texts how much they hold, before anything
opens a file and before another library reads one whole.

A link must stay in the folder, or lead into the `blobs` beside it in the hub's own cache. Otherwise
the file that it leads to would be copied into an artifact, and its digest published. Weights alone
may lie elsewhere: people keep them on another disk, and they are read as numbers.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from goldfold.exporter.frontend.weights import digest_file, refusal
from goldfold.exporter.system import names
from goldfold.exporter.system.files import (
    TEXT_LIMIT,
    TOKENIZER_VALUES,
    Identity,
    key_of,
    place_of,
    read_bounded,
    read_tokenizer,
    values,
)
from goldfold.golden import store

CARD_LIMIT = 16 << 20
"""Maximum bytes of a model card or a licence."""
MOST = 100_000
"""Maximum number of files and folders of a model; a real one has a few dozen."""
DEEPEST = 32
"""Maximum depth of nested folders."""

_FILES = (".json", ".safetensors", ".model", ".txt")
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".pkl", ".onnx", ".h5", ".msgpack", ".ot")
"""Endings of files that may be links to anywhere: no texts, and copied nowhere."""

_LICENCE_FILE = re.compile(
    r"(.*[-_. ])?(licen[cs]es?|notices?|copying|use[-_ ]policy|terms)([-_. ].*)?", re.IGNORECASE
)
_TEXT_SUFFIXES = ("", ".txt", ".md", ".rst", ".html", ".pdf")
_FRONT = re.compile(r"\ufeff?---[ \t]*\r?\n(.*?\r?\n)---[ \t]*(\r?\n|$)", re.DOTALL)
_ENTRY = re.compile(
    r"^(license|license_name|license_link|language|library_name|tags|pipeline_tag)[ \t]*:.*"
    r"(?:\r?\n(?:[ \t#-].*)?)*",
    re.MULTILINE,
)
_ENTRY_LIMIT = 4096
_OPENINGS = 100
"""The most lists and maps that an entry may open: PyYAML's time grows with their depth squared."""


@dataclass(frozen=True)
class Snapshot:
    """The files in a folder at the time that it was looked at."""

    folder: Path
    files: dict[str, tuple[Identity, ...]] = field(default_factory=dict)
    """Identities by path: the file's own and, for a link, the link's."""
    folders: dict[str, Identity] = field(default_factory=dict)

    def cover(self, keys: Collection[str]) -> None:
        """Look at files that `look` skipped, for example one in a hidden folder that a module
        names.

        Raises ModelError, as `look` does.
        """
        for key in keys:
            if key not in self.files:
                path = place_of(self.folder, key)
                _check_link(path, self.folder.resolve())
                _check_text(path, key)
                self.files[key] = _identities(self.folder, key)

    def check(self, digests: Mapping[str, str], now: Collection[str]) -> None:
        """Raise ModelError unless the files of these sha256 are unchanged and are still all files
        that count: `now` lists those."""
        odd = sorted(set(digests) ^ set(now))
        odd += [key for key, sha256 in digests.items() if not self._same(key, sha256)]
        odd += [key for key, was in self.folders.items() if _moved(was, place_of(self.folder, key))]
        if odd:
            raise refusal(
                f"{self.folder / odd[0]}: changed while the model was used, so nothing that was "
                "checked or measured need be true of it; leave the folder alone and start again"
            )

    def _same(self, key: str, sha256: str) -> bool:
        was, now = self.files.get(key, ()), _identities(self.folder, key)
        if was == now:
            return True
        alike = len(was) == len(now) and all(a.resembles(b) for a, b in zip(was, now, strict=True))
        return alike and digest_file(place_of(self.folder, key)) == sha256


def look(folder: Path) -> Snapshot:
    """Look at every file in a model's folder; hidden files and folders are skipped.

    Raises ModelError for anything that stands in a file's place and is none (a pipe would be waited
    for without end, a link to nowhere would count as a missing file), for links that leave the
    folder, and for texts that would fill the memory.
    """
    seen, real, count = Snapshot(folder), folder.resolve(), 0
    waiting = [(folder, 0)]
    while waiting:
        top, depth = waiting.pop()
        try:
            found = sorted(os.scandir(top), key=lambda entry: entry.name)
        except OSError as error:
            if top != folder:
                continue  # nobody else can read it either
            raise refusal(f"{top}: cannot be read ({error.strerror})") from None
        for entry in found:
            count += 1
            if entry.name.startswith("."):
                continue
            if count > MOST or depth > DEEPEST:
                raise refusal(f"{folder}: holds more than {MOST:,} files, or {DEEPEST} levels")
            path = Path(entry.path)
            key = _key(folder, path)
            if entry.is_symlink():
                _check_link(path, real)
            if path.is_dir():
                if entry.name.endswith(_FILES):
                    raise refusal(f"{path}: is a folder where a file is expected")
                if not entry.is_symlink():
                    waiting.append((path, depth + 1))
                    seen.folders[key] = Identity.of(path)
                continue
            if not path.is_file():
                kind = "no file of bytes" if path.exists() else "a link that leads nowhere"
                raise refusal(f"{path}: is {kind}; fetch the model again, or remove it")
            seen.files[key] = _identities(folder, key)
            _check_text(path, key)
    seen.folders["."] = Identity.of(folder)
    return seen


def _key(folder: Path, path: Path) -> str:
    key = key_of(folder, os.fspath(path))
    try:
        key.encode()
    except UnicodeEncodeError:
        raise refusal(f"{path}: its name is not UTF-8; rename it") from None
    return key


def _check_link(path: Path, real: Path) -> None:
    """Refuse a link that leads out of the model's folder, which is `real`."""
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError):  # a link to nowhere, or to itself
        raise refusal(
            f"{path}: is a link that leads nowhere; fetch the model again, or remove it"
        ) from None
    homes = [real]
    if real.parent.name == "snapshots":  # models--ORG--NAME/snapshots/COMMIT
        homes.append(real.parents[1] / "blobs")
    if any(target.is_relative_to(home) for home in homes):
        return
    if target.is_file() and path.name.lower().endswith(_WEIGHTS):
        return
    if not (target.is_file() or target.is_dir()):
        raise refusal(f"{path}: is no file of bytes; fetch the model again, or remove it")
    raise refusal(
        f"{path}: is a link that leads out of the model's folder; put what it leads to in its place"
    )


def _check_text(path: Path, key: str) -> None:
    """Refuse a text that defines the model and that no model's library should be given."""
    if not store.defines(key) or path.name.lower().endswith(_WEIGHTS):
        return
    try:
        if path.name == "tokenizer.json":
            read_tokenizer(path)
            return
        raw = read_bounded(path, TEXT_LIMIT)
        if max(values(raw), raw.count(b"\n")) > TOKENIZER_VALUES:
            raise refusal(f"{path}: holds more than {TOKENIZER_VALUES:,} values or lines")
    except OSError as error:
        raise refusal(f"{path}: {error.strerror}, which no model's file is") from None


def _identities(folder: Path, key: str) -> tuple[Identity, ...]:
    """Returns the identities of a file and its link; empty where there is nothing."""
    path = place_of(folder, key)
    try:
        own = (Identity.of(path),)
        if path.is_symlink():
            link = path.lstat()
            own += (Identity(link.st_dev, link.st_ino, 0, link.st_mtime_ns, link.st_ctime_ns),)
        return own
    except OSError:
        return ()


def _moved(was: Identity, folder: Path) -> bool:
    """Returns whether a folder was moved: a move changes its status time, and not the time of the
    last change of its entries. Another folder in its place shows by its files."""
    try:
        now = Identity.of(folder)
    except OSError:
        return True
    return now.changed != was.changed and now.modified == was.modified


# --- what is copied into every artifact


def licence_files(folder: Path) -> tuple[Path, ...]:
    """Returns licence, notice, copying, use-policy and terms files at the top of the folder, by
    name."""
    found = tuple(
        file
        for file in sorted(folder.iterdir())
        if not file.name.startswith(".")
        and _LICENCE_FILE.fullmatch(file.stem)
        and file.suffix.lower() in _TEXT_SUFFIXES
        and file.is_file()
    )
    _check_sizes(found)
    return found


def card_of(folder: Path) -> Path | None:
    """Returns the model card, if there is one."""
    card = folder / "README.md"
    if not card.is_file():
        return None
    _check_sizes([card])
    return card


def _check_sizes(files: Iterable[Path]) -> None:
    left = 4 * CARD_LIMIT
    for file in files:
        size = file.stat().st_size
        left -= size
        if size > CARD_LIMIT or left < 0:
            raise refusal(
                f"{file}: larger than {CARD_LIMIT >> 20} MiB, or than four times that with the "
                "others, which no card and no licence is; it would be copied into every artifact"
            )


def copy_text(source: Path, sha256: str, place: Path) -> None:
    """Copy a card, a licence or a setting whose digest is known. Raises ModelError if the file has
    changed."""
    try:
        raw = read_bounded(source, TEXT_LIMIT)
    except OSError as error:
        raise refusal(f"{source}: cannot be read ({error.strerror})") from None
    if hashlib.sha256(raw).hexdigest() != sha256:
        raise refusal(f"{source}: changed while the model was exported; export it again")
    place.write_bytes(raw)


def licence_of(card: Path) -> str | None:
    """Returns the `license:` of a card's YAML front matter; None if there is none that can be
    read."""
    licence = front_of(card).get("license")
    found = licence if isinstance(licence, list) else [licence]
    said = [names.line(str(one)) for one in found if isinstance(one, (str, int, float))]
    return ", ".join(said) or None


def front_of(card: Path) -> dict[str, Any]:
    """Returns the entries of a card's YAML front matter that goldfold asks for; {} if none can be
    read.

    Only those entries are read, as plain YAML without references: a few lines with references can
    expand to gigabytes.
    """
    import yaml  # here, because opening a model without a card needs none of it

    front = _FRONT.match(card.read_text("utf-8", "replace"))
    found: dict[str, Any] = {}
    read: set[str] = set()
    for entry in _ENTRY.finditer(front[1]) if front is not None else ():
        openings = entry[0].count("[") + entry[0].count("{")
        if len(entry[0]) > _ENTRY_LIMIT or openings > _OPENINGS or entry[1] in read:
            continue
        read.add(entry[1])
        try:
            if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(entry[0])):
                continue
            fields = yaml.safe_load(entry[0])
        except (yaml.YAMLError, ValueError, RecursionError):
            # A card is prose: a slip in it must not keep a sound model from being exported.
            continue
        found.update(fields if isinstance(fields, dict) else {})
    return found
