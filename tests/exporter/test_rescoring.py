"""Rescoring: bits choose, vectors rank; the same lists as a plain search of what was chosen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from goldfold import UsageError, load, rescore
from goldfold.exporter.artifact.embedding_types import one_range, quantize
from goldfold.golden.judging import ranks

RANDOM = np.random.default_rng(5)
DOCUMENTS = RANDOM.standard_normal((300, 44)).astype(np.float32)
QUERIES = DOCUMENTS[:40] + 0.8 * RANDOM.standard_normal((40, 44)).astype(np.float32)
RANGE = one_range(DOCUMENTS)
STORED = quantize(DOCUMENTS, "int8", RANGE, lambda: RANGE)


def by_hand(query: np.ndarray, rows: np.ndarray, kept: int, top: int) -> list[int]:
    apart = ((query > 0) != (DOCUMENTS > 0)).sum(axis=1)
    chosen = sorted(np.argsort(apart, kind="stable")[:kept].tolist())
    return sorted(chosen, key=lambda at: -float(rows[at].astype(np.float32) @ query))[:top]


@pytest.mark.parametrize(
    ("output", "rows"),
    [("ubinary", DOCUMENTS), ("binary", DOCUMENTS), (None, DOCUMENTS), ("ubinary", STORED)],
    ids=["ubinary", "binary", "signs", "ubinary-int8"],
)
def test_lists_are_those_of_a_plain_search(output: str | None, rows: np.ndarray) -> None:
    bits = None if output is None else quantize(DOCUMENTS, output, None, lambda: RANGE)
    scores, places = rescore(QUERIES, rows, bits, top_k=7, rescore_multiplier=5)
    assert scores.dtype == np.float32 and places.shape == scores.shape == (40, 7)
    assert places.tolist() == [by_hand(query, rows, 35, 7) for query in QUERIES]
    assert (np.diff(scores, axis=1) <= 0).all()
    one = rescore(QUERIES[3], rows, bits, top_k=7, rescore_multiplier=5)
    assert one[1].tolist() == places[3].tolist() and one[0].shape == (7,)


def test_enough_candidates_are_a_whole_search() -> None:
    _, places = rescore(QUERIES, DOCUMENTS, top_k=10, rescore_multiplier=30)
    assert np.array_equal(places, np.argsort(-(QUERIES @ DOCUMENTS.T), axis=1)[:, :10])


def test_equal_documents_stand_in_their_order() -> None:
    rows = np.repeat(DOCUMENTS[:2], 5, axis=0)
    _, places = rescore(DOCUMENTS[1], rows, top_k=6, rescore_multiplier=1)
    assert places[:5].tolist() == [5, 6, 7, 8, 9]


def test_fewer_documents_than_asked_for_are_all_ranked() -> None:
    scores, places = rescore(QUERIES, DOCUMENTS[:3], top_k=10)
    assert scores.shape == (40, 3) and sorted(places[0].tolist()) == [0, 1, 2]


def test_a_mapped_file_is_read_at_the_chosen_rows(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", DOCUMENTS)
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    bits = np.packbits(DOCUMENTS > 0, axis=1)
    assert np.array_equal(rescore(QUERIES, mapped, bits)[1], rescore(QUERIES, DOCUMENTS)[1])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"queries": STORED[:2]}, "queries are int8"),
        ({"queries": np.full((1, 44), np.nan)}, "a query is not finite"),
        ({"queries": QUERIES[:, :9]}, "documents have 44 dimensions, and queries 9"),
        ({"documents": STORED.astype(np.uint8)}, "documents are uint8"),
        ({"documents": DOCUMENTS[:0]}, "of shape"),
        ({"bits": np.zeros((300, 5), np.uint8)}, "300 documents of 44 dimensions have uint8"),
        ({"bits": np.zeros((300, 6), np.float32)}, "bits are float32"),
        ({"top_k": 0}, "top_k is 0"),
        ({"rescore_multiplier": 1.5}, "rescore_multiplier is 1.5"),
    ],
)
def test_what_does_not_fit_is_refused(given: dict, said: str) -> None:
    with pytest.raises(UsageError, match=said) as refused:
        rescore(**{"queries": QUERIES, "documents": DOCUMENTS, **given})
    assert len(str(refused.value).splitlines()) == 1


def test_an_encoder_gives_what_is_rescored(artifacts: dict[str, Path]) -> None:
    encoder = load(artifacts["onnxruntime"], threads=1)
    texts = [f"a text of number {n}" for n in range(30)]
    rows = encoder.embed(texts)
    stored = encoder.embed(texts, output="int8", ranges="one")
    goldens = one_range(encoder.embed(texts)) * 0 + encoder._golden_ranges(48, one=True)
    assert np.array_equal(stored, quantize(rows, "int8", goldens, lambda: goldens))
    assert len(set(np.abs(goldens).ravel().tolist())) == 1
    _, places = rescore(rows, stored, encoder.embed(texts, output="ubinary"), rescore_multiplier=9)
    wanted = np.argsort(-(rows @ (stored.astype(np.float32) + 0.5).T), axis=1)[:, :1]
    assert np.array_equal(places[:, :1], wanted)
    with pytest.raises(UsageError, match="ranges is 'two'"):
        encoder.embed(texts, output="int8", ranges="two")  # type: ignore[arg-type]


def test_the_judge_s_rescoring_of_all_is_a_whole_search() -> None:
    packed = [np.packbits(side > 0, axis=1) for side in (QUERIES, DOCUMENTS)]
    whole = ranks.ndcg_rescored((packed[0], packed[1]), (QUERIES, DOCUMENTS), kept=300)
    unit = QUERIES @ DOCUMENTS.T
    rank = (unit > unit[np.arange(40), np.arange(40)][:, None]).sum(axis=1) + 1
    assert whole == pytest.approx(np.where(rank <= 10, 1 / np.log2(1 + rank), 0.0))
