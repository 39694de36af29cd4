"""The reader of an artifact, by the files that it has."""

from __future__ import annotations

from pathlib import Path

from goldfold.golden.errors import GoldenError
from goldfold.golden.proof import engine, mlpackage, onnx_file, openvino
from goldfold.golden.proof.stored import Contents

_READERS = {
    "model.onnx": onnx_file.read,
    "openvino_model.xml": openvino.read,
    "model.mlpackage": mlpackage.read,
}


class NoReader(GoldenError):
    """An artifact of a form that no reader knows."""


def read(artifact: Path) -> Contents:
    """Returns the constants and the structure of an artifact: its folder, or the file or package
    that holds them; what an engine beside it lacks of them is lost. Raises GoldenError, and
    NoReader where no file of it is of a known form."""
    for name, reader in _READERS.items():
        place = artifact if artifact.name == name else artifact / name
        if place.exists():
            contents = reader(place)
            for compiled in sorted(place.parent.glob("*.engine")):
                contents.lost += engine.missing(compiled, contents.stored)
            return contents
    if artifact.is_file():
        for name, reader in _READERS.items():
            if artifact.suffix == Path(name).suffix:
                return reader(artifact)
    raise NoReader(f"{artifact} holds none of {', '.join(_READERS)}")
