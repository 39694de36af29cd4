"""The published schemas: what report.json and manifest.json hold, as JSON Schema (2020-12).

python -m goldfold.exporter.report.schemas docs/schema
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from pydantic import BaseModel

from goldfold.exporter.artifact.bundle import Manifest
from goldfold.exporter.report import Report

SCHEMAS: dict[str, type[BaseModel]] = {
    "manifest.schema.json": Manifest,
    "report.schema.json": Report,
}


def text_of(model: type[BaseModel]) -> str:
    """The schema of what `model` writes, as the file holds it."""
    schema = model.model_json_schema(mode="serialization")
    if model is Manifest:  # Manifest.to_bytes adds its own digest, and leaves times out
        schema["properties"]["sha256"] = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
        schema["required"].append("sha256")
        done = schema["$defs"]["PassReport"]
        del done["properties"]["seconds"]
        done["required"].remove("seconds")
    return json.dumps(schema, ensure_ascii=False, indent=1, sort_keys=True) + "\n"


def main(folder: str) -> None:
    """Write every schema into `folder`."""
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    for name, model in SCHEMAS.items():
        (place / name).write_text(text_of(model), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
