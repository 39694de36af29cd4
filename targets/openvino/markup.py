"""The `.xml` of a model, read as XML within limits."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from goldfold.exporter.errors import ArtifactError
from goldfold.exporter.system.files import read_bounded

XML_LIMIT = 64 << 20
"""Maximum bytes; EmbeddingGemma's has 1.3 MB."""
_NET = re.compile(rb"\s*(<\?xml[^>]*\?>)?\s*<net\s[^>]*version=\"\d+\"")
"""The beginning of OpenVINO's files."""
_TAGS = 4_000_000
"""Maximum number of tags, of which an element has one or two: it takes a hundred bytes in memory.
EmbeddingGemma's model has 75,451."""


def check(path: Path) -> None:
    """Refuse a file that is no OpenVINO model before a runtime reads it: OpenVINO would try every
    format it knows, each with its own complaints on standard error. Raises ArtifactError."""
    if not path.is_file():
        raise ArtifactError(f"{path} is no file; export it again")
    if path.stat().st_size > XML_LIMIT:
        raise ArtifactError(f"{path} is larger than {XML_LIMIT >> 20} MiB, which no model's is")
    with path.open("rb") as file:
        if _NET.match(file.read(4096)) is None:
            raise ArtifactError(f"{path} is no model of OpenVINO's; export it again")


def read(path: Path) -> ElementTree.Element:
    """Returns the root element. Raises ArtifactError."""
    try:
        raw = read_bounded(path, XML_LIMIT)
        if raw.count(b"<") > _TAGS:
            raise ArtifactError(f"{path} has more than {_TAGS:,} tags, which no model's file has")
        return ElementTree.fromstring(raw)
    except OSError as error:
        raise ArtifactError(f"cannot read {path}: {error.strerror}") from error
    except (ElementTree.ParseError, ValueError, RecursionError) as error:
        raise ArtifactError(f"cannot read {path}: {type(error).__name__} {error}") from error


def marked(xml: Path, kind: str) -> set[str]:
    """Returns the names of the layers that a file marks as `kind`. OpenVINO reads the marks, and
    writes few of them. Raises ArtifactError."""
    mark = f"rt_info/attribute[@name='{kind}']"
    layers = read(xml).iterfind("layers/layer")
    return {layer.attrib["name"] for layer in layers if layer.find(mark) is not None}


def mark(xml: Path, names: set[str], kind: str) -> None:
    """Mark the layers called `names` in a file that OpenVINO wrote."""
    wanted = {escape(name, {'"': "&quot;"}) for name in names}
    head, *layers = xml.read_text("utf-8").split("<layer ")
    for at, layer in enumerate(layers):
        if layer.split('name="', 1)[1].split('"', 1)[0] in wanted:
            layers[at] = layer.replace("<input>", f"{note(kind)}<input>", 1)
    xml.write_text("<layer ".join([head, *layers]), "utf-8")


def note(kind: str) -> str:
    """Returns a layer's mark as it stands in a file."""
    return f'<rt_info><attribute name="{kind}" version="0" /></rt_info>'
