"""Stored goldens: golden embeddings are made once and stored, so that exports of the model find
them."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from goldfold.exporter.driver.preparing import traced
from goldfold.exporter.errors import OutputError
from goldfold.exporter.frontend.readiness import ready
from goldfold.exporter.frontend.source import open_model
from goldfold.exporter.progress import Listener, Stages
from goldfold.exporter.system.cache import open_cache
from goldfold.exporter.system.names import slug
from goldfold.exporter.verification import yours
from goldfold.exporter.verification.goldens import check_length, make_goldens
from goldfold.exporter.verification.yours import Files
from goldfold.golden import store


@dataclass(frozen=True)
class Wanted:
    """The request for goldens that are to be stored."""

    name: str | None = None
    max_length: int | None = None
    route: str | None = None
    trust_remote_code: bool = False
    texts: Files = ()
    """Files of a user's own texts, which become goldens as well."""
    column: str | None = None


def store_goldens(
    model: str,
    out: Path | None = None,
    wanted: Wanted = Wanted(),
    *,
    listener: Listener | None = None,
) -> Path:
    """Make golden embeddings of `model` with sentence-transformers, and store them in `out`, by
    default a folder of golden/store; returns the folder.

    Raises OutputError for a folder that cannot be written or holds something else, ModelError for a
    checkpoint that is not all of the model, UsageError for a length or a text that it does not
    take.
    """
    max_length, texts = wanted.max_length, yours.read(wanted.texts, wanted.column)
    stages, kept = Stages(listener), open_cache()
    with stages("open"):
        source = open_model(
            model,
            name=wanted.name,
            trust_remote_code=wanted.trust_remote_code,
            route=wanted.route,
        )
        folder = out or store.STORE / slug(source.name)
        _check_store(folder)
        source = ready(source, stages, kept)
    # Refuses a checkpoint that is not all of the model.
    check_length(traced(source, stages, max_length, cache=kept).contract, max_length)
    with stages("goldens"):
        goldens = make_goldens(source, stages, max_length)
        goldens = yours.with_yours(goldens, source, texts, max_length)
        stages.note(f"{len(goldens.cases)} texts, {goldens.dim} dimensions")
    try:
        store.save(goldens, folder)
    except OSError as error:
        raise OutputError(f"cannot write {folder}: {error.strerror}") from None
    return folder


def _check_store(folder: Path) -> None:
    """Refuse, before any work, a folder that cannot be written or holds more than goldens, because
    storing them replaces it whole."""
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder} is a file; give a folder with --out")
    present = {path.name for path in folder.iterdir()} if folder.exists() else set()
    others = sorted(present - set(store.FILES))
    if others:
        raise OutputError(f"{folder} holds something else ({others[0]}); give another --out")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder.parent):
            pass
    except OSError as error:
        raise OutputError(f"cannot write {folder}: {error.strerror}; give another --out") from None
