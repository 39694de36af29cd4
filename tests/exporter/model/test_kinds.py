"""Models of other kinds are refused under their own names, and never told to add pooling."""

from __future__ import annotations

from pathlib import Path

import pytest

from goldfold.exporter.frontend import model_kinds
from goldfold.exporter.frontend.source import open_model
from tests.exporter.model.refusing import edit, refuse, set_type

KINDS = {
    "sparse": model_kinds.SPARSE,
    "late": model_kinds.LATE,
    "image": model_kinds.IMAGE,
}


def refused(folder: Path, kind: str, culprit: str) -> None:
    said = refuse((culprit, KINDS[kind], "does not support this kind"), folder)
    assert "add" not in said and "mean pooling" not in said


def test_type_in_the_settings(folder: Path) -> None:
    edit(folder / "config_sentence_transformers.json", lambda c: c.update(model_type="Other"))
    refuse(("model_type is 'Other'", "does not support this kind"), folder)
    (folder / "modules.json").unlink()
    refuse(("model_type is 'Other'", "does not support this kind"), folder)


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
        ("ColBERT", "late"),
        ("ViTForImageClassification", "image"),
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
        ("tags:\n- splade\n- query-expansion", "sparse"),
        ("tags:\n  - ColBERT", "late"),
    ],
)
def test_tag_of_the_card_without_a_list_of_modules(folder: Path, front: str, kind: str) -> None:
    (folder / "README.md").write_text(f"---\nlicense: mit\n{front}\n---\n# card\n", "utf-8")
    assert open_model(folder).licence == "mit"  # with modules.json the card is prose
    (folder / "modules.json").unlink()
    refused(folder, kind, "README.md")


def test_what_scores_pairs(folder: Path) -> None:
    (folder / "README.md").write_text("---\npipeline_tag: text-ranking\n---\n", "utf-8")
    assert open_model(folder).task == "embedding"  # modules.json says more than the card
    (folder / "modules.json").unlink()
    assert open_model(folder).task == "scores"
    (folder / "README.md").unlink()
    assert open_model(folder).task == "embedding"
    edit(folder / "config.json", lambda c: c.update(architectures=["XForSequenceClassification"]))
    found = open_model(folder)
    assert (found.task, [one.kind for one in found.modules]) == ("scores", ["Transformer"])


def test_module_that_only_scores_have(folder: Path) -> None:
    set_type(folder, 1, "sentence_transformers.cross_encoder.modules.LogitScore")
    refuse(("LogitScore", "does not support"), folder)


def test_tags_that_cannot_be_read_say_nothing(folder: Path) -> None:
    (folder / "modules.json").unlink()
    for front in ("tags: [", "tags: &a [*a]", "tags: 3", f"tags: [{'x, ' * 3000}]"):
        (folder / "README.md").write_text(f"---\n{front}\n---\n", "utf-8")
        assert len(open_model(folder).modules) == 2


def test_a_quantized_checkpoint_is_not_quantized_again(folder: Path) -> None:
    edit(folder / "config.json", lambda c: c.update(quantization_config={"quant_method": "gptq"}))
    refuse(("config.json", "gptq", "give that"), folder)


def test_gguf_is_named(tmp_path: Path) -> None:
    (tmp_path / "g").mkdir()
    (tmp_path / "g" / "model-Q8_0.gguf").write_bytes(b"GGUF")
    refuse(("GGUF",), tmp_path / "g")
