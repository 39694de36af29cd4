"""LFM2: causal convolutions beside attention, and what padding does to them: nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from goldfold import export, load
from tests import models
from tests.exporter.model.refusing import edit

TEXTS = ["a lighthouse", "b", "the keeper counted the ships that passed before dawn, twice over"]


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_text_is_the_same_alone_and_beside_longer_ones(side: str, tmp_path: Path) -> None:
    """Whichever side sentence-transformers pads on."""
    from sentence_transformers import SentenceTransformer

    folder = models.build("lfm2", tmp_path / "lfm2", max_seq_length=40)
    edit(folder / "tokenizer_config.json", lambda config: config.update(padding_side=side))
    model = SentenceTransformer(str(folder), device="cpu")
    assert model.tokenizer.padding_side == side
    (result,) = export(folder, ["onnxruntime"], ["fp32"], tmp_path / "out")
    assert result.passed
    encoder = load(result.path)
    expected = np.asarray(model.encode(TEXTS))
    together = encoder.embed(TEXTS)
    alone = np.concatenate([encoder.embed([text]) for text in TEXTS])
    for found in (together, alone):
        assert (1 - (found * expected).sum(-1)).max() < 1e-6
    assert abs(together - alone).max() < 1e-6
    turned = np.asarray(model.encode(["lighthouse a"]))  # the order of tokens counts
    assert 1 - float((turned @ expected[0]).item()) > 1e-3
