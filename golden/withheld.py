"""Goldens of private texts: an artifact keeps digests of the texts and of their tokens, and the
embeddings, but no text and no token.

    digest(case) = sha256 of the call, the prompt and the text, and the pair's second text

A digest says whether a given text is the one that was measured. It does not hide a text that can be
guessed, and an embedding says what its text is about.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import replace

from goldfold.golden.compare import TokenFault, Tokenize
from goldfold.golden.reasons import Reason
from goldfold.golden.store import Case, Goldens

_OTHER = "from those of the export, whose digest alone the artifact keeps"


def digest(case: Case) -> str:
    """Returns the sha256, in hex, of the input of a case. `prompt` counts where no call chooses
    it."""
    said = [case.call, "" if case.call else case.prompt, case.text, case.pair]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()


def of_ids(ids: Sequence[int]) -> str:
    """Returns the sha256, in hex, of token ids."""
    return hashlib.sha256(" ".join(map(str, ids)).encode()).hexdigest()


def withheld(goldens: Goldens) -> Goldens | None:
    """Returns the private goldens as an artifact keeps them; None where there are none."""
    rows = [row for row, case in enumerate(goldens.cases) if case.private]
    if not rows:
        return None
    some = goldens.kept(rows)
    return replace(some, cases=tuple(map(_emptied, some.cases)))


def _emptied(case: Case) -> Case:
    return replace(
        case,
        text="",
        pair="",
        token_ids=(0,) * len(case.token_ids),
        private=False,
        withheld=f"{digest(case)} {of_ids(case.token_ids)}",
    )


def found(
    kept: Goldens, given: Iterable[Case], tokenize: Tokenize
) -> tuple[Goldens, list[Reason], set[str]]:
    """Returns the goldens of those kept texts that are among `given` (their token ids are not
    read), the reasons why some have other tokens than at the export, and the ids of the texts that
    were found.

    A text with other tokens is measured no further.
    """
    wanted = {case.withheld.partition(" ")[0]: row for row, case in enumerate(kept.cases)}
    rows: dict[int, Case] = {}
    reasons, ids = [], set()
    for one in given:
        row = wanted.get(digest(one))
        if row is None:
            continue
        case = kept.cases[row]
        ids.add(case.id)
        text = one.input if one.call else one.prompt + one.text
        tokens = tuple(int(id_) for id_ in tokenize([text], one.call)[0])
        if of_ids(tokens) != case.withheld.partition(" ")[2] or len(tokens) != len(case.token_ids):
            reasons.append(Reason("tokens", text=case.id, note=_OTHER))
            continue
        rows[row] = replace(
            case, text=one.text, pair=one.pair, token_ids=tokens, private=True, withheld=""
        )
    places = sorted(rows)
    some = kept.kept(places)
    return replace(some, cases=tuple(rows[row] for row in places)), reasons, ids


def told(faults: Iterable[TokenFault], goldens: Goldens) -> list[TokenFault]:
    """Returns token faults without the tokens of private texts."""
    secret = {case.id for case in goldens.cases if case.private}
    return [replace(one, expected=(), found=()) if one.id in secret else one for one in faults]
