"""The encoder of an opened artifact of any target: texts in, embeddings out."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from goldfold.exporter import registry
from goldfold.exporter.artifact import embedding_types, processes
from goldfold.exporter.artifact.bundle import (
    GOLDEN,
    MANIFEST,
    Bundle,
    check_references,
    open_bundle,
    steadily,
)
from goldfold.exporter.artifact.late_encoder import LateEncoder
from goldfold.exporter.artifact.runnable import (
    WINDOW,
    Runnable,
    checked_texts,
    is_whole,
    similarity,
)
from goldfold.exporter.artifact.scorer import Scorer
from goldfold.exporter.artifact.sparse_encoder import SparseEncoder
from goldfold.exporter.contract import Task
from goldfold.exporter.errors import ArtifactError, TargetError, TextError, UsageError
from goldfold.exporter.evaluate import batches as batching
from goldfold.golden import store
from goldfold.golden.errors import GoldenError

if TYPE_CHECKING:
    from goldfold.exporter.artifact.index_canaries import IndexCanaries

_CORES = 4096
"""More cores than any machine has: a runtime told to use more would fail with a message of its
own."""


def load(
    folder: str | Path,
    *,
    threads: int | None = None,
    streams: int | None = None,
    check: bool | None = None,
) -> Encoder:
    """Open an artifact folder for use, by any number of threads at a time. The result is an
    Encoder, of a model that scores pairs of texts a Scorer (exporter/artifact/scorer.py), of a
    sparse encoder a SparseEncoder (exporter/artifact/sparse_encoder.py), and of one that gives a
    vector for each token a LateEncoder (exporter/artifact/late_encoder.py).

    Args:
        folder: an artifact that `export` wrote.
        threads: the most that the runtime may use; by default one per core.
        streams: how many callers are computed side by side, each with its share of `threads`
            (OpenVINO's NUM_STREAMS; contexts in TensorRT; nothing in Core ML). By default OpenVINO
            and TensorRT compute one caller after the other, with all threads, and ONNX Runtime all
            at once. docs/serving.md gives the cost of each.
        check: True computes three golden texts, the canaries, whatever the precision: one that is
            further from its golden than the gate allows is refused. By default only an artifact of
            integers is asked that meets another runtime version or processor than its verdict's,
            and a warning says if it rounds otherwise (exporter/artifact/canaries.py). Both read
            every file once to compare its digest (about 1 s per gigabyte); False does neither.

    Raises:
        ArtifactError: a damaged folder, one that missed its gate, or one that computes something
            else here.
        TargetError: its runtime is not installed.
        UsageError: fewer than one thread or stream; a fork of a process that has a runtime at work
            which does not survive that.
    """
    _check_cores(threads, streams)
    path = Path(folder)

    def opened() -> Encoder:
        return open_encoder(
            open_bundle(path, check_files=check is not False), threads, streams=streams
        )

    encoder = steadily(path, opened)
    verdict = encoder.bundle.verdict
    if check or (check is None and verdict is not None and verdict.canaries is not None):
        from goldfold.exporter.artifact import canaries

        canaries.check(encoder, always=check is True)
    return encoder


def open_encoder(
    bundle: Bundle, threads: int | None = None, proof: bool = False, streams: int | None = None
) -> Encoder:
    """Returns the encoder of a bundle that is already open and checked.

    `proof`: the encoder is only for measurement, so a stand-in for the artifact is enough where
    this machine cannot run it (targets/base.py).
    """
    _check_cores(threads, streams)
    manifest = bundle.manifest
    if manifest.target not in registry.names():
        raise ArtifactError(f"{bundle.path}: {MANIFEST} names no target here: {manifest.target!r}")
    if manifest.recipe is None and manifest.precision not in registry.FLOATS:
        raise ArtifactError(f"{bundle.path}: {MANIFEST} has no recipe for {manifest.precision!r}")
    try:
        registry.offered(manifest.target, manifest.precision, manifest.needs)
    except TargetError as error:
        raise TargetError(f"{bundle.path}: {error}") from None
    check_references(bundle.path, manifest)
    kind = _KINDS.get(manifest.contract.task, Encoder)
    encoder = kind(bundle, processes.opened(processes.Way(bundle, threads, streams, proof)))
    bundle.check_unchanged()
    return cast("Encoder", encoder)


_KINDS: Mapping[str, type[Runnable]] = {
    "scores": Scorer,
    "sparse": SparseEncoder,
    "multi_vector": LateEncoder,
}


class Encoder(Runnable):
    """An encoder: `.embed(texts)` for people, `.run(input_ids, attention_mask)` for programs; any
    number of threads may call either at a time. sentence-transformers' own names, `encode`,
    `encode_query`, `encode_document` and `similarity`, are there as well."""

    _result = "embedding"

    def embed(
        self,
        texts: str | Sequence[str],
        prompt: str | None = None,
        dims: int | None = None,
        batch_size: int = 32,
        output: str = "float32",
        ranges: np.ndarray | Literal["one"] | None = None,
        *,
        task: Task = "",
        errors: str = "raise",
        strict_scripts: bool = False,
    ) -> np.ndarray:
        """Embed texts; float32 [N, D], rows in the order of `texts`.

        Args:
            texts: one text or many; longer ones than the model takes are truncated.
            prompt: name of one of the model's prompts, put before every text; None is the task's
                (mostly none where there is no task), "" is none.
            dims: keep so many leading dimensions (Matryoshka) and normalise again; the artifact's
                own head of that size does so where it has one.
            batch_size: the most texts in one call of the runtime.
            output: `float32`, or fewer bits as sentence-transformers defines them: `int8`, `uint8`,
                `binary`, `ubinary` (exporter/artifact/embedding_types.py says how).
            ranges: minimum and maximum of each dimension, [2, D], for int8 and uint8; by default
                those of the artifact's golden embeddings. Both sides of a comparison need the
                same. One range -m … m for all dimensions preserves angles best (docs/judging.md):
                "one" is that of the goldens.
            task: `query` or `document`: the prompt and the length that sentence-transformers'
                encode_query and encode_document take; "" is encode.
            errors: the treatment of texts that cannot be embedded: `raise` names them; `nan` embeds
                the others, gives them a row of NaN, and warns.
            strict_scripts: treat a text that holds a character outside of the scripts to which the
                vocabulary was cut as one that cannot be embedded: its tokens may be others than
                the source's.

        Raises:
            TextError: texts without tokens, with a token that the model has no row for, or with
                values that are larger than the artifact's precision holds.
            UsageError: something that is not a text, an unknown prompt or output, dims out of
                range, a batch size below 1, ranges that do not fit.
        """
        embedding_types.check_output(output)
        if isinstance(ranges, str) and ranges != "one":
            raise UsageError(f'ranges is {ranges!r}; give an array [2, D], or "one"')
        if not is_whole(batch_size) or batch_size < 1:
            raise UsageError(f"batch_size is {batch_size!r}; it must be a whole number from 1")
        if errors not in ("raise", "nan") or (errors == "nan" and output != "float32"):
            raise UsageError(f"errors is {errors!r}; it must be raise, or, of float32, nan")
        dim = self._dims(dims)
        texts = checked_texts(texts)
        self._check_task(task)
        prefix = self.prefix(prompt, task)
        name = self.contract.prompt_name(task) if prompt is None else prompt
        made = dim if dim in self.contract.heads else self.contract.dim
        out = np.empty((len(texts), made), dtype=np.float32)
        odd: dict[int, str] = {}
        for start in range(0, len(texts), WINDOW):
            some = [prefix + text for text in texts[start : start + WINDOW]]
            found, wrong = self._read(some, task)
            wrong |= self.outside(some) if strict_scripts else {}
            odd |= {start + place: why for place, why in wrong.items()}
            if odd and errors == "raise":
                continue  # the other texts are read as well, so that all are named at once
            places = [start + place for place in range(len(found)) if place not in wrong]
            good = [ids for place, ids in enumerate(found) if place not in wrong]
            for rows in self.batches([len(ids) for ids in good], batch_size):
                ids, mask = batching.pad([good[row] for row in rows], self.contract.pad_id)
                out[[places[row] for row in rows]] = made_rows = self.run(ids, mask, made, name)
                for row in np.flatnonzero(~np.isfinite(made_rows).all(axis=1)):
                    odd[places[rows[row]]] = self._overflows
        if odd and errors == "raise":
            raise TextError(odd, texts)
        if odd:
            out[list(odd)] = np.nan
            warnings.warn(f"rows of NaN: {TextError(odd, texts)}", stacklevel=2)
        rows = out if dim == made else self._shorten(out, dim)
        one, ranges = isinstance(ranges, str), None if isinstance(ranges, str) else ranges
        return embedding_types.quantize(rows, output, ranges, lambda: self._golden_ranges(dim, one))

    def embed_query(self, texts: str | Sequence[str], **how: Any) -> np.ndarray:
        """Embed queries, as sentence-transformers' encode_query does; takes the arguments of
        `embed`."""
        return self.embed(texts, task="query", **how)

    def embed_document(self, texts: str | Sequence[str], **how: Any) -> np.ndarray:
        """Embed documents, as sentence-transformers' encode_document does; takes the arguments of
        `embed`."""
        return self.embed(texts, task="document", **how)

    def encode(
        self,
        sentences: str | Sequence[str],
        prompt_name: str | None = None,
        batch_size: int = 32,
        truncate_dim: int | None = None,
        *,
        task: Task = "",
    ) -> np.ndarray:
        """Embed texts under sentence-transformers' names of the arguments of `embed`: float32
        [N, D], and [D] for one text alone."""
        rows = self.embed(sentences, prompt_name, truncate_dim, batch_size, task=task)
        return rows[0] if isinstance(sentences, str) else rows

    def encode_query(self, sentences: str | Sequence[str], **how: Any) -> np.ndarray:
        """Embed queries; takes the arguments of `encode`."""
        return self.encode(sentences, task="query", **how)

    def encode_document(self, sentences: str | Sequence[str], **how: Any) -> np.ndarray:
        """Embed documents; takes the arguments of `encode`."""
        return self.encode(sentences, task="document", **how)

    def similarity(self, embeddings1: np.ndarray, embeddings2: np.ndarray) -> np.ndarray:
        """Returns the similarities of all pairs of rows, float32 [N, M], by the function that the
        model names (cosine where it names none): distances are negative, as in
        sentence-transformers."""
        return similarity(embeddings1, embeddings2, self.contract.similarity)

    def canaries(self, task: Task = "document", dims: int | None = None) -> IndexCanaries:
        """Returns a few golden texts, and this artifact's vectors of them: a service keeps them in
        its index, and asks `check_index` later (exporter/artifact/index_canaries.py)."""
        from goldfold.exporter.artifact import index_canaries

        self._check_task(task)
        return index_canaries.of(self, task, dims)

    def check_index(self, vectors: np.ndarray, task: Task = "document") -> np.ndarray:
        """Compare the vectors that an index holds for `canaries().texts` with this artifact's;
        returns the 1−cos of each, f64 [N].

        Raises GateMissed where they are not its vectors, naming another prompt, another order or
        other lengths where that is what differs; UsageError for another shape.
        """
        from goldfold.exporter.artifact import index_canaries

        self._check_task(task)
        return index_canaries.check(self, vectors, task)

    def _dims(self, dims: int | None) -> int:
        full = self.contract.dim
        if dims is None:
            return full
        if not is_whole(dims) or not 1 <= dims <= full:
            raise UsageError(f"dims is {dims!r}; {self.contract.model} has 1 … {full}")
        return dims

    def _golden_ranges(self, dim: int, one: bool = False) -> np.ndarray:
        """Returns the ranges of the artifact's own goldens, cut to `dim`, or `one` for all
        dimensions; float32 [2, dim]."""
        try:
            stored = store.load(self.bundle.path / GOLDEN).embeddings
            for name in store.FILES:  # another artifact may lie there by now
                key = f"{GOLDEN}/{name}"
                self.bundle.check_bytes(key, (self.bundle.path / key).read_bytes())
        except GoldenError as error:
            raise ArtifactError(f"{self.bundle.path} is damaged: {error}") from None
        full = stored.shape[1] == dim
        made = embedding_types.one_range if one else embedding_types.ranges_of
        return made(stored if full else self._shorten(stored, dim))

    def _shorten(self, rows: np.ndarray, dim: int) -> np.ndarray:
        short = rows[:, :dim]
        if self.contract.normalized:
            # The floor is torch.nn.functional.normalize's: a zero row stays zero.
            short = short / np.maximum(np.linalg.norm(short, axis=1, keepdims=True), 1e-12)
        return np.ascontiguousarray(short, dtype=np.float32)


def _check_cores(threads: int | None, streams: int | None) -> None:
    for name, given in (("threads", threads), ("streams", streams)):
        if given is not None and (not is_whole(given) or not 1 <= given <= _CORES):
            raise UsageError(f"{name} is {given!r}; it must be a whole number from 1 to {_CORES}")
