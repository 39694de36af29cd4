"""goldfold: compile a SentenceTransformer, and prove that nothing changed.

    from goldfold import export, load, verify

`export` writes artifact folders, `load` opens one for use, and `verify` measures one against its
golden embeddings. `compat` says whether one may search the index of another, and `rescore` searches
by bits. The types that these functions take, return and raise are here as well. Names are imported
at their first use, so that `import goldfold` costs nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

# In a wheel the three packages lie in this folder; in the repository they lie beside it.
if not (Path(__file__).parent / "exporter").is_dir():
    __path__.append(str(Path(__file__).parents[1]))

from goldfold.exporter import __version__
from goldfold.exporter.system import start, surroundings

if TYPE_CHECKING:
    from goldfold.exporter.artifact.batcher import Batcher as Batcher
    from goldfold.exporter.artifact.encoder import Encoder as Encoder
    from goldfold.exporter.artifact.encoder import load as load
    from goldfold.exporter.artifact.late_encoder import LateEncoder as LateEncoder
    from goldfold.exporter.artifact.rescoring import rescore as rescore
    from goldfold.exporter.artifact.result import Result as Result
    from goldfold.exporter.artifact.scorer import Scorer as Scorer
    from goldfold.exporter.artifact.sparse_encoder import SparseEncoder as SparseEncoder
    from goldfold.exporter.artifact.unbuilt import Failure as Failure
    from goldfold.exporter.contract import Contract as Contract
    from goldfold.exporter.driver.exporting import export as export
    from goldfold.exporter.errors import ArtifactError as ArtifactError
    from goldfold.exporter.errors import Busy as Busy
    from goldfold.exporter.errors import GateMissed as GateMissed
    from goldfold.exporter.errors import GoldfoldError as GoldfoldError
    from goldfold.exporter.errors import ModelError as ModelError
    from goldfold.exporter.errors import OutputError as OutputError
    from goldfold.exporter.errors import RewriteError as RewriteError
    from goldfold.exporter.errors import TargetError as TargetError
    from goldfold.exporter.errors import TextError as TextError
    from goldfold.exporter.errors import UsageError as UsageError
    from goldfold.exporter.index.compatibility import compat as compat
    from goldfold.exporter.index.verdict import Compatibility as Compatibility
    from goldfold.exporter.verification.verifying import verify as verify

start.begin()
surroundings.prepare()

# No module bears the name of its function: importing the module would put it in the function's
# place.
_HOMES = {
    "ArtifactError": "goldfold.exporter.errors",
    "Batcher": "goldfold.exporter.artifact.batcher",
    "Busy": "goldfold.exporter.errors",
    "Compatibility": "goldfold.exporter.index.verdict",
    "Contract": "goldfold.exporter.contract",
    "Encoder": "goldfold.exporter.artifact.encoder",
    "Failure": "goldfold.exporter.artifact.unbuilt",
    "GateMissed": "goldfold.exporter.errors",
    "GoldfoldError": "goldfold.exporter.errors",
    "LateEncoder": "goldfold.exporter.artifact.late_encoder",
    "ModelError": "goldfold.exporter.errors",
    "OutputError": "goldfold.exporter.errors",
    "Result": "goldfold.exporter.artifact.result",
    "RewriteError": "goldfold.exporter.errors",
    "Scorer": "goldfold.exporter.artifact.scorer",
    "SparseEncoder": "goldfold.exporter.artifact.sparse_encoder",
    "TargetError": "goldfold.exporter.errors",
    "TextError": "goldfold.exporter.errors",
    "UsageError": "goldfold.exporter.errors",
    "compat": "goldfold.exporter.index.compatibility",
    "export": "goldfold.exporter.driver.exporting",
    "load": "goldfold.exporter.artifact.encoder",
    "rescore": "goldfold.exporter.artifact.rescoring",
    "verify": "goldfold.exporter.verification.verifying",
}
__all__ = [
    "ArtifactError",
    "Batcher",
    "Busy",
    "Compatibility",
    "Contract",
    "Encoder",
    "Failure",
    "GateMissed",
    "GoldfoldError",
    "LateEncoder",
    "ModelError",
    "OutputError",
    "Result",
    "RewriteError",
    "Scorer",
    "SparseEncoder",
    "TargetError",
    "TextError",
    "UsageError",
    "__version__",
    "compat",
    "export",
    "load",
    "rescore",
    "verify",
]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'goldfold' has no attribute {name!r}")
    import importlib

    try:
        return getattr(importlib.import_module(_HOMES[name]), name)
    except ModuleNotFoundError as error:
        from goldfold.exporter.system.faults import lacking

        said = lacking(error)
        if said is None:
            raise
        raise ImportError(f"goldfold.{name}: {said}") from error
