"""The front matter of an artifact's README.md, which the hub reads as its model card.

`card.json` in the artifact keeps what the source's own card says of licence and languages, so that
the README can be written where nothing reads YAML. The front matter is written as YAML whose
scalars are plain words or JSON strings, which YAML reads as they are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from goldfold.exporter.artifact.manifest import Manifest
from goldfold.exporter.system import names
from goldfold.exporter.system.files import read_bounded

CARD = "card.json"
_LIMIT = 1 << 20
_LISTS = ("license", "language", "tags", "base_model")
_WORDS = ("license_name", "license_link", "pipeline_tag", "library_name")
_MOST = 400
"""The most entries of a list, and letters of an entry."""
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9/_.+-]*(?![\s\S])")
_TAKEN = {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}
"""Words that YAML takes for something else than a string."""
_PIPELINE = {
    "embedding": ("sentence-similarity", ("sentence-similarity", "feature-extraction")),
    "scores": ("text-ranking", ("text-ranking", "reranker", "cross-encoder")),
    "sparse": ("feature-extraction", ("feature-extraction", "sparse-encoder", "sparse")),
    "multi_vector": ("sentence-similarity", ("late-interaction", "multi-vector", "ColBERT")),
}
"""The hub's name of each task, and tags."""


def of_source(front: Mapping[str, Any], hub_id: str) -> dict[str, Any]:
    """Returns what an artifact keeps of its source's card: lists of words, and words. `front` is
    the card's front matter; `hub_id` the model's name on the hub, "" where it is not known."""
    found: dict[str, Any] = {}
    for name in _LISTS:
        said = front.get(name)
        listed = said if isinstance(said, list) else [said]
        words = [_word(one) for one in listed[:_MOST]]
        if kept := [one for one in words if one]:
            found[name] = kept
    for name in _WORDS:
        if said := _word(front.get(name)):
            found[name] = said
    found.pop("base_model", None)  # the source's own base is no nearer than the source
    return found | ({"base_model": [hub_id]} if hub_id else {})


def _word(said: object) -> str:
    if isinstance(said, bool) or not isinstance(said, (str, int, float)):
        # YAML 1.1 takes Norwegian's code, no, for false.
        return "no" if said is False else ""
    return names.line(str(said)).strip()[:_MOST]


def write(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write `card.json` into an artifact that is not sealed yet."""
    text = json.dumps(facts, ensure_ascii=False, indent=1, sort_keys=True) + "\n"
    (folder / CARD).write_text(text, encoding="utf-8")


def read(folder: Path, manifest: Manifest) -> dict[str, Any]:
    """Returns what `card.json` says; {} of an artifact that has none, or another than its manifest
    names."""
    try:
        found = json.loads(read_bounded(folder / CARD, _LIMIT)) if CARD in manifest.files else {}
    except (OSError, ValueError, RecursionError):
        return {}
    return of_source(found, _first(found)) if isinstance(found, dict) else {}


def _first(found: Mapping[str, Any]) -> str:
    said = found.get("base_model")
    return _word(said[0]) if isinstance(said, list) and said else ""


def front_matter(manifest: Manifest, facts: Mapping[str, Any]) -> str:
    """Returns the front matter, the lines around it included."""
    pipeline, own = _PIPELINE[manifest.contract.task]
    licence = facts.get("license") or ([manifest.origin.licence] if manifest.origin.licence else [])
    base = facts.get("base_model") or []
    if not base and re.fullmatch(r"[\w.-]+/[\w.-]+", manifest.origin.name):
        base = [manifest.origin.name]
    tags = (*own, *facts.get("tags", ()), "goldfold", manifest.target, manifest.precision)
    entries: dict[str, Any] = {
        "license": licence[0] if len(licence) == 1 else licence,
        "license_name": facts.get("license_name"),
        "license_link": facts.get("license_link"),
        "language": facts.get("language"),
        "base_model": base[0] if base else None,
        "base_model_relation": "quantized" if base and manifest.recipe is not None else None,
        "pipeline_tag": pipeline,
        "library_name": "goldfold",
        "tags": list(dict.fromkeys(tags)),
    }
    lines = ["---"]
    for name, value in entries.items():
        if isinstance(value, list) and value:
            lines += [f"{name}:", *(f"- {_scalar(one)}" for one in value)]
        elif value:
            lines.append(f"{name}: {_scalar(str(value))}")
    return "\n".join([*lines, "---", ""])


def _scalar(text: str) -> str:
    if _PLAIN.match(text) and text.lower() not in _TAKEN:
        return text
    return json.dumps(text, ensure_ascii=False)
