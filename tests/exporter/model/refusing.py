"""How a refusal of a model is checked, and how a folder is spoilt."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from goldfold.exporter.errors import ModelError
from goldfold.exporter.frontend.source import check_finite, open_model


def refuse(culprits: tuple[str, ...], path: str | Path, **options: Any) -> str:
    """Check that opening and scanning `path` ends in one line that holds every culprit."""
    with pytest.raises(ModelError) as caught:
        check_finite(open_model(path, **options))
    text = str(caught.value)
    assert len(text.splitlines()) == 1
    assert text.isprintable()
    for culprit in culprits:
        assert culprit in text
    return text


def edit(file: Path, change: Callable[[Any], Any]) -> None:
    """Rewrite a JSON file; `change` alters the value in place, or returns another."""
    value = json.loads(file.read_text("utf-8"))
    result = change(value)
    file.write_text(json.dumps(value if result is None else result), "utf-8")


def set_type(folder: Path, place: int, dotted: str) -> None:
    edit(folder / "modules.json", lambda modules: modules[place].update(type=dotted))
