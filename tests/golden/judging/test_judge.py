"""The judgement as a whole on made-up embeddings, and the cache of the reference's."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from goldfold.golden.errors import GoldenError
from goldfold.golden.judging.judge import RANKS, Sets, judge, rank_metrics
from goldfold.golden.judging.lee import Lee
from goldfold.golden.judging.pairs import Pair, Pairs
from goldfold.golden.judging.reference import (
    BLOCK,
    KINDS,
    Embed,
    cached,
    chunks,
    default_folder,
    prompt_of,
    refusing,
    sentence_transformer,
)
from tests.golden.golden_toys import goldens_of

DIM = 384
COUNT = 200
PAIRS = Pairs(tuple(Pair(f"question {i}", f"answer {i}") for i in range(COUNT)), "d" * 64)


def row(text: str, noise: float) -> np.ndarray:
    """Texts with the same number lie near each other; `noise` is what an artifact adds."""
    seeds = [hashlib.sha256(part.encode()).digest() for part in (text.split()[-1], text)]
    topic, own = (np.random.default_rng(list(seed)).standard_normal(DIM) for seed in seeds)
    error = np.random.default_rng([*seeds[1], 7]).standard_normal(DIM)
    return topic + 1.5 * own + noise * error


def toy(noise: float = 0.0, dim: int = DIM) -> Embed:
    def embed(texts: Sequence[str], kind: str) -> np.ndarray:
        assert kind in KINDS
        return np.stack([row(text, noise)[:dim] for text in texts]).astype(np.float32)

    return embed


def lee_of(count: int = 12) -> Lee:
    texts = tuple(f"text {i % 4}" if i else "text 9" for i in range(count))
    people = np.random.default_rng(1).random((count, count))
    same = np.array([[a == b for b in texts] for a in texts])
    people = np.where(same, 0.8, 0.2) + 0.1 * (people + people.T)
    return Lee(tuple(f"{t[:-2]} of number {t[-1]}" for t in texts), people)


def test_reference_against_itself_loses_nothing() -> None:
    goldens = goldens_of(np.random.default_rng(7).standard_normal((9, DIM)))
    rows = dict(zip((c.prompt + c.text for c in goldens.cases), goldens.embeddings, strict=True))

    def embed(texts: Sequence[str], kind: str) -> np.ndarray:
        known = all(text in rows for text in texts)
        return np.stack([rows[t] for t in texts]) if known else toy()(texts, kind)

    found = judge(embed, toy(), Sets(goldens, lee_of(), PAIRS), resamples=60)
    assert {metric.dims for metric in found.metrics} == {DIM, 256}
    for metric in found.metrics:
        if "embeddings" not in metric.name:
            assert metric.loss == pytest.approx(0.0, abs=1e-12), metric
            assert metric.upper is None or metric.upper == pytest.approx(0.0, abs=1e-12)
        assert metric.upper is not None  # every figure is bounded, rank agreement too
    names = {metric.name for metric in found.metrics}
    assert {"rank agreement", "Lee corpus, Spearman", "retrieval nDCG@10"} <= names
    assert json.loads(json.dumps(found.to_json()))["pairs_digest"] == "d" * 64


def test_noise_costs_and_bits_cost_more() -> None:
    found = judge(toy(2.0), toy(), Sets(pairs=PAIRS), resamples=200)
    by = {(metric.name, metric.dims): metric for metric in found.metrics}
    plain, binary = (by[f"retrieval nDCG@10{more}", DIM] for more in ("", ", binary embeddings"))
    assert plain.count == COUNT
    assert 0 < plain.loss < (plain.upper or 0)
    assert plain.loss < binary.loss < 1
    even = by["retrieval nDCG@10, int8 embeddings, one range", DIM]
    assert abs(even.artifact - plain.artifact) < 0.02  # int8 with one range moves angles little
    assert found.worst is not None and "embeddings" not in found.worst.name
    assert found.worst.upper == max(
        m.upper for m in found.metrics if m.upper and "embeddings" not in m.name
    )
    theirs = np.random.default_rng(3).standard_normal((30, 64))
    ours = theirs + 0.3 * np.random.default_rng(4).standard_normal(theirs.shape)
    found = rank_metrics(theirs, ours)
    assert [(m.name, m.dims) for m in found] == [(n, d) for d in (64, 16) for n in RANKS]
    for one in found:
        # Scores between 0 and 1 spread by at most 0.5: 1.96 · 0.5 / √30 = 0.18.
        assert 0 < one.loss == pytest.approx(1 - one.artifact)
        assert one.upper is not None and one.loss < one.upper < one.loss + 0.2


def test_small_artifact_is_judged_at_its_own_size() -> None:
    found = judge(toy(dim=64), toy(), Sets(pairs=PAIRS), resamples=20)
    assert [m.dims for m in found.metrics if m.name == "retrieval nDCG@10"] == [64, 16]
    assert all(abs(m.loss) < 1e-12 for m in found.metrics if m.name == "retrieval nDCG@10")
    with pytest.raises(GoldenError, match="64 dimensions"):
        judge(toy(dim=64), toy(), Sets(pairs=PAIRS), dims=(128,))


def test_what_is_left_out_is_left_out() -> None:
    assert judge(toy(), refusing("never asked"), Sets()).metrics == ()
    with pytest.raises(GoldenError, match="not at hand"):
        judge(toy(), refusing("not at hand"), Sets(pairs=PAIRS))


def test_embeddings_of_the_wrong_shape_are_refused() -> None:
    with pytest.raises(GoldenError, match="shape"):
        judge(lambda texts, kind: np.ones((1, 4)), toy(), Sets(pairs=PAIRS))


# --- the cache


class Counting:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, texts: Sequence[str], kind: str) -> np.ndarray:
        self.calls += 1
        return toy()(texts, kind)


def test_cache_is_asked_first_and_knows_texts_kind_and_model(tmp_path: Path) -> None:
    made = Counting()
    embed = cached("f" * 64, made, tmp_path)
    first = embed(["a 1", "b 2"], "query")
    assert np.array_equal(embed(["a 1", "b 2"], "query"), first)
    assert made.calls == 1
    for texts, kind in (
        (["b 2", "a 1"], "query"),
        (["a 1", "b 2"], "document"),
        (["a 1b 2"], "query"),
    ):
        embed(texts, kind)
    cached("e" * 64, made, tmp_path)(["a 1", "b 2"], "query")
    cached("f" * 64, made, tmp_path, how=" of 64 tokens")(["a 1", "b 2"], "query")
    assert made.calls == 6
    assert len(list(tmp_path.iterdir())) == 6  # nothing half-written beside them


def test_killed_run_goes_on_where_it_was(tmp_path: Path) -> None:
    texts = [f"text {i}" for i in range(2 * BLOCK + 7)]
    made = Counting()

    def killed(some: Sequence[str], kind: str) -> np.ndarray:
        if made.calls == 2:
            raise KeyboardInterrupt
        return made(some, kind)

    with pytest.raises(KeyboardInterrupt):
        cached("f" * 64, killed, tmp_path)(texts, "query")
    steps: list[tuple[int, int]] = []

    def record(done: int, total: int) -> None:
        steps.append((done, total))

    found = cached("f" * 64, made, tmp_path, step=record)(texts, "query")
    assert steps[-1] == (len(texts), len(texts)) and len(steps) == 3
    assert made.calls == 3
    assert np.array_equal(found, toy()(texts, "query"))


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "text", "other"])
def test_damaged_cache_is_told_and_made_again(tmp_path: Path, damage: str) -> None:
    made, notes = Counting(), []
    embed = cached("f" * 64, made, tmp_path, notes.append)
    first = embed(["a 1", "b 2"], "plain")
    (file,) = tmp_path.iterdir()
    raw = bytearray(file.read_bytes())
    if damage == "flip":
        raw[len(raw) // 3] ^= 1
    file.write_bytes({"cut": raw[:-200], "empty": b"", "text": b"no"}.get(damage, bytes(raw)))
    if damage == "other":
        np.savez(file, rows=np.ones((2, 3), np.float32), sha256=np.array("0"))
    assert np.array_equal(embed(["a 1", "b 2"], "plain"), first)
    assert made.calls == 2
    assert str(file) in notes[0]
    embed(["a 1", "b 2"], "plain")
    assert made.calls == 2


def test_cache_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    notes: list[str] = []
    rows = cached("f" * 64, toy(), tmp_path / "file" / "folder", notes.append)(["a 1"], "plain")
    assert rows.shape == (1, DIM)
    assert notes and "cannot keep" in notes[0]


def test_cache_lies_where_the_user_keeps_caches(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "goldfold" / "judging"


# --- the reference


def test_prompts_and_chunks() -> None:
    prompts = {"query": "q: ", "passage": "p: "}
    assert [prompt_of(kind, prompts) for kind in ("query", "document", "plain")] == [
        "q: ",
        "p: ",
        "",
    ]
    assert prompt_of("prompt:passage", prompts) == "p: "
    assert prompt_of("prompt:plain", prompts) == ""
    assert chunks(["a", "ccc", "bb"], 2) == [[1, 2], [0]]


def test_reference_is_sentence_transformers(minilm: Path) -> None:
    from sentence_transformers import SentenceTransformer

    texts = ["a tulip", "how long do tulips last in a vase of water", "bread"]
    found = sentence_transformer(minilm)(texts, "query")
    expected = SentenceTransformer(str(minilm), device="cpu").encode(texts)
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() < 1e-6
