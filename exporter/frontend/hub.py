"""Downloads from the hub: the files that define a model, and its weights in one format."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from goldfold.exporter.frontend.weights import refusal

OTHER_FORMAT_FOLDERS = ("onnx", "openvino")
OTHER_FORMAT_SUFFIXES = (".bin", ".h5", ".msgpack", ".onnx", ".ot", ".pt", ".pth", ".pkl")
"""The same weights in formats of other programs: they do not change the export."""

_FETCHED = (
    "*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "*.md", "LICENSE*", "LICENCE*",
    "NOTICE*", "COPYING*", "USE_POLICY*", "artifact.metadata",
)  # fmt: skip
_NOT_FETCHED = (
    *(f"{folder}/*" for folder in OTHER_FORMAT_FOLDERS),
    *(f"*{suffix}" for suffix in OTHER_FORMAT_SUFFIXES),
)


def fetch(hub_id: str, code: bool) -> Path:
    """Returns the local folder of a hub model, downloaded where it is not there yet: no pickles.

    `code` fetches the model's Python files as well. Raises ModelError.
    """
    return _snapshot(hub_id, (*_FETCHED, "*.py") if code else _FETCHED, _NOT_FETCHED)


def fetch_pickles(hub_id: str, folders: Sequence[str]) -> Path:
    """Returns the same folder, with the pickled weights of its modules in `folders` ("" is its
    own).

    Raises ModelError.
    """
    asked = tuple(f"{folder}/pytorch_model*".lstrip("/") for folder in folders)
    return _snapshot(hub_id, asked, ())


def _snapshot(hub_id: str, allowed: tuple[str, ...], ignored: tuple[str, ...]) -> Path:
    # Imported here: opening a folder needs none of it.
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(
            hub_id, allow_patterns=list(allowed), ignore_patterns=list(ignored)
        )
    # The client raises its own errors, httpx's, and OSError; each means: no model to open.
    except Exception as error:
        first_line = str(error).strip().partition("\n")[0]
        raise refusal(
            f"{hub_id}: no such folder, and the hub did not give a model of that name "
            f"({type(error).__name__}: {first_line}); check the name, the network and the hub "
            "login, or give a folder"
        ) from error
    return Path(folder).absolute()
