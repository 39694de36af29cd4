"""`--scripts` and `--vocabulary`: a text that keeps its tokens keeps its bits; others are reported,
and the proofs hold."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from goldfold import export, load, verify
from goldfold.exporter.driver import cutting
from goldfold.exporter.errors import GoldfoldError, TextError, UsageError
from goldfold.golden import make as golden_make
from goldfold.golden import store
from tests import models
from tests.conftest import GOLDEN_TEXTS
from tests.exporter.quantize.few import few
from tests.torture.tortures.damage import write_manifest

INSIDE = [
    "Glaciers slide and deform.",
    "größer, naïve ½",
    "a\u0301\u0323 👩\u200d🔬  x\t\n",
    "<bos>",
]
OUTSIDE = ["Мы нашли старую карту", "河边的柳树"]
PACKED = """
gains = "keep"
[weights]
bits = 8
[table]
bits = 6
block = 16
"""
NIBBLES = PACKED.replace("bits = 6", "bits = 4")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    few(monkeypatch)
    monkeypatch.setattr(golden_make, "make", partial(golden_make.make, only=GOLDEN_TEXTS))
    monkeypatch.setattr(cutting, "DRAWN", 5_000)


@pytest.fixture(scope="module")
def cut(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tiny EmbeddingGemma, cut to Latin letters, for both targets in f32."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(golden_make, "make", partial(golden_make.make, only=GOLDEN_TEXTS))
        patch.setattr(cutting, "DRAWN", 5_000)
        out = tmp_path_factory.mktemp("cut")
        results = export(tiny, ["onnxruntime", "openvino"], out=out, scripts=["latin"])
    assert all(one.passed for one in results)
    return {one.bundle.manifest.target: one.path for one in results}


def bits(rows: np.ndarray) -> list[bytes]:
    return [row.tobytes() for row in rows]


def alone(folder: Path, texts: list[str]) -> list[bytes]:
    encoder = load(folder)
    return [encoder.embed(text).tobytes() for text in texts]


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_texts_of_the_set_keep_their_bits(
    target: str, cut: dict[str, Path], artifacts: dict[str, Path]
) -> None:
    assert alone(cut[target], INSIDE) == alone(artifacts[target], INSIDE)
    assert alone(cut[target], OUTSIDE) != alone(artifacts[target], OUTSIDE)


def test_table_and_tokenizer_are_smaller_and_the_contract_says_so(
    cut: dict[str, Path], artifacts: dict[str, Path]
) -> None:
    small, whole = load(cut["onnxruntime"]), load(artifacts["onnxruntime"])
    said = small.contract.cut
    assert said is not None and said.scripts == ("latin",)
    assert small.contract.vocab_size == said.kept < said.of == whole.contract.vocab_size
    table = small.bundle.path / "model.onnx.data"
    lost = (said.of - said.kept) * 48 * 4
    assert (whole.bundle.path / "model.onnx.data").stat().st_size - table.stat().st_size >= lost
    names = {report.name: report.applied for report in small.bundle.manifest.passes}
    assert names["gather-kept-rows"] == 1
    assert "vocabulary" not in (small.bundle.path / "derivations.txt").read_text().split("@cut")[0]


def test_goldens_outside_are_reported_and_never_judged(cut: dict[str, Path]) -> None:
    opened = load(cut["onnxruntime"]).bundle
    judged = {case.id for case in store.load(opened.path / "golden").cases}
    beside = {case.id for case in store.load(opened.path / "golden" / "outside").cases}
    assert {"russian", "chinese"} <= beside and not beside & judged
    verdict = opened.verdict
    assert verdict is not None and verdict.outside is not None and verdict.passed
    assert verdict.outside.rows.keys() == beside and verdict.outside.worst > 1e-3
    assert {row.id for row in verdict.measurement.rows} == judged


def test_verify_holds_a_cut_artifact_against_its_source(
    cut: dict[str, Path], tiny: Path, tmp_path: Path
) -> None:
    for target in ("onnxruntime", "openvino"):
        copy = Path(shutil.copytree(cut[target], tmp_path / cut[target].name))
        for model in (None, tiny):
            result = verify(copy, model=model)
            assert result.passed, result.verdict.sentences
        constants = result.bundle.verdict and result.bundle.verdict.constants
        assert constants and constants.source and not constants.faults


def test_rows_that_are_not_the_tokens_own_are_found(cut: dict[str, Path], tmp_path: Path) -> None:
    """Two rows of the table change places, and every digest is right again."""
    import onnx
    from onnx import numpy_helper

    copy = Path(shutil.copytree(cut["onnxruntime"], tmp_path / "onnxruntime-fp32"))
    model = onnx.load(copy / "model.onnx", load_external_data=False)
    (table,) = (one for one in model.graph.initializer if one.name.endswith("weight.kept"))
    told = {entry.key: entry.value for entry in table.external_data}
    raw = bytearray((copy / "model.onnx.data").read_bytes())
    start, row = int(told["offset"]), 4 * table.dims[1]
    one, other = start + 300 * row, start + 301 * row
    raw[one : one + row], raw[other : other + row] = raw[other : other + row], raw[one : one + row]
    (copy / "model.onnx.data").write_bytes(raw)
    assert numpy_helper is not None
    from tests.torture.tortures.damage import reseal

    reseal(copy)
    result = verify(copy)
    assert "constants" in {reason.kind for reason in result.verdict.reasons}


def test_contract_of_another_cut_is_found(cut: dict[str, Path], tiny: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(cut["onnxruntime"], tmp_path / "onnxruntime-fp32"))
    record = json.loads((copy / "manifest.json").read_bytes())
    record["contract"]["vocabulary"]["digest"] = "0" * 64
    write_manifest(copy, record)
    for model in (None, tiny):
        result = verify(copy, model=model)
        assert any("vocabulary" in said for said in result.verdict.sentences)


def test_sidecars_name_the_new_ids(cut: dict[str, Path]) -> None:
    folder = cut["openvino"]
    tokens = load(folder)
    known = {tokens.tokenize(["<unk>"])[0][1]: "<unk>"}
    settings = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    for id_, one in settings.get("added_tokens_decoder", {}).items():
        assert known.get(int(id_), one["content"]) == one["content"]
    config = json.loads((folder / "config.json").read_text("utf-8"))
    assert config["vocab_size"] == tokens.contract.vocab_size
    assert config["pad_token_id"] == tokens.contract.pad_id


# --- precisions and models


def test_integers_keep_their_bits(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "packed.toml").write_text(PACKED)
    (tmp_path / "nibbles.toml").write_text(NIBBLES)
    asked = ["int8-weights", *(str(tmp_path / f"{name}.toml") for name in ("packed", "nibbles"))]
    how = {"targets": ["onnxruntime"], "precisions": asked, "locate": False}
    whole = export(tiny, out=tmp_path / "whole", **how)
    small = export(tiny, out=tmp_path / "cut", scripts=["latin"], **how)
    for one, other in zip(whole, small, strict=True):
        name = one.bundle.name
        judged = {reason.kind for reason in other.verdict.reasons}
        assert not judged & {"constants", "tokenizer", "companion", "tokens", "contract"}, (
            other.verdict.sentences
        )
        verdict = other.bundle.verdict
        assert verdict is not None and verdict.constants and not verdict.constants.faults
        if one.passed and other.passed:
            assert alone(one.path, INSIDE) == alone(other.path, INSIDE), name
    assert any(one.passed and other.passed for one, other in zip(whole, small, strict=True))


@pytest.mark.parametrize("kind", ["roberta", "bert"])
def test_families_keep_their_bits(kind: str, tmp_path: Path) -> None:
    model = models.build(kind, tmp_path / kind)
    (whole,) = export(model, ["onnxruntime"], out=tmp_path / "whole")
    (small,) = export(model, ["onnxruntime"], out=tmp_path / "cut", scripts=["latin"])
    assert whole.passed and small.passed, small.verdict.sentences
    assert alone(whole.path, INSIDE) == alone(small.path, INSIDE)
    # The list of kept ids has gone: padding is compared by its new id.
    assert 'vocabulary.kept"' not in (small.path / "derivations.txt").read_text()


def test_heads_and_lengths_go_with_a_cut(tiny: Path, tmp_path: Path) -> None:
    (small,) = export(
        tiny, ["onnxruntime"], out=tmp_path, dims=(48, 16), max_length=600, scripts=["latin"]
    )
    assert small.passed
    assert load(small.path).embed(INSIDE, dims=16).shape == (len(INSIDE), 16)


def test_drift_is_measured_before_and_after_the_cut(tiny: Path, tmp_path: Path) -> None:
    (small,) = export(tiny, ["onnxruntime"], out=tmp_path, scripts=["latin"], verify_each=True)
    looks = small.bundle.verdict and small.bundle.verdict.drift
    assert looks and "gather-kept-rows" in {look.after for look in looks}
    assert max(look.worst for look in looks) < 1e-8


def test_pass_that_is_skipped_leaves_the_list_of_ids(tiny: Path, tmp_path: Path) -> None:
    from goldfold.exporter.passes.pipeline import Options

    options = Options(frozenset({"gather-kept-rows"}))
    (small,) = export(tiny, ["onnxruntime"], out=tmp_path, scripts=["latin"], options=options)
    assert small.passed
    assert "vocabulary.kept" in (small.path / "derivations.txt").read_text()


# --- a corpus


def test_vocabulary_of_a_corpus(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from goldfold.exporter.frontend import vocabulary_corpus

    monkeypatch.setattr(vocabulary_corpus, "LEAST", 50)
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n".join(f"{line} {n}" for n in range(4) for line in models.CORPUS[:7]))
    (small,) = export(tiny, ["onnxruntime"], out=tmp_path / "out", vocabulary=corpus)
    assert small.passed, small.verdict.sentences
    encoder = load(small.path)
    said = encoder.contract.cut
    assert said is not None and said.corpus and not said.characters and said.kept < said.of
    assert any("held-out lines" in note for note in small.bundle.manifest.notes)
    assert any(case.kind == "further" for case in store.load(small.path / "golden").cases)
    assert verify(small.path, model=tiny).passed
    with pytest.raises(UsageError, match="not cut to scripts"):
        encoder.embed("one", strict_scripts=True)


# --- what is refused


def test_strict_scripts_refuse_texts_outside(
    cut: dict[str, Path], artifacts: dict[str, Path]
) -> None:
    encoder = load(cut["onnxruntime"])
    assert bits(encoder.embed(INSIDE, strict_scripts=True)) == bits(encoder.embed(INSIDE))
    with pytest.raises(TextError, match=r"U\+041C, which is outside of the scripts latin"):
        encoder.embed([*INSIDE, *OUTSIDE], strict_scripts=True)
    with pytest.warns(UserWarning, match="outside of the scripts"):
        rows = encoder.embed([*INSIDE, *OUTSIDE], strict_scripts=True, errors="nan")
    lost = [bool(np.isnan(row).all()) for row in rows]
    assert lost == [False] * len(INSIDE) + [True] * len(OUTSIDE)
    with pytest.raises(UsageError, match="not cut to scripts"):
        load(artifacts["onnxruntime"]).embed("one", strict_scripts=True)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"scripts": ["latni"]}, "did you mean latin"),
        ({"scripts": ["latin"], "vocabulary": "corpus.txt"}, "give one of them"),
        ({"scripts": ["latin"], "unseen": 1000}, "--unseen draws texts for a whole vocabulary"),
        ({"vocabulary": "none.txt"}, "cannot be read"),
    ],
)
def test_request_that_does_not_work_is_refused(
    asked: dict, said: str, tiny: Path, tmp_path: Path
) -> None:
    with pytest.raises(GoldfoldError, match=said):
        export(tiny, ["onnxruntime"], out=tmp_path / "out", **asked)
    assert not list(tmp_path.glob("out/*/manifest.json"))


def test_sparse_weights_cannot_be_cut(tmp_path: Path) -> None:
    from tests import sparse_models

    model = sparse_models.build("bert", tmp_path / "splade")
    with pytest.raises(UsageError, match="a weight for each token of its vocabulary"):
        export(model, ["onnxruntime"], out=tmp_path / "out", scripts=["latin"])
