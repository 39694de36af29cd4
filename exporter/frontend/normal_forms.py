"""The characters that a tokenizer's normaliser and pre-tokenizer make of a set of characters.

A cut of a vocabulary keeps every token that a text over the set can need, so the set must hold all
that the tokenizer turns such a text into. Each kind of normaliser has a rule here, and the rule
asks the normaliser itself; a kind without a rule is refused. Rules give too many characters rather
than too few: that keeps tokens which nobody needs.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from goldfold.exporter.errors import UsageError
from goldfold.exporter.frontend.characters import END

Characters = frozenset[str]

_EACH = ("BertNormalizer", "Lowercase", "NFD", "NFKD", "Nmt", "StripAccents")
"""Normalisers that treat every character alone, or only reorder what they made of each."""
_COMPOSING = {"NFC": "NFD", "NFKC": "NFKD"}
"""Normalisers that join characters, and those that only take them apart."""
_FEWER = ("Strip",)
"""Normalisers that leave characters out."""
_SPLITS = (
    "BertPreTokenizer", "CharDelimiterSplit", "Delimiter", "Digits", "FixedLength", "Punctuation",
    "Split", "UnicodeScripts", "Whitespace", "WhitespaceSplit",
)  # fmt: skip
"""Pre-tokenizers that split a text and change nothing in it."""


def reached(settings: Mapping[str, Any], characters: Characters) -> Characters:
    """Returns the characters of which the words consist that the model of a tokenizer.json gets of
    texts of `characters`: those as well. Where the words are bytes, what stands for them. Raises
    UsageError for a kind of normaliser or pre-tokenizer without a rule."""
    found = characters
    for part in parts(settings.get("normalizer"), "normalizers"):
        found |= _normalised(part, found)
    for part in parts(settings.get("pre_tokenizer"), "pretokenizers"):
        kind = part.get("type")
        if kind == "Metaspace":
            found |= {part.get("replacement", "\u2581"), part.get("str_rep", "\u2581")}
        elif kind == "ByteLevel":
            found |= {" "} if part.get("add_prefix_space") else set()
        elif kind not in _SPLITS:
            raise _refused("pre-tokenizer", kind)
    return found


def parts(given: Mapping[str, Any] | None, inside: str) -> Iterator[Mapping[str, Any]]:
    """Yields the parts of a normaliser or a pre-tokenizer, one after the other."""
    if given is None:
        return
    if given.get("type") != "Sequence":
        yield given
        return
    for part in given[inside]:
        yield from parts(part, inside)


def normaliser(settings: Mapping[str, Any]) -> Callable[[str], str]:
    """Returns the normaliser of a tokenizer.json as a function."""
    return _function(json.dumps(settings.get("normalizer")))


def mapped_inside(settings: Mapping[str, Any], characters: Characters, inside: Characters,
                  all_: Collection[str]) -> list[str]:  # fmt: skip
    """Returns the characters of `all_` outside of `characters` of which the normaliser makes
    characters of `inside` alone: texts that hold them may keep their ids too."""
    if settings.get("normalizer") is None:
        return []
    run = normaliser(settings)
    found = []
    for one in all_:
        if one not in characters:
            made = run(one)
            if made and made != one and inside.issuperset(made):
                found.append(one)
    return sorted(found)


def _normalised(part: Mapping[str, Any], characters: Characters) -> Characters:
    kind = part.get("type")
    if kind in _EACH:
        return _of_each(json.dumps(part), characters)
    if kind in _COMPOSING:
        apart = characters | _of_each(json.dumps({"type": _COMPOSING[kind]}), characters)
        alone = _of_each(json.dumps(part), characters)
        return alone | {one for one, of in _composites() if apart.issuperset(of)}
    if kind == "Replace":
        return frozenset(part["content"])
    if kind == "Prepend":
        return frozenset(part["prepend"])
    if kind == "Precompiled":
        return frozenset(
            letter
            for key, value in _mappings(part["precompiled_charsmap"])
            if characters.issuperset(key)
            for letter in value
        )
    if kind in _FEWER or kind == "ByteLevel":
        return frozenset()
    raise _refused("normaliser", kind)


def _refused(what: str, kind: object) -> UsageError:
    return UsageError(
        f"the tokenizer has the {what} {str(kind)[:40]!r}, of which goldfold does not know what it "
        "makes of a set of characters, so its vocabulary cannot be cut; export it whole"
    )


def _of_each(part: str, characters: Characters) -> Characters:
    run = _function(part)
    return frozenset("".join(map(run, characters)))


@lru_cache(maxsize=16)
def _function(part: str) -> Callable[[str], str]:
    model = {"type": "WordLevel", "vocab": {"": 0}, "unk_token": ""}
    made = Tokenizer.from_str(json.dumps({"model": model, "normalizer": json.loads(part)}))
    normalizer = made.normalizer
    return (lambda text: text) if normalizer is None else normalizer.normalize_str


@lru_cache(maxsize=1)
def _composites() -> tuple[tuple[str, str], ...]:
    """Every character that is written as others in NFD, with those: NFC makes it of them alone."""
    apart = _function('{"type": "NFD"}')
    every = (chr(code) for code in range(END) if not 0xD800 <= code < 0xE000)
    return tuple((one, of) for one in every if (of := apart(one)) != one)


@lru_cache(maxsize=2)
def _mappings(charsmap: str) -> tuple[tuple[str, str], ...]:
    """Returns every key of SentencePiece's precompiled map, and its value.

    The map is a double array (Darts): a node's children lie at its offset, exclusive-or their byte,
    and a node with a value has it at its offset itself. A value is a place in the texts behind.
    """
    raw = base64.b64decode(charsmap)
    size = int.from_bytes(raw[:4], "little")
    units = np.frombuffer(raw[4 : 4 + size], "<u4").astype(np.int64)
    texts = raw[4 + size :]
    labels = units & (1 << 31 | 0xFF)
    offsets = (units >> 10) << ((units & (1 << 9)) >> 6)
    letters = np.arange(1, 256)
    found = []
    waiting = [(int(offsets[0]), b"")]
    while waiting:
        base, key = waiting.pop()
        places = base ^ letters
        inside = places < len(units)
        there = letters[inside][labels[places[inside]] == letters[inside]]
        for letter in there.tolist():
            place = base ^ letter
            below = place ^ int(offsets[place])
            spelt = key + bytes([letter])
            if units[place] >> 8 & 1:
                at = int(units[below] & 0x7FFFFFFF)
                value = texts[at : texts.index(b"\0", at)]
                found.append((spelt.decode(), value.decode()))
            waiting.append((below, spelt))
    return tuple(found)
