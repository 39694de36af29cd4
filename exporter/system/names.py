"""Names that strangers chose: none of them becomes a path, a line of its own, or a command.

A model's name, a key of a manifest, the name of a licence file are text until something here has
looked at them. What is refused or replaced is what any system stumbles over, not this one alone:
an artifact is copied to others.
"""

from __future__ import annotations

import re
import unicodedata

_LONGEST = 255
"""Bytes of a file's name, in UTF-8: what the usual file systems take."""

_RESERVED = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³])", re.IGNORECASE)
"""What Windows takes for devices, with any ending behind a dot."""

_FORBIDDEN = '<>:"/\\|?*'
"""What Windows forbids in a name: separators, drive letters and streams among it."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")


def is_name(text: str) -> bool:
    """Whether `text` is a plain name: ASCII letters, digits and `._+-`, a letter or digit first, no
    dot last, 64 characters at most, and no device's."""
    plain = _NAME.fullmatch(text) is not None and not text.endswith(".")
    return plain and _RESERVED.fullmatch(text.partition(".")[0]) is None


def slug(text: str) -> str:
    """The plain name nearest to any text, for folders and for what a server is asked by."""
    letters = unicodedata.normalize("NFKD", text)
    letters = "".join(c for c in letters if not unicodedata.combining(c))
    found = re.sub(r"[^A-Za-z0-9._+-]+", "-", letters).strip("-._+")[:64].rstrip("-._+")
    return found if is_name(found) else f"model-{found}"[:64].rstrip("-._+")


def fault(name: str) -> str | None:
    """Why `name`, one part of a path, can be no file's name on every system; None if it can."""
    if not name.strip():
        return "it is empty"
    if name in (".", ".."):
        return "it is a folder's own"
    if any(_is_hidden(c) for c in name):
        return "it has characters that do not show"
    if len(name.encode("utf-8", "surrogatepass")) > _LONGEST:
        return f"it is longer than {_LONGEST} bytes"
    if odd := [c for c in name if c in _FORBIDDEN]:
        return f"it has {odd[0]}"
    if _stripped(name) != name:
        return "it ends in a dot or a space"
    if _RESERVED.fullmatch(name.partition(".")[0].rstrip()):
        return "it is a device's on Windows"
    return None


def file_name(name: str) -> str:
    """The name nearest to `name` that any system takes for a file."""
    name = unicodedata.normalize("NFC", name)
    name = "".join("-" if c in _FORBIDDEN or _is_hidden(c) else c for c in name)
    name = _stripped(name.lstrip())
    stem, dot, ending = name.rpartition(".")
    ending = f"{dot}{ending}" if stem and len(ending) < 16 else ""
    room = _LONGEST - 1 - len(ending.encode())
    stem = _stripped(name.removesuffix(ending).encode()[:room].decode("utf-8", "ignore"))
    name = (stem + ending) or "file"
    return f"-{name}" if _RESERVED.fullmatch(name.partition(".")[0].rstrip()) else name


def key_fault(key: str) -> str | None:
    """Why `key` is no path below a folder, with `/` between its parts; None if it is one."""
    if len(key) > 4 * _LONGEST:
        return f"it has {len(key)} letters"
    return next((why for part in key.split("/") if (why := fault(part)) is not None), None)


def folded(key: str) -> str:
    """What two paths share that some system takes for the same."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", key).casefold())


def steers(text: str) -> bool:
    """Whether a text holds what ends a line or steers a terminal."""
    return any(unicodedata.category(c) in ("Cc", "Zl", "Zp") for c in text)


def shown(text: str) -> str:
    """`text` with all that a terminal would obey, or not show, replaced; lines stay."""
    return "".join(c if c == "\n" or c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def line(text: str) -> str:
    """The same, on one line."""
    return shown(" ".join(part.strip() for part in text.splitlines()))


def _stripped(name: str) -> str:
    """`name` without the dots and the spaces, of whatever width, at its end."""
    while name and (name[-1] == "." or name[-1].isspace()):
        name = name[:-1]
    return name


def _is_hidden(c: str) -> bool:
    """Controls, directions of writing, line ends, halves of characters."""
    return unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")
