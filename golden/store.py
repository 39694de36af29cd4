"""Goldens on disk: `golden.json` for people and diffs, `embeddings.npy` for the numbers.

A folder is written whole or not at all, and read back only if everything in it agrees: the digest
of the numbers, their shape, the ids, and the fingerprint of the model that they came from.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from goldfold.golden import npy, triplets
from goldfold.golden.errors import GoldenError
from goldfold.golden.identity import defines as defines
from goldfold.golden.identity import fingerprint
from goldfold.golden.tasks import EMBEDDING, MULTI, SCORES, SPARSE, TASKS

FORMAT = 1
CALLS = ("encode", "encode_query", "encode_document", "predict")
"""The calls of users: methods of sentence-transformers that choose a prompt and a length. `predict`
takes a pair of texts."""
PREDICT = "predict"
ROUNDING = 1e-5
"""The most that a reference's own rounding may be, on the scale of scores: f32 in a hundred layers
is below it."""
NAMED = "prompt "
"""The prefix for the name of a prompt: `encode` with that prompt, asked for by name."""
SHORT = 300
"""Tokens of the longest text that is used where all texts would take too long: beyond
EmbeddingGemma's window of 257."""

STORE = Path(__file__).parent / "store"
"""The goldens that come with the package, one folder per model."""

_RECORD = "golden.json"
_NUMBERS = "embeddings.npy"
LIMITS = {_RECORD: 16 << 20, _NUMBERS: 64 << 20}
"""The most bytes of each; EmbeddingGemma's have half a megabyte together."""
_ROUNDED = (SCORES, SPARSE)
"""Tasks whose goldens state their own rounding."""
_VALUES = 1 << 19
_TOKENS = 1 << 20
"""More than any model reads; each takes some fifty bytes while a text's ids are read."""
FILES = (_RECORD, _NUMBERS)
"""All files of a folder of goldens."""


@dataclass(frozen=True, slots=True)
class Case:
    """One golden text. The model reads `prompt + text`; `token_ids` is what it really read.

    `call` is the entry point: "" for `encode` with that prompt, else the method of
    sentence-transformers that was called with the text alone, "encode", "encode_query" or
    "encode_document", which add a prompt and cut the text by their own settings, or "predict",
    whose input is the pair of `text` and `pair`.
    """

    id: str
    kind: str
    text: str
    prompt: str
    token_ids: tuple[int, ...]
    call: str = ""
    pair: str = ""
    """The second text of a pair."""
    unseen: int = 0
    """Of token vectors: how many of the last tokens attention does not see."""
    skipped: tuple[int, ...] = ()
    """Of token vectors: the places of tokens that take no part in scores."""
    unpooled: int = 0
    """How many leading tokens, the prompt's, pooling leaves out."""
    private: bool = False
    """Whether the text must not travel: `save` refuses it (withheld.py)."""
    withheld: str = ""
    """Digests in place of a private text and its tokens, of which there are as many zeros."""

    @property
    def counted(self) -> list[int]:
        """The places of the tokens whose vectors take part in scores."""
        left_out = frozenset(self.skipped)
        return [at for at in range(len(self.token_ids)) if at not in left_out]

    @property
    def input(self) -> str | tuple[str, str]:
        """What the call takes: the text, or the pair."""
        return (self.text, self.pair) if self.call == PREDICT else self.text


@dataclass(frozen=True, slots=True)
class Goldens:
    """The reference's results for one model.

    `embeddings` is float32 [N, dim], row i for `cases[i]`; `max_length` is in tokens; `normalized`
    says that the pipeline itself ends in unit vectors. `provenance` is JSON: versions, dtype,
    attention, and the digests of the files that define the model. `max_length` is that of the call
    that reads most. `prompts` holds the reference's prefixes of a text by their names.
    """

    model: str
    fingerprint: str
    dim: int
    max_length: int
    normalized: bool
    provenance: dict[str, Any]
    cases: tuple[Case, ...]
    embeddings: np.ndarray
    prompts: Mapping[str, str] = field(default_factory=dict)
    task: str = EMBEDDING
    """What the model gives (golden/tasks.py). Of `scores`, `embeddings` holds the logits. Of
    `sparse`, the numbers lie on disk as triplets where these are fewer (triplets.py). Of
    `multi_vector` it is float32 [tokens of all cases, dim], a row for each token."""
    units: int = 0
    """Of a sparse autoencoder (CSR): the most numbers of a row that are not zero."""
    rounding: float = 0.0
    """Of scores and sparse vectors: how far the reference's own f32 is from f64, at worst, on the
    scale of the numbers."""

    @property
    def longest(self) -> int:
        """The tokens of the longest text."""
        return max((len(case.token_ids) for case in self.cases), default=0)

    def row(self, place: int) -> np.ndarray:
        """The result of one case: float32 [dim], or [tokens, dim] of a model that gives a vector
        for each token."""
        if self.task != MULTI:
            return self.embeddings[place]
        start = sum(len(case.token_ids) for case in self.cases[:place])
        return self.embeddings[start : start + len(self.cases[place].token_ids)]

    def within(self, length: int) -> Goldens:
        """The goldens of at most `length` tokens, which an artifact of that static length can read.

        The artifact would cut longer ones and the reference would not, so they do not compare.
        """
        return self.kept([i for i, c in enumerate(self.cases) if len(c.token_ids) <= length])

    def pooled(self) -> Goldens:
        """The goldens of texts that are pooled whole: those of an artifact's first output."""
        return self.kept([i for i, case in enumerate(self.cases) if not case.unpooled])

    def public(self) -> Goldens:
        """The goldens of texts that may travel."""
        if not any(case.private for case in self.cases):
            return self
        return self.kept([i for i, case in enumerate(self.cases) if not case.private])

    def kept(self, rows: list[int]) -> Goldens:
        kept: Any = self.embeddings[rows]
        if self.task == MULTI:
            some = [self.row(i) for i in rows]
            kept = np.concatenate(some) if some else self.embeddings[:0]
        return replace(self, cases=tuple(self.cases[i] for i in rows), embeddings=kept)


def save(goldens: Goldens, folder: Path) -> None:
    """Write `goldens` as `folder`, replacing it; a killed write leaves the old folder in place.

    The same goldens give the same bytes. Raises GoldenError on goldens that `load` would refuse.
    """
    if any(case.private for case in goldens.cases):
        raise GoldenError(f"{folder}: a private text is not written")
    numbers = io.BytesIO()
    packed = triplets.pack(goldens.embeddings) if goldens.task == SPARSE else None
    stored = goldens.embeddings if packed is None else packed
    np.save(numbers, stored, allow_pickle=False)
    if numbers.tell() > LIMITS[_NUMBERS]:
        raise GoldenError(
            f"{folder}: {len(goldens.cases)} goldens of {goldens.dim} numbers, nearly all of them "
            f"non-zero, are larger than {LIMITS[_NUMBERS] >> 20} MiB"
        )
    record = {
        "format": FORMAT,
        "model": goldens.model,
        "fingerprint": goldens.fingerprint,
        "dim": goldens.dim,
        "max_length": goldens.max_length,
        "normalized": goldens.normalized,
        "provenance": goldens.provenance,
        **({"prompts": dict(goldens.prompts)} if goldens.prompts else {}),
        **({} if goldens.task == EMBEDDING else {"task": goldens.task}),
        **({"rounding": goldens.rounding} if goldens.task in _ROUNDED else {}),
        **({"units": goldens.units} if goldens.units else {}),
        **({} if packed is None else {"triplets": True}),
        "embeddings_sha256": hashlib.sha256(numbers.getvalue()).hexdigest(),
        # A string of numbers instead of a list keeps the ids of a case on one line.
        "cases": [
            {
                "id": case.id,
                "kind": case.kind,
                "prompt": case.prompt,
                "text": case.text,
                "token_ids": " ".join(map(str, case.token_ids)),
                **({"call": case.call} if case.call else {}),
                **({"pair": case.pair} if case.call == PREDICT else {}),
                **({"unseen": case.unseen} if case.unseen else {}),
                **({"skipped": " ".join(map(str, case.skipped))} if case.skipped else {}),
                **({"unpooled": case.unpooled} if case.unpooled else {}),
                **({"withheld": case.withheld} if case.withheld else {}),
            }
            for case in goldens.cases
        ],
    }
    _check(goldens, str(folder))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as scratch:
        fresh, old = Path(scratch) / "new", Path(scratch) / "old"
        fresh.mkdir()
        (fresh / _NUMBERS).write_bytes(numbers.getvalue())
        text = json.dumps(record, ensure_ascii=False, sort_keys=True, indent=1) + "\n"
        (fresh / _RECORD).write_bytes(text.encode())
        if folder.exists():
            # A folder cannot be renamed onto a full one; the old one is deleted with the scratch.
            folder.rename(old)
        try:
            fresh.rename(folder)
        except OSError:
            if old.exists():
                shutil.move(os.fspath(old), os.fspath(folder))
            raise


def load(folder: Path) -> Goldens:
    """Read and check the goldens in `folder`. Raises GoldenError naming folder and fault."""
    record = _record(folder)
    if record.get("format") != FORMAT:
        raise GoldenError(f"{folder}: format {record.get('format')!r}, this reads {FORMAT}")
    try:
        raw = _read(folder / _NUMBERS)
    except OSError as error:
        raise GoldenError(f"{folder}: cannot read {_NUMBERS}: {error.strerror}") from None
    if hashlib.sha256(raw).hexdigest() != record.get("embeddings_sha256"):
        raise GoldenError(f"{folder}: {_NUMBERS} is not the file that {_RECORD} was written with")
    try:
        goldens = Goldens(
            model=_typed(record, "model", str),
            fingerprint=_typed(record, "fingerprint", str),
            dim=_typed(record, "dim", int),
            max_length=_typed(record, "max_length", int),
            normalized=_typed(record, "normalized", bool),
            provenance=_typed(record, "provenance", dict),
            cases=tuple(_case(entry) for entry in _typed(record, "cases", list)),
            embeddings=_embeddings(raw, record),
            prompts=_prompts(record.get("prompts", {})),
            task=_task(record.get("task", EMBEDDING)),
            units=_typed({"units": 0, **record}, "units", int),
            rounding=float(record.get("rounding", 0.0)),
        )
    except (ValueError, TypeError, KeyError, EOFError, OverflowError) as error:
        raise GoldenError(f"{folder}: {_RECORD} is malformed: {error}") from None
    _check(goldens, str(folder))
    return goldens


def _embeddings(raw: bytes, record: dict[str, Any]) -> np.ndarray:
    """The goldens' numbers, of triplets made dense. ValueError for what `save` does not write."""
    numbers = npy.read(raw, _NUMBERS)
    if record.get("triplets", False) is not True:
        return numbers
    if record.get("task") != SPARSE:
        raise ValueError("'triplets' belongs to sparse vectors alone")
    return triplets.unpack(numbers, len(record["cases"]), _typed(record, "dim", int))


def find(fingerprint: str, roots: Iterable[Path] = (STORE,)) -> Path | None:
    """The first folder under `roots` whose goldens were made from the model `fingerprint`.

    Raises GoldenError on a record that cannot be read: skipping it would report a damaged store as
    a missing one.
    """
    for root in roots:
        for path in sorted(root.glob(f"*/{_RECORD}")):
            if _record(path.parent).get("fingerprint") == fingerprint:
                return path.parent
    return None


def _record(folder: Path) -> dict[str, Any]:
    try:
        raw = _read(folder / _RECORD)
        if raw.count(b",") + raw.count(b"[") + raw.count(b"{") > _VALUES:
            raise OSError(errno.EFBIG, f"it holds more than {_VALUES:,} values")
        record = json.loads(raw)
    except OSError as error:
        raise GoldenError(f"{folder}: cannot read {_RECORD}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise GoldenError(f"{folder}: {_RECORD} is no JSON: {error}") from None
    if not isinstance(record, dict):
        raise GoldenError(f"{folder}: {_RECORD} holds no object")
    return record


def _read(file: Path) -> bytes:
    """The bytes of an untrusted file. OSError for a path that is no regular file (a pipe would
    block), and for a file above its limit."""
    limit = LIMITS[file.name]
    if file.exists() and not file.is_file():
        raise OSError(errno.EINVAL, "it is no file of bytes")
    with file.open("rb") as opened:
        raw = b"" if os.fstat(opened.fileno()).st_size > limit else opened.read(limit + 1)
        if len(raw) > limit or os.fstat(opened.fileno()).st_size > limit:
            raise OSError(errno.EFBIG, f"it is larger than {limit >> 20} MiB")
    return raw


def _case(entry: dict[str, Any]) -> Case:
    said = _typed(entry, "token_ids", str)
    if said.count(" ") > _TOKENS:
        raise ValueError(f"a text of more than {_TOKENS:,} tokens")
    ids = tuple(int(i) for i in said.split(" ")) if said else ()
    strings = {key: _typed(entry, key, str) for key in ("id", "kind", "text", "prompt")}
    call = _typed(entry, "call", str) if "call" in entry else ""
    if call and call not in CALLS:
        raise ValueError(f"'call' is {call!r}, none of {', '.join(CALLS)}")
    pair = _typed(entry, "pair", str) if call == PREDICT else ""
    unseen = _typed(entry, "unseen", int) if "unseen" in entry else 0
    skipped = _typed(entry, "skipped", str) if "skipped" in entry else ""
    if skipped.count(" ") > len(ids):
        raise ValueError("more tokens are left out than a text has")
    places = tuple(int(one) for one in skipped.split(" ")) if skipped else ()
    unpooled = _typed({"unpooled": 0, **entry}, "unpooled", int)
    unknown = not set(places) < set(range(len(ids) + 1)) or not 0 <= unpooled < max(len(ids), 1)
    if not 0 <= unseen < max(len(ids), 1) or unknown:
        raise ValueError("tokens are unseen or left out that the text does not have")
    how: Any = {"unseen": unseen, "skipped": places, "unpooled": unpooled}
    how["withheld"] = _typed({"withheld": "", **entry}, "withheld", str)
    return Case(**strings, token_ids=ids, call=call, pair=pair, **how)


def _task(said: Any) -> str:
    if said not in TASKS:
        raise ValueError(f"'task' is {str(said)[:40]!r}, none of {', '.join(TASKS)}")
    return said


def _prompts(said: Any) -> dict[str, str]:
    if not isinstance(said, dict) or not all(isinstance(one, str) for one in said.values()):
        raise TypeError("'prompts' is no object of strings")
    json.dumps(said, ensure_ascii=False).encode()  # half a character is a ValueError
    return said


def _typed(record: dict[str, Any], key: str, kind: type) -> Any:
    value = record[key]
    # bool is an int to isinstance; a length of True must not pass.
    if type(value) is not kind:
        raise TypeError(f"{key!r} is {type(value).__name__}, not {kind.__name__}")
    return value


def _check(goldens: Goldens, where: str) -> None:
    """Raise GoldenError unless the parts of `goldens` agree with each other."""
    if not goldens.cases:
        raise GoldenError(f"{where}: no golden texts")
    digests = goldens.provenance.get("digests")
    if not isinstance(digests, dict) or fingerprint(digests) != goldens.fingerprint:
        raise GoldenError(f"{where}: the fingerprint does not follow from the recorded digests")
    seen: set[str] = set()
    for case in goldens.cases:
        if case.id in seen:
            raise GoldenError(f"{where}: the id {case.id!r} occurs twice")
        seen.add(case.id)
        if not 0 < len(case.token_ids) <= goldens.max_length:
            held, most = len(case.token_ids), goldens.max_length
            raise GoldenError(f"{where}: {case.id!r} has {held} tokens, not 1 to {most}")
    most = max(map(np.count_nonzero, goldens.embeddings)) if goldens.units else 0
    if not most <= goldens.units <= goldens.dim or (goldens.units and goldens.task != SPARSE):
        raise GoldenError(
            f"{where}: 'units' is {goldens.units}, and a row of {goldens.dim} numbers of the task "
            f"{goldens.task} has up to {most} that are not zero"
        )
    if not 0.0 <= goldens.rounding <= ROUNDING:
        raise GoldenError(f"{where}: 'rounding' is {goldens.rounding}, not 0 to {ROUNDING}")
    tokens = sum(len(case.token_ids) for case in goldens.cases)
    shape = (tokens if goldens.task == MULTI else len(goldens.cases), goldens.dim)
    if goldens.embeddings.shape != shape or goldens.embeddings.dtype != np.float32:
        raise GoldenError(
            f"{where}: embeddings are {goldens.embeddings.dtype} {goldens.embeddings.shape},"
            f" not float32 {shape}"
        )
    usable = np.asarray(np.isfinite(goldens.embeddings).all(axis=1))
    if goldens.task != SCORES:
        usable &= goldens.embeddings.any(axis=1)
    counts = [len(c.token_ids) if goldens.task == MULTI else 1 for c in goldens.cases]
    for case, end, count in zip(goldens.cases, np.cumsum(counts), counts, strict=True):
        if not usable[end - count : end].all():
            raise GoldenError(f"{where}: the embedding of {case.id!r} is not finite, or zero")
