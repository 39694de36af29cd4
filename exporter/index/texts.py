"""The texts of a comparison: of a user's file, or drawn and installed ones; and their scripts."""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from goldfold.exporter.errors import UsageError
from goldfold.golden.judging import pairs as judging_pairs
from goldfold.golden.judging import unseen
from goldfold.golden.texts import authored

_LARGEST = 1 << 30
"""The most bytes of a file of texts."""
_BEYOND = 2
"""Texts that are longer than any model of the comparison reads."""
_LETTERS_A_TOKEN = 8
_WORDS = 12
"""Words of the beginning by which a text is looked for."""


@dataclass(frozen=True)
class Sets:
    """The texts of a comparison. Query i is answered by document i alone."""

    queries: tuple[str, ...]
    documents: tuple[str, ...]
    texts: tuple[str, ...]
    kinds: tuple[str, ...]
    """Of each text: its script, its language, or how it was drawn."""
    source: str
    """What the queries and the texts are, in words."""


def read(file: Path) -> list[str]:
    """Returns the texts of a file, one a line: the line itself, or of `.jsonl` the string or the
    member `text` of its value. Raises UsageError, naming the line that holds none."""
    try:
        if file.is_dir():
            raise UsageError(f"--texts {file} is a folder; give a file with a text a line")
        if file.stat().st_size > _LARGEST:
            raise UsageError(f"--texts {file} is larger than {_LARGEST >> 30} GiB; give a part")
        whole = file.read_bytes().decode("utf-8-sig")
    except (OSError, ValueError) as error:
        said = getattr(error, "strerror", None) or "it is not UTF-8"
        raise UsageError(f"--texts {file} cannot be read: {said}") from None
    lines = whole.replace("\r\n", "\n").split("\n")
    lines = lines[:-1] if lines[-1] == "" else lines
    if file.suffix.lower() in (".jsonl", ".ndjson"):
        lines = [_member(file, number, line) for number, line in enumerate(lines, 1)]
    for number, line in enumerate(lines, 1):
        if not line.strip():
            raise UsageError(f"--texts {file}: line {number} holds no text; remove it")
    if not lines:
        raise UsageError(f"--texts {file} holds no text")
    return lines


def _member(file: Path, number: int, line: str) -> str:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        found = None
    found = found.get("text") if isinstance(found, dict) else found
    if not isinstance(found, str):
        raise UsageError(f'--texts {file}: line {number} is no string, nor {{"text": …}}')
    return found


def standard(count: int, drawn: int, longest: int) -> Sets:
    """Returns `count` docstrings and their functions, `drawn` unseen texts, the authored texts of
    the goldens, and two that are longer than `longest` tokens."""
    found = judging_pairs.collect(count)
    some = [(one.text, _kind(one)) for one in unseen.drawn(drawn)]
    some += [
        (one.text, one.id.partition("-")[0] if one.kind in ("language", "script") else one.kind)
        for one in authored()
        if one.text.strip()
    ]
    whole = " ".join(found.documents)
    size = min(longest * _LETTERS_A_TOKEN, len(whole) // _BEYOND)
    some += [(whole[n * size : (n + 1) * size], "longer than the model") for n in range(_BEYOND)]
    texts, kinds = zip(*some, strict=True)
    digest = found.digest[:12]
    return Sets(
        tuple(found.queries), tuple(found.documents), texts, kinds,
        f"{count} docstrings and functions of digest {digest}, and {len(texts)} texts of "
        f"{len(set(kinds))} scripts, languages and kinds",
    )  # fmt: skip


def of_texts(texts: Sequence[str]) -> Sets:
    """Returns sets of a user's own texts: the beginning of each is the query for the whole."""
    queries = tuple(map(beginning, texts))
    kinds = tuple(map(script_of, texts))
    said = f"{len(texts)} texts, each looked for by its first {_WORDS} words"
    return Sets(queries, tuple(texts), tuple(texts), kinds, said)


def beginning(text: str) -> str:
    """Returns the first words of a text, at most half of them: a query for it."""
    words = text.split()
    if len(words) < 4:  # a script without spaces, or hardly a text
        return text[: max(1, len(text) // 2)]
    return " ".join(words[: min(_WORDS, len(words) // 2)])


def script_of(text: str) -> str:
    """Returns the script of most letters of a text, by the first word of their Unicode names, as
    `latin` or `cjk`; "no letters" of none."""
    letters = Counter(filter(str.isalpha, text))
    found: Counter[str] = Counter()
    for letter, count in letters.items():
        found[unicodedata.name(letter, "unnamed").partition(" ")[0].lower()] += count
    return found.most_common(1)[0][0] if found else "no letters"


def _kind(one: unseen.Unseen) -> str:
    return one.kind.removeprefix("script:")
