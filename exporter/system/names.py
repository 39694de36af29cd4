"""Names that strangers chose: none of them becomes a path, an extra line, or a command.

A model's name, a key of a manifest and the name of a licence file are text until a function here
has checked them. The checks refuse or replace what any system stumbles over, not this one alone: an
artifact is copied to other systems.
"""

from __future__ import annotations

import re
import unicodedata

_LONGEST = 255
"""Maximum bytes of a file's name, in UTF-8, on the usual file systems."""

_RESERVED = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³])", re.IGNORECASE)
"""Names of devices on Windows, with any ending behind a dot."""

_FORBIDDEN = '<>:"/\\|?*'
"""Characters that Windows forbids in a name: separators, drive letters and streams among them."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")


def is_name(text: str) -> bool:
    """Returns whether `text` is a plain name: ASCII letters, digits and `._+-`, a letter or digit
    first, no dot last, 64 characters at most, and not a device's name."""
    plain = _NAME.fullmatch(text) is not None and not text.endswith(".")
    return plain and _RESERVED.fullmatch(text.partition(".")[0]) is None


def slug(text: str) -> str:
    """Returns the plain name nearest to any text, for folders and for a model's name on a
    server."""
    letters = unicodedata.normalize("NFKD", text)
    letters = "".join(c for c in letters if not unicodedata.combining(c))
    found = re.sub(r"[^A-Za-z0-9._+-]+", "-", letters).strip("-._+")[:64].rstrip("-._+")
    return found if is_name(found) else f"model-{found}"[:64].rstrip("-._+")


def fault(name: str) -> str | None:
    """Returns why `name`, one part of a path, cannot name a file on every system; None if it
    can."""
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
    """Returns the name nearest to `name` that any system takes for a file."""
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
    """Returns why `key` is no path below a folder, with `/` between its parts; None if it is
    one."""
    if len(key) > 4 * _LONGEST:
        return f"it has {len(key)} letters"
    return next((why for part in key.split("/") if (why := fault(part)) is not None), None)


def folded(key: str) -> str:
    """Returns the common form of two paths that some system takes for the same."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", key).casefold())


def steers(text: str) -> bool:
    """Returns whether a text holds characters that end a line or control a terminal."""
    return any(unicodedata.category(c) in ("Cc", "Zl", "Zp") for c in text)


def shown(text: str) -> str:
    """Returns `text` with every character replaced that controls a terminal or does not show; lines
    stay."""
    return "".join(c if c == "\n" or c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def line(text: str) -> str:
    """Returns `shown(text)` on one line."""
    return shown(" ".join(part.strip() for part in text.splitlines()))


def _stripped(name: str) -> str:
    """Returns `name` without the dots and the spaces, of whatever width, at its end."""
    while name and (name[-1] == "." or name[-1].isspace()):
        name = name[:-1]
    return name


def _is_hidden(c: str) -> bool:
    """Returns whether `c` is a control, a direction of writing, a line end or half of a
    character."""
    return unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")
