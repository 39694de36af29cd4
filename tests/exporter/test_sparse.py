"""Sparse encoders, exported: artifacts agree with SparseEncoder on texts that no golden has."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from goldfold import export, load
from goldfold.exporter.cli import app
from goldfold.exporter.errors import UsageError
from tests import sparse_models
from tests.loaders import without_goldfold

TEXTS = (
    "The ferry crosses the strait twice a day, and whoever misses it waits until evening.",
    "zwei Brücken",
    "",
    "他们在河边等船 🍞",
    "a " * 90,
)


def exported(folder: Path, out: Path, **asked: Any) -> Any:
    (result,) = export(folder, ["onnxruntime"], out=out, cache=False, locate=False, **asked)
    assert result.passed, result.verdict.sentences
    return load(result.bundle.path)


@pytest.fixture(scope="module")
def splade(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    scratch = tmp_path_factory.mktemp("splade")
    folder = sparse_models.build("bert", scratch / "tiny", form="hub")
    return folder, exported(folder, scratch / "out")


@pytest.fixture(scope="module")
def routed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    scratch = tmp_path_factory.mktemp("routed")
    folder = sparse_models.routed(scratch / "tiny", scratch / "masked")
    names = ("query", "document")
    return folder, {
        name: exported(folder, scratch / name, route=name, max_length=32) for name in names
    }


def reference(folder: Path, call: str = "encode", length: int | None = None) -> np.ndarray:
    from sentence_transformers import SparseEncoder

    model = SparseEncoder(str(folder), device="cpu")
    if length is not None:
        model.max_seq_length = length
        for modules in model[0].sub_modules.values():
            modules[0].tokenizer.model_max_length = length
    rows = getattr(model, call)(list(TEXTS), convert_to_sparse_tensor=False)
    return rows.numpy()


def agree(found: np.ndarray, wanted: np.ndarray) -> None:
    assert found.shape == wanted.shape and found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, atol=5e-5, rtol=1e-5)
    assert not ((found == 0) & (wanted > 5e-5)).any() and not ((wanted == 0) & (found > 5e-5)).any()


def test_splade_of_an_older_version(splade) -> None:
    folder, encoder = splade
    contract = encoder.contract
    assert (contract.task, contract.route, contract.similarity) == ("sparse", "", "dot")
    assert (contract.dim, contract.vocab_size, contract.normalized) == (400, 400, False)
    agree(encoder.encode(TEXTS), reference(folder))
    agree(encoder.encode_query(TEXTS, batch_size=1), reference(folder, "encode_query"))
    assert encoder.encode(TEXTS[0]).shape == (400,)
    plain, few = without_goldfold(
        encoder.bundle.path,
        [("embed", [TEXTS], {}), ("embed_query", [TEXTS], {"top_k": 5, "batch_size": 2})],
    )
    for found, wanted in (
        (plain, encoder.embed(TEXTS)),
        (few, encoder.embed_query(TEXTS, top_k=5, batch_size=2)),
    ):
        for (at, values), (theirs, owed) in zip(found, wanted, strict=True):
            assert np.array_equal(at, theirs) and np.array_equal(values, owed)


def test_sum_of_two_logarithms(tmp_path: Path) -> None:
    folder = sparse_models.build(
        "distilbert", tmp_path / "model", strategy="sum", activation="log1p_relu"
    )
    agree(exported(folder, tmp_path / "out").encode(TEXTS), reference(folder))


def test_routes_are_artifacts_of_their_own(routed) -> None:
    folder, encoders = routed
    for name, encoder in encoders.items():
        assert encoder.contract.route == name and encoder.contract.model == f"tiny-{name}"
        found = getattr(encoder, f"encode_{name}")(TEXTS)
        agree(found, reference(folder, f"encode_{name}", length=32))
        agree(encoder.encode(TEXTS), found)
        other = "document" if name == "query" else "query"
        with pytest.raises(UsageError, match=f"the {name} route of its model.*--route {other}"):
            getattr(encoder, f"encode_{other}")(TEXTS)
    assert not encoders["query"].encode([""]).any()
    made = encoders["query"].encode_query(TEXTS), encoders["document"].encode_document(TEXTS)
    np.testing.assert_allclose(encoders["query"].similarity(*made), made[0] @ made[1].T, rtol=1e-6)


def test_a_route_must_be_named(routed, splade, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="routes query, document: name one with --route"):
        export(routed[0], out=tmp_path / "out")
    with pytest.raises(UsageError, match="--route answer: tiny has the routes query, document"):
        export(routed[0], out=tmp_path / "out", route="answer")
    with pytest.raises(UsageError, match="--route query: tiny has no routes"):
        export(splade[0], out=tmp_path / "out", route="query")
    with pytest.raises(UsageError, match="--dims: the model gives no embedding"):
        export(splade[0], ["onnxruntime"], out=tmp_path / "out", dims=(64,))


def test_weights_of_a_text(splade) -> None:
    _, encoder = splade
    rows = encoder.encode(TEXTS)
    for row, (indices, values) in zip(rows, encoder.embed(TEXTS), strict=True):
        assert indices.dtype == np.int32 and values.dtype == np.float32
        assert np.array_equal(np.sort(indices), np.flatnonzero(row))
        assert np.array_equal(row[indices], values) and (np.diff(values) <= 0).all()
    (few,) = encoder.embed(TEXTS[0], top_k=3)
    assert [len(one) for one in few] == [3, 3] and few[1][0] == rows[0].max()
    (high,) = encoder.embed(TEXTS[0], threshold=float(few[1][2]))
    assert np.array_equal(high[1], few[1][:2])
    kept = encoder.encode(TEXTS, max_active_dims=5)
    assert ((kept > 0).sum(1) == 5).all() and (kept[kept > 0] == rows[kept > 0]).all()


def test_decode_as_sentence_transformers_does(splade) -> None:
    import torch
    from sentence_transformers import SparseEncoder

    folder, encoder = splade
    rows = encoder.encode(TEXTS)
    wanted = SparseEncoder(str(folder), device="cpu").decode(torch.from_numpy(rows), top_k=7)
    assert encoder.decode(rows, top_k=7) == wanted
    assert encoder.decode(rows[0], top_k=7) == wanted[0]
    assert encoder.tokens(encoder.embed(TEXTS[1], top_k=7)[0]) == wanted[1]


def test_a_stream_is_what_embed_gives(splade) -> None:
    _, encoder = splade
    parts = list(encoder.embed_stream(iter(TEXTS), window=2, top_k=5))
    assert all(len(part) <= 2 for part in parts)
    found = [weights for part in parts for weights in part]
    for (at, values), (ours, wanted) in zip(found, encoder.embed(TEXTS, 5), strict=True):
        assert np.abs(values - wanted).max(initial=0) < 1e-5 and len(at) == len(ours)
    with pytest.raises(UsageError, match=f"text {len(TEXTS)} is int"):
        list(encoder.embed_stream([*TEXTS, 3], window=2))
    with pytest.raises(UsageError, match="top_k is 0"):
        encoder.embed_stream(TEXTS, top_k=0)
    with pytest.raises(UsageError, match="which no Batcher does"):
        encoder.batcher.embed(TEXTS)


@pytest.fixture(scope="module")
def csr(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    scratch = tmp_path_factory.mktemp("csr")
    folder = sparse_models.csr("bert", scratch / "tiny", scratch / "dense", normalize=True)
    said = folder / "config_sentence_transformers.json"  # as users choose fewer units than k
    said.write_text(said.read_text().replace('"max_active_dims": 16', '"max_active_dims": 12'))
    return folder, exported(folder, scratch / "out")


def test_units_of_an_autoencoder(csr, capsys: pytest.CaptureFixture[str]) -> None:
    folder, encoder = csr
    contract = encoder.contract
    assert (contract.task, contract.units, contract.dim) == ("sparse", 12, 256)
    rows = encoder.encode(TEXTS)
    agree(rows, reference(folder))
    agree(encoder.encode_query(TEXTS), reference(folder, "encode_query"))
    assert ((rows > 0).sum(1) == 12).all()
    for row, (indices, values) in zip(rows, encoder.embed(TEXTS), strict=True):
        assert len(indices) == 12 and np.array_equal(row[indices], values)
    few = encoder.encode(TEXTS, max_active_dims=5)
    assert ((few > 0).sum(1) == 5).all() and (few[few > 0] == rows[few > 0]).all()
    for wrong in (lambda: encoder.encode("a", max_active_dims=13), lambda: encoder.embed("a", 13)):
        with pytest.raises(UsageError, match="top_k is 13; tiny has 1 … 12 weights of a text"):
            wrong()
    with pytest.raises(UsageError, match=r"decode: tiny weighs units .* which stand for no tokens"):
        encoder.decode(rows)
    asked = ["embed", str(encoder.bundle.path), TEXTS[0], "--top-k", "2"]
    assert app.guarded(partial(app.app, args=asked), False) == 0
    ((at, values),) = encoder.embed(TEXTS[0], top_k=2)
    said = " ".join(f"{i}:{v:.7g}" for i, v in zip(at, values.tolist(), strict=True))
    assert capsys.readouterr().out == f"{said}\n"


@pytest.mark.parametrize(
    ("call", "culprit"),
    [
        (lambda e: e.embed("a", top_k=401), "top_k is 401; tiny has 1 … 400 weights"),
        (lambda e: e.embed("a", top_k=0), "top_k is 0"),
        (lambda e: e.embed("a", top_k=True), "top_k is True"),
        (lambda e: e.embed("a", threshold=-1), "threshold is -1"),
        (lambda e: e.embed("a", threshold=float("nan")), "threshold is nan"),
        (lambda e: e.encode("a", batch_size=0), "batch_size is 0"),
        (lambda e: e.encode("a", task="passage"), "task is 'passage'"),
        (lambda e: e.encode("a", prompt_name="none"), "has no prompt 'none'"),
        (lambda e: e.encode(3), "takes a text or a list of texts"),
        (lambda e: e.decode(np.zeros(3)), "decode takes vectors of 400 numbers"),
        (lambda e: e.predict(["a", "b"]), "gives sparse vectors of texts, so it has no predict"),
        (lambda e: e.rank("a", ["b"]), "so it has no rank; call embed or encode"),
    ],
)
def test_refusals_are_one_line(splade, call, culprit: str) -> None:
    with pytest.raises(UsageError) as caught:
        call(splade[1])
    assert culprit in str(caught.value) and len(str(caught.value).splitlines()) == 1


def test_batches_keep_the_logits_small(splade, monkeypatch: pytest.MonkeyPatch) -> None:
    _, encoder = splade
    monkeypatch.setattr("goldfold.exporter.evaluate.batches.BATCH_NUMBERS", 400 * 40)
    assert [len(rows) for rows in encoder.batches([10] * 9, 32)] == [4, 4, 1]
    assert [len(rows) for rows in encoder.batches([41, 41], 32)] == [1, 1]


def test_embed_from_the_shell(splade, capsys: pytest.CaptureFixture[str]) -> None:
    def goldfold(*args: str) -> int:
        return app.guarded(partial(app.app, args=[*args]), False)

    _, encoder = splade
    folder = str(encoder.bundle.path)
    (wanted,) = [encoder.tokens(one) for one in encoder.embed("ferry", top_k=2)]
    assert goldfold("embed", folder, "ferry", "--top-k", "2") == 0
    assert capsys.readouterr().out == " ".join(f"{t}:{v:.7g}" for t, v in wanted) + "\n"
    assert goldfold("embed", folder, "ferry", "--top-k", "2", "--json") == 0
    assert f'[[["{wanted[0][0]}", ' in capsys.readouterr().out
    assert goldfold("embed", folder, "ferry", "--output", "int8") == 2
    assert "--output is for dense vectors" in capsys.readouterr().err
