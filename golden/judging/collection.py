"""A retrieval collection of a user's own: queries, documents, and which are relevant.

    FILE.jsonl          {"query": "…", "positive": "…" or ["…", …]}, each a line; "negative" adds
                        documents that are not relevant
    FOLDER              BEIR: corpus.jsonl, queries.jsonl, qrels/test.tsv
    FOLDER/qrels/X.tsv  the same, by the judgements of X.tsv

Judgements are `query-id  corpus-id  score` with a header, or TREC's `query-id  0  corpus-id  score`
without one. A score above 0 is relevant. Only judged queries are run. With gains g and ranks r

    nDCG@10 = sum of g/log2(1+r) over the first ten / the largest such sum
    recall@k = relevant documents among the first k / relevant documents
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from goldfold.golden.errors import GoldenError
from goldfold.golden.judging.ranks import TOP, normalised

QUERIES, DOCUMENTS = 10_000, 200_000
"""The most of each: every one is embedded by every artifact, and once in fp32 on the CPU."""
LEAST = 20
"""The fewest queries: a mean of fewer says nothing."""
_LINE = 1 << 22
"""The most characters of a line."""
_JUDGEMENTS = 1 << 21
_SAMPLE = "keep the relevant documents and a sample of the others"
_DEPTHS = (10, 100)
"""The k of recall."""
_CHUNK = 64
"""Queries scored at once: 64 against 200,000 documents take 100 MB."""


@dataclass(frozen=True)
class Collection:
    """A collection; `relevant[i]` holds the gain of each relevant document of query i, by row."""

    name: str
    queries: tuple[str, ...]
    documents: tuple[str, ...]
    relevant: tuple[dict[int, float], ...]

    @property
    def digest(self) -> str:
        """The sha256, in hex, of all of it."""
        state = hashlib.sha256()
        for part in (self.queries, self.documents, [sorted(r.items()) for r in self.relevant]):
            state.update(json.dumps(part).encode() + b"\n")
        return state.hexdigest()


def read(place: Path) -> Collection:
    """Returns the collection in a file or a folder. Raises GoldenError naming file and line."""
    if place.is_dir():
        tables = sorted((place / "qrels").glob("*.tsv")) if (place / "qrels").is_dir() else []
        test = place / "qrels" / "test.tsv"
        if not test.is_file() and len(tables) == 1:
            test = tables[0]
        if not test.is_file() and tables:
            raise GoldenError(
                f"--pairs {place}: has no qrels/test.tsv, but {', '.join(t.name for t in tables)}; "
                f"give one of them, as {tables[0]}"
            )
        return _checked(_beir(place, test))
    if place.suffix.lower() == ".tsv" and place.parent.name == "qrels":
        return _checked(_beir(place.parent.parent, place))
    if place.suffix.lower() not in (".jsonl", ".ndjson") and place.exists():
        raise GoldenError(
            f"--pairs {place}: is no .jsonl of queries and positives, and no folder with "
            "corpus.jsonl, queries.jsonl and qrels/test.tsv"
        )
    return _checked(_pairs(place))


def metrics(
    collection: Collection, queries: np.ndarray, documents: np.ndarray
) -> dict[str, np.ndarray]:
    """Returns nDCG@10 and recall of each query [N], by cosine; documents of equal score share the
    mean of their ranks' gains.

    Raises Unrankable for an embedding that is not finite, or zero.
    """
    queries, documents = normalised(queries), normalised(documents)
    discounts = 1 / np.log2(1 + np.arange(1, TOP + 1))
    total = np.concatenate([[0.0], np.cumsum(discounts)])
    depths = [depth for depth in _DEPTHS if depth < len(collection.documents) or depth == TOP]
    names = [f"nDCG@{TOP}", *(f"recall@{depth}" for depth in depths)]
    found = {name: np.empty(len(queries)) for name in names}
    for begin in range(0, len(queries), _CHUNK):
        scores = queries[begin : begin + _CHUNK] @ documents.T
        for at, row in enumerate(scores, start=begin):
            gains = collection.relevant[at]
            own = row[list(gains)]
            better = np.array([(row > one).sum() for one in own])
            level = np.array([(row == one).sum() for one in own])
            weights = np.array(list(gains.values()))
            shares = total[np.minimum(better + level, TOP)] - total[np.minimum(better, TOP)]
            best = np.sort(weights)[::-1][:TOP] @ discounts[: len(weights)]
            found[names[0]][at] = float(weights @ (shares / level)) / best
            for depth in depths:
                inside = np.minimum(better + level, depth) - np.minimum(better, depth)
                found[f"recall@{depth}"][at] = float((inside / level).mean())
    return found


def _checked(found: Collection) -> Collection:
    if len(found.queries) < LEAST:
        raise GoldenError(
            f"--pairs {found.name}: has {len(found.queries)} judged queries; fewer than {LEAST} "
            "say nothing"
        )
    if len(found.documents) <= TOP:
        raise GoldenError(
            f"--pairs {found.name}: has {len(found.documents)} documents, and the first {TOP} of "
            "them always hold the relevant ones; give more"
        )
    return found


# --- one file


def _pairs(file: Path) -> Collection:
    queries: dict[str, dict[int, float]] = {}
    rows: dict[str, int] = {}
    for line, one in _objects(file):
        query = _text(one, "query", file, line)
        positives = _several(one, "positive", file, line)
        if not positives:
            raise GoldenError(f"--pairs {file}:{line}: has no 'positive', no relevant document")
        for text in (*positives, *_several(one, "negative", file, line)):
            rows.setdefault(text, len(rows))
        queries.setdefault(query, {}).update({rows[text]: 1.0 for text in positives})
        _check_size(len(queries), len(rows), f"{file}:{line}")
    return Collection(str(file), tuple(queries), tuple(rows), tuple(queries.values()))


def _several(one: dict[str, Any], name: str, file: Path, line: int) -> list[str]:
    found = one.get(name, [])
    found = [found] if isinstance(found, str) else found
    if not isinstance(found, list) or not all(isinstance(t, str) and t.strip() for t in found):
        raise GoldenError(f"--pairs {file}:{line}: {name!r} is no text, and no list of texts")
    return found


# --- BEIR


def _beir(folder: Path, judged: Path) -> Collection:
    judgements = _judgements(judged)
    texts: dict[str, str] = {}
    for line, one in _objects(folder / "queries.jsonl"):
        name = _text(one, "_id", folder / "queries.jsonl", line)
        if name in judgements:
            texts[name] = _text(one, "text", folder / "queries.jsonl", line)
    if lost := sorted(judgements.keys() - texts.keys()):
        raise GoldenError(
            f"--pairs {judged}: judges the query {lost[0][:80]!r}, which queries.jsonl does not "
            f"hold ({len(lost):,} in all)"
        )
    rows: dict[str, int] = {}
    documents: list[str] = []
    file = folder / "corpus.jsonl"
    for line, one in _objects(file):
        name = _text(one, "_id", file, line)
        if name in rows:
            raise GoldenError(f"--pairs {file}:{line}: has the id {name[:80]!r} a second time")
        title, text = (one.get(key) or "" for key in ("title", "text"))
        whole = (
            f"{title} {text}".strip() if isinstance(title, str) and isinstance(text, str) else ""
        )
        if not whole:
            raise GoldenError(f"--pairs {file}:{line}: has neither a title nor a text")
        rows[name] = len(documents)
        documents.append(whole)
        _check_size(0, len(documents), f"{file}:{line}")
    relevant = []
    for query in texts:
        lost = next((name for name in judgements[query] if name not in rows), None)
        if lost is not None:
            raise GoldenError(
                f"--pairs {judged}: judges the document {lost[:80]!r} for the query "
                f"{query[:80]!r}, which corpus.jsonl does not hold"
            )
        relevant.append({rows[name]: gain for name, gain in judgements[query].items()})
    return Collection(str(folder), tuple(texts.values()), tuple(documents), tuple(relevant))


def _judgements(file: Path) -> dict[str, dict[str, float]]:
    """Returns the gain of each relevant document by the ids of query and document."""
    found: dict[str, dict[str, float]] = {}
    count = 0
    for line, text in _lines(file):
        parts = [part.strip() for part in (text.split("\t") if "\t" in text else text.split())]
        score = parts[-1] if parts else ""
        number = score.removeprefix("-").replace(".", "", 1).isdecimal() and len(score) < 16
        if line == 1 and not number:
            continue  # BEIR's header
        if len(parts) not in (3, 4) or not number:
            raise GoldenError(
                f"--pairs {file}:{line}: is no judgement; give query-id, corpus-id and score, or "
                "TREC's four columns"
            )
        count += 1
        if count > _JUDGEMENTS:
            raise GoldenError(f"--pairs {file}: has more than {_JUDGEMENTS:,} judgements")
        if float(score) > 0:
            found.setdefault(parts[0], {})[parts[-2]] = float(score)
    if not found:
        raise GoldenError(f"--pairs {file}: calls no document relevant: no score is above 0")
    _check_size(len(found), 0, str(file))
    return found


# --- lines


def _check_size(queries: int, documents: int, place: str) -> None:
    for count, most, what in ((queries, QUERIES, "queries"), (documents, DOCUMENTS, "documents")):
        if count > most:
            raise GoldenError(
                f"--pairs {place}: is of more than {most:,} {what}, and every one is embedded in "
                f"fp32 on the CPU; {_SAMPLE}"
            )


def _text(one: dict[str, Any], name: str, file: Path, line: int) -> str:
    found = one.get(name)
    if not isinstance(found, str) or not found.strip():
        what = "no" if name not in one else "an empty" if found in ("", None) else "no text in"
        raise GoldenError(f"--pairs {file}:{line}: has {what} {name!r}")
    return found


def _objects(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for line, text in _lines(file):
        try:
            found = json.loads(text)
            text.encode()
            json.dumps(found, ensure_ascii=False).encode()
        except (ValueError, RecursionError):
            raise GoldenError(f"--pairs {file}:{line}: is no JSON") from None
        if not isinstance(found, dict):
            raise GoldenError(f"--pairs {file}:{line}: is no object")
        yield line, found


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    """Yields the lines of a file that are not blank, with their numbers."""
    line = 0
    try:
        if file.exists() and not file.is_file():
            raise GoldenError(f"--pairs {file}: is no file")
        with file.open(encoding="utf-8-sig", newline=None) as opened:
            while text := opened.readline(_LINE):
                line += 1
                if len(text) >= _LINE:
                    raise GoldenError(f"--pairs {file}:{line}: is longer than {_LINE:,} characters")
                if text.strip():
                    yield line, text.strip("\n")
    except FileNotFoundError:
        raise GoldenError(f"--pairs {file}: there is no such file") from None
    except UnicodeDecodeError:
        raise GoldenError(f"--pairs {file}: is not UTF-8 after line {line:,}; convert it") from None
    except OSError as error:
        raise GoldenError(f"--pairs {file}: cannot be read: {error.strerror}") from None
