"""`goldfold compat`: the verdict on artifacts and on stored vectors, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import goldfold
from goldfold import Compatibility, UsageError, compat, load
from goldfold.exporter.cli import app
from goldfold.exporter.contract import Task
from goldfold.exporter.index import contracts, drift, engines, mixed, vectors, verdict
from goldfold.exporter.index import texts as index_texts
from goldfold.exporter.index.compatibility import Asked, How, compare, of_index
from goldfold.exporter.index.sides import Side, at, open_side
from goldfold.exporter.progress import Stages
from goldfold.golden.judging import pairs

WORDS = (
    "river",
    "bread",
    "winter",
    "engine",
    "letter",
    "garden",
    "copper",
    "signal",
    "harbour",
    "sea",
)
TEXTS = [f"{a} {b} and the {c} of number {n}" for n, (a, b, c) in enumerate(
    (WORDS[i % 10], WORDS[(i * 3 + 1) % 10], WORDS[(i * 7 + i // 10) % 10]) for i in range(36)
)] + ["мост через реку весной", "хлеб и соль на столе", "письмо из старого города",
      "зимний сад у моря", "القارب يغادر الميناء"]  # fmt: skip
STAGES = Stages()


@pytest.fixture(scope="module")
def side(artifacts: dict[str, Path]) -> Side:
    return open_side(artifacts["onnxruntime"])


@pytest.fixture(scope="module")
def stored(side: Side) -> np.ndarray:
    return side.embed(TEXTS, "document")


def planted(side: Side, change: Callable[[np.ndarray], np.ndarray], **said: Any) -> Side:
    def embed(texts: Sequence[str], task: Task) -> np.ndarray:
        return change(side.embed(texts, task))

    return replace(side, embed=embed, name="planted", **said)


def compared(old: Side, new: Side) -> Compatibility:
    return compare(old, new, index_texts.of_texts(TEXTS), STAGES)


def indexed(side: Side, rows: np.ndarray) -> Compatibility:
    return of_index(side, rows, TEXTS, Asked(), STAGES)


# --- artifacts


def test_two_targets_are_compatible(artifacts: dict[str, Path]) -> None:
    found = compat(artifacts["onnxruntime"], artifacts["openvino"], texts=TEXTS)
    assert found.verdict == "compatible" and not found.reasons and not found.differences
    assert found.drift.worst < 1e-9 and found.drift.found == 1 and found.drift.texts == len(TEXTS)
    names = [one.name for one in found.retrieval]
    assert names == [mixed.FORWARD, mixed.REVERSE, mixed.REBUILT, mixed.AGREEMENT, mixed.OVERLAP]
    assert all(one.loss == pytest.approx(0, abs=1e-6) for one in found.retrieval)
    assert {one.kind for one in found.drift.kinds} == {"latin", "cyrillic", "arabic"}
    said = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert said["format"] == "goldfold.compat/1" and said["verdict"] == "compatible"


SIGNS = np.random.default_rng(1).choice([-1.0, 1.0], 48)
ORDER = np.random.default_rng(2).permutation(48)


@pytest.mark.parametrize(
    ("change", "answer", "why"),
    [
        (lambda rows: rows * 3, "not compatible", "lengths differ by up to 200.0%"),
        (lambda rows: rows * SIGNS, "not compatible", "have the other sign"),
        (lambda rows: rows[:, ORDER], "not compatible", "stand in another place"),
        (lambda rows: rows.round(3), "compatible with loss", "that rounding explains"),
        (lambda rows: np.where(rows == rows.max(), np.nan, rows), "not compatible", "not finite"),
    ],
    ids=["scaled", "signs", "permuted", "rounded", "nan"],
)
def test_a_planted_drift_is_found_and_named(
    side: Side, change: Callable[[np.ndarray], np.ndarray], answer: str, why: str
) -> None:
    few = 0.9 if answer == "compatible with loss" else verdict.LOSS  # 41 texts of a random model
    sets = index_texts.of_texts(TEXTS)
    found = compare(side, planted(side, change), sets, STAGES, few)
    assert found.verdict == answer
    assert why in " ".join((*found.reasons, *found.causes)), found.sentence


def test_a_lost_script_is_found_though_retrieval_stands(side: Side) -> None:
    def embed(texts: Sequence[str], task: Task) -> np.ndarray:
        lost = ["".join("?" if "Ѐ" <= c <= "ӿ" else c for c in text) for text in texts]
        return side.embed(lost, task)

    found = compared(side, replace(side, embed=embed))
    assert found.verdict == "not compatible"
    assert "do not find their own vector: cyrillic 0%" in found.sentence
    (latin,) = (one for one in found.drift.kinds if one.kind == "latin")
    assert latin.worst < 1e-9 and latin.found == 1


def test_contracts_that_differ_are_told_where_the_numbers_pass(side: Side) -> None:
    base = side.contract
    other = base.with_(
        prompts={**base.prompts, "query": "ask: "}, max_length=base.max_length // 2, lengths={},
        truncation_side="left", similarity="dot",
    )  # fmt: skip
    found = compared(side, replace(side, contract=other, tokenizer="f" * 64))
    said = " ".join(found.differences)
    for name in ("prompt of a query is 'ask: '", "cut at", "left", "is dot", "the tokenizer is"):
        assert name in said
    assert found.verdict == "compatible with loss" and found.drift.worst < 1e-12
    assert all(one in found.sentence for one in found.differences)
    plain = compared(side, replace(side, contract=base.with_(normalized=False)))
    assert "is not normalised, and is normalised in the index" in plain.sentence


def test_two_models_are_never_plainly_compatible(side: Side) -> None:
    found = compared(side, replace(side, fingerprint="0" * 64))
    assert found.verdict == "compatible with loss" and "two" in found.sentence


def test_integers_for_floats_are_told_by_what_their_gate_allows() -> None:
    assert verdict.rounding(1e-8, 1e-8) == pytest.approx(4e-8)
    assert verdict.rounding(2e-4, 2e-4) == pytest.approx(8e-4)
    assert verdict.rounding(1e-8, 2e-2) == pytest.approx(8e-4)  # no more than two bf16


# --- sizes


def test_a_smaller_index_of_the_same_model_is_searched_cut(side: Side) -> None:
    small = at(side, 8)
    assert contracts.size(small, side, None) == 8
    found = compare(small, at(side, 8), index_texts.of_texts(TEXTS), STAGES)
    assert found.verdict == "compatible" and found.dims == 8
    assert f"{side.name} cut from 48" in contracts.mixable(small, side, 8)
    rows = small.embed(TEXTS, "document")
    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    stored = indexed(side, rows)
    assert stored.verdict == "compatible" and "8 of 48" in stored.mixable


def test_sizes_that_cannot_be_mixed_are_refused(side: Side) -> None:
    small = at(side, 8)
    with pytest.raises(UsageError, match=r"of 48 dimensions cannot be searched by .* has 8"):
        contracts.size(side, small, None)
    with pytest.raises(UsageError, match=r"of another model .* or say --dims 8"):
        contracts.size(replace(small, origin="another"), side, None)
    assert contracts.size(replace(small, origin="another"), side, 8) == 8
    with pytest.raises(UsageError, match="an index of 50 dimensions cannot be searched"):
        contracts.size(side, side, None, 50)
    with pytest.raises(UsageError, match="--dims is 4, and the vectors have 8"):
        contracts.size(side, side, 4, 8)


# --- an index's own vectors


def test_an_index_of_the_artifact_is_compatible(
    artifacts: dict[str, Path], stored: np.ndarray, tmp_path: Path
) -> None:
    np.save(tmp_path / "index.npy", stored.astype(np.float16))
    (tmp_path / "texts.txt").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(TEXTS).encode())
    found = compat(
        None, artifacts["openvino"], texts=tmp_path / "texts.txt", index=tmp_path / "index.npy"
    )
    assert found.verdict == "compatible" and found.drift.texts == len(TEXTS)


def test_faults_of_an_index_are_found(side: Side, stored: np.ndarray) -> None:
    def changed(change: Callable[[np.ndarray], object]) -> Compatibility:
        rows = stored.copy()
        change(rows)
        return indexed(side, rows)

    shuffled = indexed(side, stored[::-1])
    assert shuffled.verdict == "not compatible" and "in another row" in shuffled.causes[0]
    doubled = changed(lambda rows: rows.__setitem__(slice(1, None, 9), rows[0]))
    assert doubled.verdict != "compatible" and "vectors drift" in doubled.causes[0]
    broken = changed(lambda rows: rows.__setitem__(3, np.nan))
    assert broken.verdict == "not compatible" and "1 rows of the index are not" in broken.causes[0]
    assert broken.worst[0].place == 3 and broken.worst[0].text == TEXTS[3]
    assert "1 of 41 vectors are not finite, or zero" in broken.reasons[0]
    zero = changed(lambda rows: rows.__setitem__(3, 0))
    assert zero.verdict == "not compatible"
    prompted = side.embed([f"{side.contract.prompts['query']}{text}" for text in TEXTS], "")
    assert any("made with prompt 'query'" in one for one in indexed(side, prompted).causes)


def test_a_sample_of_a_large_index_says_what_it_leaves_out(side: Side) -> None:
    texts = [f"{text} {n}" for n in range(2) for text in TEXTS]
    rows = side.embed(texts, "document")
    found = of_index(side, rows, texts, Asked(how=How(drawn=30)), STAGES)
    assert found.verdict == "compatible" and found.drift.texts == 30
    assert "30 of 82 vectors were compared" in found.notes[0] and "10.0% of all" in found.notes[0]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (np.zeros((3, 16), np.int8), "holds int8; give the float vectors"),
        (np.zeros(16, np.float32), "must be"),
        (np.zeros((0, 16), np.float32), "must be"),
        (np.zeros((3, 16), np.float32), "has 3 vectors, and there are 41 texts"),
    ],
)
def test_arrays_that_are_no_vectors_of_the_texts_are_refused(rows: np.ndarray, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        vectors.opened(rows, TEXTS)


def test_files_that_are_no_vectors_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "two.npz", a=np.zeros(3))
    np.save(tmp_path / "objects.npy", np.array([{}, {}]), allow_pickle=True)
    (tmp_path / "empty.npy").write_bytes(b"")
    for file in (*tmp_path.iterdir(), tmp_path, tmp_path / "none.npy"):
        with pytest.raises(UsageError, match="cannot be read"):
            vectors.opened(file, None)


# --- texts


def test_texts_are_lines_or_values(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('"one"\n{"text": "two\\nlines", "id": 7}\n')
    assert index_texts.read(tmp_path / "a.jsonl") == ["one", "two\nlines"]
    (tmp_path / "b.txt").write_text("one\u2028still one\ntwo", "utf-8")
    assert index_texts.read(tmp_path / "b.txt") == ["one\u2028still one", "two"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.txt", b"", "holds no text"),
        ("a.txt", b"one\n \nthree\n", "line 2 holds no text"),
        ("a.txt", b"\xff\xfe\x00", "is not UTF-8"),
        ("a.jsonl", b'"one"\n{"body": "x"}\n', "line 2 is no string"),
        ("a.jsonl", b"[" * 100_000, "line 1 is no string"),
    ],
)
def test_texts_without_text_are_refused(
    tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=said):
        index_texts.read(tmp_path / name)
    with pytest.raises(UsageError, match="is a folder"):
        index_texts.read(tmp_path)


def test_what_cannot_be_asked_is_refused(artifacts: dict[str, Path]) -> None:
    folder = artifacts["onnxruntime"]
    for how, said in (
        ({"old": None}, "give two artifacts, or one and the --index"),
        ({"old": None, "index": np.zeros((41, 48))}, "--index needs --texts"),
        ({"texts": TEXTS[:5]}, "5 texts say nothing"),
        ({"texts": [*TEXTS, " "]}, "text 41 holds no text"),
        ({"dims": 49, "texts": TEXTS}, "49 dimensions cannot be searched"),
        ({"dims": True, "texts": TEXTS}, "--dims is True"),
        ({"limit": 1.5}, "--limit is 1.5"),
        ({"how": How(pairs=3)}, "--pairs is 3"),
    ):
        with pytest.raises(UsageError, match=said):
            compat(**{"old": folder, "new": folder, **how})  # type: ignore[arg-type]


def test_the_standard_texts_have_scripts_languages_and_long_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    few = pairs.Pairs(tuple(pairs.Pair(f"question {n}", f"answer {n}") for n in range(30)), "d")
    monkeypatch.setattr(pairs, "collect", lambda count: few)
    found = index_texts.standard(30, 100, 16)
    assert len(found.texts) == len(found.kinds) > 150 and len(found.queries) == 30
    assert {"longer than the model", "german", "thai", "words"} <= set(found.kinds)


@pytest.mark.parametrize(
    ("text", "script"),
    [("Brücke", "latin"), ("河边 of", "cjk"), ("12 %", "no letters"), ("แม่น้ำ", "thai")],
)
def test_scripts_are_those_of_most_letters(text: str, script: str) -> None:
    assert index_texts.script_of(text) == script


# --- figures


def test_equal_texts_count_once() -> None:
    rows = np.eye(4, dtype=np.float32)[[0, 1, 0, 2, 1]]
    assert drift.distinct(rows).tolist() == [True, True, False, True, False]
    found, apart = drift.measure(rows, rows, ["a", "a", "b", "b", "b"])
    assert (found.distinct, found.found, found.worst) == (3, 1.0, 0.0)
    assert apart.tolist() == [0.0] * 5


def test_texts_without_an_embedding_on_either_side_are_left_out() -> None:
    old = np.eye(3, dtype=np.float32)
    new = old.copy()
    old[0] = new[0] = new[1] = np.nan
    found, _ = drift.measure(old, new, ["a", "a", "a"])
    assert (found.texts, found.unusable, found.worst) == (2, 1, np.inf)


@pytest.mark.parametrize("name", ["cosine", "dot", "euclidean", "manhattan"])
def test_scores_are_those_of_plain_rankings(name: str) -> None:
    random = np.random.default_rng(3)
    queries, documents = random.standard_normal((2, 150, 6)).astype(np.float32)
    found = mixed.scores(queries, documents, name)
    if name in ("cosine", "dot"):
        unit = [s / np.linalg.norm(s, axis=1, keepdims=True) for s in (queries, documents)]
        table = unit[0] @ unit[1].T if name == "cosine" else queries @ documents.T
    else:
        apart = queries[:, None] - documents[None]
        table = -(np.abs(apart).sum(-1) if name == "manhattan" else (apart**2).sum(-1))
    rank = (table > np.diag(table)[:, None]).sum(axis=1) + 1
    assert found == pytest.approx(np.where(rank <= 10, 1 / np.log2(1 + rank), 0.0), abs=1e-9)


def test_real_indexes_lose_what_the_vectors_lose() -> None:
    random = np.random.default_rng(4)
    documents = random.standard_normal((300, 32)).astype(np.float32)
    old = documents + 0.5 * random.standard_normal((300, 32)).astype(np.float32)
    new = old + 3.0 * random.standard_normal((300, 32)).astype(np.float32)
    found, missing = engines.losses((old, new), documents, "cosine")
    assert all(one.loss > 0.05 for one in found)
    same, _ = engines.losses((old, old), documents, "cosine")
    assert all(one.loss == 0 == one.upper for one in same)
    try:
        import faiss  # noqa: F401
    except ImportError:
        assert len(found) == 1 and missing == (engines.ABSENT,)
        return
    names = " ".join(one.name for one in found)
    assert len(found) == 5 and all(n in names for n in ("flat", "HNSW", "int8", "binary"))
    flat = mixed.metric("", *(mixed.scores(q, documents, "cosine") for q in (old, new)), (old,))
    assert found[0].loss == pytest.approx(flat.loss, abs=1e-6)


# --- the command


def told(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    capsys.readouterr()
    code = app.guarded(partial(app.app, args=["compat", *map(str, words)]), False)
    done = capsys.readouterr()
    return code, done.out, done.err


def test_the_command_prints_tables_and_a_verdict(
    artifacts: dict[str, Path], stored: np.ndarray, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    texts, index, file = tmp_path / "t.jsonl", tmp_path / "i.npy", tmp_path / "out.json"
    texts.write_text("".join(f"{json.dumps(text)}\n" for text in TEXTS))
    np.save(index, stored)
    code, out, err = told(capsys, *artifacts.values(), "--texts", texts, "--json", file, "--quiet")
    assert (code, err) == (0, "") and out.splitlines()[-1] == "compatible at 48 dimensions"
    assert "queries by NEW, documents by OLD" in out and "cyrillic" in out
    assert json.loads(file.read_text())["drift"]["texts"] == len(TEXTS)
    np.save(index, stored[:, ::-1])
    new = artifacts["onnxruntime"]
    code, out, err = told(capsys, new, "--index", index, "--texts", texts, "-q")
    assert code == 1 and "not compatible" in out and "dimensions stand in another place" in out
    assert err.startswith("error: ") and len(err.splitlines()) == 1


def test_the_command_refuses_in_one_line(
    artifacts: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = artifacts["onnxruntime"]
    for words, code, said in (
        ((folder,), 2, "give OLD and NEW"),
        ((folder, folder, "--index", "x.npy"), 2, "give NEW alone"),
        ((folder, folder, "--limit", "much"), 2, "is no share"),
        ((folder, tmp_path), 6, "manifest.json"),
        ((folder, folder, "--texts", tmp_path / "none"), 2, "No such file"),
        ((folder, folder, "--json", tmp_path / "no" / "x.json"), 5, "cannot write"),
    ):
        found, out, err = told(capsys, *words, "-q")
        assert (found, out) == (code, "") and said in err and len(err.splitlines()) == 1, err


# --- canaries


def test_an_index_says_whose_vectors_it_holds(artifacts: dict[str, Path]) -> None:
    encoder = load(artifacts["onnxruntime"], check=True)
    found = encoder.canaries()
    assert len(found.texts) == len(found.vectors) >= 3 and found.limit < 3e-7
    other = load(artifacts["openvino"], check=True)
    assert other.check_index(found.vectors.astype(np.float16)).max() < found.limit
    assert other.check_index(encoder.canaries(dims=8).vectors).shape == (len(found.texts),)
    asked = encoder.embed(found.texts, prompt="query")
    for wrong, said in (
        (asked, "made with the prompt 'query'"),
        (found.vectors[::-1], "another order"),
        (found.vectors * 2, "they are no unit vectors: a length is 2"),
        (np.full_like(found.vectors, np.nan), "are not finite, or zero"),
        (found.vectors[:, ::-1], "canaries are off"),
    ):
        with pytest.raises(goldfold.GateMissed, match=said) as refused:
            encoder.check_index(wrong)
        assert len(str(refused.value).splitlines()) == 1
    for wrong in (found.vectors[:2], found.vectors[0], (found.vectors * 127).astype(np.int8)):
        with pytest.raises(UsageError, match="give the float vectors of canaries"):
            encoder.check_index(wrong)


def test_lengths_decide_nothing_where_angles_alone_are_compared(side: Side) -> None:
    free = replace(side, contract=side.contract.with_(normalized=False))
    other = planted(side, lambda rows: rows * 1.3, contract=free.contract)
    assert compared(free, other).verdict == "compatible"
    dot = side.contract.with_(normalized=False, similarity="dot")
    found = compared(replace(side, contract=dot), replace(other, contract=dot))
    assert found.verdict == "not compatible" and "lengths differ by up to 30.0%" in found.sentence
