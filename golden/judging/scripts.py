"""Words of many writing systems, drawn letter by letter.

Letters stand as ranges of Unicode, so that the same draws give the same words under every version
of Python and of its tables. Every code point named here was assigned by Unicode 9.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from goldfold.golden.token_texts import Draws

_FINE = 1 << 24
"""Steps of a draw between 0 and 1."""


@dataclass(frozen=True)
class Script:
    """A writing system. `joint` stands between two words, `stop` behind the last one."""

    name: str
    ranges: str
    """First and last code points of its letters, in hex."""
    signs: str = ""
    """Likewise of vowel signs and other marks, which follow a letter."""
    joint: str = " "
    stop: str = "."

    @cached_property
    def letters(self) -> tuple[str, ...]:
        return tuple(_between(self.ranges))

    @cached_property
    def marks(self) -> tuple[str, ...]:
        return tuple(_between(self.signs))

    def letter(self, draws: Draws) -> str:
        """Returns one letter, those at the front of its ranges more often."""
        return self.letters[int(len(self.letters) * skewed(draws))]

    def word(self, draws: Draws) -> str:
        """Returns a word of one to seven letters, of which some have a mark."""
        found = ""
        for _ in range(1 + int(7 * skewed(draws))):
            found += self.letter(draws)
            if self.marks and draws.below(2):
                found += draws.one(self.marks)
        return found

    def sentence(self, draws: Draws, most: int = 24) -> str:
        """Returns one to `most` words, few more often than many."""
        words = [self.word(draws) for _ in range(1 + int(most * skewed(draws)))]
        return self.joint.join(words) + ("" if draws.below(3) else self.stop)


@dataclass(frozen=True)
class Latin(Script):
    """The Latin script: syllables of the sounds that European and Asian languages write in it."""

    def word(self, draws: Draws) -> str:
        found = ""
        for _ in range(1 + int(4 * skewed(draws))):
            found += "".join(draws.one(parts(name)) for name in ("onsets", "vowels", "codas"))
        return found[:1].upper() + found[1:] if found.isascii() and not draws.below(5) else found


@cache
def source() -> Mapping[str, Any]:
    """What texts are made of beside letters: syllables, words, templates (unseen.toml)."""
    return tomllib.loads(Path(__file__).with_name("unseen.toml").read_text("utf-8"))


@cache
def parts(name: str) -> tuple[str, ...]:
    """Those of one name, one a word."""
    return tuple(source()[name].split(" "))


SCRIPTS: tuple[Script, ...] = (
    Latin("latin", "61-7A E0-F6 F8-FF"),
    Script("greek", "3AC-3AF 3B1-3C9"),
    Script("cyrillic", "430-44F 451-45C"),
    Script("armenian", "561-586", stop="։"),
    Script("hebrew", "5D0-5EA", "5B0-5BC"),
    Script("arabic", "621-63A 641-64A", "64B-652", stop="؟"),
    Script("syriac", "712-72F", "730-73F"),
    Script("thaana", "780-7A5", "7A6-7B0"),
    Script("nko", "7CA-7EA", "7EB-7F1"),
    Script("devanagari", "904-939", "93E-94D", stop="।"),
    Script("bengali", "985-98C 98F-990 993-9A8 9AA-9B0 9B2-9B2 9B6-9B9", "9BE-9C4 9C7-9C8 9CB-9CD"),
    Script("gurmukhi", "A05-A0A A0F-A10 A13-A28 A2A-A30 A32-A32 A38-A39", "A3E-A42 A47-A48"),
    Script("gujarati", "A85-A8D A8F-A91 A93-AA8 AAA-AB0 AB2-AB3 AB5-AB9", "ABE-AC5 AC7-AC9"),
    Script("oriya", "B05-B0C B0F-B10 B13-B28 B2A-B30 B32-B33 B35-B39", "B3E-B44 B47-B48"),
    Script("tamil", "B85-B8A B8E-B90 B92-B95 B99-B9A B9E-B9F BA8-BAA BAE-BB9", "BBE-BC2 BC6-BC8"),
    Script("telugu", "C05-C0C C0E-C10 C12-C28 C2A-C33 C35-C39", "C3E-C44 C46-C48 C4A-C4D"),
    Script("kannada", "C85-C8C C8E-C90 C92-CA8 CAA-CB3 CB5-CB9", "CBE-CC4 CC6-CC8 CCA-CCD"),
    Script("malayalam", "D05-D0C D0E-D10 D12-D28 D2A-D39", "D3E-D43 D46-D48 D4A-D4D"),
    Script("sinhala", "D85-D96 D9A-DB1 DB3-DBB DC0-DC6", "DCF-DD4 DD8-DDF"),
    Script("thai", "E01-E2E E40-E44", "E31-E31 E34-E3A E47-E4C", joint="", stop=" "),
    Script("lao", "E94-E97 E99-E9F EA1-EA3 EAA-EAB EAD-EAE", "EB1-EB1 EB4-EB9", joint="", stop=" "),
    Script("tibetan", "F40-F47 F49-F6C", "F71-F74 F90-F97", joint="་", stop="།"),
    Script("myanmar", "1000-1021", "102B-1032", joint="", stop="။"),
    Script("georgian", "10D0-10F0"),
    Script("hangul", "AC00-D7A3"),
    Script("ethiopic", "1200-1248 1250-1256 1260-1288", joint="፡", stop="።"),
    Script("cherokee", "13A0-13F4"),
    Script("canadian", "1401-1676"),
    Script("ogham", "1681-169A"),
    Script("runic", "16A0-16EA", joint="᛫"),
    Script("tagalog", "1700-170C", "1712-1713", stop="᜵"),
    Script("khmer", "1780-17A2", "17B6-17C5", joint="", stop="។"),
    Script("mongolian", "1820-1877", stop="᠃"),
    Script("limbu", "1900-191C", "1920-1922"),
    Script("buginese", "1A00-1A16", "1A17-1A1A"),
    Script("balinese", "1B05-1B33", "1B35-1B43", joint="", stop="᭟"),
    Script("sundanese", "1B83-1BA0", "1BA4-1BA9"),
    Script("lepcha", "1C00-1C23", "1C26-1C2C"),
    Script("ol", "1C5A-1C77", stop="᱾"),
    Script("glagolitic", "2C30-2C5E"),
    Script("coptic", "2C80-2CE3"),
    Script("tifinagh", "2D30-2D65"),
    Script("hiragana", "3041-3096", joint="", stop="。"),
    Script("katakana", "30A1-30FA", joint="・", stop="。"),
    Script("bopomofo", "3105-312D", joint="", stop="。"),
    Script("cjk", "4E00-9FA5", joint="", stop="。"),
    Script("yi", "A000-A48C", joint="", stop="。"),
    Script("lisu", "A4D0-A4F7", stop="꓿"),
    Script("vai", "A500-A60B"),
    Script("bamum", "A6A0-A6E5"),
    Script("javanese", "A984-A9B2", "A9B4-A9BD", joint="", stop="꧉"),
    Script("cham", "AA00-AA28", "AA29-AA2D", stop="꩝"),
    Script("meetei", "ABC0-ABE2", "ABE3-ABE9", stop="꯫"),
    Script("linear", "10000-1000B 1000D-10026"),
    Script("gothic", "10330-10340"),
    Script("deseret", "10428-1044F"),
    Script("osage", "104D8-104FB"),
    Script("phoenician", "10900-10915"),
    Script("cuneiform", "12000-1236E"),
    Script("egyptian", "13000-1342E", joint=""),
    Script("adlam", "1E922-1E943"),
)  # fmt: skip
"""The writing systems, each called by the first word of its letters' Unicode names."""

DIGITS = (0x660, 0x6F0, 0x966, 0x9E6, 0xBE6, 0xE50, 0xED0, 0xF20, 0x1040, 0x17E0, 0x1810, 0xFF10)
"""The zeros of further sets of ten digits."""


def skewed(draws: Draws) -> float:
    """Returns a number from 0 and below 1, small more often than large."""
    even = draws.below(_FINE) / _FINE
    return even * even  # and no other power: those are not the same under every C library


def common(draws: Draws, count: int) -> str:
    """Returns `count` frequent words of one language, in no order."""
    words = draws.one(source()["common"]).split()
    joint = "" if words[0] in ("の", "的") else " "
    return joint.join(draws.one(words) for _ in range(count))


def script(draws: Draws) -> Script:
    """Returns one of the writing systems."""
    return SCRIPTS[draws.below(len(SCRIPTS))]


def _between(ranges: str) -> Sequence[str]:
    ends = [one.split("-") for one in ranges.split()]
    return [chr(at) for one, other in ends for at in range(int(one, 16), int(other, 16) + 1)]
