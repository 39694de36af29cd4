"""Models of images and text (CLIP, SigLIP and their like), of which the text's side is exported.

sentence-transformers opens such a model as one Transformer, which gives a text's embedding without
Pooling. Older versions called it `CLIPModel`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from goldfold.exporter.frontend.module_spec import ModuleSpec
from goldfold.exporter.frontend.weights import read_object, refusal

LEGACY = "CLIPModel"
_TRANSFORMER = "sentence_transformers.base.modules.transformer.Transformer"
_SETTINGS = "sentence_bert_config.json"
_GIVEN = "sentence_embedding"

NOTE = (
    "It is a model of images and text, of which the text's side is exported: the artifact embeds "
    "texts alone, and a text that is the address of an image is a text."
)


def told(path: Path, module: ModuleSpec) -> ModuleSpec:
    """Returns an entry of modules.json under today's name; `embeds` is set where the Transformer
    gives the embedding of a text."""
    if module.kind == LEGACY and module.type.startswith("sentence_transformers."):
        return replace(module, type=_TRANSFORMER, embeds=True)
    file = path / module.path / _SETTINGS
    if module.kind != "Transformer" or not file.is_file():
        return module
    return replace(module, embeds=read_object(file).get("module_output_name") == _GIVEN)


def is_tower(config: Path) -> bool:
    """Returns whether transformers' own files, of which this is the config.json, are a model of
    images and text whose two sides have settings of their own."""
    if not config.is_file():
        return False
    said = read_object(config)
    return all(isinstance(said.get(key), dict) for key in ("text_config", "vision_config")) and any(
        str(name) in ("CLIPModel", "SiglipModel") for name in _listed(said.get("architectures"))
    )


def text_config(config: dict[str, Any]) -> dict[str, Any]:
    """Returns the settings of the text's side, where it has its own."""
    own = config.get("text_config")
    return own if isinstance(own, dict) else config


def check(file: Path, kinds: Sequence[str]) -> None:
    """Refuse modules behind a text's embedding that work on its tokens."""
    if "Pooling" in kinds:
        raise refusal(
            f"{file}: its Transformer gives the embedding of a text, which its Pooling does not "
            f"read; the modules are {list(kinds)}"
        )


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
