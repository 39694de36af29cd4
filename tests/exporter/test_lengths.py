"""How long texts may be, by task, and where they are cut: as sentence-transformers does it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from goldfold import export, load
from goldfold.exporter.artifact.encoder import Encoder
from goldfold.exporter.errors import ModelError, UsageError
from goldfold.exporter.frontend.source import open_model
from goldfold.exporter.frontend.trace import trace
from goldfold.golden import make as golden_make
from goldfold.golden.compare import reading
from tests import models
from tests.exporter.model.refusing import edit

LONG = "The lighthouse keeper counted the ships that passed before dawn. " * 60
CALLS = ("card-query", "call-encode", "call-encode-query", "call-encode-document")
LIMIT = 1e-8
"""The gate of fp32."""


def settings(folder: Path, **values: Any) -> None:
    edit(folder / "sentence_bert_config.json", lambda config: config.update(values))


def exported(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    further: tuple[str, ...] = (),
    target: str = "onnxruntime",
    **how: Any,
) -> Encoder:
    only = (*CALLS, *further)
    monkeypatch.setattr(golden_make, "make", partial(golden_make.make, only=only))
    (result,) = export(folder, [target], ["fp32"], folder.parent / "out", **how)
    assert result.passed, result.verdict.sentences
    return load(result.path)


def same(encoder: Encoder, folder: Path) -> None:
    """What users call gives the same, of a short text and of one that is cut."""
    model = SentenceTransformer(str(folder), device="cpu")
    for text in ("one sentence", LONG, LONG + " and this is the end of it"):
        for ours, theirs in (
            (encoder.embed, model.encode),
            (encoder.embed_query, model.encode_query),
            (encoder.embed_document, model.encode_document),
        ):
            found, expected = ours(text)[0], theirs(text)
            assert found.shape == expected.shape
            distance = reading(found.astype(np.float64), expected.astype(np.float64)).distance
            assert distance <= LIMIT, (text[-20:], theirs.__name__)


def test_rotary_positions_end_where_the_model_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = models.build("gemma3", tmp_path / "m", max_position_embeddings=64, max_seq_length=128)
    settings(folder, max_seq_length=128)
    encoder = exported(folder, monkeypatch, ("length-128",))
    assert encoder.contract.max_length == 128
    same(encoder, folder)


def test_lengths_by_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = models.build("bert", tmp_path / "m", max_seq_length=32)
    settings(folder, query_length=16, document_length=48)
    further = ("beyond-encode-query", "beyond-encode-document", "length-32")
    encoder = exported(folder, monkeypatch, further, "openvino")
    assert encoder.contract.max_length == 48
    assert encoder.contract.lengths == {"": 32, "query": 16}
    same(encoder, folder)
    counts = [len(encoder.tokenize([LONG], task)[0]) for task in ("", "query", "document")]
    assert counts == [32, 16, 48]


def test_shorter_artifacts_shorten_every_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = models.build("bert", tmp_path / "m")
    settings(folder, query_length=16, document_length=48)
    encoder = exported(folder, monkeypatch, max_length=24)
    counts = [len(encoder.tokenize([LONG], task)[0]) for task in ("", "query", "document")]
    assert counts == [24, 16, 24]


def test_length_of_the_processing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = models.build("bert", tmp_path / "m")
    settings(folder, processing_kwargs={"text": {"max_length": 40}})
    encoder = exported(folder, monkeypatch)
    assert encoder.contract.max_length == 40
    same(encoder, folder)


def test_padding_that_nothing_sees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = models.build("bert", tmp_path / "m", max_seq_length=40)
    settings(folder, processing_kwargs={"text": {"padding": "max_length"}})
    encoder = exported(folder, monkeypatch, ("length-16",))
    same(encoder, folder)
    assert len(encoder.tokenize(["one"])[0]) < 10
    settings(folder, processing_kwargs={"text": {"pad_to_multiple_of": 8}})
    with pytest.raises(ModelError, match="pad texts to another length than 8 tokens"):
        trace(open_model(folder))


@pytest.mark.parametrize("target", ["openvino", "onnxruntime"])
def test_texts_cut_on_the_left(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = models.build("bert", tmp_path / "m", max_seq_length=40)
    edit(folder / "tokenizer_config.json", lambda c: c.update(truncation_side="left"))
    encoder = exported(folder, monkeypatch, ("length-45",), target)
    assert encoder.contract.truncation_side == "left"
    same(encoder, folder)


def test_settings_that_goldfold_does_not_know_are_named(tmp_path: Path) -> None:
    folder = models.build("bert", tmp_path / "m")
    settings(folder, processing_kwargs={"text": {"add_special_tokens": False}})
    with pytest.raises(ModelError, match=r"other tokens.*processing_kwargs.*add_special_tokens"):
        trace(open_model(folder))
    settings(folder, processing_kwargs={"text": {"truncation": False}})
    with pytest.raises(ModelError, match="turn truncation off"):
        trace(open_model(folder))


@pytest.mark.parametrize("positions", [66, 600])
def test_a_table_of_positions_bounds_the_length(
    positions: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RoBERTa counts positions from behind its padding token, so its table bears two fewer."""
    how = {"pad_token_id": 1, "eos_token_id": 0, "max_seq_length": 66}
    folder = models.build("roberta", tmp_path / "m", max_position_embeddings=positions, **how)
    encoder = exported(folder, monkeypatch)
    assert encoder.contract.max_length == min(66, positions - 2)
    said = [note for note in encoder.bundle.manifest.notes if "table of positions" in note]
    assert len(said) == (positions == 66)
    assert len(encoder.tokenize([LONG])[0]) == encoder.contract.max_length


def longrope(folder: Path) -> Path:
    width = 8
    rope = {
        "rope_type": "longrope",
        "factor": 2.0,
        "rope_theta": 1e4,
        "short_factor": [1.0] * width,
        "long_factor": [2.0 + 0.1 * i for i in range(width)],
        "original_max_position_embeddings": 128,
    }
    models.build("llama", folder)
    edit(folder / "config.json", lambda c: c.update(rope_parameters=rope))
    return folder


def test_angles_that_change_with_the_batch_are_refused_where_they_would(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = longrope(tmp_path / "m")
    for asked in (None, 129):
        with pytest.raises(ModelError, match=r"longrope.*neighbours; pass --max-length 128"):
            trace(open_model(folder), max_length=asked)
    encoder = exported(folder, monkeypatch, max_length=128)
    assert encoder.contract.max_length == 128


def test_what_was_cut_for_one_export_is_not_kept_for_another(tmp_path: Path) -> None:
    assert not trace(open_model(longrope(tmp_path / "m")), max_length=100).lasting


def test_dynamic_angles_below_their_length_are_constant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = models.build("llama", tmp_path / "m", max_position_embeddings=128)
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    edit(folder / "config.json", lambda c: c.update(rope_parameters=rope))
    same(exported(folder, monkeypatch), folder)


def test_a_model_without_a_length_takes_the_one_that_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = models.build("t5", tmp_path / "m")
    edit(folder / "tokenizer_config.json", lambda c: {**c, "model_max_length": int(1e30)})
    with pytest.raises(ModelError, match=r"nowhere how long.*--max-length"):
        trace(open_model(folder))
    assert exported(folder, monkeypatch, max_length=50).contract.max_length == 50


def test_a_long_model_is_cut_before_its_goldens_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = models.build(
        "qwen3", tmp_path / "m", max_position_embeddings=32768, max_seq_length=32768
    )
    read: list[int] = []
    encode = golden_make._encode

    def counted(model: Any, draft: Any) -> Any:
        made = encode(model, draft)
        read.append(len(made[1]))
        return made

    monkeypatch.setattr(golden_make, "_encode", counted)
    encoder = exported(folder, monkeypatch, ("length-64",), max_length=64)
    assert encoder.contract.max_length == max(read) == 64


def test_truncated_dimensions_are_the_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = models.build("bert", tmp_path / "m")
    file = folder / "config_sentence_transformers.json"
    edit(file, lambda c: c.update(truncate_dim=16))
    encoder = exported(folder, monkeypatch, target="openvino")
    assert (encoder.contract.dim, encoder.contract.normalized) == (16, False)
    same(encoder, folder)
    found = encoder.embed("one sentence")[0]
    expected = SentenceTransformer(str(folder), device="cpu").encode("one sentence")
    # The model's own vector is of norm 1 before it is cut; f32 rounds sums of 48 products.
    assert np.abs(found - expected).max() <= 1e-6
    with pytest.raises(UsageError, match="16"):
        encoder.embed("x", dims=48)


# --- prompts


@pytest.mark.parametrize(
    ("prompts", "default"),
    [
        ({"query": "", "document": ""}, None),
        ({"query": None, "document": "text: "}, None),
        ({"query": "find: ", "passage": "text: "}, "query"),
        ({"passage": "text: "}, "document"),
        ({}, None),
    ],
)
def test_prompts_are_what_users_call_them(
    prompts: dict[str, Any], default: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = models.build("bert", tmp_path / "m", prompts={})
    file = folder / "config_sentence_transformers.json"
    edit(file, lambda c: c.update(prompts=prompts, default_prompt_name=default))
    encoder = exported(folder, monkeypatch)
    same(encoder, folder)
    model = SentenceTransformer(str(folder), device="cpu")
    for name in {*prompts, "query", "document"}:
        found = encoder.embed("some words", prompt=name)[0].astype(np.float64)
        expected = model.encode("some words", prompt_name=name).astype(np.float64)
        assert reading(found, expected).distance <= LIMIT
    with pytest.raises(UsageError, match="no prompt 'nonsuch'"):
        encoder.embed("x", prompt="nonsuch")


def test_a_prompt_excluded_from_pooling_matters_only_where_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = models.build("bert", tmp_path / "m", prompts={})
    edit(folder / "1_Pooling" / "config.json", lambda c: c.update(include_prompt=False))
    encoder = exported(folder, monkeypatch)
    (note,) = encoder.bundle.manifest.notes
    assert "leaves the tokens of a prompt out" in note and "texts without one" in note
    same(encoder, folder)


# --- folders without modules.json


@pytest.mark.parametrize(
    ("kind", "architecture"), [("bert", "BertModel"), ("qwen3", "Qwen3ForCausalLM")]
)
def test_a_folder_without_a_list_of_modules_is_what_the_library_makes_of_it(
    kind: str, architecture: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = models.build(kind, tmp_path / "m", prompts={})
    for path in folder.iterdir():
        if path.is_dir() or path.name.startswith(("modules", "sentence_", "config_sentence")):
            path.rename(tmp_path / f"away-{path.name}")
    edit(folder / "config.json", lambda c: c.update(architectures=[architecture]))
    encoder = exported(folder, monkeypatch)
    assert not encoder.contract.normalized
    assert "no modules.json" in encoder.bundle.manifest.notes[0]
    same(encoder, folder)
