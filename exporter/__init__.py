"""goldfold: compile a SentenceTransformer, and prove that nothing changed.

    from exporter import export, load, verify

`export` writes artifact folders, `load` opens one for use, `verify` measures one against its golden
embeddings. The names are imported when first used, so that `import exporter` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from exporter.encoder import load as load
    from exporter.exporting import export as export
    from exporter.verifying import verify as verify

__version__ = "0.1.0"
__all__ = ["__version__", "export", "load", "verify"]

# No module bears the name of its function: importing it would put it in the function's place.
_HOMES = {
    "export": "exporter.exporting",
    "load": "exporter.encoder",
    "verify": "exporter.verifying",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'exporter' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
