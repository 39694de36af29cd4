"""The fp32 embeddings that artifacts are judged against come from sentence-transformers on the CPU,
as in golden/make.py; they are made once and kept in the user's cache.

A file of the cache is named after the model's fingerprint and the digest of its texts, so a changed
model or a changed set never gets the wrong numbers.
"""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from goldfold.golden import tables
from goldfold.golden.errors import GoldenError

Embed = Callable[[Sequence[str], str], np.ndarray]
"""(texts, kind) -> float32 [N, D], rows in the texts' order. A kind picks the prompt."""

Step = Callable[[int, int], None]
"""Called with (texts done, texts in all)."""

KINDS: Mapping[str, tuple[str, ...]] = {
    "query": ("query",),
    "document": ("document", "passage"),
    "plain": (),
}
"""Kind -> the names under which models have its prompt. "plain" never has one."""

NAMED = "prompt:"
"""The beginning of a kind that names its one prompt itself."""

CHUNK = 32
"""Texts of similar length in one call."""

BLOCK = 250
"""Texts in one block of the cache."""


def prompt_of(kind: str, prompts: Mapping[str, str]) -> str:
    """The prefix in a model's `prompts` (name -> prefix) for a text of `kind`; "" if none. NAMED
    and a prompt's name is a kind as well."""
    names = (kind.removeprefix(NAMED),) if kind.startswith(NAMED) else KINDS[kind]
    return next((prompts[name] for name in names if name in prompts), "")


def chunks(texts: Sequence[str], size: int = CHUNK) -> list[list[int]]:
    """Rows of `texts` in chunks of similar length, longest first."""
    order = sorted(range(len(texts)), key=lambda row: -len(texts[row]))
    return [order[begin : begin + size] for begin in range(0, len(order), size)]


def sentence_transformer(model_dir: Path, *, trust_remote_code: bool = False) -> Embed:
    """The model of `model_dir` in fp32, which the first call loads.

    That call raises GoldenError if the model cannot be loaded.
    """
    return Model(model_dir, trust_remote_code).embed


@dataclass
class Model:
    """A model in fp32, which the first call loads. That call raises GoldenError if the model cannot
    be loaded."""

    folder: Path
    trust_remote_code: bool = False
    route: str = ""
    length: int | None = None
    """Cut texts to this many tokens, if the model's own length is not less."""

    @cached_property
    def _opened(self) -> Any:
        from goldfold.golden.reference import open_reference, shorten

        model = open_reference(self.folder, self.trust_remote_code, route=self.route)
        if self.length is not None:
            shorten(model, self.length)
        return model

    def embed(self, texts: Sequence[str], kind: str) -> np.ndarray:
        """The embeddings of `texts`, float32 [N, D], as Embed says."""
        model, rows = self._opened, {}
        for chunk in chunks(texts):
            found = model.encode(
                [texts[row] for row in chunk],
                prompt=prompt_of(kind, model.prompts),
                batch_size=CHUNK,
                normalize_embeddings=False,
                convert_to_numpy=True,
                show_progress_bar=False,
            )
            rows.update(zip(chunk, found, strict=True))
        return np.stack([rows[row] for row in range(len(texts))]).astype(np.float32, copy=False)

    def token_ids(self, texts: Sequence[str], kind: str) -> list[tuple[int, ...]]:
        """The token ids that reach the model, specials and prompt included, cut to its length."""
        model, rows = self._opened, {}
        prompt = prompt_of(kind, model.prompts)
        for chunk in chunks(texts):
            made = model.preprocess([texts[row] for row in chunk], prompt=prompt)
            rows.update(zip(chunk, _ids(model, made), strict=True))
        return [rows[row] for row in range(len(texts))]


def _ids(model: Any, features: Mapping[str, Any]) -> list[tuple[int, ...]]:
    """Returns the ids of each text of one input, without padding."""
    if tables.is_static(model):
        return tables.read(features)
    ids, mask = (features[name].tolist() for name in ("input_ids", "attention_mask"))
    both = (zip(row, kept, strict=True) for row, kept in zip(ids, mask, strict=True))
    return [tuple(id_ for id_, kept in row if kept) for row in both]


def cached(
    fingerprint: str,
    make: Embed,
    folder: Path | None = None,
    note: Callable[[str], None] = lambda text: None,
    step: Step = lambda done, total: None,
    how: str = "",
) -> Embed:
    """`make`, called only for texts that `folder` (the user's cache by default) does not hold.
    `how` tells apart what gives the same texts of one model other embeddings, as its length.

    Texts are kept in blocks of BLOCK, so blocks made before a run was killed are not made again. A
    damaged file is reported through `note` and made again. If the cache cannot be written, `note`
    reports it and the run continues without.
    """
    place = folder or default_folder()
    if place is None:
        note("there is no home folder, so nothing is kept")
        return make

    def embed(texts: Sequence[str], kind: str) -> np.ndarray:
        found = []
        for begin in range(0, len(texts), BLOCK):
            found.append(block_of(texts[begin : begin + BLOCK], kind))
            step(min(begin + BLOCK, len(texts)), len(texts))
        return np.concatenate(found)

    def block_of(texts: Sequence[str], kind: str) -> np.ndarray:
        file = place / f"{fingerprint[:24]}-{digest(texts, kind + how)[:24]}.npz"
        if file.exists():
            found = _read(file, len(texts))
            if found is not None:
                return found
            note(f"{file} is damaged and made again")
        rows = make(texts, kind)
        try:
            _write(file, rows)
        except OSError as error:
            note(f"cannot keep {file}: {error.strerror}")
        return rows

    return embed


def default_folder() -> Path | None:
    """~/.cache/goldfold/judging, or the same under XDG_CACHE_HOME; None where there is no home."""
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "goldfold" / "judging"
    except RuntimeError:  # no HOME, and a user without an entry
        return None


def digest(texts: Sequence[str], kind: str) -> str:
    """sha256 of a kind and its texts, in their order."""
    state = hashlib.sha256(kind.encode())
    for text in texts:
        raw = text.encode("utf-8", "surrogatepass")
        state.update(len(raw).to_bytes(8, "little") + raw)
    return state.hexdigest()


def refusing(reason: str) -> Embed:
    """An Embed for a place without a model: it raises GoldenError(reason)."""

    def embed(texts: Sequence[str], kind: str) -> np.ndarray:
        raise GoldenError(reason)

    return embed


def _read(file: Path, count: int) -> np.ndarray | None:
    """The rows of a cache file; None if it is damaged."""
    try:
        with np.load(file, allow_pickle=False) as archive:
            rows, sha256 = archive["rows"], str(archive["sha256"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    whole = rows.ndim == 2 and len(rows) == count and rows.dtype == np.float32
    return rows if whole and _sha256(rows) == sha256 else None


def _write(file: Path, rows: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    raw = io.BytesIO()
    np.savez(raw, rows=rows, sha256=np.array(_sha256(rows)))
    handle, fresh = tempfile.mkstemp(prefix=f".{file.stem}.", dir=file.parent)
    try:
        with os.fdopen(handle, "wb") as out:
            out.write(raw.getvalue())
        Path(fresh).replace(file)
    except BaseException:
        Path(fresh).unlink(missing_ok=True)
        raise


def _sha256(rows: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(rows).tobytes()).hexdigest()
