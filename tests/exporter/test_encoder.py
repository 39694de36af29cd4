"""What comes out of `load(folder)`: the same as sentence-transformers, in any order and company.

An artifact and its reference both compute in f32, and each component of a unit vector that went
through some hundred roundings of 2^-24 in either is off by far less than `CLOSE`; 1-cos is held to
the fp32 gate's 1e-6.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from goldfold import load
from goldfold.exporter.artifact.bundle import open_bundle
from goldfold.exporter.artifact.encoder import Encoder, open_encoder
from goldfold.exporter.errors import ArtifactError, UsageError
from goldfold.exporter.evaluate.batches import pad
from tests import models

CLOSE = 2e-5
TEXTS = [
    "",
    " ",
    "A small engine needs clean oil, dry air and patience.",
    "河边的柳树比去年长高了许多。",
    "  spaces around, \t tabs and\nlines  ",
    "Bread 🍞",
    "the ships that passed before dawn " * 60,
    "x",
    "The lighthouse keeper counted the ships that passed before dawn. " * 6,
]


@pytest.fixture(scope="session")
def reference(tiny: Path) -> SentenceTransformer:
    return SentenceTransformer(str(tiny), device="cpu")


@pytest.fixture(scope="module", params=["onnxruntime", "openvino"])
def encoder(request: pytest.FixtureRequest, artifacts: dict[str, Path]) -> Encoder:
    return load(artifacts[request.param], threads=1)


def alone(reference: SentenceTransformer, texts: list[str], **options) -> np.ndarray:
    """The reference's embeddings of texts that never met padding."""
    return reference.encode(texts, batch_size=1, show_progress_bar=False, **options)


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """The largest 1-cos between rows, in f64."""
    a, b = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (a.astype("f8"), b.astype("f8")))
    return float((0.5 * ((a - b) ** 2).sum(-1)).max())


def ids_of(length: int, seed: int = 3) -> list[int]:
    """A text of `length` tokens, specials included."""
    middle = np.random.default_rng(seed).integers(4, models.VOCAB_SIZE, length - 2)
    return [2, *middle.tolist(), 1]


# --- embed


@pytest.mark.parametrize("prompt", [None, "", "query", "document", "STS"])
def test_embed_is_what_sentence_transformers_says(
    encoder: Encoder, reference: SentenceTransformer, prompt: str | None
) -> None:
    expected = alone(reference, TEXTS, prompt_name=prompt or None)
    found = encoder.embed(TEXTS, prompt)
    assert found.shape == (len(TEXTS), 48)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=CLOSE)
    assert distance(found, expected) <= 1e-6


def test_prompts_are_told_apart(encoder: Encoder) -> None:
    text = TEXTS[2]
    assert distance(encoder.embed(text, "query"), encoder.embed(text)) > 1e-3
    assert encoder.prefix("query") == models.PROMPTS["query"]


def test_default_prompt_is_added_unasked_and_can_be_left_out(
    artifacts: dict[str, Path], tiny: Path
) -> None:
    opened = open_bundle(artifacts["onnxruntime"])
    contract = opened.manifest.contract.with_(default_prompt_name="document")
    manifest = opened.manifest.with_(contract=contract)
    encoder = open_encoder(type(opened)(opened.path, manifest, opened.verdict))
    reference = SentenceTransformer(str(tiny), device="cpu", default_prompt_name="document")
    texts = TEXTS[2:4]
    for prompt, given in ((None, {}), ("", {"prompt": ""}), ("query", {"prompt_name": "query"})):
        expected = alone(reference, texts, **given)
        np.testing.assert_allclose(encoder.embed(texts, prompt), expected, rtol=0, atol=CLOSE)


def test_long_texts_are_truncated(encoder: Encoder, reference: SentenceTransformer) -> None:
    text = "counted ships " * 900
    (ids,) = encoder.tokenize([text])
    assert len(ids) == models.MAX_LENGTH
    assert ids[-1] == 1  # the end stays
    expected = alone(reference, [text])
    assert distance(encoder.embed([text]), expected) <= 1e-6
    assert (
        distance(encoder.embed([text], "query"), alone(reference, [text], prompt_name="query"))
        <= 1e-6
    )


def test_rows_keep_the_order_of_the_texts(encoder: Encoder) -> None:
    texts = ["ship " * n for n in (1, 90, 2, 40, 3, 120, 4)]
    together = encoder.embed(texts, batch_size=3)
    for row, text in zip(together, texts, strict=True):
        assert distance(encoder.embed(text), row) <= 1e-6


def test_batch_size_changes_nothing(encoder: Encoder) -> None:
    expected = encoder.embed(TEXTS, batch_size=1)
    for size in (2, 4, 100):
        np.testing.assert_allclose(
            encoder.embed(TEXTS, batch_size=size), expected, rtol=0, atol=CLOSE
        )


def test_one_text_no_text_and_any_sequence(encoder: Encoder) -> None:
    assert encoder.embed("one text").shape == (1, 48)
    nothing = encoder.embed([])
    assert nothing.shape == (0, 48)
    assert nothing.dtype == np.float32
    assert encoder.embed([], dims=8).shape == (0, 8)
    np.testing.assert_array_equal(encoder.embed(("a", "b")), encoder.embed(["a", "b"]))


@pytest.mark.parametrize("dims", [1, 16, 47, 48])
def test_dims_are_cut_and_normalised_again(
    encoder: Encoder, reference: SentenceTransformer, dims: int
) -> None:
    expected = alone(reference, TEXTS[2:5], truncate_dim=dims, normalize_embeddings=True)
    found = encoder.embed(TEXTS[2:5], dims=dims)
    assert found.shape == (3, dims)
    assert found.flags.c_contiguous
    np.testing.assert_allclose(found, expected, rtol=0, atol=CLOSE * (48 / dims) ** 0.5)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "culprit"),
    [
        ({"prompt": "nonsense"}, r"no prompt 'nonsense'.*Clustering, STS, document, query"),
        ({"dims": 0}, "dims is 0.*1 … 48"),
        ({"dims": 49}, "dims is 49"),
        ({"dims": 16.0}, "dims is 16.0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"batch_size": 2.5}, "batch_size is 2.5"),
        ({"batch_size": True}, "batch_size is True"),
    ],
)
def test_embed_refuses(encoder: Encoder, options: dict, culprit: str) -> None:
    with pytest.raises(UsageError, match=culprit):
        encoder.embed(["text"], **options)


@pytest.mark.parametrize(
    ("texts", "culprit"),
    [
        (None, "not NoneType"),
        (7, "not int"),
        (b"bytes", "not bytes"),
        ({"a": "b"}, "not dict"),
        (["fine", None], "text 1 is NoneType"),
        (["fine", "fine", 3.5], "text 2 is float"),
        ([["nested"]], "text 0 is list"),
        (["fine", "half \ud83d here"], "text 1 holds half a character.* at 5"),
    ],
)  # fmt: skip
def test_embed_refuses_what_is_no_text(encoder: Encoder, texts: Any, culprit: str) -> None:
    with pytest.raises(UsageError, match=culprit) as caught:
        encoder.embed(texts)
    assert len(str(caught.value).splitlines()) == 1


def test_texts_that_only_look_hostile_are_right(encoder: Encoder) -> None:
    """Nothing in a text is an instruction: specials spelt out, controls, one endless word."""
    texts = ["<pad>", "<eos><bos>", "\0", "\x1b[2J", "a" * 5000, "\u202e", "\U0010ffff"]
    found = encoder.embed(texts)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=0, atol=1e-5)
    for row, text in zip(found, texts, strict=True):
        assert distance(encoder.embed(text), row[None]) <= 1e-6


@pytest.mark.parametrize("count", [0, -1, 1.5, True, 4097, 2**31, 2**70])
@pytest.mark.parametrize("what", ["threads", "streams"])
def test_load_refuses_counts_that_are_none(
    artifacts: dict[str, Path], what: str, count: Any
) -> None:
    how: dict[str, Any] = {what: count}
    with pytest.raises(UsageError, match=f"{what} is {count}; .* from 1 to 4096"):
        load(artifacts["openvino"], **how)
    with pytest.raises(UsageError, match=f"{what} is {count}"):
        open_encoder(open_bundle(artifacts["onnxruntime"], check_files=False), **how)


# --- run


def test_company_changes_nothing(encoder: Encoder) -> None:
    """A text beside one beyond its window pads rows that see nothing but padding: NaN elsewhere."""
    texts = [ids_of(length, seed=length) for length in (4, 300, 590, 2)]
    together = encoder.run(*pad(texts, encoder.contract.pad_id))
    assert np.isfinite(together).all()
    for row, text in zip(together, texts, strict=True):
        single = encoder.run(*pad([text], encoder.contract.pad_id))
        assert distance(single, row[None]) <= 1e-6


def test_padding_ids_do_not_matter(encoder: Encoder) -> None:
    ids, mask = pad([ids_of(5), ids_of(40)], 0)
    others = np.where(mask == 1, ids, 77)
    np.testing.assert_allclose(
        encoder.run(ids, mask), encoder.run(others, mask), rtol=0, atol=CLOSE
    )


@pytest.mark.parametrize("dtype", [np.int32, np.uint16, np.int64])
def test_any_integers_do(encoder: Encoder, dtype: type) -> None:
    ids, mask = pad([ids_of(5), ids_of(9)], 0)
    expected = encoder.run(ids, mask)
    for given in (mask.astype(dtype), mask.astype(bool)):
        np.testing.assert_array_equal(encoder.run(ids.astype(dtype), given), expected)
    np.testing.assert_array_equal(encoder.run(ids.tolist(), mask.tolist()), expected)  # type: ignore[arg-type]
    every_other = np.repeat(ids, 2, axis=1)[:, ::2]
    np.testing.assert_array_equal(encoder.run(every_other, mask), expected)


ONES = np.ones((2, 4), dtype=np.int64)


@pytest.mark.parametrize(
    ("ids", "mask", "culprit"),
    [
        (ONES, ONES[:1], r"\(2, 4\).*\(1, 4\)"),
        (ONES[0], ONES[0], r"\(4,\)"),
        (ONES[:0], ONES[:0], r"\(0, 4\)"),
        (ONES[:, :0], ONES[:, :0], r"\(2, 0\)"),
        (ONES.astype(float), ONES, "float64.*integers"),
        (ONES, ONES.astype(np.float32), "float32.*integers"),
        (ONES.astype(object), ONES, "object.*integers"),
        (ONES * models.VOCAB_SIZE, ONES, "0 … 399"),
        (-ONES, ONES, "0 … 399"),
        (ONES.astype(np.uint64) * 2**63, ONES, "0 … 399"),
        (ONES, ONES * 2, "ones"),
        (ONES, -ONES, "ones"),
        (ONES, ONES * [[1], [0]], "ones, at least one"),
        (ONES, ONES * [0, 1, 1, 1], "ones"),
        (ONES, ONES * [1, 0, 1, 0], "then zeros"),
        (np.ones((1, 601), int), np.ones((1, 601), int), "601 tokens.*takes 600"),
        ([[1, 2], [3]], [[1, 1], [1]], "same length"),
        (ONES * 2**62, ONES, "0 … 399"),
        (ONES * -(2**63), ONES, "0 … 399"),
        ([[1, 2**70]], [[1, 1]], "object.*integers"),
        (ONES * np.nan, ONES, "float64.*integers"),
        (ONES, ONES * np.nan, "float64.*integers"),
        (ONES.astype(bool), ONES, "bool.*integers"),
        ([["one"]], [[1]], "integers"),
        (None, None, "batch, tokens"),
        (7, 1, "batch, tokens"),
        (ONES[None], ONES[None], r"\(1, 2, 4\)"),
        (np.zeros((0, 0), int), np.zeros((0, 0), int), r"\(0, 0\)"),
    ],
)  # fmt: skip
def test_run_refuses(encoder: Encoder, ids: np.ndarray, mask: np.ndarray, culprit: str) -> None:
    with pytest.raises(UsageError, match=culprit) as caught:
        encoder.run(ids, mask)
    assert len(str(caught.value).splitlines()) == 1


def test_longest_and_shortest_run(encoder: Encoder) -> None:
    for length in (1, models.MAX_LENGTH):
        ids = np.full((1, length), 9)
        assert np.isfinite(encoder.run(ids, np.ones_like(ids))).all()


def test_results_are_not_overwritten_by_the_next_call(encoder: Encoder) -> None:
    ids, mask = pad([ids_of(5)], 0)
    first = encoder.run(ids, mask)
    kept = first.copy()
    encoder.run(*pad([ids_of(5, seed=8)], 0))
    np.testing.assert_array_equal(first, kept)


# --- the rest


def test_damaged_tokenizer_is_one_line(artifacts: dict[str, Path], tmp_path: Path) -> None:
    opened = open_bundle(artifacts["onnxruntime"])
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ArtifactError, match=r"tokenizer\.json cannot be read") as caught:
        Encoder(type(opened)(tmp_path, opened.manifest, None), run=None)
    assert len(str(caught.value).splitlines()) == 1


def test_load_takes_a_string_and_can_skip_digests(artifacts: dict[str, Path]) -> None:
    encoder = load(str(artifacts["onnxruntime"]), threads=1, check=False)
    assert encoder.contract.dim == 48
