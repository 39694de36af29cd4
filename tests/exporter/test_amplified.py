"""A model all of whose texts amplify: its integers fail with the analysis, and only those that
round activations."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from sentence_transformers import SentenceTransformer

from goldfold import export
from goldfold.golden import make as golden_make
from tests import models

TEXTS = ("russian", "german-query", "code-python", "english-titled", "length-16")
ROUNDED = """
gains = "keep"
dynamic = 0.125
[weights]
bits = 8
pairs = true
[[rule]]
kinds = ["head"]
bits = 0
"""
WEIGHTS = ROUNDED.replace("dynamic = 0.125\n", "").replace("bits = 8", "bits = 4\nblock = 16")


@pytest.fixture(scope="module")
def alike(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose pooled vectors are nearly the same for all texts, and whose head takes away
    what they share: the embedding is the direction of a small difference."""
    folder = models.build(
        "gemma3", tmp_path_factory.mktemp("alike") / "alike", head=("48 Identity", "normalize")
    )
    file = folder / "model.safetensors"
    weights = load_file(file)
    name = next(name for name in weights if "embed_tokens" in name)
    table = weights[name]
    common = np.random.default_rng(1).standard_normal(table.shape[1]).astype(np.float32)
    weights[name] = common * np.sqrt(np.mean(table**2)) + table * np.float32(0.02)
    save_file(weights, file, {"format": "pt"})
    model = SentenceTransformer(str(folder), device="cpu")
    texts = ["A small engine.", "Der rote Planet", "def f(x): return x", "What is it?"]
    pooled = SentenceTransformer(modules=[model[0], model[1]], device="cpu").encode(
        texts, convert_to_numpy=True
    )
    head = next(folder.glob("*_Dense/model.safetensors"))
    dense = load_file(head)
    dense["linear.bias"] = -(dense["linear.weight"] @ pooled.mean(axis=0))
    save_file(dense, head, {"format": "pt"})
    return folder


def test_an_export_fails_with_where_all_texts_amplify(alike: Path, tmp_path: Path) -> None:
    for name, text in (("rounded", ROUNDED), ("weights", WEIGHTS)):
        (tmp_path / f"{name}.toml").write_text(text)
    recipes = [str(tmp_path / f"{name}.toml") for name in ("rounded", "weights")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(golden_make, "make", partial(golden_make.make, only=TEXTS))
        rounded, weights = export(
            alike, ["onnxruntime"], recipes, tmp_path / "out", max_length=64, cache=False
        )
    assert rounded.status == weights.status == "failed"
    said = []
    for one in (rounded, weights):
        assert one.bundle.verdict is not None and one.bundle.verdict.location is not None
        assert one.bundle.verdict.location.kind == "rounding"
        said.append(one.bundle.verdict.location.sentence)
    assert "activations in 8 bits a row cannot hold 1−cos 5e-03: each of 3 texts" in said[0]
    assert "most of all at" in said[0] and "keep activations in floating point." in said[0]
    assert len(said[0].splitlines()) == 1
    assert "a row cannot hold" not in said[1]  # its activations stay as they are
