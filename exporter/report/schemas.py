"""The published schemas of report.json, manifest.json and goldfold.toml, as JSON Schema (2020-12).

python -m goldfold.exporter.report.schemas docs/schema
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import msgspec

from goldfold.exporter.artifact.bundle import Manifest
from goldfold.exporter.records import INFINITE, Real, Record
from goldfold.exporter.report import Report
from goldfold.exporter.report.pipeline_file import PipelineFile

SCHEMAS: dict[str, type[Record]] = {
    "manifest.schema.json": Manifest,
    "pipeline.schema.json": PipelineFile,
    "report.schema.json": Report,
}


def text_of(model: type[Record]) -> str:
    """Returns the schema of the JSON that `model` writes, as the file holds it; of goldfold.toml,
    the schema of what a person may write."""
    schema = msgspec.json.schema(model, schema_hook=_real)
    for inside in schema["$defs"].values():  # a record writes all of its fields
        if "properties" in inside and model is not PipelineFile:  # which a person writes
            inside["required"] = sorted(inside["properties"])
    if contract := schema["$defs"].get("Contract"):  # the contract of a whole vocabulary has none
        contract["required"].remove("vocabulary")
    if model is Manifest:  # Manifest.to_bytes adds its own digest, and leaves times out
        whole, done = schema["$defs"]["Manifest"], schema["$defs"]["PassReport"]
        whole["properties"]["sha256"] = {"type": "string", "pattern": r"^[0-9a-f]{64}(?![\s\S])"}
        whole["required"].append("sha256")
        for name in ("texts", "calibration"):  # the manifest of a user without such texts has none
            whole["required"].remove(name)
        del done["properties"]["seconds"]
        done["required"].remove("seconds")
    return json.dumps(schema, ensure_ascii=False, indent=1, sort_keys=True) + "\n"


def _real(kind: type) -> dict[str, Any]:
    assert kind is Real, kind
    return {"anyOf": [{"type": "number"}, {"const": INFINITE}]}


def main(folder: str) -> None:
    """Write every schema into `folder`."""
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    for name, model in SCHEMAS.items():
        (place / name).write_text(text_of(model), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
