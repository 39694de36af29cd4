"""`encode` and its relatives under sentence-transformers' arguments, beside that library."""

from __future__ import annotations

import inspect
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from goldfold import load
from goldfold.exporter.artifact.encoder import Encoder
from goldfold.exporter.artifact.st_arguments import Arguments
from goldfold.exporter.errors import UsageError

TEXTS = ["A small engine needs clean oil.", "", "x " * 30]
CLOSE = 2e-5


@pytest.fixture(scope="module")
def encoder(artifacts: dict[str, Path]) -> Encoder:
    return load(artifacts["onnxruntime"], threads=1)


@pytest.fixture(scope="module")
def reference(tiny: Path) -> SentenceTransformer:
    return SentenceTransformer(str(tiny), device="cpu")


@pytest.mark.parametrize("name", ["encode", "encode_query", "encode_document"])
def test_every_argument_is_known(name: str) -> None:
    theirs = list(inspect.signature(getattr(SentenceTransformer, name)).parameters.values())
    taken = [one for one in theirs if one.kind is not inspect.Parameter.VAR_KEYWORD]
    ours = inspect.signature(Encoder.encode).parameters
    by_place = [one.name for one in ours.values() if one.kind is one.POSITIONAL_OR_KEYWORD]
    assert by_place == [one.name for one in taken][: len(by_place)]
    for one in taken:
        assert one.name in ours or one.name in Arguments.__annotations__, one.name
        if one.name in ours and one.name not in ("self", "inputs"):
            assert ours[one.name].default == one.default, one.name


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"prompt_name": "query"},
        {"prompt": "mine: "},
        {"prompt": "mine: ", "prompt_name": "query"},
        {"truncate_dim": 16, "normalize_embeddings": True},
        {"normalize_embeddings": True, "batch_size": 1, "show_progress_bar": False},
        {"precision": "ubinary", "device": "cpu", "chunk_size": None, "pool": None},
        {"sentences": TEXTS},
    ],
)
def test_encode_is_what_sentence_transformers_says(
    encoder: Encoder, reference: SentenceTransformer, how: dict
) -> None:
    given = () if "sentences" in how else (TEXTS,)
    expected, found = reference.encode(*given, **how), encoder.encode(*given, **how)
    assert found.dtype == expected.dtype and found.shape == expected.shape
    if found.dtype == np.uint8:
        assert np.unpackbits(found ^ expected).mean() < 0.02  # numbers about zero
    else:
        np.testing.assert_allclose(found, expected, rtol=0, atol=CLOSE)


def test_shapes_and_tensors(encoder: Encoder) -> None:
    assert encoder.encode("one").shape == (48,)
    assert encoder.encode_query("one", convert_to_numpy=True).shape == (48,)
    tensor = encoder.encode_document(TEXTS, convert_to_tensor=True)
    assert isinstance(tensor, torch.Tensor) and tensor.shape == (3, 48)
    assert encoder.encode("one", convert_to_tensor=True).shape == (48,)
    several = encoder.encode(TEXTS, convert_to_numpy=False)
    assert isinstance(several, list) and all(isinstance(one, torch.Tensor) for one in several)


def test_similarities(encoder: Encoder, reference: SentenceTransformer) -> None:
    rows = encoder.encode(TEXTS)
    for name in ("similarity", "similarity_pairwise"):
        expected = getattr(reference, name)(rows, rows[::-1].copy()).numpy()
        np.testing.assert_allclose(getattr(encoder, name)(rows, rows[::-1]), expected, atol=1e-6)
    with pytest.raises(UsageError, match="give as many of each"):
        encoder.similarity_pairwise(rows, rows[:2])


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"output_value": "token_embeddings"}, "output_value is 'token_embeddings'"),
        ({"output_value": None}, "output_value is None"),
        ({"device": "cuda:1"}, "device is 'cuda:1'; this artifact of target onnxruntime"),
        ({"device": ["cpu", "cpu"]}, "device is"),
        ({"pool": {}}, "^pool: an encoder shares its work"),
        ({"chunk_size": 5}, "^chunk_size: "),
        ({"precision": "float16"}, "output is 'float16'"),
        ({"prompt": 3}, "prompt is int; give a text"),
        ({"prompt_name": "title"}, "no prompt 'title'"),
        ({"truncate_dim": 0}, "dims is 0"),
    ],
)
def test_what_an_artifact_cannot_do_is_one_line(encoder: Encoder, how: dict, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        encoder.encode(TEXTS, **how)
    assert "\n" not in str(caught.value)


def test_an_unknown_argument_is_python_s_error(encoder: Encoder) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'sentance'"):
        encoder.encode(TEXTS, sentance=True)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="takes inputs"):
        encoder.encode()
