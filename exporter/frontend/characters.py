"""Sets of characters: those of Unicode's scripts, as the cut of a vocabulary asks for them."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache

from goldfold.exporter.errors import UsageError

_SHARED = ("Zyyy", "Zinh")
"""Common and Inherited, which every script uses: digits, punctuation, emoji, combining marks."""
_NONE = (*_SHARED, "Zzzz")
END = 0x110000
"""One more than the last code point."""
_HALVES = range(0xD800, 0xE000)
"""Halves of characters, which no text holds."""


def canonical(names: Iterable[str]) -> tuple[str, ...]:
    """Returns the names of scripts as they are recorded: lower case, each once, sorted. Raises
    UsageError for a name that Unicode does not have."""
    found, known = set(), _known()
    for name in names:
        wish = name.strip().lower().replace(" ", "_").replace("-", "_")
        if wish not in known:
            full = [name for _, name in known.values()]
            near = difflib.get_close_matches(wish, full, n=1)
            hint = f"did you mean {near[0]}?" if near else "give some as latin,greek,cyrillic"
            raise UsageError(f"--scripts {name[:40]!r} is no script of Unicode; {hint}")
        found.add(known[wish][1])
    if not found:
        raise UsageError("--scripts names no script; give some as latin,greek,cyrillic")
    return tuple(sorted(found))


def of_scripts(names: Sequence[str]) -> frozenset[str]:
    """Returns all characters whose Script property is one of `names`, Common or Inherited. Raises
    UsageError for a name that Unicode does not have."""
    known = _known()
    codes = {known[name][0] for name in canonical(names)}
    return frozenset(_characters({*codes, *_SHARED}))


@lru_cache(maxsize=1)
def assigned() -> frozenset[str]:
    """Returns every character to which Unicode gives a script."""
    from fontTools.unicodedata import Scripts

    return frozenset(_characters({*Scripts.NAMES} - {"Zzzz"}))


@lru_cache(maxsize=1 << 16)
def script_of(character: str) -> str:
    """Returns the script of a character, as Unicode names it; "" for one that every script uses.
    Hiragana and Katakana count as Han, which they are written among."""
    from fontTools.unicodedata import script, script_name

    code = script(character)
    return "" if code in _NONE else script_name("Hani" if code in ("Hira", "Kana") else code)


def _known() -> dict[str, tuple[str, str]]:
    """Returns the code and the name of every script, by its name and by its code in lower case."""
    from fontTools.unicodedata import Scripts

    real = {code: name.lower() for code, name in Scripts.NAMES.items() if code not in _NONE}
    names = {name: (code, name) for code, name in real.items()}
    return {**{code.lower(): (code, name) for code, name in real.items()}, **names}


def _characters(codes: Collection[str]) -> Iterable[str]:
    from fontTools.unicodedata import Scripts

    ends = [*Scripts.RANGES[1:], END]
    for start, end, code in zip(Scripts.RANGES, ends, Scripts.VALUES, strict=True):
        if code in codes:
            yield from (chr(one) for one in range(start, end) if one not in _HALVES)


def ranges(characters: Iterable[str]) -> str:
    """Returns a set of characters as text: ranges of code points, `0-40,5b-60,7b` in hex."""
    parts: list[list[int]] = []
    for code in sorted(map(ord, characters)):
        if parts and parts[-1][1] == code - 1:
            parts[-1][1] = code
        else:
            parts.append([code, code])
    return ",".join(f"{a:x}" if a == b else f"{a:x}-{b:x}" for a, b in parts)
