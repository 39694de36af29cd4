"""The parts of an `openvino_model.xml`, read as XML: layers in words, constants by digest."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import BinaryIO
from xml.etree import ElementTree

from goldfold.exporter.errors import ArtifactError
from goldfold.targets.openvino import markup
from goldfold.targets.openvino.model_file import XML


def parts(folder: Path) -> dict[str, str]:
    """Returns the parts by name. Raises ArtifactError if the file is damaged."""
    path = folder / XML
    try:
        layers = markup.read(path)
        names = {layer.attrib["id"]: layer.attrib["name"] for layer in layers.iterfind("layers/*")}
        read: dict[str, list[str]] = {}
        for edge in layers.iterfind("edges/edge"):
            source = f"{names[edge.attrib['from-layer']]}:{edge.attrib['from-port']}"
            read.setdefault(edge.attrib["to-layer"], []).append(source)
        with path.with_suffix(".bin").open("rb") as weights:
            size = os.fstat(weights.fileno()).st_size
            return dict(_part(layer, read, weights, size) for layer in layers.iterfind("layers/*"))
    except (OSError, ValueError, KeyError) as error:
        raise ArtifactError(f"cannot read {path}: {type(error).__name__} {error}") from error


def _part(
    layer: ElementTree.Element, read: dict[str, list[str]], weights: BinaryIO, end: int
) -> tuple[str, str]:
    kind, name = layer.attrib["type"], layer.attrib["name"]
    data = layer.find("data")
    said = {} if data is None else dict(data.attrib)
    if kind == "Const":
        begin, size = int(said["offset"]), int(said["size"])
        if begin < 0 or size < 0 or begin + size > end:
            raise ValueError(f"the constant {name} lies outside of its file")
        weights.seek(begin)
        held = hashlib.sha256(weights.read(size)).hexdigest()[:16]
        return f"constant {name}", f"{said['element_type']} [{said['shape']}] sha256 {held}"
    attributes = ", ".join(f"{key}={value}" for key, value in sorted(said.items()))
    return f"node {name}", f"{kind}({', '.join(read.get(layer.attrib['id'], []))}) {{{attributes}}}"
