from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from goldfold.golden import store
from goldfold.golden.errors import GoldenError
from goldfold.golden.store import Goldens


@pytest.fixture
def folder(toy: Goldens, tmp_path: Path) -> Path:
    store.save(toy, tmp_path / "toy")
    return tmp_path / "toy"


def edit(folder: Path, change: Callable[[dict], object]) -> None:
    record = json.loads((folder / "golden.json").read_text("utf-8"))
    change(record)
    (folder / "golden.json").write_text(json.dumps(record), "utf-8")


def test_round_trip(toy: Goldens, folder: Path) -> None:
    back = store.load(folder)
    assert np.array_equal(back.embeddings, toy.embeddings)
    assert replace(back, embeddings=toy.embeddings) == toy


def test_saving_is_deterministic_replaces_and_leaves_nothing_behind(
    toy: Goldens, folder: Path
) -> None:
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    (folder / "stray").write_text("from an older version")
    store.save(toy, folder)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    assert [p.name for p in folder.parent.iterdir()] == ["toy"]


def test_ids_of_a_case_share_a_line(folder: Path) -> None:
    lines = (folder / "golden.json").read_text("utf-8").splitlines()
    assert sum('"token_ids": "4 4 4 4"' in line for line in lines) == 1


def test_truncated_numbers_are_refused(folder: Path) -> None:
    path = folder / "embeddings.npy"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(GoldenError, match=r"embeddings\.npy is not the file"):
        store.load(folder)


def test_truncated_numbers_are_refused_even_with_their_digest(folder: Path) -> None:
    path = folder / "embeddings.npy"
    path.write_bytes(path.read_bytes()[:-40])
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    edit(folder, lambda record: record.update(embeddings_sha256=digest))
    with pytest.raises(GoldenError, match="malformed"):
        store.load(folder)


def test_one_flipped_bit_is_refused(folder: Path) -> None:
    path = folder / "embeddings.npy"
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    with pytest.raises(GoldenError, match="is not the file"):
        store.load(folder)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda r: r["cases"][1].update(id="text-0"), "'text-0' occurs twice"),
        (lambda r: r["cases"].pop(), r"not float32 \(8, 24\)"),
        (lambda r: r.update(dim=23), r"not float32 \(9, 23\)"),
        (lambda r: r.update(dim=True), "'dim' is bool, not int"),
        (lambda r: r.update(format=99), "format 99"),
        (lambda r: r.pop("model"), "malformed: 'model'"),
        (lambda r: r["cases"][0].update(token_ids="2 x"), "malformed"),
        (lambda r: r["cases"][0].update(token_ids=""), "has 0 tokens"),
        (lambda r: r.update(max_length=8), "'text-8' has 9 tokens, not 1 to 8"),
        (lambda r: r["provenance"]["digests"].update(extra="2" * 64), "does not follow"),
        (lambda r: r.update(cases=[]), "no golden texts"),
    ],
)
def test_faulty_records_are_refused(
    folder: Path, change: Callable[[dict], object], says: str
) -> None:
    edit(folder, change)
    with pytest.raises(GoldenError, match=says) as caught:
        store.load(folder)
    assert "\n" not in str(caught.value) and caught.value.code == 3


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_non_finite_goldens_cannot_be_saved(toy: Goldens, tmp_path: Path, value: float) -> None:
    toy.embeddings[3, 5] = value
    with pytest.raises(GoldenError, match="'text-3' is not finite"):
        store.save(toy, tmp_path / "bad")
    assert not list(tmp_path.iterdir())


def test_missing_and_unreadable_records(tmp_path: Path) -> None:
    with pytest.raises(GoldenError, match=r"cannot read golden\.json"):
        store.load(tmp_path)
    (tmp_path / "golden.json").write_text("{")
    with pytest.raises(GoldenError, match="is no JSON"):
        store.load(tmp_path)


def test_find_goes_by_fingerprint(toy: Goldens, folder: Path, tmp_path: Path) -> None:
    assert store.find(toy.fingerprint, (tmp_path / "absent", tmp_path)) == folder
    assert store.find("f" * 64, (tmp_path,)) is None


def test_within_keeps_rows_and_texts_together(toy: Goldens) -> None:
    short = toy.within(4)
    assert [case.id for case in short.cases] == ["text-0", "text-1", "text-2", "text-3"]
    assert np.array_equal(short.embeddings, toy.embeddings[:4])


@given(st.dictionaries(st.text("abc/._", min_size=1), st.text("0123456789abcdef", min_size=4)))
def test_fingerprint_ignores_order_and_sees_every_change(digests: dict[str, str]) -> None:
    turned = dict(reversed(digests.items()))
    assert store.fingerprint(turned) == store.fingerprint(digests)
    for path in digests:
        changed = {**digests, path: digests[path] + "0"}
        assert store.fingerprint(changed) != store.fingerprint(digests)


@pytest.mark.parametrize(
    "path",
    [
        "model.safetensors",
        "pytorch_model.bin",
        "config.json",
        "1_Pooling/config.json",
        "modules.json",
        "vocab.txt",
        "2_Dense/model.safetensors",
        "sentence_bert_config.json",
        "config_sentence_transformers.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "tokenizer.model",
        "merges.txt",
        "special_tokens_map.json",
        "added_tokens.json",
        "model.safetensors.index.json",
        "modeling_custom.py",
    ],
)
def test_defining_files(path: str) -> None:
    assert store.defines(path)


@pytest.mark.parametrize(
    "path",
    [
        "README.md",
        ".gitattributes",
        "notebook.ipynb",
        "onnx/model.onnx",
        "onnx/config.json",
        "data_config.json",
        "openvino/openvino_model.bin",
        "openvino_model.bin",
        ".cache/config.json",
        "training_args.bin",
        "train_script.py",
        "generation_config.json",
        "tf_model.h5",
    ],
)
def test_other_files(path: str) -> None:
    assert not store.defines(path)
