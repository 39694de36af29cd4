"""Static embedding models are opened, or refused in one line that says what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from goldfold.exporter.frontend.source import open_model
from tests import static
from tests.exporter.model.refusing import edit, refuse

TYPE = "sentence_transformers.models"


def test_modules_of_a_table(tmp_path: Path) -> None:
    source = open_model(static.build(tmp_path / "s", ("32 Tanh", "layer-norm", "normalize")))
    kinds = [module.kind for module in source.modules]
    assert kinds == ["StaticEmbedding", "Dense", "LayerNorm", "Normalize"]
    assert source.static and source.tensors[0] == source.path / "model.safetensors"
    assert {"tokenizer.json", "model.safetensors"} <= source.defining.keys()


@pytest.mark.parametrize("kind", ["Pooling", "StaticEmbedding", "Transformer"])
def test_what_cannot_follow_a_table(tmp_path: Path, kind: str) -> None:
    folder = static.build(tmp_path / "s", ("normalize",))
    edit(folder / "modules.json", lambda list_: list_[1].update(type=f"{TYPE}.{kind}"))
    refuse(("modules.json", "StaticEmbedding comes first", kind), folder)


def test_a_table_is_no_later_module(tmp_path: Path) -> None:
    folder = static.build(tmp_path / "s", ("normalize",))
    edit(folder / "modules.json", lambda list_: list_[::-1])
    refuse(("modules.json", "StaticEmbedding comes first"), folder)


def test_a_table_needs_its_tokenizer(tmp_path: Path) -> None:
    folder = static.build(tmp_path / "s")
    (folder / "tokenizer.json").unlink()
    refuse(("tokenizer.json", "missing", "fetch the model again"), folder)


def test_model2vec_without_modules_says_the_step(tmp_path: Path) -> None:
    folder = static.model2vec(tmp_path / "m", listed=False)
    refuse(("config.json", "no modules.json", "StaticEmbedding.from_model2vec"), folder)
