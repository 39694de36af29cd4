"""Static embedding models through the public export: ids without special tokens, the mean of the
rows, and every number from the source's own tensors."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from sentence_transformers import SentenceTransformer

from goldfold import export, load, verify
from goldfold.exporter.artifact.result import Result
from goldfold.exporter.errors import ModelError, TextError, UsageError
from goldfold.exporter.frontend.source import open_model
from goldfold.exporter.frontend.trace import trace
from goldfold.exporter.frontend.trace.static import UNDECLARED
from goldfold.golden import make as golden_make
from goldfold.golden import tables
from goldfold.golden.tokenizer_file import TokenizerFile
from goldfold.golden.witness import read
from tests import static

FEW = ("card-query", "english-titled", "german-query", "chinese", "code-python", "empty",
       "one-letter", "length-16", "length-257")  # fmt: skip
LENGTH = 300
TEXTS = ("A small engine needs clean oil.", "今朝は霧が深く", "🍞 🧀", "x", "to [CLS] and [SEP]")


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(golden_make, "make", partial(golden_make.make, only=FEW))


def exported(folder: Path, out: Path, *precisions: str, **how) -> list[Result]:
    how = {"max_length": LENGTH, "cache": False, **how}
    return export(folder, ["onnxruntime"], precisions or ("fp32",), out, **how)


def off(result: Result, folder: Path, texts=TEXTS) -> float:
    """The largest 1−cos against what sentence-transformers gives a user."""
    wanted = SentenceTransformer(str(folder), device="cpu").encode(list(texts)).astype(np.float64)
    found = load(result.path).embed(list(texts)).astype(np.float64)
    lengths = np.linalg.norm(wanted, axis=1) * np.linalg.norm(found, axis=1)
    return float((1 - (wanted * found).sum(1) / lengths).max())


MODELS: dict[str, Callable[[Path], Path]] = {
    "bare": static.build,
    "head": partial(static.build, head=("32 Tanh", "layer-norm", "normalize")),
    "mapping and weights": static.model2vec,
    "weights": partial(static.model2vec, mapped=False),
    "mapping": partial(static.model2vec, weighted=False),
    "bytes": partial(static.model2vec, kind=np.int8),
}


@pytest.mark.parametrize("name", MODELS)
def test_every_number_follows_from_the_source(name: str, tmp_path: Path) -> None:
    folder = MODELS[name](tmp_path / "model")
    (result,) = exported(folder, tmp_path / "out")
    assert result.passed and off(result, folder) < 1e-8
    derived = (result.path / "derivations.txt").read_text("utf-8")
    assert "assumed" not in derived
    for tensor in load_file(folder / "model.safetensors"):
        assert f'tensor("model.safetensors", "{tensor}")' in derived


def test_half_precision_and_integers(tmp_path: Path) -> None:
    folder = static.model2vec(tmp_path / "model")
    results = exported(folder, tmp_path / "out", "fp32", "fp16", "int8-weights")
    assert all(result.passed for result in results)
    quantized = (results[2].path / "derivations.txt").read_text("utf-8")
    assert '"transformer.embedding.weight.int8" int8' in quantized
    assert '"transformer.weights.int8"' not in quantized  # one number a token


def test_an_artifact_adds_no_special_tokens(tmp_path: Path) -> None:
    folder = static.build(tmp_path / "model", ("normalize",))
    (result,) = exported(folder, tmp_path / "out")
    assert json.loads((folder / "tokenizer.json").read_text("utf-8"))["post_processor"]
    written = json.loads((result.path / "tokenizer.json").read_text("utf-8"))
    assert written["post_processor"] is None
    assert written["truncation"]["max_length"] == LENGTH
    settings = json.loads((result.path / "tokenizer_config.json").read_text("utf-8"))
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert settings["pad_token"] == "[PAD]"
    assert verify(result.path, model=folder).passed


def test_a_tokenizer_that_adds_special_tokens_is_not_the_sources(tmp_path: Path) -> None:
    folder = static.build(tmp_path / "model", ("normalize",))
    (result,) = exported(folder, tmp_path / "out")
    witness = read(folder, longest=LENGTH)
    assert witness.differs(TokenizerFile((result.path / "tokenizer.json").read_bytes())) is None
    said = witness.differs(TokenizerFile((folder / "tokenizer.json").read_bytes()))
    assert said is not None and "other ids" in said


def test_a_table_in_float16_is_read_in_float32(tmp_path: Path) -> None:
    folder = static.build(tmp_path / "model", ("normalize",), dtype=torch.float16)
    (result,) = exported(folder, tmp_path / "out")
    assert result.passed
    model = SentenceTransformer(str(folder), device="cpu").float()
    found = load(result.path).embed(list(TEXTS))
    assert np.abs(found - model.encode(list(TEXTS))).max() < 1e-6


def test_texts_of_unknown_characters(tmp_path: Path) -> None:
    folder = static.build(tmp_path / "known", ("normalize",))
    (result,) = exported(folder, tmp_path / "a")
    row = load_file(folder / "model.safetensors")["embedding.weight"][static.UNKNOWN]
    assert load(result.path).embed(["霧が"])[0] == pytest.approx(row / np.linalg.norm(row))
    folder = static.build(tmp_path / "none", words=static.tokenizer(unknown=False))
    (result,) = exported(folder, tmp_path / "b")
    for text in ("霧が", ""):
        with pytest.raises(TextError, match="no tokens at all"):
            load(result.path).embed([text])


def test_a_text_of_zeros_is_left_out_of_the_goldens(tmp_path: Path) -> None:
    folder = static.build(tmp_path / "model", ("normalize",))
    held = load_file(folder / "model.safetensors")
    held["embedding.weight"][static.UNKNOWN] = 0
    save_file(held, folder / "model.safetensors")
    for result in exported(folder, tmp_path / "out", "fp32", "fp16"):
        assert result.passed and "chinese" not in {row.id for row in result.measurement.rows}
        assert not load(result.path).embed(["霧が"]).any()


def test_sixteen_threads(tmp_path: Path) -> None:
    folder = static.build(tmp_path / "model", ("normalize",))
    (result,) = exported(folder, tmp_path / "out")
    encoder = load(result.path)
    texts = [f"{'a small engine ' * (n % 7)}{n}" for n in range(160)]
    alone = [encoder.embed([text]) for text in texts]
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda text: encoder.embed([text]), texts))
    assert all(np.array_equal(one, two) for one, two in zip(alone, found, strict=True))


def test_the_length_is_the_tokenizers_own_if_it_has_one(tmp_path: Path) -> None:
    words = static.tokenizer()
    words.enable_truncation(20, direction="left")
    folder = static.build(tmp_path / "model", ("normalize",), words=words)
    program = trace(open_model(folder))
    assert (program.contract.max_length, program.contract.truncation_side) == (20, "left")
    assert program.lasting and not program.notes
    with pytest.raises(UsageError, match="1 … 20"):
        exported(folder, tmp_path / "out")
    only = [one for one in FEW if not one.startswith("length-257")]
    golden_make.make.keywords["only"] = only  # type: ignore[attr-defined]
    (result,) = exported(folder, tmp_path / "out", max_length=None)
    assert off(result, folder, ["one two three four five " * 30]) < 1e-8


def test_a_length_where_the_model_names_none(tmp_path: Path) -> None:
    assert tables.UNDECLARED == UNDECLARED
    folder = static.build(tmp_path / "model", ("normalize",))
    for asked, length in ((None, 1 << 15), (64, 1 << 15), (40_000, 40_000)):
        program = trace(open_model(folder), max_length=asked)
        assert program.contract.max_length == length
        assert "cuts no text" in program.notes[-1] and not program.lasting


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"further": np.zeros(3, np.float32)}, "'further', which sentence-transformers does not"),
        ({"mapping": np.full(191, -1)}, "a row below 0"),
        ({"weights": np.ones(1)}, r"'weights' is \[1\], and there are 191 tokens"),
    ],
)
def test_tensors_that_do_not_fit(change: dict, says: str, tmp_path: Path) -> None:
    folder = static.model2vec(tmp_path / "model")
    held = load_file(folder / "model.safetensors")
    save_file({**held, **change}, folder / "model.safetensors")
    with pytest.raises(ModelError, match=says):
        trace(open_model(folder))
    if "further" in change:
        assert trace(open_model(folder, allow_incomplete=True)).contract.dim == static.DIM


def test_a_folder_of_its_own(tmp_path: Path) -> None:
    folder, inner = static.build(tmp_path / "model", ("normalize",)), "0_StaticEmbedding"
    (folder / inner).mkdir()
    for name in ("model.safetensors", "tokenizer.json"):
        shutil.move(folder / name, folder / inner / name)
    listing = json.loads((folder / "modules.json").read_text("utf-8"))
    listing[0]["path"] = inner
    (folder / "modules.json").write_text(json.dumps(listing), "utf-8")
    (result,) = exported(folder, tmp_path / "out")
    assert result.passed and off(result, folder) < 1e-8
