"""Models of other kinds are refused under their own names, and never told to add pooling."""

from __future__ import annotations

from pathlib import Path

import pytest

from goldfold.exporter.frontend import model_kinds
from goldfold.exporter.frontend.source import open_model
from tests.exporter.model.refusing import edit, refuse, set_type

KINDS = {
    "reranker": model_kinds.RERANKER,
    "sparse": model_kinds.SPARSE,
    "late": model_kinds.LATE,
    "static": model_kinds.STATIC,
    "routed": model_kinds.ROUTED,
    "image": model_kinds.IMAGE,
}


def refused(folder: Path, kind: str, culprit: str) -> None:
    said = refuse((culprit, KINDS[kind], "does not support this kind"), folder)
    assert "add" not in said and "mean pooling" not in said


@pytest.mark.parametrize(
    ("model_type", "kind"),
    [
        ("CrossEncoder", "reranker"),
        ("SparseEncoder", "sparse"),
    ],
)
def test_type_in_the_settings(folder: Path, model_type: str, kind: str) -> None:
    edit(folder / "config_sentence_transformers.json", lambda c: c.update(model_type=model_type))
    refused(folder, kind, repr(model_type))
    (folder / "modules.json").unlink()
    refused(folder, kind, repr(model_type))


@pytest.mark.parametrize(
    ("dotted", "kind"),
    [
        ("sentence_transformers.base.modules.router.Router", "routed"),
        ("sentence_transformers.models.Asym", "routed"),
        ("sentence_transformers.models.StaticEmbedding", "static"),
        ("sentence_transformers.sparse_encoder.modules.SpladePooling", "sparse"),
        ("sentence_transformers.cross_encoder.modules.LogitScore", "reranker"),
        ("sentence_transformers.models.CLIPModel", "image"),
    ],
)
def test_module_that_only_such_models_have(folder: Path, dotted: str, kind: str) -> None:
    set_type(folder, 1, dotted)
    refused(folder, kind, dotted)


@pytest.mark.parametrize(
    "dotted",
    [
        "sentence_transformers.multi_vector_encoder.modules.MultiVectorMask",
        "pylate.models.Dense.Dense",
    ],
)
def test_module_of_token_vectors_in_a_model_that_says_otherwise(folder: Path, dotted: str) -> None:
    set_type(folder, 1, dotted)
    refuse((dotted, model_kinds.LATE, "set model_type there to 'MultiVectorEncoder'"), folder)


@pytest.mark.parametrize(
    ("architecture", "kind"),
    [
        ("BertForSequenceClassification", "reranker"),
        ("DebertaV2ForSequenceClassification", "reranker"),
        ("ColBERT", "late"),
        ("CLIPModel", "image"),
    ],
)
def test_architecture_without_a_list_of_modules(folder: Path, architecture: str, kind: str) -> None:
    edit(folder / "config.json", lambda c: c.update(architectures=[architecture]))
    open_model(folder)  # with modules.json it is a trunk, whatever it was trained as
    (folder / "modules.json").unlink()
    refused(folder, kind, architecture)


@pytest.mark.parametrize(
    ("front", "kind"),
    [
        ("tags: [sentence-transformers, cross-encoder]", "reranker"),
        ("pipeline_tag: text-ranking", "reranker"),
        ("tags:\n- splade\n- query-expansion", "sparse"),
        ("tags:\n  - ColBERT", "late"),
        ("tags: [model2vec]", "static"),
    ],
)
def test_tag_of_the_card_without_a_list_of_modules(folder: Path, front: str, kind: str) -> None:
    (folder / "README.md").write_text(f"---\nlicense: mit\n{front}\n---\n# card\n", "utf-8")
    assert open_model(folder).licence == "mit"  # with modules.json the card is prose
    (folder / "modules.json").unlink()
    refused(folder, kind, "README.md")


def test_tags_that_cannot_be_read_say_nothing(folder: Path) -> None:
    (folder / "modules.json").unlink()
    for front in ("tags: [", "tags: &a [*a]", "tags: 3", f"tags: [{'x, ' * 3000}]"):
        (folder / "README.md").write_text(f"---\n{front}\n---\n", "utf-8")
        assert len(open_model(folder).modules) == 2


def test_model2vec(folder: Path) -> None:
    (folder / "modules.json").unlink()
    edit(folder / "config.json", lambda c: c.update(model_type="model2vec"))
    refused(folder, "static", "model2vec")


@pytest.mark.parametrize("with_config", [True, False])
def test_adapter_is_to_be_merged(folder: Path, with_config: bool) -> None:
    (folder / "adapter_config.json").write_text("{}")
    if not with_config:
        for name in ("config.json", "modules.json", "model.safetensors"):
            (folder / name).unlink()
    refuse(("adapter_config.json", "merge"), folder)


def test_a_quantized_checkpoint_is_not_quantized_again(folder: Path) -> None:
    edit(folder / "config.json", lambda c: c.update(quantization_config={"quant_method": "gptq"}))
    refuse(("config.json", "gptq", "give that"), folder)


def test_gguf_is_named(tmp_path: Path) -> None:
    (tmp_path / "g").mkdir()
    (tmp_path / "g" / "model-Q8_0.gguf").write_bytes(b"GGUF")
    refuse(("GGUF",), tmp_path / "g")
