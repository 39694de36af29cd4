"""Drawn texts of a set of characters, on which the tokenizer of a cut vocabulary is compared with
the source's.

They are made of what a vocabulary has, and of what no vocabulary expects: tokens joined without a
space, characters at the borders of the set, marks without a letter, emoji that are joined, runs of
white space, added tokens within words, names of bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from tokenizers import Tokenizer

from goldfold.exporter.errors import RewriteError
from goldfold.exporter.frontend.vocabulary import Cut
from goldfold.golden.token_texts import Draws

_BATCH = 1 << 11
_SEED = 25
_SPACES = (" ", "  ", "   ", "\t", "\n", "\r\n", "\u00a0", "\u2003", "\u3000", "\u2581", "\v")
_JOINERS = ("\u200d", "\ufe0f", "\u200c", "\u0301", "\u0323", "\u20e3", "\u00ad", "\ufeff")
_CASES = (str.upper, str.title, str.swapcase)
_RUN = 40
"""Letters of the longest run."""


def texts(
    words: Sequence[str], added: Sequence[str], inside: frozenset[str], seed: int = _SEED
) -> Iterator[str]:
    """Yields drawn texts without end: of `words` and `added` tokens whose characters are `inside`,
    and of these characters."""
    draws = Draws(seed)
    letters = sorted(inside)
    codes = set(map(ord, inside))
    borders = [one for one in letters if not {ord(one) - 1, ord(one) + 1} <= codes]
    words = [word for word in words if word and inside.issuperset(word)] or letters
    added = [token for token in added if inside.issuperset(token)] or words
    spaces = [one for one in _SPACES if one in inside] or letters
    joiners = [one for one in _JOINERS if one in inside] or letters

    def word() -> str:
        return draws.one(words)

    def letter() -> str:
        return draws.one(letters)

    kinds = (
        lambda: "".join(draws.some(word, 8)),
        lambda: " ".join(draws.some(word, 16)),
        lambda: "".join(draws.some(letter, 24)),
        lambda: "".join(word() + draws.one(spaces) for _ in range(1 + draws.below(8))),
        lambda: draws.one((word(), letter(), draws.one(spaces))) * (1 + draws.below(_RUN)),
        lambda: "".join(letter() + draws.one(joiners) for _ in range(1 + draws.below(12))),
        lambda: "".join(draws.some(lambda: draws.one(borders), 16)),
        lambda: "".join(word() + draws.one(added) for _ in range(1 + draws.below(4))),
        lambda: "".join(f"{word()}<0x{draws.below(256):02X}>" for _ in range(2)),
        lambda: "".join(_CASES[draws.below(len(_CASES))](word()) for _ in range(4)),
    )
    while True:
        text = kinds[draws.below(len(kinds))]()
        if inside.issuperset(text):
            yield text


def compare(tokenizer: str, cut: Cut, count: int, seed: int = _SEED) -> int:
    """Returns the number of ids that are the same in the source's `tokenizer` and in that of `cut`,
    once renumbered: of every token of the source that stands in the set, as a text of its own, and
    of drawn texts that have at least `count`. Raises RewriteError, with a text, where one is
    not."""
    old, new = (_plain(text) for text in (tokenizer, cut.tokenizer))
    # The source's tokens: of those that were left out, none may be needed.
    known = old.get_vocab(with_added_tokens=True)
    spelt = old.decode_batch([[id_] for id_ in sorted(known.values())], skip_special_tokens=False)
    named = (token.replace("\u2581", " ") for token in sorted(known))
    words = [word for word in dict.fromkeys((*spelt, *named)) if cut.inside.issuperset(word)]
    added = [one.content for one in old.get_added_tokens_decoder().values()]
    source, places = texts(words, added, cut.inside, seed), cut.new_ids()
    same = 0
    for start in range(0, len(words), _BATCH):
        same += _same(old, new, places, words[start : start + _BATCH])
    wanted = same + count
    while same < wanted:
        same += _same(old, new, places, [next(source) for _ in range(_BATCH)])
    return same


def _same(old: Tokenizer, new: Tokenizer, places: np.ndarray, texts: list[str]) -> int:
    """Returns the number of ids of the texts; raises RewriteError where one is not the same."""
    count = 0
    pairs = zip(texts, old.encode_batch_fast(texts), new.encode_batch_fast(texts), strict=True)
    for text, one, other in pairs:
        if not np.array_equal(places[one.ids], other.ids):
            raise RewriteError(
                f"the cut tokenizer gives {text[:40]!r} other tokens than the source's: "
                f"{one.tokens[:6]} became {other.tokens[:6]}; export the model without a cut, and "
                "report this with its name"
            )
        count += len(other.ids)
    return count


def _plain(text: str) -> Tokenizer:
    found = Tokenizer.from_str(text)
    found.no_padding()
    found.no_truncation()
    return found
