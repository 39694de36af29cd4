"""The judge's own reading of a vocabulary that was cut: the source's tokens under new ids.

It compares the two tokenizers entry by entry, by their spelling, and text by text. It shares no
code with the cut.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from goldfold.golden.errors import GoldenError
from goldfold.golden.store import Case, Goldens
from goldfold.golden.tasks import MULTI
from goldfold.golden.tokenizer_file import Ids, TokenizerFile, first_difference
from goldfold.golden.witness import Witness

Holds = Callable[[str], bool]
"""Whether a text promises to keep its tokens."""


@dataclass(frozen=True)
class Places:
    """The new ids of a source's tokens."""

    source: TokenizerFile
    file: TokenizerFile
    """The tokenizer.json of the artifact."""

    @cached_property
    def kept(self) -> tuple[int, ...]:
        """The source's id of each entry of `file`; −1 for one that the source does not have."""
        known = {token: id_ for id_, token in self.source.vocabulary.items()}
        return tuple(known.get(token, -1) for token in self.file.vocabulary.values())

    @cached_property
    def _new(self) -> Mapping[int, int]:
        return dict(zip(self.kept, self.file.vocabulary, strict=True))

    @cached_property
    def _unknown(self) -> int | None:
        """The token of words that no entries make up, where an entry less may make them up of
        others."""
        model = json.loads(self.source.canonical)["model"]
        wordwise = model.get("type") == "WordPiece"
        return self.source.id_of(model["unk_token"]) if wordwise else None

    def renumbered(self, ids: Iterable[int]) -> Ids | None:
        """Returns the artifact's ids of the source's `ids`; None if one of them has none."""
        found = [self._new.get(id_, -1) for id_ in ids]
        return None if -1 in found else tuple(found)

    def keeps(self, ids: Iterable[int]) -> bool:
        """Whether a text of these ids in the source must have the same tokens in the artifact: each
        of them is there, and none stands for a word that others might make up."""
        found = tuple(ids)
        return self.renumbered(found) is not None and self._unknown not in found

    def fault(self) -> str | None:
        """Returns why `file` is no cut of the source's tokenizer, in words; None where it is."""
        entries = list(self.file.vocabulary)
        if entries != list(range(len(entries))):
            return f"its {len(entries):,} ids are not 0 to {len(entries) - 1:,}"
        if -1 in self.kept:
            token = self.file.vocabulary[self.kept.index(-1)]
            return f"the source has no token {token!r}"
        if list(self.kept) != sorted(set(self.kept)):
            return "its tokens are not in the source's order"
        return None

    def facts(self, said: Mapping[str, Any], rows: int) -> dict[str, Any]:
        """Returns what a contract says of the vocabulary: `said` as it stands, and the numbers that
        follow. `rows` is the size of the source's table."""
        kept = np.array(self.kept, "<i8")
        return {
            "vocab_size": int((kept < rows).sum()),
            "vocabulary": {
                **said,
                "kept": len(kept),
                "of": max(self.source.vocabulary) + 1,
                "digest": hashlib.sha256(kept.tobytes()).hexdigest(),
            },
        }


def cut(
    witness: Witness, file: TokenizerFile, said: Mapping[str, Any], holds: Holds | None
) -> tuple[Witness, str | None]:
    """Returns the source as a witness for an artifact whose vocabulary was cut, and why its
    tokenizer, `file`, is no cut of the source's (None where it is).

    `said` is the contract's own account of the cut. A text of which `holds` is true must keep its
    tokens; without `holds`, one whose tokens the artifact has. Any other has those of `file`.
    """
    places = Places(witness.tokenizer, file)
    if fault := places.fault():
        return witness, fault
    plain = witness.tokenizer.made(list(witness.drawn))
    if fault := first_difference(witness.drawn, plain):
        return witness, f"the source's tokenizer.json gives {fault}"
    faults: list[str] = []

    def kept(text: str, ids: Ids) -> Ids | None:
        """The artifact's ids of a text that keeps its tokens; None of any other."""
        if not (places.keeps(ids) if holds is None else holds(text)):
            return None
        found = places.renumbered(ids)
        if found is None:
            faults.append(f"{text[:40]!r} has a token in the source that was left out")
        return found

    listed = frozenset(file.drawn)
    texts = witness.tokenizer.made([*file.drawn, *(t for t in file.spelt if t not in listed)])
    own = file.made(list(texts))
    drawn = {t: own[t] if (new := kept(t, ids)) is None else new for t, ids in texts.items()}
    spelt = {text: ids for text, ids in drawn.items() if text not in listed}
    if fault := first_difference(spelt, own):
        faults.append(f"it gives {fault}")
    pairs = {
        pair: found
        for pair, ids in witness.pairs.items()
        if (found := kept("".join(pair), ids)) is not None
    }
    called = {
        call: {t: found for t, ids in some.items() if (found := kept(t, ids)) is not None}
        for call, some in witness.called.items()
    }
    changed = replace(
        witness,
        tokenizer=file,
        drawn={text: drawn[text] for text in file.drawn},
        pairs=pairs,
        called=called,
        facts={**witness.facts, **_facts(witness, places, said)},
    )
    return changed, faults[0] if faults else None


def _facts(witness: Witness, places: Places, said: Mapping[str, Any]) -> dict[str, Any]:
    facts = witness.facts

    def one(id_: int | None) -> int | None:
        found = None if id_ is None else places.renumbered([id_])
        return None if found is None else found[0]

    found = {**places.facts(said, facts["vocab_size"]), "pad_id": one(facts["pad_id"]) or 0}
    if facts.get("separator") is not None:
        found["separator"] = one(facts["separator"])
    if facts.get("tokenwise"):
        how = dict(facts["tokenwise"])
        how["filler"] = one(how.get("filler"))
        for name in ("skipped_in_queries", "skipped_in_documents"):
            how[name] = [new for id_ in how.get(name, ()) if (new := one(id_)) is not None]
        found["tokenwise"] = how
    return found


def split(
    goldens: Goldens, places: Places, made: Callable[[Case], Ids], holds: Holds | None
) -> tuple[Goldens, Goldens | None]:
    """Returns the goldens of texts that keep their tokens, under the artifact's ids, and the
    others, each with the ids that the artifact makes of it; None without such texts, and of a model
    that gives a vector for each token, for other tokens cannot be compared.

    `made` gives the artifact's ids; `holds` is as in `cut`. Raises GoldenError for a text that must
    keep its tokens and has lost one.
    """
    inside: dict[int, Case] = {}
    outside: dict[int, Case] = {}
    for at, case in enumerate(goldens.cases):
        text = case.prompt + case.text + case.pair
        ids = places.renumbered(case.token_ids)
        if places.keeps(case.token_ids) if holds is None else holds(text):
            if ids is None:
                raise GoldenError(f"the cut vocabulary lacks a token of the golden {case.id!r}")
            inside[at] = replace(case, token_ids=ids)
        elif goldens.task != MULTI and (ids := made(case)):
            outside[at] = replace(case, token_ids=tuple(ids))
    kept = replace(goldens.kept(list(inside)), cases=tuple(inside.values()))
    if not outside:
        return kept, None
    return kept, replace(goldens.kept(list(outside)), cases=tuple(outside.values()))
