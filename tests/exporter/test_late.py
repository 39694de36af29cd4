"""Late-interaction models: what their artifacts give is what sentence-transformers gives."""

from __future__ import annotations

import json
import pickle
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_transformers import MultiVectorEncoder
from sentence_transformers.multi_vector_encoder.modules import HierarchicalTokenPooling
from sentence_transformers.util.similarity import maxsim, mean_maxsim

from goldfold import export, load, verify
from goldfold.exporter.artifact.late_encoder import LateEncoder
from goldfold.exporter.errors import ModelError, UsageError
from goldfold.golden import compare, gate, late, store, tokenwise
from goldfold.golden.errors import GoldenError
from goldfold.golden.store import Goldens
from tests import late_models
from tests.loaders import without_goldfold
from tests.torture.tortures.damage import reseal, write_manifest

QUERIES = ["how do glaciers move?", "Bread, cheese & wine!", "", "one long question " * 9]
DOCUMENTS = [
    "Glaciers slide; they deform, too.",
    "The [Q] [MASK] of (all) marks...",
    "Nothing",
    "河边的柳树比去年长高了许多。",
    "a text that is cut, since it is long: " * 12,
]
_DRAFTS = late.drafts


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every tenth golden text, and those of exact lengths and calls."""

    def drafts(*given: Any) -> Any:
        made = _DRAFTS(*given)
        return [d for at, d in enumerate(made) if at % 10 == 0 or d.kind in ("call", "beyond")]

    monkeypatch.setattr(late, "drafts", drafts)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return late_models.build("bert", tmp_path_factory.mktemp("late"))


@pytest.fixture(scope="module")
def artifact(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    (made,) = export(source, ["onnxruntime"], ["fp32"], tmp_path_factory.mktemp("out"))
    assert made.passed
    return made.path


@pytest.fixture
def encoder(artifact: Path) -> Any:
    return load(artifact)


@pytest.fixture
def goldens(artifact: Path) -> Goldens:
    return store.load(artifact / "golden")


def same(folder: Path, model: Path, within: float = 2e-6) -> None:
    """Queries, documents and texts without a task are as in sentence-transformers, in number and in
    every vector, and so is what is made of them."""
    ours: Any = load(folder)
    theirs = MultiVectorEncoder(str(model), device="cpu")
    made = {}
    for call, texts in (
        ("encode_query", QUERIES),
        ("encode_document", DOCUMENTS),
        ("encode", DOCUMENTS),
    ):
        found = getattr(ours, call)(texts, batch_size=3)
        wanted = getattr(theirs, call)(texts, convert_to_numpy=True)
        assert [len(rows) for rows in found] == [len(rows) for rows in wanted]
        for one, other in zip(found, wanted, strict=True):
            assert one.dtype == np.float32 and np.abs(one - other).max() < within
        made[call] = found, wanted
    (queries, asked), (documents, answers) = made["encode_query"], made["encode_document"]
    scores = theirs.similarity(list(asked), list(answers)).numpy()
    assert np.allclose(ours.similarity(queries, documents), scores, rtol=1e-6, atol=1e-4)
    best = ours.rank(QUERIES[0], DOCUMENTS, top_k=2, return_documents=True)
    order = np.argsort(-scores[0])[:2]
    assert [one["corpus_id"] for one in best] == order.tolist()
    assert [one["text"] for one in best] == [DOCUMENTS[at] for at in order]


def test_its_own_program_gives_the_same(artifact: Path, encoder: LateEncoder) -> None:
    calls = [("encode_query", [QUERIES], {}), ("encode_document", [DOCUMENTS], {"batch_size": 2})]
    calls += [("encode", [DOCUMENTS], {}), ("rank", [QUERIES[0], DOCUMENTS], {"top_k": 3})]
    *rows, ranked = without_goldfold(artifact, calls)
    for (name, given, how), found in zip(calls, rows, strict=False):
        for one, other in zip(found, getattr(encoder, name)(*given, **how), strict=True):
            assert np.array_equal(one, other), name
    wanted = encoder.rank(QUERIES[0], DOCUMENTS, top_k=3)
    assert [one["corpus_id"] for one in ranked] == [one["corpus_id"] for one in wanted]
    assert "encoder.encode_query([" in (artifact / "README.md").read_text("utf-8")


def test_the_saved_form(artifact: Path, source: Path) -> None:
    same(artifact, source)


def attends(folder: Path) -> Path:
    return late_models.pylate("roberta", folder, attend=True)


def untyped(folder: Path) -> Path:
    return late_models.pylate("distilbert", folder, model_type=None)


def plain(folder: Path) -> Path:
    """Queries may be longer than they are filled up to; marks are skipped in them as well."""
    made = late_models.build(
        "modernbert",
        folder,
        expansion={"strategy": "min", "attend": False, "length": 8, "token": "[UNK]"},
    )
    file = next(made.glob("*MultiVectorMask/config.json"))
    said = json.loads(file.read_text()) | {"skiplist_tasks": ["query", "document"]}
    file.write_text(json.dumps(said))
    return made


def unfilled(folder: Path) -> Path:
    return late_models.build("bert", folder, expansion=None, skiplist=(), normalize=False)


@pytest.mark.parametrize(
    ("build", "target"),
    [
        (attends, "openvino"),
        (untyped, "onnxruntime"),
        (late_models.stanford, "onnxruntime"),
        (plain, "openvino"),
        (unfilled, "onnxruntime"),
    ],
)
def test_other_forms(build: Callable[[Path], Path], target: str, tmp_path: Path) -> None:
    model = build(tmp_path)
    (made,) = export(model, [target], ["fp32"], tmp_path / "out")
    assert made.passed, made.verdict.sentences
    contract = made.bundle.manifest.contract
    assert (contract.task, contract.output) == ("multi_vector", "token_embeddings")
    same(made.path, model, 2e-6 if contract.normalized else 2e-5)


def test_integers(source: Path, tmp_path: Path) -> None:
    (made,) = export(source, ["onnxruntime"], ["int8-weights"], tmp_path)
    assert made.passed, made.verdict.sentences
    assert 1e-9 < made.measurement.worst < 1e-3


def test_static_shapes_leave_no_padding_behind(source: Path, tmp_path: Path) -> None:
    from goldfold.targets.openvino.options import OpenVinoOptions

    (made,) = export(
        source,
        ["openvino"],
        ["fp32"],
        tmp_path,
        max_length=64,
        build=OpenVinoOptions(batch=2, buckets=(32, 64)),
    )
    assert made.passed, made.verdict.sentences
    ids = np.full((3, 5), 7, np.int64)
    assert load(made.path).run(ids, np.ones_like(ids)).shape == (3, 5, late_models.DIM)


def test_one_text_and_none(encoder: LateEncoder) -> None:
    alone = encoder.encode_query("one")
    assert isinstance(alone, np.ndarray)
    assert alone.shape == (late_models.QUERY, late_models.DIM)
    (listed,) = encoder.encode_query(["one"])
    assert np.array_equal(alone, listed)
    assert encoder.encode_document([]) == []
    (bare,) = encoder.encode(["one"], "", task="document")
    (named,) = encoder.encode(["one"], "document", task="document")
    (given,) = encoder.encode(["one"], prompt="[D] ", task="document")
    assert len(bare) < len(named) and np.array_equal(named, given)
    again = pickle.loads(pickle.dumps(encoder))
    assert np.array_equal(again.encode_query("one"), alone)


@pytest.mark.parametrize("mean", [False, True])
def test_maxsim_is_that_of_sentence_transformers(
    encoder: LateEncoder, mean: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(3)
    queries, documents = (
        [rng.standard_normal((n, 8), dtype=np.float32) for n in counts]
        for counts in ((1, 7, 4), (3, 1, 9, 2))
    )
    name = "meanmaxsim" if mean else "maxsim"
    contract = encoder.contract.with_(similarity=name)
    monkeypatch.setattr(LateEncoder, "contract", property(lambda _: contract))
    wanted = (mean_maxsim if mean else maxsim)(queries, documents).numpy()
    assert np.allclose(encoder.similarity(queries, documents), wanted, atol=1e-5)
    monkeypatch.setattr("goldfold.exporter.artifact.late_encoder._PAIRS", 16)
    assert np.allclose(encoder.similarity(queries, documents), wanted, atol=1e-5)
    assert encoder.similarity(queries[0], [documents[0], np.empty((0, 8))]).shape == (1, 2)


def test_what_belongs_to_other_tasks_is_refused(encoder: Any) -> None:
    for name in ("embed", "predict"):
        with pytest.raises(UsageError, match=f"a vector for each token, so it has no {name}"):
            getattr(encoder, name)(["a"])
    with pytest.raises(UsageError, match="no prompt 'passage'; known: "):
        encoder.encode(["a"], "passage")
    with pytest.raises(UsageError, match="task is 'both'"):
        encoder.encode(["a"], task="both")
    with pytest.raises(UsageError, match="top_k is 0"):
        encoder.rank("a", ["b"], top_k=0)
    with pytest.raises(UsageError, match="document 1 is float; rank takes strings"):
        encoder.rank("a", ["b", 0.5])
    with pytest.raises(UsageError, match=re.escape("lists of arrays [tokens, dimensions]")):
        encoder.similarity([np.zeros(3)], [np.zeros((1, 3))])


def refused(model: Path, said: str, tmp_path: Path, **how: Any) -> None:
    with pytest.raises((ModelError, UsageError), match=said) as caught:
        export(model, ["onnxruntime"], ["fp32"], tmp_path / "out", **how)
    assert "\n" not in str(caught.value)


def test_requests_that_no_such_model_can_fill(source: Path, tmp_path: Path) -> None:
    refused(source, "--dims: the model gives no embedding of a text", tmp_path, dims=(8,))
    refused(source, "fills queries up to 24 tokens", tmp_path, max_length=16)


def test_models_that_the_contract_cannot_say(source: Path, tmp_path: Path) -> None:
    model = MultiVectorEncoder(str(source), device="cpu")
    model[2].keep_only_token_ids = [5, 6]
    model.save(str(tmp_path / "kept"), create_model_card=False)
    refused(tmp_path / "kept", "has keep_only_token_ids", tmp_path)
    model[2].keep_only_token_ids = None
    model.append(HierarchicalTokenPooling(2.0))
    model.save(str(tmp_path / "pooled"), create_model_card=False)
    refused(tmp_path / "pooled", "HierarchicalTokenPooling", tmp_path)
    model = MultiVectorEncoder(str(source), device="cpu")
    del model[2]
    model.save(str(tmp_path / "unmasked"), create_model_card=False)
    refused(tmp_path / "unmasked", "has no MultiVectorMask, without which the fillers", tmp_path)
    (tmp_path / "kept" / "modules.json").unlink()
    refused(tmp_path / "kept", "would make up a projection", tmp_path)


def verdict(run: Any, goldens: Goldens) -> gate.Verdict:
    return gate.judge(compare.measure(run, goldens), [], "fp32", goldens)


def kinds(found: gate.Verdict) -> set[str]:
    return {reason.kind for reason in found.reasons}


def test_the_gate_holds_every_token(encoder: LateEncoder, goldens: Goldens) -> None:
    assert verdict(encoder.run, goldens).passed

    def exchanged(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        rows = encoder.run(ids, mask)
        if ids.shape[1] > 6:
            rows[0, [4, 5]] = rows[0, [5, 4]]
        return rows

    assert "distance" in kinds(verdict(exchanged, goldens))

    def unnormalised(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        return 1.01 * encoder.run(ids, mask)

    assert "norm" in kinds(verdict(unnormalised, goldens))

    def seeing(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        return encoder.run(ids, np.where(ids == 400, 1, mask))

    assert {"distance", "similarity"} <= kinds(verdict(seeing, goldens))

    def zeroed(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        return encoder.run(ids, mask) * mask[..., None].astype(np.float32)

    assert "unusable" in kinds(verdict(zeroed, goldens))
    with pytest.raises(GoldenError, match=re.escape("not (1, 24, 32)")):
        compare.measure(lambda ids, mask: encoder.run(ids, mask)[:, 0], goldens)


def test_documents_that_change_places_miss_the_gate(encoder: LateEncoder, goldens: Goldens) -> None:
    found = compare.measure(encoder.run, goldens)
    assert len(found.rows) == len(goldens.cases) and found.similarity_alone < 1e-5
    rows = found.embeddings
    _, ids, scores, _ = next(tokenwise.rankings(rows, rows, goldens))
    best = ids[int(scores.argmax())]
    places = {case.id: at for at, case in enumerate(goldens.cases)}
    moved = [-row if at == places[best] else row for at, row in enumerate(rows)]
    spoilt = replace(found, embeddings=moved)  # the rest of the measurement holds the gate
    for precision in ("fp32", "fp16", "int8"):
        assert kinds(gate.judge(found, [], precision, goldens)) == set()
        assert kinds(gate.judge(spoilt, [], precision, goldens)) == {"order"}


def test_a_skip_list_that_is_ignored_is_found(
    encoder: LateEncoder, goldens: Goldens, artifact: Path, tmp_path: Path
) -> None:
    assert gate.counts(encoder.counted, goldens) == ()
    found = gate.counts(lambda ids, call: range(len(ids)), goldens)
    assert found and all(reason.kind == "tokens" for reason in found)
    assert "counts and should not" in found[0].sentence
    less = gate.counts(lambda ids, call: encoder.counted(ids, call)[1:], goldens)
    assert len(less) == len(goldens.cases)
    assert "should count and does not" in less[0].sentence


@pytest.mark.parametrize("known", [False, True], ids=["the record", "the source"])
@pytest.mark.parametrize(
    "change", [{"skipped_in_documents": []}, {"filler_seen": True}, {"filler": 7}]
)
def test_a_contract_that_counts_other_tokens_is_not_the_sources(
    change: dict[str, Any], known: bool, artifact: Path, source: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(artifact, copy)
    for file in ("manifest.json", "golden/source.json")[: 1 + known]:
        record = json.loads((copy / file).read_text())
        record["contract"]["tokenwise"].update(change)
        if known:
            (copy / file).write_text(json.dumps(record))
        else:
            write_manifest(copy, record)
    if known:
        reseal(copy)
    found = verify(copy, model=str(source) if known else None).verdict
    assert "contract" in kinds(found)
    assert ("tokens" in kinds(found)) == ("filler_seen" not in change)


def test_goldens_on_disk(goldens: Goldens, tmp_path: Path) -> None:
    store.save(goldens, tmp_path / "again")
    again = store.load(tmp_path / "again")
    assert again.cases == goldens.cases and np.array_equal(again.embeddings, goldens.embeddings)
    queries = [case for case in goldens.cases if case.call == "encode_query"]
    assert any(case.unseen for case in queries) and not any(case.skipped for case in queries)
    assert any(c.skipped for c in goldens.cases if c.call == "encode_document")
    short = goldens.within(30)
    assert 0 < len(short.cases) < len(goldens.cases)
    for at, case in enumerate(short.cases):
        place = goldens.cases.index(case)
        assert np.array_equal(short.row(at), goldens.row(place))
    record = json.loads((tmp_path / "again" / "golden.json").read_text())
    for entry, wrong in (("skipped", "3 900"), ("skipped", "x"), ("unseen", 900), ("unseen", -1)):
        bad = json.loads(json.dumps(record))
        bad["cases"][0][entry] = wrong
        (tmp_path / "again" / "golden.json").write_text(json.dumps(bad))
        with pytest.raises(GoldenError, match="malformed"):
            store.load(tmp_path / "again")
    with pytest.raises(GoldenError, match="not float32"):
        store.save(replace(goldens, embeddings=goldens.embeddings[1:]), tmp_path / "short")


def test_a_stream_is_what_encode_gives(encoder: Any) -> None:
    parts = list(encoder.encode_stream(iter(DOCUMENTS), window=2, task="document"))
    found = [rows for part in parts for rows in part]
    for rows, wanted in zip(found, encoder.encode_document(DOCUMENTS), strict=True):
        np.testing.assert_allclose(rows, wanted, rtol=0, atol=2e-5)
    with pytest.raises(UsageError, match="so it has no embed_stream; call encode_query"):
        encoder.embed_stream(DOCUMENTS)
