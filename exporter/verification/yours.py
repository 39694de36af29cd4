"""A user's own texts as goldens: the reference embeds them as it does the others, and the same gate
applies. Of private ones an artifact keeps digests and embeddings (golden/withheld.py)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from goldfold.exporter.artifact.bundle import Bundle
from goldfold.exporter.artifact.encoder import Encoder
from goldfold.exporter.artifact.manifest import PRIVATE
from goldfold.exporter.errors import ArtifactError, UsageError
from goldfold.exporter.frontend import given
from goldfold.exporter.frontend.given import Text
from goldfold.exporter.frontend.source import Source
from goldfold.exporter.proofs import YourTexts
from goldfold.exporter.system import natives
from goldfold.exporter.verification.goldens import made_now, ours
from goldfold.golden import store, withheld
from goldfold.golden.compare import YOURS
from goldfold.golden.errors import GoldenError
from goldfold.golden.reasons import Reason
from goldfold.golden.store import PREDICT, Case, Goldens
from goldfold.golden.tasks import MULTI, SCORES, SPARSE, scale_of

Files = str | Path | Sequence[str | Path]
"""One file or several, each a path or "PATH:query"."""

_CALLS = {"": "encode", "query": "encode_query", "document": "encode_document"}
"""The call for each way of embedding; any other way is the name of a prompt."""
_TOGETHER = ("mean", "similarity", "order")
"""The kinds of reasons that are about several texts."""
_DENSE = 1 << 26
"""The most numbers of sparse vectors together, zeros included (golden/triplets.py)."""


def listed(files: Files) -> list[str | Path]:
    """Returns files as a list, of one file as well."""
    return [files] if isinstance(files, str | Path) else list(files)


def read(files: Files, column: str | None = None) -> tuple[Text, ...]:
    """Returns the texts of files (exporter/frontend/given.py). Raises UsageError."""
    return given.read(listed(files), column)


def given_of(texts: Files | Sequence[Text]) -> tuple[Text, ...]:
    """Returns texts that were read already, or reads their files. Raises UsageError."""
    many = [texts] if isinstance(texts, str | Path) else list(texts)
    known = tuple(one for one in many if isinstance(one, Text))
    return (*known, *read([one for one in many if not isinstance(one, Text)]))


def with_yours(
    goldens: Goldens, source: Source, texts: Sequence[Text], max_length: int | None = None
) -> Goldens:
    """Returns goldens with those of `texts` behind them, made now.

    Raises UsageError for texts that the model does not take, naming file and line, ModelError for
    one that gives no golden.
    """
    if not texts:
        return goldens
    cases = _asked(texts, goldens, source.task, source.name, source.route)
    known = {withheld.digest(case) for case in goldens.cases if case.kind == YOURS}
    taken, fresh = {case.id for case in goldens.cases}, []
    for case, place in cases:
        if withheld.digest(case) in known:
            continue
        number, name = 1, case.id
        while name in taken:
            number += 1
            name = f"{case.id}-{number}"
        taken.add(name)
        fresh.append((replace(case, id=name), place))
    if not fresh:
        return goldens
    _check_room(goldens, len(fresh))
    with ours(), natives.hushed():
        made = _made(source, fresh, max_length)
    source.check_unchanged()
    rows = np.concatenate([goldens.embeddings, made.embeddings])
    old, new = scale_of(goldens.embeddings), scale_of(rows)
    found = replace(
        goldens,
        cases=(*goldens.cases, *made.cases),
        embeddings=rows,
        rounding=max(goldens.rounding * old / new, made.rounding),
    )
    if found.task == MULTI and 4 * rows.size > store.LIMITS["embeddings.npy"]:
        raise UsageError(f"--texts: {_too_many(goldens, 'the vectors of their tokens')}")
    return found


def private(goldens: Goldens, wanted: bool) -> Goldens:
    """Returns goldens in which a user's own texts are private, if that is wanted."""
    if not wanted:
        return goldens
    cases = tuple(replace(case, private=case.kind == YOURS) for case in goldens.cases)
    return replace(goldens, cases=cases)


def described(goldens: Goldens) -> YourTexts | None:
    """Returns the manifest's record of a user's own texts among goldens; None where there are
    none."""
    cases = [case for case in goldens.cases if case.kind == YOURS]
    if not cases:
        return None
    lines = "\n".join(map(withheld.digest, cases))
    return YourTexts(
        count=len(cases),
        digest=hashlib.sha256(lines.encode()).hexdigest(),
        private=any(case.private for case in cases),
    )


def _asked(
    texts: Sequence[Text], goldens: Goldens, task: str, model: str, route: str = ""
) -> list[tuple[Case, str]]:
    """Returns each text as a case without tokens, and its place. Raises UsageError."""
    if task == SCORES:
        return [
            (Case(one.id, YOURS, one.text, "", (), PREDICT, one.pair or ""), one.place)
            for one in given.as_pairs(texts, model)
        ]
    return [(_case(one, goldens.prompts, model, route), one.place) for one in given.as_texts(texts)]


def _case(one: Text, prompts: Mapping[str, str], model: str, route: str) -> Case:
    call, prompt = _CALLS.get(one.task, ""), ""
    if not call and one.task not in prompts:
        known = ", ".join(dict.fromkeys([*list(_CALLS)[1:], *prompts]))
        raise UsageError(
            f"--texts {one.place}: {model} has no prompt {one.task[:40]!r}; known are {known}"
        )
    if route and one.task in ("query", "document") and one.task != route:
        raise UsageError(
            f"--texts {one.place}: is a {one.task}, and this is the {route} route of {model}; "
            "leave it out"
        )
    prompt = "" if call else prompts[one.task]
    return Case(one.id, YOURS, one.text, prompt, (), call)


def _made(source: Source, fresh: list[tuple[Case, str]], max_length: int | None) -> Goldens:
    from goldfold.golden import scoring
    from goldfold.golden.texts import Draft

    if source.task == SCORES:
        drafts = [
            scoring.Draft(case.id, case.kind, (case.text, case.pair), place)
            for case, place in fresh
        ]
    else:
        drafts = [
            Draft(case.id, case.kind, case.text, case.prompt, case.call, place)
            for case, place in fresh
        ]
    return made_now(source, tuple(drafts), max_length)


def _check_room(goldens: Goldens, count: int) -> None:
    """Raise UsageError for more texts than a file of goldens holds."""
    most = _DENSE if goldens.task == SPARSE else store.LIMITS["embeddings.npy"] // 4 - 64
    if goldens.task != MULTI and (len(goldens.cases) + count) * goldens.dim > most:
        room = max(0, most // goldens.dim - len(goldens.cases))
        raise UsageError(f"--texts: {_too_many(goldens, f'more than {room:,} texts')}")


def _too_many(goldens: Goldens, what: str) -> str:
    return f"goldens of {goldens.dim:,} numbers have no room for {what}; give fewer"


# --- private ones


@dataclass(frozen=True)
class Joined:
    """The goldens of a verification."""

    goldens: Goldens
    reasons: tuple[Reason, ...] = ()
    """Why private texts have other tokens than at the export."""
    missing: frozenset[str] = frozenset()
    """The ids of private texts that were not given."""
    said: str = ""
    """The sentence on them; "" where every text was run."""


def joined(opened: Bundle, goldens: Goldens, texts: Sequence[Text], encoder: Encoder) -> Joined:
    """Returns the goldens of an artifact with those of its private texts that are among `texts`.

    Raises UsageError where none is, ArtifactError for private goldens that cannot be read.
    """
    path = opened.path
    if not (path / PRIVATE).is_dir():
        if texts:
            raise UsageError(
                f"--texts: {path} has no private texts; its goldens travel with it, and "
                "`goldfold export --texts` adds texts"
            )
        return Joined(goldens)
    try:
        kept = store.load(path / PRIVATE)
    except GoldenError as error:
        raise ArtifactError(f"{path} is damaged: {error}") from None
    if (kept.fingerprint, kept.dim, kept.task) != (goldens.fingerprint, goldens.dim, goldens.task):
        raise ArtifactError(f"{path} is damaged: {PRIVATE} is of another model")
    model = opened.manifest.origin.name
    asked = [case for case, _ in _asked(texts, kept, kept.task, model)]
    some, reasons, ids = withheld.found(kept, asked, encoder.called)
    if texts and not ids:
        raise UsageError(
            f"--texts: none of the {len(asked):,} texts is one of the {len(kept.cases):,} private "
            f"texts of {path}; give the files of its export, each with its `:query` or `:document`"
        )
    missing = frozenset(case.id for case in kept.cases) - ids
    whole = replace(
        goldens,
        cases=(*goldens.cases, *some.cases),
        embeddings=np.concatenate([goldens.embeddings, some.embeddings]),
    )
    said = _said(len(kept.cases), len(missing), len(asked) - len(ids))
    return Joined(whole, tuple(reasons), missing, said)


def _said(count: int, missing: int, strangers: int) -> str:
    others = f"{strangers:,} of the given texts are none of its private ones" if strangers else ""
    if not missing:
        return others
    if missing == count:
        return f"its {count:,} private texts were not run again; give their file with --texts"
    few = f"{missing:,} of its {count:,} private texts were not run again, for they were not given"
    return "; ".join(filter(None, (few, others)))


def carried(joined: Joined, old: Sequence[Reason], now: Sequence[Reason]) -> Iterator[Reason]:
    """Yields the reasons of an earlier verdict that are about private texts which were not run
    again, or about all texts together, and that `now` lacks: nothing has shown that they hold."""
    known = {(one.kind, one.way, one.head) for one in now if not one.text}
    for reason in old if joined.missing else ():
        together = reason.kind in _TOGETHER and (reason.kind, reason.way, reason.head) not in known
        if not reason.emulated and (together or reason.text in joined.missing):
            yield reason
