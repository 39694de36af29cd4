"""The cut of a vocabulary: which entries stay, and the tokenizer that has these alone.

Ids are renumbered densely and keep their order. `Cut.kept` maps a new id to the source's.

The proof, on the tokenizer at hand (docs/vocabulary.md): every entry that can occur in the ids of a
text of the set stays (vocabulary_kinds.py), with all that it is made of, so both tokenizers take
the same steps for such a text; and the ids of drawn texts of the set are the same
(vocabulary_drawn.py).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from goldfold.exporter.errors import RewriteError
from goldfold.exporter.frontend import characters, normal_forms, vocabulary_kinds


@dataclass(frozen=True)
class Cut:
    """A tokenizer with fewer entries."""

    tokenizer: str
    """The text of its tokenizer.json."""
    kept: np.ndarray
    """int64: the source's id of each of its ids."""
    of: int
    """Number of the source's ids."""
    scripts: tuple[str, ...] = ()
    inside: frozenset[str] = frozenset()
    """The characters of whose texts all ids stay the same; none where a corpus decided."""
    corpus: str = ""
    """The sha256, in hex, of the file that decided."""
    notes: tuple[str, ...] = ()
    """Remarks for the user, one sentence each."""

    @property
    def digest(self) -> str:
        """The sha256, in hex, of the kept ids as little-endian int64."""
        return digest(self.kept)

    def new_ids(self) -> np.ndarray:
        """Returns int64 [of]: the new id of each of the source's, −1 where it is left out."""
        found = np.full(max(self.of, int(self.kept.max()) + 1), -1, np.int64)
        found[self.kept] = np.arange(len(self.kept))
        return found

    def rows(self, size: int) -> np.ndarray:
        """Returns those of `kept` that a table of `size` rows has."""
        return self.kept[self.kept < size]

    def renumbered(self, ids: Iterable[int]) -> tuple[int, ...] | None:
        """Returns the new ids of the source's `ids`; None if one of them is left out."""
        known = self.new_ids()
        found = [int(known[one]) if 0 <= one < len(known) else -1 for one in ids]
        return None if -1 in found else tuple(found)


def digest(kept: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(kept, "<i8").tobytes()).hexdigest()


def by_scripts(
    tokenizer: str, names: Iterable[str], fixed: Iterable[int] = (), texts: Iterable[str] = ()
) -> Cut:
    """Returns the tokenizer for texts in the scripts `names`.

    `fixed` are ids that stay in any case, and `texts` what the model itself puts before or around
    texts: their characters count as those of the scripts. Raises UsageError for an unknown script
    and a tokenizer that cannot be cut.
    """
    settings = json.loads(tokenizer)
    vocabulary_kinds.check(settings)
    scripts = characters.canonical(names)
    own = frozenset("".join(texts))
    inside = characters.of_scripts(scripts)
    further = own - inside
    inside |= own
    made = vocabulary_kinds.made_of(settings, inside)
    words = normal_forms.reached(settings, inside)
    kept = {token for token in vocabulary_kinds.entries(settings["model"]) if made(token)}
    kept |= {token for token in _added(settings) if _stands_in(settings, token, words)}
    notes = []
    if further:
        notes.append(
            f"the model's own prompts hold {_count(len(further), 'character')} of other scripts, "
            "which belong to the set"
        )
    mapped = normal_forms.mapped_inside(settings, inside, words, characters.assigned())
    if mapped:
        notes.append(
            f"the tokenizer's normaliser maps {_count(len(mapped), 'character')} outside of the "
            f"set into it, first U+{ord(mapped[0]):04X}: texts with them may keep their ids as well"
        )
    return replace(
        cut_to(settings, kept, fixed), scripts=scripts, inside=inside, notes=tuple(notes)
    )


def _count(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _added(settings: Mapping[str, Any]) -> Iterator[str]:
    return (one["content"] for one in settings.get("added_tokens", ()))


def _stands_in(settings: Mapping[str, Any], token: str, words: frozenset[str]) -> bool:
    """Whether a text of the set can spell an added token, as it is or once it is normalised."""
    return words.issuperset(token) or words.issuperset(normal_forms.normaliser(settings)(token))


def cut_to(settings: dict[str, Any], kept: Collection[str], fixed: Iterable[int] = ()) -> Cut:
    """Returns the tokenizer of `settings` with the entries `kept`, the ids `fixed`, and what these
    need."""
    model = settings["model"]
    ids = dict(vocabulary_kinds.entries(model))
    ids |= {one["content"]: one["id"] for one in settings.get("added_tokens", ())}
    by_id = {id_: token for token, id_ in ids.items()}
    wanted = {*kept, *vocabulary_kinds.basic(settings)}
    wanted |= {one["content"] for one in settings.get("added_tokens", ()) if one["special"]}
    wanted |= {by_id[id_] for id_ in (*fixed, *_named(settings)) if id_ in by_id}
    wanted = vocabulary_kinds.closed(model, wanted)
    old = np.array(sorted(ids[token] for token in wanted if token in ids), np.int64)
    new_ids = {by_id[int(id_)]: at for at, id_ in enumerate(old)}
    places = {int(id_): at for at, id_ in enumerate(old)}
    changed = _rewritten(settings, new_ids, places)
    text = json.dumps(changed, ensure_ascii=False, separators=(",", ":"))
    _check(text, new_ids)
    return Cut(text, old, max(by_id) + 1)


def _named(settings: Mapping[str, Any]) -> Iterator[int]:
    """Yields the ids that the post-processor and the padding name."""
    if settings.get("padding"):
        yield settings["padding"]["pad_id"]
    waiting = [settings.get("post_processor") or {}]
    while waiting:
        part = waiting.pop()
        waiting += part.get("processors", ())
        yield from (part[end][1] for end in ("sep", "cls") if end in part)
        for one in _specials(part):
            yield from one["ids"]


def _specials(part: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    said = part.get("special_tokens", {})
    return said.values() if isinstance(said, dict) else said


def _rewritten(
    settings: dict[str, Any], new_ids: Mapping[str, int], places: Mapping[int, int]
) -> dict[str, Any]:
    """Returns the settings with the entries of `new_ids` alone. `places` are the new ids by the
    old ones."""

    def processor(part: dict[str, Any]) -> dict[str, Any]:
        found = dict(part)
        if "processors" in part:
            found["processors"] = [processor(one) for one in part["processors"]]
        for end in {"sep", "cls"} & part.keys():
            found[end] = [part[end][0], places[part[end][1]]]
        said = part.get("special_tokens")
        if isinstance(said, dict):
            found["special_tokens"] = {
                name: {**one, "ids": [places[id_] for id_ in one["ids"]]}
                for name, one in said.items()
            }
        return found

    changed: dict[str, Any] = {
        "added_tokens": [
            {**one, "id": new_ids[one["content"]]}
            for one in settings.get("added_tokens", ())
            if one["content"] in new_ids
        ],
        "model": vocabulary_kinds.fewer(settings["model"], new_ids),
    }
    if settings.get("post_processor"):
        changed["post_processor"] = processor(settings["post_processor"])
    if settings.get("padding"):
        changed["padding"] = {
            **settings["padding"],
            "pad_id": places[settings["padding"]["pad_id"]],
        }
    return {**settings, **changed}


def _check(text: str, new_ids: Mapping[str, int]) -> None:
    """Refuse a tokenizer that the library reads otherwise than it was written."""
    found = Tokenizer.from_str(text).get_vocab(with_added_tokens=True)
    wrong = [token for token, id_ in new_ids.items() if found.get(token) != id_]
    if wrong or len(found) != len(new_ids):
        first = repr(wrong[0]) if wrong else "one too many"
        raise RewriteError(
            f"the cut tokenizer is read with other ids than it has, first {first}; export the "
            "model without a cut, and report this with its name"
        )
