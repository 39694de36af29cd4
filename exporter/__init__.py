"""goldfold: compile a SentenceTransformer, and prove that nothing changed.

    from exporter import export, load, verify

`export` writes artifact folders, `load` opens one for use, `verify` measures one against its golden
embeddings. What they take, return and raise is here as well. The names are imported when first
used, so that `import exporter` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from exporter import start, surroundings

if TYPE_CHECKING:
    from exporter.encoder import Encoder as Encoder
    from exporter.encoder import load as load
    from exporter.errors import ArtifactError as ArtifactError
    from exporter.errors import GateMissed as GateMissed
    from exporter.errors import GoldfoldError as GoldfoldError
    from exporter.errors import ModelError as ModelError
    from exporter.errors import OutputError as OutputError
    from exporter.errors import RewriteError as RewriteError
    from exporter.errors import TargetError as TargetError
    from exporter.errors import TextError as TextError
    from exporter.errors import UsageError as UsageError
    from exporter.exporting import export as export
    from exporter.options import BuildOptions as BuildOptions
    from exporter.program import Contract as Contract
    from exporter.proving import Result as Result
    from exporter.unbuilt import Failure as Failure
    from exporter.verifying import verify as verify

__version__ = "0.1.0"

start.begin()
surroundings.prepare()

# No module bears the name of its function: importing it would put it in the function's place.
_HOMES = {
    "ArtifactError": "exporter.errors",
    "BuildOptions": "exporter.options",
    "Contract": "exporter.program",
    "Encoder": "exporter.encoder",
    "Failure": "exporter.unbuilt",
    "GateMissed": "exporter.errors",
    "GoldfoldError": "exporter.errors",
    "ModelError": "exporter.errors",
    "OutputError": "exporter.errors",
    "Result": "exporter.proving",
    "RewriteError": "exporter.errors",
    "TargetError": "exporter.errors",
    "TextError": "exporter.errors",
    "UsageError": "exporter.errors",
    "export": "exporter.exporting",
    "load": "exporter.encoder",
    "verify": "exporter.verifying",
}
__all__ = [
    "ArtifactError",
    "BuildOptions",
    "Contract",
    "Encoder",
    "Failure",
    "GateMissed",
    "GoldfoldError",
    "ModelError",
    "OutputError",
    "Result",
    "RewriteError",
    "TargetError",
    "TextError",
    "UsageError",
    "__version__",
    "export",
    "load",
    "verify",
]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'exporter' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
