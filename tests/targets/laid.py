"""What tests of layouts share."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tests.torture.tortures.damage import write_manifest

LAYOUTS = ("transformers.js", "fastembed", "vespa")


def renamed(artifact: Path, precision: str) -> Path:
    """A copy of an artifact that calls its precision another."""
    other = Path(shutil.copytree(artifact, artifact.with_name(f"onnxruntime-{precision}")))
    record = json.loads((other / "manifest.json").read_bytes())
    record["precision"] = precision
    write_manifest(other, record)
    return other


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def held(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}
