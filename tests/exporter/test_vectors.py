"""Embeddings in int8 and bits: the integers that sentence-transformers makes of the same rows."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from sentence_transformers.util import quantize_embeddings

from goldfold import load
from goldfold.exporter.artifact import embedding_types
from goldfold.exporter.artifact.encoder import Encoder
from goldfold.exporter.errors import ArtifactError, UsageError
from goldfold.golden import store

TEXTS = ["bread", "The ferry leaves at noon.", "河边的柳树", "x", "def f(a): return a"]
QUANTIZED = ("int8", "uint8", "binary", "ubinary")


@pytest.fixture(scope="module")
def encoder(artifacts: dict[str, Path]) -> Encoder:
    return load(artifacts["onnxruntime"], threads=1)


def never() -> np.ndarray:
    raise AssertionError("ranges were given")


@pytest.mark.parametrize("output", embedding_types.OUTPUTS)
@pytest.mark.parametrize("dims", [1, 12, 64])
def test_any_rows_come_out_as_sentence_transformers_makes_them(output: str, dims: int) -> None:
    random = np.random.default_rng(dims)
    rows = random.standard_normal((300, dims)).astype(np.float32)
    rows[0] = 0.0
    ranges = embedding_types.ranges_of(random.standard_normal((40, dims)).astype(np.float32))
    ranges[1, 0] = ranges[0, 0]  # a dimension without extent
    found = embedding_types.quantize(rows, output, ranges, never)
    expected = quantize_embeddings(rows, output, ranges=ranges)  # type: ignore[arg-type]
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("output", QUANTIZED)
@pytest.mark.parametrize("dims", [None, 32])
def test_embed_quantizes_with_given_ranges(encoder: Encoder, output: str, dims: int | None) -> None:
    rows = encoder.embed(TEXTS, dims=dims)
    ranges = embedding_types.ranges_of(rows[:3])
    found = encoder.embed(TEXTS, dims=dims, output=output, ranges=ranges)
    assert np.array_equal(found, quantize_embeddings(rows, output, ranges=ranges))  # type: ignore[arg-type]
    assert len(np.unique(found)) > 8


@pytest.mark.parametrize("dims", [None, 32])
def test_ranges_are_the_goldens_by_default(encoder: Encoder, dims: int | None) -> None:
    rows = encoder.embed(TEXTS, dims=dims)
    stored = store.load(encoder.bundle.path / "golden").embeddings[:, :dims]
    stored = stored / np.linalg.norm(stored, axis=1, keepdims=True)
    found = encoder.embed(TEXTS, dims=dims, output="int8").astype(int)
    expected = quantize_embeddings(rows, "int8", calibration_embeddings=stored)
    # Normalised once more, a stored row can move by its last bit, and a bucket's edge with it.
    assert np.abs(found - expected).max() <= 1
    assert (found != expected).mean() < 0.01


def test_float32_is_what_it_was_and_one_text_will_do(encoder: Encoder) -> None:
    assert np.array_equal(encoder.embed(TEXTS, output="float32"), encoder.embed(TEXTS))
    dim = encoder.contract.dim
    assert encoder.embed("bread", output="int8").shape == (1, dim)
    assert encoder.embed([], output="uint8").shape == (0, dim)
    assert encoder.embed([], output="binary").shape == (0, -(-dim // 8))


@pytest.mark.parametrize(
    ("options", "culprit"),
    [
        ({"output": "int4"}, "int4"),
        ({"output": "int8", "ranges": np.zeros((2, 3))}, "(2, 3)"),
        ({"output": "int8", "ranges": np.full((2, 32), np.nan)}, "finite"),
        ({"output": "uint8", "ranges": np.stack([np.ones(32), np.zeros(32)])}, "least"),
        ({"output": "uint8", "ranges": [["a"], ["b"]]}, "numbers"),
    ],
)
def test_bad_input_is_refused(encoder: Encoder, options: dict, culprit: str) -> None:
    with pytest.raises(UsageError) as refusal:
        encoder.embed(TEXTS, dims=32, **options)
    assert culprit in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_damaged_goldens_are_named(artifacts: dict[str, Path], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(artifacts["onnxruntime"], tmp_path / "onnxruntime-fp32"))
    opened = load(copy, threads=1)
    (copy / "golden" / "embeddings.npy").write_bytes(b"no")
    assert opened.embed("bread", output="binary").dtype == np.int8  # needs no ranges
    with pytest.raises(ArtifactError, match=r"embeddings\.npy"):
        opened.embed("bread", output="int8")
