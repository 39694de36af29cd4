"""Files that lie in an artifact's folder besides its own."""

from __future__ import annotations

import re

_LEFT = {
    ".ds_store", ".localized", ".appledouble", ".spotlight-v100", ".trashes", ".fseventsd",
    ".temporaryitems", "__macosx", "icon\r", ".directory", "thumbs.db", "ehthumbs.db",
    "desktop.ini", "$recycle.bin", "system volume information", "@eadir", "#recycle", "@recycle",
}  # fmt: skip
"""Names of files that desktops and network drives leave in any folder, in lower case."""
_LEFT_PATTERN = re.compile(r"\._.*|\.nfs[0-9a-f]{8,}|\.fuse_hidden[0-9a-f]+", re.DOTALL)


def is_left(key: str) -> bool:
    """Returns whether a desktop or a network drive left the file: such a file is ignored, which
    means neither counted nor used nor copied."""
    parts = [part.lower() for part in key.split("/")]
    return any(part in _LEFT or _LEFT_PATTERN.fullmatch(part) for part in parts)


def is_byte_code(key: str) -> bool:
    """Returns whether Python would run a file instead of the source that it was once compiled
    from."""
    return key.lower().endswith((".pyc", ".pyo")) or "__pycache__" in key.lower().split("/")
