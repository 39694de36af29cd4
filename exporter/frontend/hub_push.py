"""Uploads to the hub: artifacts in a repository, each in a folder of its own, and a card.

An artifact's folder holds what its manifest names and nothing else, so it keeps a folder of its
own: the card and the hub's own files lie above it, and a download opens as it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from goldfold.exporter.errors import OutputError, UsageError
from goldfold.exporter.frontend.hub import login_hint, status_of
from goldfold.exporter.system import names

CARD = "README.md"
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
_REVISION = re.compile(r"[A-Za-z0-9][\w./-]{0,250}", re.ASCII)


@dataclass(frozen=True)
class Upload:
    """What is to be pushed."""

    repository: str
    revision: str | None
    """A branch; it is made where it is not there."""
    message: str
    private: bool | None
    """Whether a new repository is private; None leaves that to the hub: public, or as the
    organisation has set. A repository that is there stays as it is."""
    files: Mapping[str, Path]
    """By the path in the repository."""
    card: str

    def check(self) -> None:
        """Refuse names that the hub would not take. Raises UsageError."""
        if not _REPOSITORY.fullmatch(self.repository) or "--" in self.repository:
            said = names.line(self.repository[:100])
            raise UsageError(f"{said!r} is no repository of the hub; its form is org/name")
        if self.revision is not None and not _REVISION.fullmatch(self.revision):
            raise UsageError(f"--revision {names.line(self.revision[:80])!r} is no branch's name")
        if not self.message.strip():
            raise UsageError("--message is empty; say what the commit is")


def push(upload: Upload) -> str:
    """Upload everything in one commit, which is there whole or not at all; returns its address.

    Raises OutputError: what the hub said, and what to do.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    upload.check()
    api = HfApi(library_name="goldfold")
    name, branch = upload.repository, upload.revision
    operations: list[Any] = [CommitOperationAdd(CARD, upload.card.encode())]
    operations += [CommitOperationAdd(key, file) for key, file in upload.files.items()]
    try:
        api.create_repo(name, private=upload.private, exist_ok=True)
        if branch is not None and branch != "main":
            api.create_branch(name, branch=branch, exist_ok=True)
        done = api.create_commit(name, operations, commit_message=upload.message, revision=branch)
    # The client raises its own errors, httpx's, ValueError and OSError.
    except Exception as error:
        raise OutputError(_reason(error, name)) from error
    return str(done.commit_url)


def _reason(error: Exception, name: str) -> str:
    status = status_of(error)
    if status in (401, 403) or type(error).__name__ == "LocalTokenNotFoundError":
        return (
            f"cannot push to {name}: the hub does not know this account, or does not let it write "
            f"there ({status or 'no login'}); log in with one that may ({login_hint()})"
        )
    said = names.line(" ".join(str(error).split())[:300])
    return (
        f"cannot push to {name} ({type(error).__name__}: {said}); a commit is there whole or not "
        "at all, so look there and try again"
    )
