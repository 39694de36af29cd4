"""Texts of a user's own, read from files: lines, JSONL, CSV and TSV.

    FILE            each text as `encode` takes it
    FILE:query      each as `encode_query` takes it; FILE:document, FILE:NAME of a prompt

| ending | a text | its place |
|---|---|---|
| `.jsonl`, `.ndjson` | a field of an object | the line |
| `.csv`, `.tsv` | a column, named in the first row | the line where the row begins |
| any other | a line that is not blank | the line |

Every refusal names the file and the line.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from goldfold.exporter.errors import UsageError
from goldfold.exporter.frontend.characters import script_of
from goldfold.exporter.system.files import expanded, read_bounded

MOST = 2_000
"""The most texts that become goldens: each runs alone in the reference, and alone, in batches and
in threads in every artifact; similarities are compared between all pairs."""
LIMIT = 64 << 20
"""The most bytes of a file."""
LONGEST = 100_000
"""The most characters of a text: more than any model reads of one."""
ALL = 3 << 20
"""The most bytes of all texts together, commas and brackets counted as eight: a golden.json holds
no more (golden/store.py)."""

TEXT = ("text", "sentence", "content", "query", "question", "document", "passage", "body")
"""The fields and columns that hold a text, the first that is there; none needs --column."""
QUERY, DOCUMENT = ("query", "question"), ("document", "passage", "text")
"""Those of a pair: one of each."""
TASK = "task"
"""The field or column that says how a text is embedded, as after FILE: in an option."""

_LINES, _TABLES = (".jsonl", ".ndjson"), {".csv": ",", ".tsv": "\t"}
_FOREIGN = (".json", ".parquet", ".gz", ".zip", ".zst", ".xz", ".bz2", ".xlsx", ".arrow", ".pdf")


@dataclass(frozen=True, slots=True)
class Text:
    """A text of a user's own."""

    id: str
    """Its name in tables: `yours-3` is line 3; of the second file `yours2-3`."""
    text: str
    place: str
    """Its file and line, for messages."""
    task: str = ""
    """The way of embedding: "" is `encode`, "query", "document", or a prompt's name."""
    pair: str | None = None
    """The second text of a pair: the document of a query."""

    @property
    def key(self) -> tuple[str, str, str | None]:
        return self.task, self.text, self.pair


def read(
    files: Sequence[str | Path],
    column: str | None = None,
    option: str = "--texts",
    most: int = MOST,
    room: int = ALL,
) -> tuple[Text, ...]:
    """Returns the texts of `files`, in order, each once.

    `column` names the field or column of the text, or, as "query,document", those of a pair;
    `most` is how many texts there may be, and `room` the bytes of all of them.
    Raises UsageError naming option, file and line.
    """
    columns = _columns(column)
    if columns and not files:
        raise UsageError(f"--column names a column of {option}; give both")
    found: dict[tuple[str, str, str | None], Text] = {}
    size = 0
    for number, said in enumerate(files, start=1):
        name, task = split(said)
        prefix = "yours" if number == 1 else f"yours{number}"
        before = len(found)
        for line, text, pair, own in _rows(_File(name, option), columns):
            place = f"{name}:{line}"
            one = Text(f"{prefix}-{line}", text, place, own or task, pair)
            for part in (text, pair or ""):
                size += _weighed(part, f"{option} {place}")
            found.setdefault(one.key, one)
            if len(found) > most:
                raise UsageError(
                    f"{option} {place}: is text {len(found):,}, and {most:,} are the most; take a "
                    f"sample, as with `shuf -n {most} FILE`"
                )
            if size > room:
                raise UsageError(
                    f"{option} {place}: all texts up to here are larger than {room >> 20} MiB, the "
                    "most; give fewer, or shorter ones"
                )
        if len(found) == before:
            why = "holds no text" if number == 1 else "holds no text that the others do not"
            raise UsageError(f"{option} {name}: {why}; give a text a line")
    return tuple(found.values())


def split(said: str | Path) -> tuple[Path, str]:
    """Returns the file and the way of embedding of `FILE` or `FILE:WAY`."""
    whole = expanded(str(said))
    head, colon, way = str(said).rpartition(":")
    apart = not whole.exists() and colon and head and way and not set(way) & {"/", "\\"}
    return (expanded(head), way) if apart and expanded(head).exists() else (whole, "")


def as_texts(texts: Iterable[Text]) -> tuple[Text, ...]:
    """Returns texts for a model that takes one at a time: of a pair the query and the document."""
    found: dict[tuple[str, str, str | None], Text] = {}
    for one in texts:
        parts = [one]
        if one.pair is not None:
            parts = [
                replace(one, task="query", pair=None),
                replace(one, id=f"{one.id}-document", text=one.pair, task="document", pair=None),
            ]
        for part in parts:
            found.setdefault(part.key, part)
    return tuple(found.values())


def as_pairs(texts: Iterable[Text], model: str, option: str = "--texts") -> tuple[Text, ...]:
    """Returns texts for a model that takes pairs. Raises UsageError for one that is no pair."""
    found = tuple(texts)
    for one in found:
        if one.pair is None:
            raise UsageError(
                f"{option} {one.place}: is one text, and {model} takes pairs; give JSONL of "
                '{"query": …, "document": …}, or a table with --column query,document'
            )
        if one.task:
            raise UsageError(f"{option} {one.place}: a pair has no task {one.task[:40]!r}")
    return found


def digest(texts: Iterable[Text]) -> str:
    """Returns the sha256, in hex, of texts and of how each is embedded, in their order."""
    state = hashlib.sha256()
    for one in texts:
        state.update(json.dumps([one.task, one.text, one.pair]).encode() + b"\n")
    return state.hexdigest()


def one_script(texts: Iterable[str]) -> str:
    """Returns the one script that all letters of `texts` are of; "" where they are of several, or
    there are none."""
    found: set[str] = set()
    for character in set().union(*map(set, texts)):
        if name := script_of(character):
            found.add(name)
            if len(found) > 1:
                return ""
    return next(iter(found), "")


# --- files


@dataclass(frozen=True)
class _File:
    path: Path
    option: str

    def fault(self, line: int | None, why: str) -> UsageError:
        place = str(self.path) if line is None else f"{self.path}:{line}"
        return UsageError(f"{self.option} {place}: {why}")

    def text(self) -> str:
        """Returns the whole file, its line ends as `\\n`, without a byte order mark."""
        ending = self.path.suffix.lower()
        if ending in _FOREIGN and self.path.is_file():
            raise self.fault(None, f"{ending} is no form of texts; give .txt, .jsonl, .csv or .tsv")
        try:
            raw = read_bounded(self.path, LIMIT)
        except FileNotFoundError:
            raise self.fault(None, "there is no such file") from None
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or str(error)
            more = "; take a sample, as with `shuf -n 1000 FILE`" if "larger" in why else ""
            raise self.fault(None, f"cannot be read: {why}{more}") from None
        if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise self.fault(None, "is UTF-16; convert it to UTF-8")
        try:
            text = raw.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = error.object[: error.start].count(b"\n") + 1
            raise self.fault(line, "is not UTF-8; convert the file") from None
        return text.replace("\r\n", "\n").replace("\r", "\n")


_Row = tuple[int, str, str | None, str]
"""Line, text, the second text of a pair, and the way of embedding."""


def _rows(file: _File, columns: tuple[str, ...]) -> Iterator[_Row]:
    ending = file.path.suffix.lower()
    if ending in _LINES:
        yield from (_picked(file, line, row, columns) for line, row in _objects(file))
    elif ending in _TABLES:
        rows = _table(file, _TABLES[ending])
        yield from (_picked(file, line, row, columns) for line, row in rows)
    elif columns:
        said = ",".join(columns)
        raise file.fault(None, f"has lines, and no column {said!r}; give .jsonl, .csv or .tsv")
    else:
        for line, text in enumerate(file.text().split("\n"), start=1):
            if text.strip():
                yield line, text, None, ""


def _objects(file: _File) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for line, text in enumerate(file.text().split("\n"), start=1):
        if not text.strip():
            continue
        try:
            found = json.loads(text)
        except RecursionError:
            raise file.fault(line, "is nested too deep") from None
        except ValueError as error:
            raise file.fault(line, f"is no JSON: {getattr(error, 'msg', error)}") from None
        found = {"text": found} if isinstance(found, str) else found
        if not isinstance(found, dict):
            raise file.fault(line, 'is no object; give {"text": "…"} a line')
        yield line, found


def _table(file: _File, between: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    text = file.text()
    # A quote in a table of tabs is a character: TREC's and BEIR's have no other kind.
    quoting = csv.QUOTE_NONE if between == "\t" else csv.QUOTE_MINIMAL
    kept = csv.field_size_limit(LIMIT)
    try:
        rows = csv.reader(io.StringIO(text, newline=""), delimiter=between, strict=True,
                          quoting=quoting)  # fmt: skip
        header = [name.strip() for name in next(rows, [])]
        if len(set(header)) != len(header):
            raise file.fault(1, "names a column twice")
        begin = rows.line_num + 1
        for row in rows:
            if row and any(cell.strip() for cell in row):
                if len(row) != len(header):
                    why = f"has {len(row)} columns, and the first row names {len(header)}"
                    raise file.fault(begin, why)
                yield begin, dict(zip(header, row, strict=False))
            begin = rows.line_num + 1
    except csv.Error as error:
        raise file.fault(rows.line_num or 1, f"is no table: {error}") from None
    finally:
        csv.field_size_limit(kept)


def _picked(file: _File, line: int, row: Mapping[str, Any], columns: tuple[str, ...]) -> _Row:
    """Returns the text, or the pair, of a record."""
    names = columns or _named(row)
    if not names:
        known = f"{', '.join(TEXT[:-1])} and {TEXT[-1]}"
        raise file.fault(
            line, f"has {_listed(row)}, and none of {known}; name a column with --column"
        )
    values = []
    for name in names:
        if name not in row:
            raise file.fault(line, f"has no column {name!r}, but {_listed(row)}")
        if not isinstance(value := row[name], str):
            raise file.fault(line, f"{name!r} is {type(value).__name__}, no text")
        if not value.strip():
            raise file.fault(line, f"{name!r} is empty")
        values.append(value)
    task = row.get(TASK) or ""
    if not isinstance(task, str):
        raise file.fault(line, f"{TASK!r} is {type(task).__name__}, no text")
    if len(values) == 1 and not columns:  # a query is a query, whatever its file
        task = task or {"query": "query", "document": "document"}.get(names[0], "")
    return line, values[0], values[1] if len(values) > 1 else None, task


def _named(row: Mapping[str, Any]) -> tuple[str, ...]:
    query = next((name for name in QUERY if name in row), None)
    document = next((name for name in DOCUMENT if name in row), None)
    if query is not None and document is not None:
        return query, document
    return tuple(name for name in TEXT if name in row)[:1]


def _columns(said: str | None) -> tuple[str, ...]:
    if said is None:
        return ()
    names = tuple(part.strip() for part in said.split(","))
    if not all(names) or len(names) > 2 or len(set(names)) != len(names):
        raise UsageError(f"--column {said[:80]!r} is no column, and no two as query,document")
    return names


def _listed(row: Mapping[str, Any]) -> str:
    names = [repr(str(name)[:40]) for name in row]
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return f"{', '.join(names[:8])}{more}" if names else "no columns"


def _weighed(text: str, place: str) -> int:
    """Returns the bytes that a text takes among goldens. Raises UsageError for one that no model
    reads."""
    if len(text) > LONGEST:
        raise UsageError(
            f"{place}: has {len(text):,} characters, and {LONGEST:,} are the most; no model reads "
            "as many: split it"
        )
    try:
        raw = text.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{place}: holds half a character (a lone surrogate)") from None
    return len(raw) + 7 * sum(text.count(mark) for mark in ",[{")
