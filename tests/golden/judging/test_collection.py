"""A user's own queries and documents: the forms, the figures, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from goldfold.golden.errors import GoldenError
from goldfold.golden.judging import collection
from goldfold.golden.judging.judge import OWN, Sets, judge


def beir(folder: Path, judged: str, queries: int = 20, documents: int = 30) -> Path:
    (folder / "qrels").mkdir(parents=True)
    rows = [{"_id": f"q{n}", "text": f"query {n}"} for n in range(queries)]
    (folder / "queries.jsonl").write_text("\n".join(map(json.dumps, rows)))
    rows = [{"_id": f"d{n}", "title": f"T{n}", "text": f"text {n}"} for n in range(documents)]
    (folder / "corpus.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "qrels" / "test.tsv").write_text(judged)
    return folder


HEAD = "query-id\tcorpus-id\tscore\n"
JUDGED = "".join(f"q{n}\td{n}\t1\nq{n}\td{n + 1}\t2\nq{n}\td5\t0\n" for n in range(20))


def test_beir_and_trec_are_read_alike(tmp_path: Path) -> None:
    one = collection.read(beir(tmp_path / "one", "\ufeff" + HEAD + JUDGED.replace("\n", "\r\n")))
    trec = "".join("{} 0 {} {}\n".format(*row.split("\t")) for row in JUDGED.splitlines())
    other = collection.read(beir(tmp_path / "two", trec))
    assert one.digest == other.digest
    assert one.documents[3] == "T3 text 3" and one.queries[3] == "query 3"
    assert one.relevant[3] == {3: 1.0, 4: 2.0}
    assert collection.read(tmp_path / "one" / "qrels" / "test.tsv").digest == one.digest


def test_only_judged_queries_are_run(tmp_path: Path) -> None:
    found = collection.read(beir(tmp_path / "c", HEAD + JUDGED, queries=50))
    assert len(found.queries) == 20 and len(found.documents) == 30


def pairs(file: Path, extra: str = "") -> Path:
    rows = [{"query": f"q{n}", "positive": [f"d{n}"], "negative": f"n{n}"} for n in range(20)]
    file.write_text("\n".join(map(json.dumps, rows)) + f"\n{extra}")
    return file


def test_pairs_in_one_file(tmp_path: Path) -> None:
    found = collection.read(pairs(tmp_path / "p.jsonl", '{"query": "q0", "positive": "d1"}\n'))
    assert found.queries[0] == "q0" and set(found.relevant[0]) == {0, 2}
    assert len(found.documents) == 40


def test_figures_are_those_of_the_definition() -> None:
    own = collection.Collection(
        "x", ("a", "b"), tuple("123456789xyz"), ({0: 1.0, 3: 2.0}, {5: 1.0})
    )
    queries = np.eye(2, 4)
    documents = np.zeros((12, 4))
    documents[:, 3] = 1.0
    # The cosine with query 0 falls with the row; with query 1 rows 4 and 5 are equal, and first.
    documents[:, 0] = np.arange(12, 0, -1) / 4
    documents[4:6] = [0, 1, 0, 0]
    found = collection.metrics(own, queries, documents)
    d = 1 / np.log2(np.arange(2, 12))
    assert found["nDCG@10"][0] == pytest.approx((d[0] + 2 * d[3]) / (2 * d[0] + d[1]))
    assert found["nDCG@10"][1] == pytest.approx((d[0] + d[1]) / 2)
    assert found["recall@10"].tolist() == [1.0, 1.0] and "recall@100" not in found


def test_a_worse_artifact_loses_and_an_equal_one_nothing(tmp_path: Path) -> None:
    own = collection.read(beir(tmp_path / "c", HEAD + JUDGED))
    places = {text: at for at, text in enumerate((*own.queries, *own.documents))}
    rows = np.random.default_rng(0).standard_normal((len(places), 16))
    for at, gains in enumerate(own.relevant):
        rows[at] += 2 * rows[len(own.queries) + next(iter(gains))]

    def embed(texts: Sequence[str], kind: str) -> np.ndarray:
        return rows[[places[text] for text in texts]].astype(np.float32)

    def worse(texts: Sequence[str], kind: str) -> np.ndarray:
        return embed(texts, kind) * (np.arange(16) < 3) + 1e-3

    same = judge(embed, embed, Sets(own=own), dims=(16,))
    assert [m.name for m in same.metrics] == [f"{OWN}nDCG@10", f"{OWN}recall@10"]
    assert all(m.loss == 0.0 and m.upper == 0.0 and m.count == 20 for m in same.metrics)
    assert same.pairs_digest == own.digest
    lost = judge(worse, embed, Sets(own=own), dims=(16,))
    assert lost.worst is not None and (lost.worst.upper or 0) > lost.worst.loss > 0.05


@pytest.mark.parametrize(
    ("judged", "said"),
    [
        (HEAD + JUDGED + "q1\td99\t1\n", "judges the document 'd99' for the query 'q1'"),
        (HEAD + JUDGED + "q99\td1\t1\n", "judges the query 'q99'"),
        (HEAD + "q1\td1\t0\n", "calls no document relevant"),
        (HEAD, "calls no document relevant"),
        (HEAD + "q1\td1\n", "test.tsv:2: is no judgement"),
        (HEAD + "q1\td1\tyes\n", "test.tsv:2: is no judgement"),
        (HEAD + "q1\td1\t1\n", "has 1 judged queries"),
    ],
)
def test_judgements_that_say_nothing(tmp_path: Path, judged: str, said: str) -> None:
    with pytest.raises(GoldenError) as error:
        collection.read(beir(tmp_path / "c", judged))
    assert said in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("lost", "said"),
    [
        ("corpus.jsonl", "corpus.jsonl: there is no such file"),
        ("queries.jsonl", "queries.jsonl: there is no such file"),
        ("qrels/test.tsv", "test.tsv: there is no such file"),
    ],
)
def test_missing_files(tmp_path: Path, lost: str, said: str) -> None:
    folder = beir(tmp_path / "c", HEAD + JUDGED)
    (folder / lost).unlink()
    with pytest.raises(GoldenError, match=said):
        collection.read(folder)


def test_another_split_is_named(tmp_path: Path) -> None:
    folder = beir(tmp_path / "c", HEAD + JUDGED)
    (folder / "qrels" / "test.tsv").rename(folder / "qrels" / "dev.tsv")
    assert len(collection.read(folder).queries) == 20  # the only one there is
    (folder / "qrels" / "train.tsv").write_text(HEAD)
    with pytest.raises(GoldenError, match=r"no qrels/test\.tsv, but dev\.tsv, train\.tsv; give"):
        collection.read(folder)


@pytest.mark.parametrize(
    ("name", "line", "said"),
    [
        ("p.jsonl", '{"query": "a"}', ":21: has no 'positive'"),
        ("p.jsonl", '{"query": "", "positive": "b"}', ":21: has an empty 'query'"),
        ("p.jsonl", '{"query": "a", "positive": [1]}', ":21: 'positive' is no text"),
        ("p.jsonl", "{", ":21: is no JSON"),
        ("p.jsonl", '{"query": "\\ud800", "positive": "b"}', ":21: is no JSON"),
        ("p.txt", "", "is no .jsonl of queries and positives"),
    ],
)
def test_lines_that_say_nothing(tmp_path: Path, name: str, line: str, said: str) -> None:
    with pytest.raises(GoldenError) as error:
        collection.read(pairs(tmp_path / name, line))
    assert said in str(error.value)
    with pytest.raises(GoldenError, match="there is no such file"):
        collection.read(tmp_path / "none")
