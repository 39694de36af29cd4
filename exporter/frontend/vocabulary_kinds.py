"""The vocabulary of a tokenizer.json by the kind of its model: which entries a set of characters
can need, what those need in turn, and the same model with fewer entries.

| kind | an entry of a text's ids | so the cut keeps |
|---|---|---|
| BPE | is joined by merges of parts that are joined before it | both parts of every kept merge |
| BPE of bytes | likewise, of the text's bytes | entries whose bytes stand in texts of the set |
| WordPiece | is the longest entry that begins what is left of a word | every piece of the set |
| WordLevel | is a word | every word of the set |
| Unigram | is a piece of the text, on the best way | every piece, and one of the least score |

Merges whose result is left out never apply to a text of the set, and the order of the others
stays; so of two merges that apply, the same one comes first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any

from goldfold.exporter.errors import UsageError
from goldfold.exporter.frontend.normal_forms import parts, reached

KINDS = ("BPE", "WordPiece", "WordLevel", "Unigram")
Made = Callable[[str], bool]


def check(settings: Mapping[str, Any]) -> None:
    """Refuse a tokenizer whose vocabulary cannot be cut with a proof. Raises UsageError."""
    model = settings["model"]
    kind = model.get("type")
    if kind not in KINDS:
        raise UsageError(
            f"the tokenizer is of the kind {str(kind)[:40]!r}, whose vocabulary cannot be cut; "
            f"{', '.join(KINDS)} can"
        )
    if model.get("dropout"):
        raise UsageError(
            f"the tokenizer leaves out merges by chance (dropout {model['dropout']}), so no text "
            "has ids of its own, and its vocabulary cannot be cut"
        )


def entries(model: Mapping[str, Any]) -> dict[str, int]:
    """Returns the ids of the model's own entries."""
    if model["type"] == "Unigram":
        return {piece: at for at, (piece, _) in enumerate(model["vocab"])}
    return model["vocab"]


def made_of(settings: Mapping[str, Any], characters: frozenset[str]) -> Made:
    """Returns whether an entry can be a part of a text's words, for texts of `characters`."""
    words = reached(settings, characters)
    if _of_bytes(settings):
        return _Bytes(words)
    model = settings["model"]
    before = model.get("continuing_subword_prefix") or ""
    after = model.get("end_of_word_suffix") or ""

    def made(token: str) -> bool:
        if words.issuperset(token):
            return True
        if before and token.startswith(before) and words.issuperset(token[len(before) :]):
            return True
        return bool(after) and token.endswith(after) and words.issuperset(token[: -len(after)])

    return made


def basic(settings: Mapping[str, Any]) -> Iterator[str]:
    """Yields the entries that every cut keeps: the unknown token, the bytes, and of Unigram one
    piece of the least score, on which the score of the unknown token depends."""
    model = settings["model"]
    known = entries(model)
    if model["type"] == "Unigram":
        if model.get("unk_id") is not None:
            yield model["vocab"][model["unk_id"]][0]
        if known:
            yield min(model["vocab"], key=lambda one: one[1])[0]
    elif model.get("unk_token") in known:
        yield model["unk_token"]
    if model.get("byte_fallback"):
        yield from (f"<0x{byte:02X}>" for byte in range(256) if f"<0x{byte:02X}>" in known)
    if _of_bytes(settings):
        yield from (letter for letter in _byte_letters() if letter in known)


def closed(model: Mapping[str, Any], kept: Iterable[str]) -> set[str]:
    """Returns the entries `kept`, and both parts of every merge of which a kept one comes."""
    found = set(kept)
    if model["type"] != "BPE":
        return found
    by_result: dict[str, list[tuple[str, str]]] = {}
    for one, other, result in merges(model):
        by_result.setdefault(result, []).append((one, other))
    waiting = list(found)
    while waiting:
        for pair in by_result.get(waiting.pop(), ()):
            new = [part for part in pair if part not in found]
            found.update(new)
            waiting += new
    return found


def steps(settings: Mapping[str, Any], kept: Iterable[str]) -> set[str]:
    """Returns the entries `kept`, and the letters of which BPE begins to join them."""
    model = settings["model"]
    found = set(kept)
    if model["type"] == "BPE":
        found |= letters(model, frozenset("".join(found)))
    return found


def unknown(settings: Mapping[str, Any]) -> int | None:
    """Returns the id of words that no pieces make up, where a piece less may make them up of
    others; None where it is not so."""
    model = settings["model"]
    return model["vocab"].get(model["unk_token"]) if model["type"] == "WordPiece" else None


def merges(model: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yields the two parts and the result of every merge, in order."""
    skip = len(model.get("continuing_subword_prefix") or "")
    for pair in model.get("merges", ()):
        one, other = pair.split(" ") if isinstance(pair, str) else pair
        yield one, other, one + other[skip:]


def fewer(model: Mapping[str, Any], new_ids: Mapping[str, int]) -> dict[str, Any]:
    """Returns the model with the entries of `new_ids` alone, under these ids, which keep their
    order."""
    if model["type"] == "Unigram":
        unk = model.get("unk_id")
        said: dict[str, Any] = {
            "vocab": [pair for pair in model["vocab"] if pair[0] in new_ids],
            "unk_id": None if unk is None else new_ids[model["vocab"][unk][0]],
        }
    else:
        known = sorted(model["vocab"].items(), key=lambda pair: pair[1])
        said = {"vocab": {token: new_ids[token] for token, _ in known if token in new_ids}}
    if model["type"] == "BPE":
        said["merges"] = [
            [one, other]
            for one, other, result in merges(model)
            if one in new_ids and other in new_ids and result in new_ids
        ]
    return {**model, **said}


def letters(model: Mapping[str, Any], text: Iterable[str]) -> set[str]:
    """Returns the entries of one character that `text` may need, at the start of a word and
    within one."""
    before = model.get("continuing_subword_prefix") or ""
    after = model.get("end_of_word_suffix") or ""
    known = entries(model)
    ways = (("", ""), (before, ""), ("", after), (before, after))
    return {form for one in text for a, b in ways if (form := a + one + b) in known}


def _of_bytes(settings: Mapping[str, Any]) -> bool:
    """Whether the words that the model gets consist of bytes, each as a letter that stands for
    it."""
    found = [
        part.get("type") == "ByteLevel"
        for name, inside in (("normalizer", "normalizers"), ("pre_tokenizer", "pretokenizers"))
        for part in parts(settings.get(name), inside)
    ]
    normalising = list(parts(settings.get("normalizer"), "normalizers"))
    if any(part.get("type") == "ByteLevel" for part in normalising[:-1]):
        raise UsageError(
            "the tokenizer normalises what it has written as bytes, so its vocabulary cannot be "
            "cut; export it whole"
        )
    return any(found)


@lru_cache(maxsize=1)
def _byte_letters() -> tuple[str, ...]:
    """The letter that stands for each byte: those of Latin-1 that show, and others from U+0100
    on."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in shown]
    return tuple(chr(b) if b in shown else chr(0x100 + others.index(b)) for b in range(256))


class _Bytes:
    """Whether a token's bytes can stand in the UTF-8 of a text of `characters`: the end of a
    character, whole ones, and the beginning of one."""

    def __init__(self, characters: frozenset[str]) -> None:
        self._whole = characters
        self._of = {letter: byte for byte, letter in enumerate(_byte_letters())}
        spelt = [letter.encode() for letter in characters]
        self._ends = {one[at:] for one in spelt for at in range(1, len(one))}
        self._begins = {one[:at] for one in spelt for at in range(1, len(one))}
        self._inside = {
            one[a:b] for one in spelt for a in range(len(one)) for b in range(a + 1, len(one) + 1)
        }

    def __call__(self, token: str) -> bool:
        try:
            raw = bytes(self._of[letter] for letter in token)
        except KeyError:
            return False
        if raw in self._inside:
            return True
        start = next((at for at, byte in enumerate(raw) if byte & 0xC0 != 0x80), len(raw))
        stop = max((at for at, byte in enumerate(raw) if byte & 0xC0 != 0x80), default=0)
        ends = start == 0 or raw[:start] in self._ends
        try:
            last = raw[stop:].decode()
        except UnicodeDecodeError:
            last = ""
        begins = last in self._whole if last else raw[stop:] in self._begins
        try:
            middle = raw[start:stop].decode()
        except UnicodeDecodeError:
            return False
        return ends and begins and self._whole.issuperset(middle)
