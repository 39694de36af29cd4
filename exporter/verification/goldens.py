"""The goldens of an exported model: stored ones, or new ones made now."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from goldfold.exporter.artifact.bundle import GOLDEN, Bundle
from goldfold.exporter.artifact.manifest import Origin
from goldfold.exporter.contract import Contract
from goldfold.exporter.errors import ArtifactError, ModelError, UsageError
from goldfold.exporter.frontend.source import Source
from goldfold.exporter.progress import Stages
from goldfold.exporter.system import natives
from goldfold.golden import store
from goldfold.golden.errors import GoldenError
from goldfold.golden.measured import reach
from goldfold.golden.store import Goldens
from goldfold.golden.tasks import MULTI, SCORES


@contextmanager
def ours() -> Iterator[None]:
    """Turn errors of `golden` into this package's own: its callers know no others. A decorator as
    well."""
    try:
        yield
    except GoldenError as error:
        raise ModelError(str(error)) from error


def origin_of(source: Source) -> Origin:
    """Returns the manifest's record of the model's origin."""
    return Origin(
        name=source.name,
        fingerprint=source.fingerprint,
        digests=source.digests,
        licence=source.licence,
    )


def obtain_goldens(
    source: Source, stages: Stages, max_length: int | None = None, longest: int = 0
) -> Goldens:
    """Returns the stored goldens of exactly this model, or new ones made now by
    sentence-transformers.

    Called within a stage. Stored goldens must go up to `longest`, the tokens that an artifact will
    take, or as far as such an artifact is measured. With `max_length` none is longer: texts are
    truncated before new ones are made. Raises ModelError.
    """
    with ours():
        folder = store.find(source.fingerprint)
        goldens = None if folder is None else store.load(folder)
        if goldens is not None and _suffices(goldens, longest):
            stages.note(f"{len(goldens.cases)} stored texts")
            return goldens if max_length is None else goldens.within(max_length)
        goldens = make_goldens(source, stages, max_length)
    stages.note(f"{len(goldens.cases)} texts, made now with sentence-transformers")
    return goldens


def _suffices(goldens: Goldens, longest: int) -> bool:
    return goldens.max_length >= longest and goldens.longest >= reach(longest)


def make_goldens(source: Source, stages: Stages, max_length: int | None = None) -> Goldens:
    """Make new goldens. Called within a stage. Raises GoldenError where sentence-transformers
    cannot make them, ModelError for files that changed meanwhile."""
    from goldfold.golden import late, scoring
    from goldfold.golden.make import Opening, make

    stages.detail("none stored for this model: sentence-transformers makes them")
    with natives.hushed():

        def progress(_: str, done: int, total: int) -> None:
            stages.step(done, total)

        if source.task in (SCORES, MULTI):
            asked = scoring.Asked(
                source.loads, source.name, source.defining, source.trusted, max_length
            )
            goldens = (scoring if source.task == SCORES else late).make(asked, progress)
        else:
            goldens = make(
                source.loads,
                name=source.name,
                digests=source.defining,
                opening=Opening(source.trusted, source.task, source.route),
                progress=progress,
                max_length=max_length,
            )
    source.check_unchanged()  # sentence-transformers read it again
    return goldens


def made_now(source: Source, further: Sequence[Any], max_length: int | None = None) -> Goldens:
    """Returns goldens of the drafts `further` alone. Raises GoldenError."""
    from goldfold.golden import late, scoring
    from goldfold.golden.make import Opening, make

    if source.task in (SCORES, MULTI):
        asked = scoring.Asked(
            source.loads,
            source.name,
            source.defining,
            source.trusted,
            max_length,
            tuple(further),
            usual=False,
        )
        return (scoring if source.task == SCORES else late).make(asked)
    return make(
        source.loads,
        name=source.name,
        digests=source.defining,
        opening=Opening(source.trusted, source.task, source.route, tuple(further)),
        only=(),
        max_length=max_length,
    )


def with_texts(
    goldens: Goldens, source: Source, texts: Sequence[str], max_length: int | None = None
) -> Goldens:
    """Returns goldens with those of further texts behind them, made now; without them for a model
    that takes pairs, or gives a vector for each token. Raises ModelError."""
    if not texts or source.task in (SCORES, MULTI):
        return goldens
    from goldfold.golden.texts import Draft

    drafts = [Draft(f"further-{at}", "further", text) for at, text in enumerate(texts, start=1)]
    with ours(), natives.hushed():
        made = made_now(source, drafts, max_length)
    source.check_unchanged()
    rows = np.concatenate([goldens.embeddings, made.embeddings])
    return replace(goldens, cases=(*goldens.cases, *made.cases), embeddings=rows)


def check_length(contract: Contract, max_length: int | None) -> None:
    """Refuse a length that the model does not take. Raises UsageError."""
    if max_length is not None and not 1 <= max_length <= contract.max_length:
        raise UsageError(
            f"--max-length is {max_length}; {contract.model} takes 1 … {contract.max_length}"
        )
    least = contract.tokenwise.query_tokens if contract.tokenwise else 0
    if max_length is not None and max_length < least:
        raise UsageError(
            f"--max-length is {max_length}; {contract.model} fills queries up to {least} tokens"
        )


def goldens_of(opened: Bundle) -> Goldens:
    """Returns the goldens that travel with an artifact. Raises ArtifactError if they are not its
    model's."""
    try:
        goldens = store.load(opened.path / GOLDEN)
    except GoldenError as error:
        raise ArtifactError(f"{opened.path} is damaged: {error}") from None
    if goldens.fingerprint != opened.manifest.origin.fingerprint:
        raise ArtifactError(f"{opened.path} is damaged: its goldens are of another model")
    return goldens
