"""The tiny models are what the other tests believe them to be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from tests import models

TEXTS = ("The harbour was empty.", "Мы нашли старую карту.", "def f(x): return x", "")


def backbone_of(model: SentenceTransformer) -> Any:
    """The transformers model inside, in evaluation mode."""
    transformer: Any = model[0]
    return transformer.auto_model.eval()


@pytest.mark.parametrize("kind", models.KINDS)
def test_kind_tells_texts_apart(kind: str, tmp_path: Path) -> None:
    model = SentenceTransformer(str(models.build(kind, tmp_path / kind)), device="cpu")
    embeddings = model.encode(list(TEXTS))
    assert np.isfinite(embeddings).all()
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    # 0.99 is what a model whose texts all look alike exceeds; these stay below 0.96.
    assert (unit @ unit.T)[~np.eye(len(TEXTS), dtype=bool)].max() < 0.99


@pytest.mark.parametrize("kind", models.KINDS)
def test_loaded_tokenizer_is_the_one_saved(kind: str, tmp_path: Path) -> None:
    model = SentenceTransformer(str(models.build(kind, tmp_path / kind)), device="cpu")
    tokenizer = model.tokenizer
    ids = tokenizer(TEXTS[1])["input_ids"]
    assert (ids[0], ids[-1], tokenizer.pad_token_id) == (2, 1, 0)
    assert 3 not in ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == TEXTS[1]
    assert tokenizer.padding_side == "right"
    assert tokenizer.model_max_length == models.MAX_LENGTH


def test_two_builds_give_the_same_bytes(tmp_path: Path) -> None:
    first, second = (models.build("gemma3", tmp_path / name) for name in ("a", "b"))
    files = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert files == sorted(p.relative_to(second) for p in second.rglob("*") if p.is_file())
    assert all((first / file).read_bytes() == (second / file).read_bytes() for file in files)


def test_gemma3_has_the_shape_of_embeddinggemma(tmp_path: Path) -> None:
    model = SentenceTransformer(str(models.build("gemma3", tmp_path / "m")), device="cpu")
    assert [type(m).__name__ for m in model] == [
        "Transformer",
        "Pooling",
        "Dense",
        "Dense",
        "Normalize",
    ]
    config = backbone_of(model).config
    assert config.sliding_window == 257
    assert config.layer_types == ["sliding_attention"] * 5 + ["full_attention"]
    assert model.prompts["query"] == "task: search result | query: "
    gains = [p for n, p in model[0].named_parameters() if n.endswith("norm.weight")]
    assert all(0.1 < gain.std() < 0.6 for gain in gains)
    ids = torch.arange(4, models.VOCAB_SIZE)[None]
    scaled = backbone_of(model).embed_tokens(ids)
    assert scaled.square().mean().item() == pytest.approx(1e-3, rel=0.05)


@pytest.mark.parametrize(("distance", "seen"), [(255, True), (256, True), (257, False)])
def test_gemma3_sliding_layer_sees_256_tokens(distance: int, seen: bool, tmp_path: Path) -> None:
    # One sliding layer alone: with more, information hops on from window to window.
    folder = models.build(
        "gemma3", tmp_path / "m", num_hidden_layers=1, layer_types=["sliding_attention"]
    )
    backbone = backbone_of(SentenceTransformer(str(folder), device="cpu"))
    ids = torch.arange(2 * 300)[None] % 300 + 4
    changed = ids.clone()
    changed[0, 300 + distance] += 1
    with torch.no_grad():
        rows = [backbone(input_ids=i).last_hidden_state[0, 300] for i in (ids, changed)]
    assert torch.equal(*rows) is not seen


def test_gemma3_window_survives_saving_again(tmp_path: Path) -> None:
    # Some versions of transformers wrote the converted window and converted it again on loading.
    folder = models.build("gemma3", tmp_path / "m")
    SentenceTransformer(str(folder), device="cpu").save(str(tmp_path / "again"))
    again = SentenceTransformer(str(tmp_path / "again"), device="cpu")
    assert backbone_of(again).config.sliding_window == 257


def test_overrides_reach_the_model(tmp_path: Path) -> None:
    folder = models.build(
        "bert-pool", tmp_path / "m", pooling_mode=("cls", "max"), num_hidden_layers=1
    )
    model = SentenceTransformer(str(folder), device="cpu")
    assert model.get_embedding_dimension() == 2 * 48
    assert backbone_of(model).config.num_hidden_layers == 1
