"""The judge's own reading of a tokenizer.json, and the comparison of two tokenizers' ids.

It uses the library `tokenizers` alone, without truncation and padding: what an artifact's runtime
makes of a text is compared with this, and this with the source's own tokenizer (witness.py).
"""

from __future__ import annotations

import hashlib
import json
import sys
from array import array
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from goldfold.golden.errors import GoldenError
from goldfold.golden.token_texts import drawn

_BATCH = 1 << 13
"""Texts at a time: the library's own form of one takes a kilobyte."""

Ids = tuple[int, ...]


class TokenizerFile:
    """A tokenizer.json: `truncation` and `padding` are its own, and not applied. Raises GoldenError
    where the library cannot read it, or gives up on a text."""

    def __init__(self, raw: bytes | str) -> None:
        from tokenizers import Tokenizer

        raw = raw.encode() if isinstance(raw, str) else raw
        with _Unpanicked("a tokenizer.json that cannot be read"):
            self._tokenizer = Tokenizer.from_buffer(raw)
            self.truncation: Mapping[str, Any] | None = self._tokenizer.truncation
            self.padding: Mapping[str, Any] | None = self._tokenizer.padding
            self._tokenizer.no_padding()
            self._tokenizer.no_truncation()

    @cached_property
    def canonical(self) -> str:
        """The tokenizer as the library writes it: two of the same text are the same function of
        every text."""
        return self._tokenizer.to_str(pretty=False)

    @cached_property
    def vocabulary(self) -> dict[int, str]:
        """Every entry by its id, as the file spells it; ids in order."""
        known = self._tokenizer.get_vocab(with_added_tokens=True)
        return {id_: token for token, id_ in sorted(known.items(), key=lambda pair: pair[1])}

    @cached_property
    def special(self) -> tuple[str, ...]:
        """The text of the added tokens, special ones among them."""
        return tuple(one.content for one in self._tokenizer.get_added_tokens_decoder().values())

    def id_of(self, token: str) -> int | None:
        """Returns the id of an entry; None if there is none."""
        return self._tokenizer.token_to_id(token)

    @cached_property
    def drawn(self) -> list[str]:
        """The drawn texts for this vocabulary (token_texts.py)."""
        return drawn(self.vocabulary.values(), self.special)

    @cached_property
    def spelt(self) -> list[str]:
        """The text of every entry, as the tokenizer decodes it; each text once."""
        ids = [[id_] for id_ in self.vocabulary]
        return list(dict.fromkeys(self._tokenizer.decode_batch(ids, skip_special_tokens=False)))

    def made(self, texts: Sequence[str]) -> dict[str, Ids]:
        """Returns the ids of each text, specials included, nothing cut."""
        return dict(zip(texts, self._ids(texts), strict=True))

    def _ids(self, texts: Sequence[str]) -> Iterator[Ids]:
        for start in range(0, len(texts), _BATCH):
            with _Unpanicked("a tokenizer that gives up on a text"):
                made = self._tokenizer.encode_batch_fast(list(texts[start : start + _BATCH]))
            yield from (tuple(one.ids) for one in made)


def digest(made: Mapping[str, Ids]) -> str:
    """Returns the sha256, in hex, of texts and their ids, in their order."""
    flat = array("q")
    for ids in made.values():
        flat.append(len(ids))
        flat.extend(ids)
    found = hashlib.sha256(json.dumps(list(made)).encode())
    found.update(flat.tobytes() if sys.byteorder == "little" else _swapped(flat))
    return found.hexdigest()


def _swapped(numbers: array[int]) -> bytes:
    numbers.byteswap()
    return numbers.tobytes()


def first_difference(
    expected: Mapping[str, Sequence[int]], found: Mapping[str, Sequence[int] | None]
) -> str | None:
    """Returns how many texts have other ids than expected, and the first of them, in words; None
    where all agree. A text whose ids are None was not asked for."""
    wrong = [
        text
        for text, ids in expected.items()
        if (got := found.get(text)) is not None and tuple(got) != tuple(ids)
    ]
    if not wrong:
        return None
    text = wrong[0]
    one, other = list(expected[text]), list(found[text] or ())
    at = next((k for k, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), None)
    at = min(len(one), len(other)) if at is None else at
    return (
        f"{len(wrong):,} of {len(expected):,} texts other ids, first {text[:40]!r} from token {at} "
        f"on: expected {_few(one[at:])}, found {_few(other[at:])}"
    )


def _few(ids: Sequence[int]) -> str:
    return " ".join(map(str, ids[:4])) or "the end"


class _Unpanicked:
    """Turns what the library raises, a panic in Rust included, into a GoldenError."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: object) -> None:
        if error is not None and (
            isinstance(error, Exception) or type(error).__name__ == "PanicException"
        ):
            raise GoldenError(f"{self._what}: {' '.join(str(error).split())[:200]}") from None
