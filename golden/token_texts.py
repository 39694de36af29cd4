"""Texts drawn at random, on which tokenizers are compared.

They follow from the vocabulary alone, so that whoever has a tokenizer can draw them again.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import lru_cache
from itertools import chain

COUNT = 10_000
"""Number of drawn texts."""
_SEED = 4
_LONG = 240
"""Letters of the longest run: enough for a token of repeated letters to repeat."""
_TRIES = 64
"""Draws per text that is still missing, after which a small alphabet is taken to be used up."""

_BYTE = re.compile("<0x[0-9A-F]{2}>")
_BLANKS = (
    " ", "  ", "\t", "\n", "\r\n", "\r", "\v", "\f", "\x1c", "\x85", "\xa0", "\u1680", "\u2003",
    "\u2009", "\u200a", "\u2028", "\u2029", "\u202f", "\u205f", "\u3000", "\u2581", "\n\n\n",
)  # fmt: skip
_CONTROLS = (
    *map(chr, range(1, 32)), "\x7f", "\x80", "\x9f", "\xad", "\u200b", "\u200c", "\u200d", "\u200e",
    "\u202a", "\u202e", "\u2060", "\u2066", "\ufeff", "\ufffc", "\ufffd", "\ufffe", "\U000e0041",
    "\ue000", "\x00",
)  # fmt: skip
_MARKS = (
    "\u0300", "\u0301", "\u0308", "\u0323", "\u0327", "\u0345", "\u05b0", "\u064b", "\u093c",
    "\u094d", "\u0e31", "\u0f71", "\u20d7", "\u20e3", "\u3099", "\ufe0e", "\ufe0f",
)  # fmt: skip
_EMOJI = (
    "\U0001f600", "\U0001f468", "\U0001f469", "\U0001f467", "\u2764\ufe0f", "\U0001f3fd",
    "\U0001f1e9", "\U0001f1ea", "\U0001f3f4", "\u0031\ufe0f\u20e3", "\U0001f9d1\u200d\U0001f4bb",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\U0001f44d\U0001f3ff", "\u2600", "\U0001fae0",
)  # fmt: skip
_ODD = (
    "\u0130", "\u0131", "\u017f", "\u1e9e", "\xdf", "\u03a3", "\u03c2", "\u01c5", "\ufb01",
    "\u212b", "\u2126", "\u1112\u1161", "\uac01", "\u304c", "\uff76\uff9e", "\uff21", "\u2460",
    "\xbd", "\u2018", "\u201d", "\u2026", "\u2014", "\u00b4", "\u02bc", "``", "''", "n't", "'s",
)  # fmt: skip
"""Letters that cases and normal forms change, and marks that stand for others."""
_SCRIPTS = (
    (0x41, 0x7A), (0xC0, 0x24F), (0x250, 0x2AF), (0x370, 0x3FF), (0x400, 0x4FF), (0x531, 0x58F),
    (0x5D0, 0x5EA), (0x621, 0x6D3), (0x710, 0x74A), (0x904, 0x97F), (0x985, 0x9F1), (0xA05, 0xA74),
    (0xB85, 0xBF9), (0xC05, 0xC6F), (0xD05, 0xD6F), (0xD85, 0xDF3), (0xE01, 0xE5B), (0xE81, 0xEDF),
    (0xF40, 0xFBC), (0x1000, 0x109F), (0x10A0, 0x10FF), (0x1200, 0x137C), (0x13A0, 0x13F4),
    (0x1780, 0x17F9), (0x1820, 0x18AA), (0x1E00, 0x1EFF), (0x1F00, 0x1FFE), (0x2000, 0x206F),
    (0x20A0, 0x20C0), (0x2100, 0x21FF), (0x2200, 0x22FF), (0x2460, 0x24FF), (0x2E80, 0x2FD5),
    (0x3041, 0x30FF), (0x3131, 0x318E), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xAC00, 0xD7A3),
    (0xF900, 0xFAD9), (0xFB00, 0xFDFB), (0xFF01, 0xFFEE), (0x10000, 0x100FA), (0x10330, 0x1034A),
    (0x12000, 0x123FF), (0x1D400, 0x1D7FF), (0x1F300, 0x1F9FF), (0x20000, 0x2FA1D),
)  # fmt: skip
"""First and last code points of scripts and symbols."""
_LINES = (
    "ftp://example.org/a?b=1&c=%20#d", "name.surname+tag@example.co.uk", "C:\\Users\\x\\y.txt",
    "3.14159e-10", "1,234,567.89", "2024-02-29T23:59:60Z", "+49 (0)30 1234-5678", "x=y;z!=w",
    "def f(x: int) -> str:", "<div class=\"a\">&amp;</div>", "{\"k\": [1, null]}", "$\\frac{a}{b}$",
    "SELECT * FROM t WHERE a='b'--", "#hashtag @user", "don't can't I'll we've", "état-d’âme",
    "foo_bar fooBar FooBAR", "a/b\\c|d", "...!!!???", "«—»", "([{<>}])", "~`^*_=+", "\\n\\t\\u0041",
)  # fmt: skip


class Draws:
    """Draws that are the same everywhere: of all that Python's generator makes, only `random`
    promises to be."""

    def __init__(self, seed: int = _SEED) -> None:
        self._random = random.Random(seed).random

    def below(self, count: int) -> int:
        """Returns a number of 0 … count − 1."""
        return int(self._random() * count)

    def one(self, among: Sequence[str]) -> str:
        return among[self.below(len(among))]

    def some(self, make: Callable[[], str], most: int) -> list[str]:
        """Returns 1 to `most` of what `make` returns."""
        return [make() for _ in range(1 + self.below(most))]


def drawn(tokens: Collection[str], special: Collection[str], count: int = COUNT) -> list[str]:
    """Returns `count` different texts for a tokenizer that knows `tokens`, `special` among them.

    The order of `tokens` and `special` does not matter. Texts that can be listed come first: the
    empty one, single characters, names of bytes, the text of special tokens. No text holds half a
    character. A tokenizer of few tokens may get fewer texts.
    """
    return list(_drawn(tuple(sorted(set(tokens))), tuple(sorted(set(special))), count))


@lru_cache(maxsize=2)  # an export and its artifacts have the same vocabulary
def _drawn(known: tuple[str, ...], added: tuple[str, ...], count: int) -> tuple[str, ...]:
    draws = Draws()
    makers = _makers(draws, [token.replace("\u2581", " ") for token in known], added)
    found = dict.fromkeys(_listed(known, added, draws))
    for _ in range(_TRIES * count):
        if len(found) >= count:
            break
        found[_whole(makers[draws.below(len(makers))]())] = None
    return tuple(found)[:count]


def _listed(known: Sequence[str], added: Sequence[str], draws: Draws) -> Iterator[str]:
    yield ""
    yield from map(chr, range(1, 0x180))
    yield from chain(_BLANKS, _CONTROLS, _MARKS, _EMOJI, _ODD, _LINES)
    for blank in _BLANKS:
        yield f"a{blank}b"
        yield f"{blank}Word{blank}"
    for mark in chain(_MARKS, _CONTROLS):
        yield f"e{mark}x"
        yield f"no{mark} more"
    named = [token for token in known if _BYTE.fullmatch(token)] or ["<0x41>", "<0x0A>", "<0xE2>"]
    for name in named:
        yield name
        yield f"in {name}word"
    for name in ("<0x41>", "<0xe2>", "<0xE2><0x82><0xAC>", "<0x4", "<0x100>", "0x41>"):
        yield f"a{name}b"
    # Some vocabularies have thousands of unused tokens among their special ones.
    for token in added if len(added) <= 400 else [draws.one(added) for _ in range(400)]:
        yield token
        yield f"in{token}words"
        yield f" {token} {token}{token.lower() if token.isascii() else token}"
    for letter in "a1.- _\n\u3042\u4e00\U0001f600\u200d":
        for length in (2, 3, 4, 7, 8, 15, 16, 17, 31, 33, 64, 100, _LONG):
            yield letter * length


def _makers(
    draws: Draws, words: Sequence[str], added: Sequence[str]
) -> tuple[Callable[[], str], ...]:
    """Returns functions that each draw a text of another kind."""

    def letter() -> str:
        first, last = _SCRIPTS[draws.below(len(_SCRIPTS))]
        return chr(first + draws.below(last - first + 1))

    def entry() -> str:
        return draws.one(words)

    def script() -> str:
        """Words of one script."""
        first, last = _SCRIPTS[draws.below(len(_SCRIPTS))]

        def word() -> str:
            return "".join(draws.some(lambda: chr(first + draws.below(last - first + 1)), 8))

        return draws.one(_BLANKS[:2]).join(draws.some(word, 6))

    def mixed() -> str:
        """Words in mixed case."""
        cased = (str.upper, str.lower, str.title, str.swapcase)

        def word() -> str:
            text = entry()
            return cased[draws.below(4)](text) if text.isascii() else text

        return " ".join(draws.some(word, 8))

    def odd() -> str:
        kinds = (_BLANKS, _CONTROLS, _MARKS, _EMOJI, _ODD, _LINES, words, words)
        return "".join(draws.some(lambda: draws.one(kinds[draws.below(len(kinds))]), 10))

    def marked() -> str:
        return "".join(draws.some(lambda: letter() + draws.one(_MARKS), 8))

    def anything() -> str:
        """Code points from all of Unicode."""
        return "".join(draws.some(lambda: chr(draws.below(0x110000)), 12))

    def joined() -> str:
        return draws.one(("\u200d", "\ufe0f", "", "\u200c")).join(
            draws.some(lambda: draws.one(_EMOJI), 5)
        )

    def run() -> str:
        return draws.one((entry(), letter())) * (1 + draws.below(12)) + entry()

    def told() -> str:
        """Special tokens and names of bytes within words."""
        names = (*added, "<0x41>", "<0x0A>", "<0xF0>")
        return "".join(f"{entry()}{draws.one(names)}" for _ in range(1 + draws.below(3))) + entry()

    return (
        lambda: "".join(draws.some(entry, 12)),
        lambda: " ".join(draws.some(entry, 12)),
        lambda: " ".join(draws.some(entry, 30)),
        script, mixed, odd, marked, anything, joined, run, told,
        lambda: "".join(draws.some(letter, 20)),
        lambda: letter() if draws.below(2) else letter() + letter(),
    )  # fmt: skip


def _whole(text: str) -> str:
    """Returns `text` without halves of characters, and of a length that no drawn text exceeds."""
    return "".join(one for one in text[: 2 * _LONG] if not 0xD800 <= ord(one) < 0xE000)
