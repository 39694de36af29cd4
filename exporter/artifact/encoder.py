"""The encoder of an opened artifact of any target: texts in, embeddings out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any, Literal, Unpack, cast

import numpy as np

from goldfold.exporter import registry
from goldfold.exporter.artifact import (
    embedding_rows,
    embedding_types,
    processes,
    st_arguments,
    streams,
)
from goldfold.exporter.artifact.batcher import Job
from goldfold.exporter.artifact.bundle import (
    GOLDEN,
    MANIFEST,
    Bundle,
    check_references,
    open_bundle,
    steadily,
)
from goldfold.exporter.artifact.embedding_rows import Asked
from goldfold.exporter.artifact.late_encoder import LateEncoder
from goldfold.exporter.artifact.progress_line import ProgressLine
from goldfold.exporter.artifact.runnable import (
    Runnable,
    checked_texts,
    is_whole,
    similarity,
    similarity_pairwise,
)
from goldfold.exporter.artifact.scorer import Scorer
from goldfold.exporter.artifact.sparse_encoder import SparseEncoder
from goldfold.exporter.contract import Task
from goldfold.exporter.errors import ArtifactError, TargetError, UsageError
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
        texts: str | Iterable[str],
        prompt: str | None = None,
        dims: int | None = None,
        batch_size: int = 32,
        output: str = "float32",
        ranges: np.ndarray | Literal["one"] | None = None,
        *,
        task: Task = "",
        errors: str = "raise",
        strict_scripts: bool = False,
        progress: Callable[[int], None] | None = None,
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
            progress: called with the number of texts done, after every call of the runtime.

        Raises:
            TextError: texts without tokens, with a token that the model has no row for, or with
                values that are larger than the artifact's precision holds.
            UsageError: something that is not a text, an unknown prompt or output, dims out of
                range, a batch size below 1, ranges that do not fit.
        """
        asked = Asked(
            prompt, dims, batch_size, output, ranges, task, errors, strict_scripts=strict_scripts
        )
        return self._embedded(texts, asked, progress)

    def _embedded(
        self, texts: str | Iterable[str], asked: Asked, progress: Callable[[int], None] | None
    ) -> np.ndarray:
        how = embedding_rows.settled(self, asked)
        made = checked_texts(texts)
        out = how.room(len(made))
        odd: dict[int, str] = {}
        first = done = 0

        def tick(more: int) -> None:
            nonlocal done
            done += more
            if progress is not None:
                progress(done)

        for some in streams.windows(made):
            out[first : first + len(some)] = embedding_rows.window(
                self, some, how, first, odd, tick
            )
            first += len(some)
        embedding_rows.complain(odd, made, 0, asked.errors)
        return out

    def embed_stream(
        self,
        texts: Iterable[str],
        *,
        window: int = streams.WINDOW,
        progress: Callable[[int], None] | None = None,
        cancel: Event | None = None,
        **how: Any,
    ) -> Iterator[np.ndarray]:
        """Embed any number of texts in bounded memory: an iterator over arrays [n, D], whose rows
        are those of `texts`, in order.

        Args:
            texts: an iterable of texts, read as the rows are asked for.
            window: the most texts that are read ahead, sorted by length, and given as one array;
                fewer where they are long. A slow source may want fewer.
            progress: called with the number of texts done, after every call of the runtime.
            cancel: an event; once it is set, the iterator raises concurrent.futures.CancelledError
                at the next call of the runtime. Closing the iterator ends it as well.
            how: the arguments of `embed`.

        Raises:
            UsageError: at once, for an argument that `embed` refuses; from the iterator, for
                something that is not a text.
            TextError: from the iterator, as `embed` for the texts of one window; it names them by
                their places in the stream. The arrays before it are whole.

        What `texts` raises passes through.
        """
        settled = embedding_rows.settled(self, Asked(**how))

        def compute(some: list[str], first: int, tick: streams.Tick) -> np.ndarray:
            odd: dict[int, str] = {}
            rows = embedding_rows.window(self, some, settled, first, odd, tick)
            embedding_rows.complain(odd, some, first, settled.asked.errors)
            return rows

        return streams.Flow(window, progress, cancel).through(texts, _checked, compute)

    async def aembed(self, texts: str | Sequence[str], **how: Any) -> np.ndarray:
        """As `embed`, with its arguments, for asyncio: texts of coroutines that wait at the same
        time go through the runtime together (exporter/artifact/batcher.py has the limits, and
        Batcher takes others)."""
        return await self.batcher.aembed(texts, **how)

    async def aembed_query(self, texts: str | Sequence[str], **how: Any) -> np.ndarray:
        """As `aembed`, for queries."""
        return await self.aembed(texts, task="query", **how)

    async def aembed_document(self, texts: str | Sequence[str], **how: Any) -> np.ndarray:
        """As `aembed`, for documents."""
        return await self.aembed(texts, task="document", **how)

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
        inputs: str | Sequence[str] | None = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        output_value: str | None = "sentence_embedding",
        precision: str = "float32",
        **how: Unpack[st_arguments.Arguments],
    ) -> Any:
        """Embed texts as sentence-transformers' encode, with its arguments: an array [N, D], and
        [D] for one text alone. exporter/artifact/st_arguments.py says what each does here.

        Raises:
            UsageError: an argument that an artifact cannot follow, in one line.
            TextError: as `embed`.
        """
        contract = self.contract
        st_arguments.check(output_value, how, "encode", self.bundle.manifest.target)
        texts = st_arguments.given(inputs, how)
        name, before = st_arguments.named(contract, prompt_name, prompt)
        unit = how.get("normalize_embeddings", False) and not contract.normalized
        asked = Asked(
            name, how.get("truncate_dim"), batch_size, precision, None, how.get("task", ""),
            before=before, unit=unit,
        )  # fmt: skip
        line = ProgressLine(None if isinstance(texts, str) else _count(texts))
        try:
            rows = self._embedded(texts, asked, line if show_progress_bar else None)
        finally:
            line.close()
        return st_arguments.converted(rows, isinstance(texts, str), how)

    def encode_query(
        self, inputs: str | Sequence[str] | None = None, *args: Any, **how: Any
    ) -> Any:
        """Embed queries; takes the arguments of `encode`."""
        return self.encode(inputs, *args, **{"task": "query", **how})

    def encode_document(
        self, inputs: str | Sequence[str] | None = None, *args: Any, **how: Any
    ) -> Any:
        """Embed documents; takes the arguments of `encode`."""
        return self.encode(inputs, *args, **{"task": "document", **how})

    def similarity(self, embeddings1: np.ndarray, embeddings2: np.ndarray) -> np.ndarray:
        """Returns the similarities of all pairs of rows, float32 [N, M], by the function that the
        model names (cosine where it names none): distances are negative, as in
        sentence-transformers."""
        return similarity(embeddings1, embeddings2, self.contract.similarity)

    def similarity_pairwise(self, embeddings1: np.ndarray, embeddings2: np.ndarray) -> np.ndarray:
        """Returns the similarity of each row with the other side's of the same place, float32
        [N], by the function of `similarity`."""
        return similarity_pairwise(embeddings1, embeddings2, self.contract.similarity)

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

    def _job(self, texts: str | Sequence[str], *args: Any, **given: Any) -> Job:
        """Returns what a batcher does for the arguments of `embed`. Raises UsageError."""
        how = embedding_rows.settled(self, Asked(*args, **given))
        return embedding_rows.job(self, checked_texts(texts), how)

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


def _checked(text: str, place: int) -> str:
    return checked_texts([text], "embed_stream", first=place)[0]


def _count(texts: Any) -> int | None:
    return len(texts) if hasattr(texts, "__len__") else None


def _check_cores(threads: int | None, streams: int | None) -> None:
    for name, given in (("threads", threads), ("streams", streams)):
        if given is not None and (not is_whole(given) or not 1 <= given <= _CORES):
            raise UsageError(f"{name} is {given!r}; it must be a whole number from 1 to {_CORES}")
