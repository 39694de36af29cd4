"""Downloads from the hub: the files that define a model, and its weights in one format.

The hub's client checks a file's size only. Here every file is held to its digest as well, which the
client's cache has as its name: the sha256 of a large file, git's own sha1 of a small one.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from goldfold.exporter.frontend.weights import refusal
from goldfold.exporter.system.files import entries

OTHER_FORMAT_FOLDERS = ("onnx", "openvino")
OTHER_FORMAT_SUFFIXES = (".bin", ".h5", ".msgpack", ".onnx", ".ot", ".pt", ".pth", ".pkl")
"""The same weights in formats of other programs: they do not change the export."""

_FETCHED = (
    "*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "*.md", "LICENSE*", "LICENCE*",
    "NOTICE*", "COPYING*", "USE_POLICY*", "artifact.metadata",
)  # fmt: skip
_NOT_FETCHED = (
    *(f"{folder}/*" for folder in OTHER_FORMAT_FOLDERS),
    *(f"*{suffix}" for suffix in OTHER_FORMAT_SUFFIXES),
)
_WAITS = (1.0, 3.0)
"""Seconds before each further attempt, where the connection broke or the hub was busy."""
_BUSY = (408, 429, 500, 502, 503, 504)
_BLOB = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_CHUNK = 1 << 24


def fetch(hub_id: str, code: bool, revision: str | None = None) -> Path:
    """Returns the local folder of a hub model, downloaded where it is not there yet: no pickles.

    `code` fetches the model's Python files as well; `revision` is a commit, tag or branch, by
    default the newest commit. Raises ModelError.
    """
    return snapshot(hub_id, (*_FETCHED, "*.py") if code else _FETCHED, _NOT_FETCHED, revision)


def fetch_pickles(hub_id: str, folders: Sequence[str], revision: str | None = None) -> Path:
    """Returns the same folder, with the pickled weights of its modules in `folders` ("" is its
    own).

    Raises ModelError.
    """
    asked = tuple(f"{folder}/pytorch_model*".lstrip("/") for folder in folders)
    return snapshot(hub_id, asked, (), revision)


def snapshot(
    hub_id: str, allowed: Sequence[str], ignored: Sequence[str], revision: str | None
) -> Path:
    """Returns the folder of a repository's files that match the patterns, every digest checked.
    Raises ModelError: what the hub said, and what to do."""
    # Imported here: opening a folder needs none of it.
    from huggingface_hub import snapshot_download

    for wait in (*_WAITS, None):
        try:
            folder = snapshot_download(
                hub_id,
                revision=revision,
                allow_patterns=list(allowed),
                ignore_patterns=list(ignored),
            )
            break
        # The client raises its own errors, httpx's, and OSError; each means: no model to open.
        except Exception as error:
            if wait is None or not _passes(error):
                raise refusal(_reason(error, hub_id, revision)) from error
            time.sleep(wait)
    place = Path(folder).absolute()
    _check(place, hub_id)
    return place


# --- digests


def _check(folder: Path, hub_id: str) -> None:
    """Compare every file with the digest that the cache names it by; a file that differs is removed
    from the cache. Raises ModelError."""
    try:
        links = [Path(entry.path) for entry in entries(folder) if entry.is_symlink()]
    except OSError as error:
        raise refusal(f"{folder} cannot be read: {error.strerror}") from None
    for link in links:
        blob = Path(os.path.realpath(link))
        if blob.parent.name != "blobs" or not _BLOB.fullmatch(blob.name):
            continue  # no cache of the hub's, or a digest of a kind that is not known
        try:
            found = _digest(blob)
        except OSError as error:
            raise refusal(f"{link} cannot be read: {error.strerror}; fetch it again") from None
        if found != blob.name:
            for wrong in (link, blob):
                with suppress(OSError):
                    wrong.unlink()
            raise refusal(
                f"{hub_id}: {link.relative_to(folder).as_posix()} is not the file that the hub "
                f"names: its digest is {found[:16]}…, not {blob.name[:16]}…; it was removed from "
                "the cache, so try again"
            )


def _digest(blob: Path) -> str:
    """Returns the digest of a file, of the kind that its name is."""
    if len(blob.name) == 64:
        with blob.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    state = hashlib.sha1(b"blob %d\0" % blob.stat().st_size, usedforsecurity=False)  # git's
    with blob.open("rb") as file:
        while chunk := file.read(_CHUNK):
            state.update(chunk)
    return state.hexdigest()


# --- what went wrong


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yields an error and those behind it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def status_of(error: BaseException) -> int | None:
    """Returns the HTTP status in an error or behind it."""
    found = (getattr(getattr(one, "response", None), "status_code", None) for one in _chain(error))
    return next((one for one in found if isinstance(one, int)), None)


def _named(error: BaseException, *names: str) -> bool:
    """Returns whether an error, or one behind it, is of a class of one of these names: the client's
    own and its HTTP library's classes move from release to release."""
    kinds = (kind.__name__ for one in _chain(error) for kind in type(one).__mro__)
    return not {*names}.isdisjoint(kinds)


def _passes(error: Exception) -> bool:
    """Returns whether the same request may succeed a moment later."""
    if status_of(error) in _BUSY:
        return True
    broken = ("TimeoutException", "RemoteProtocolError", "ReadError", "WriteError")
    return _named(error, *broken) or "Consistency check failed" in str(error)


def login_hint() -> str:
    """Returns how one logs in."""
    return "`hf auth login`, or the variable HF_TOKEN"


def _reason(error: Exception, hub_id: str, revision: str | None) -> str:
    """Returns what went wrong, in one sentence with a remedy."""
    login = login_hint()
    status = status_of(error)
    if _named(error, "GatedRepoError"):
        return (
            f"{hub_id} is gated: accept its terms on its page on the hub, and log in with an "
            f"account that did ({login})"
        )
    if _named(error, "RevisionNotFoundError"):
        return f"{hub_id} has no revision {revision!r}; give a commit, tag or branch that it has"
    if status == 403:
        return f"{hub_id}: the hub forbids it to this account (403); log in with another ({login})"
    if _named(error, "RepositoryNotFoundError") or status in (401, 404):
        return (
            f"{hub_id}: no such folder, and the hub has no such model for this account ({status}); "
            f"check the name, and log in where it is private ({login})"
        )
    said = str(error).strip().partition("\n")[0]
    return (
        f"{hub_id}: no such folder, and the hub did not give a model of that name "
        f"({type(error).__name__}: {said}); check the name, the network and the hub "
        "login, or give a folder"
    )
