"""The kinds of the unseen texts (unseen.py): how a text of each kind is drawn."""

from __future__ import annotations

from collections.abc import Callable

from goldfold.golden.judging.scripts import DIGITS, common, parts, script, skewed, source
from goldfold.golden.token_texts import Draws

_BLANKS = (
    " ", "  ", "\t", "\n", "\r\n", "\r", "\v", "\f", "\x85", "\xa0", "\u1680", "\u2003", "\u2009",
    "\u2028", "\u2029", "\u202f", "\u205f", "\u3000", "\n\n\n", "    ",
)  # fmt: skip
_CONTROLS = (
    *map(chr, range(9)), *map(chr, range(14, 28)), "\x7f", "\x80", "\x8d", "\x9f", "\xad",
    "\u061c", "\u200b", "\u200c", "\u200d", "\u200e", "\u200f", "\u202a", "\u202e", "\u2060",
    "\u2066", "\u2069", "\ufeff", "\ufff9", "\ufffc", "\ufffd", "\ufffe", "\U000e0001",
)  # fmt: skip
_MARKS = tuple(map(chr, (*range(0x300, 0x370), *range(0x1DC0, 0x1DF6), *range(0x20D0, 0x20F1))))
_FACES = tuple(
    map(chr, (*range(0x1F600, 0x1F645), *range(0x1F400, 0x1F43F), *range(0x1F32D, 0x1F37E)))
)
_PEOPLE = ("\U0001f468", "\U0001f469", "\U0001f467", "\U0001f466", "\U0001f9d1")
_HANDS = ("\U0001f44d", "\U0001f44b", "\U0001f64f", "\U0001f44f", "\u270a", "\U0001f590")
_TONES = tuple(map(chr, range(0x1F3FB, 0x1F400)))
_TRADES = ("\U0001f4bb", "\U0001f52c", "\U0001f33e", "\U0001f373", "\u2695\ufe0f", "\u2708\ufe0f")
_PUNCTUATION = tuple("!?.,;:-–—…'\"“”‘’«»()[]{}<>/\\|@#$%^&*_+=~`§¶†‡•°©®™¿¡№")
_MATHS = tuple(map(chr, (*range(0x2200, 0x2300), *range(0x2190, 0x2200), *range(0x2460, 0x24FF))))
Make = Callable[[Draws], str]


def _script(draws: Draws) -> tuple[str, str]:
    found = script(draws)
    return f"script:{found.name}", found.sentence(draws)


def _words(draws: Draws) -> str:
    return common(draws, 3 + int(40 * skewed(draws)))


def _named(draws: Draws) -> dict[str, str]:
    names = {key: draws.one(parts("names")) for key in "abcd"}
    names |= {key.upper(): name.capitalize() for key, name in names.items()}
    return names | {"n": str(draws.below(400)), "h": f"{draws.below(1 << 32):x}"}


def _code(draws: Draws) -> str:
    return "\n".join(draws.some(lambda: draws.one(source()["code"]).format(**_named(draws)), 4))


def _number(draws: Draws) -> str:
    zero = DIGITS[draws.below(len(DIGITS))]
    whole = "".join(chr(zero + draws.below(10)) for _ in range(1 + draws.below(7)))
    many = {"n": str(int(100_000 * skewed(draws))), "d": str(1 + draws.below(9)), "w": whole}
    many |= {"h": f"{draws.below(1 << 24):06x}", "u": draws.one(parts("units"))}
    return draws.one(source()["numbers"]).format(**many)


def _numbers(draws: Draws) -> str:
    return draws.one((" ", ", ", "\t", "; ", "\n")).join(draws.some(lambda: _number(draws), 20))


def _word(draws: Draws) -> str:
    return script(draws).word(draws) if draws.below(2) else common(draws, 1)


def _between(draws: Draws, marks: tuple[str, ...], most: int) -> str:
    """Words with some of `marks` before, between and behind them."""
    found = ""
    for _ in range(1 + draws.below(10)):
        found += "".join(draws.some(lambda: draws.one(marks), most)) + _word(draws)
    return found + (draws.one(marks) if draws.below(2) else "")


def _combining(draws: Draws) -> str:
    def marked() -> str:
        letter = script(draws).letter(draws)
        return letter + "".join(draws.some(lambda: draws.one(_MARKS), 5))

    def word() -> str:
        return "".join(draws.some(marked, 6))

    return " ".join(draws.some(word, 8))


def _private(draws: Draws) -> str:
    def letter() -> str:
        first, count = ((0xE000, 0x1900), (0xF0000, 0xFFFE), (0x100000, 0xFFFE))[draws.below(3)]
        return chr(first + draws.below(count))

    def some() -> str:
        return "".join(draws.some(letter, 4)) if draws.below(3) else _word(draws)

    return letter() + " ".join(draws.some(some, 8))


def _symbol(draws: Draws) -> str:
    match draws.below(7):
        case 0:
            return "\u200d".join(draws.some(lambda: draws.one(_PEOPLE), 4))
        case 1:
            flag = (chr(0x1F1E6 + draws.below(26)) for _ in range(2))
            return "".join(flag)
        case 2:
            return draws.one(_HANDS) + draws.one(_TONES)
        case 3:
            return f"{draws.one(_PEOPLE)}{draws.one(_TONES)}\u200d{draws.one(_TRADES)}"
        case 4:
            return f"{draws.below(10)}\ufe0f\u20e3"
        case _:
            return draws.one(_FACES)


def _emoji(draws: Draws) -> str:
    def some() -> str:
        return _symbol(draws) if draws.below(4) else f" {_word(draws)} "

    return _symbol(draws) + "".join(draws.some(some, 12))


def _noise(draws: Draws) -> str:
    """Code points of all planes, or of ASCII, in no order."""
    plane = (0x5F, 0x800, 0x3000, 0x10000, 0x110000)[draws.below(5)]

    def letter() -> str:
        at = 0x20 + draws.below(plane - 0x20)
        return chr(at) if not 0xD800 <= at < 0xE000 else draws.one(_MATHS)

    return draws.one(_PUNCTUATION) + "".join(draws.some(letter, 80))


def _mixed(draws: Draws) -> str:
    parts: tuple[Make, ...] = (
        _words, _words, _code, _numbers, _emoji, _combining, lambda d: _script(d)[1],
        lambda d: d.one(_MATHS), lambda d: d.one(_PUNCTUATION) * (1 + d.below(5)),
    )  # fmt: skip
    return " ".join(parts[draws.below(len(parts))](draws) for _ in range(2 + draws.below(4)))


def _short(draws: Draws) -> str:
    """One or two characters."""

    def one() -> str:
        match draws.below(6):
            case 0:
                return draws.one(_FACES)
            case 1:
                return draws.one(_PUNCTUATION)
            case 2:
                return str(draws.below(10))
            case _:
                return script(draws).letter(draws)

    return one() + (one() if draws.below(3) else "")


def _long(draws: Draws) -> str:
    """Sentences of a hundred to three hundred and fifty words."""
    count, found = 100 + draws.below(250), []
    while sum(1 + one.count(" ") for one in found) < count:
        found.append(_words(draws) if draws.below(3) else script(draws).sentence(draws))
    return draws.one((". ", "\n\n", " ")).join(found)


_KINDS: tuple[tuple[str, int, Make], ...] = (
    ("words", 14, _words),
    ("code", 7, _code),
    ("numbers", 5, _numbers),
    ("mixed", 7, _mixed),
    ("emoji", 5, _emoji),
    ("combining", 4, _combining),
    ("controls", 4, lambda draws: _between(draws, _CONTROLS, 3)),
    ("private-use", 2, _private),
    ("whitespace", 4, lambda draws: _between(draws, _BLANKS, 4)),
    ("noise", 4, _noise),
    ("short", 5, _short),
    ("long", 4, _long),
)
"""Every kind but those of scripts, which are the rest of a hundred, and its texts in a hundred."""

KINDS = tuple(kind for kind, _, _ in _KINDS)


def text(draws: Draws) -> tuple[str, str]:
    """Returns the kind of one drawn text, and the text."""
    at = draws.below(100)
    for kind, share, make in _KINDS:
        if at < share:
            return kind, make(draws)
        at -= share
    return _script(draws)
