"""The encoder of an artifact of sparse vectors: texts in, a weight for each token of a vocabulary,
or for each unit of a sparse autoencoder (CSR), out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from threading import Event
from typing import Any

import numpy as np

from goldfold.exporter.artifact import streams
from goldfold.exporter.artifact.runnable import (
    Runnable,
    checked_texts,
    is_whole,
    similarity,
    similarity_pairwise,
)
from goldfold.exporter.contract import Task
from goldfold.exporter.errors import TextError, UsageError
from goldfold.exporter.evaluate import batches as batching
from goldfold.exporter.frontend.tokens import NO_TOKENS

Weights = tuple[np.ndarray, np.ndarray]
"""Indices int32 [K] and values float32 [K] of one text, the largest value first."""
_HELD = 1 << 26
"""Numbers of dense vectors that are held at a time: 256 MiB."""


class SparseEncoder(Runnable):
    """A sparse encoder: `.embed(texts)` gives indices and values, `.encode(texts)` and its
    relatives dense rows, as sentence-transformers' SparseEncoder has them, and `.run(input_ids,
    attention_mask)` is for programs. Any number of threads may call them at a time."""

    _result = "vector"

    def embed(
        self,
        texts: str | Sequence[str],
        top_k: int | None = None,
        threshold: float | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        *,
        task: Task = "",
    ) -> list[Weights]:
        """Returns the weights of each text: indices int32 [K] into the vocabulary, or of units, and
        values float32 [K], the largest first; equal values in the order of their indices.

        Args:
            texts: one text or many; longer ones than the model takes are truncated. A text without
                tokens has no weights.
            top_k: keep so many of a text's largest weights; all if None.
            threshold: keep weights above this number; all that are not zero if None.
            prompt: name of one of the model's prompts; None is the task's, "" is none.
            batch_size: the most texts in one call of the runtime.
            task: `query` or `document`, with the prompt and the length of sentence-transformers'
                encode_query and encode_document.

        Raises:
            UsageError: as `encode`, and for a `top_k` of more weights than a text can have, or a
                threshold below 0.
            TextError: as `encode`.
        """
        self._check_top(top_k)
        if threshold is not None and not (is_number(threshold) and threshold >= 0):
            raise UsageError(f"threshold is {threshold!r}; it must be a number from 0")
        found: list[Weights] = []
        made = checked_texts(texts)
        step = max(1, _HELD // self.contract.dim)
        for start in range(0, len(made), step):
            rows = self._rows(made[start : start + step], prompt, batch_size, task, start)
            found += [_largest(row, top_k, threshold) for row in rows]
        return found

    def embed_stream(
        self,
        texts: Iterable[str],
        *,
        window: int | None = None,
        progress: Callable[[int], None] | None = None,
        cancel: Event | None = None,
        **how: Any,
    ) -> Iterator[list[Weights]]:
        """Embed any number of texts in bounded memory: an iterator over lists of weights, in order.
        `window`, `progress` and `cancel` are those of Encoder.embed_stream, `how` the arguments of
        `embed`, and it raises as they do. By default a window holds 256 MiB of dense rows."""
        held = min(streams.WINDOW, max(1, _HELD // self.contract.dim))
        self.embed([], **how)  # raises for arguments that are wrong

        def compute(some: list[str], first: int, tick: streams.Tick) -> list[Weights]:
            found = streams.placed(lambda own: self.embed(own, **how), some, first, some)
            tick(len(some))
            return found

        def checked(text: str, place: int) -> str:
            return checked_texts([text], "embed_stream", first=place)[0]

        flow = streams.Flow(held if window is None else window, progress, cancel)
        return flow.through(texts, checked, compute)

    def embed_query(self, texts: str | Sequence[str], **how: Any) -> list[Weights]:
        """Embed queries; takes the arguments of `embed`."""
        return self.embed(texts, task="query", **how)

    def embed_document(self, texts: str | Sequence[str], **how: Any) -> list[Weights]:
        """Embed documents; takes the arguments of `embed`."""
        return self.embed(texts, task="document", **how)

    def encode(
        self,
        inputs: str | Sequence[str],
        prompt_name: str | None = None,
        batch_size: int = 32,
        max_active_dims: int | None = None,
        *,
        task: Task = "",
    ) -> np.ndarray:
        """Embed texts under sentence-transformers' names: float32 [N, V], and [V] for one text
        alone.

        `max_active_dims` keeps so many of a text's largest weights. Raises UsageError for an
        unknown prompt, a batch size below 1, a number of more weights than a text can have, and a
        task that another route of the model computes; TextError, naming the texts, for those that
        cannot be embedded.
        """
        self._check_top(max_active_dims)
        rows = self._rows(checked_texts(inputs), prompt_name, batch_size, task)
        if max_active_dims is not None and max_active_dims < self.contract.dim:
            for row in rows:
                kept, values = _largest(row, max_active_dims, None)
                row[:] = 0
                row[kept] = values
        return rows[0] if isinstance(inputs, str) else rows

    def encode_query(self, inputs: str | Sequence[str], **how: Any) -> np.ndarray:
        """Embed queries; takes the arguments of `encode`."""
        return self.encode(inputs, task="query", **how)

    def encode_document(self, inputs: str | Sequence[str], **how: Any) -> np.ndarray:
        """Embed documents; takes the arguments of `encode`."""
        return self.encode(inputs, task="document", **how)

    def decode(
        self, embeddings: np.ndarray, top_k: int | None = None
    ) -> list[tuple[str, float]] | list[list[tuple[str, float]]]:
        """Returns the tokens and weights of dense vectors, the largest first: a list of pairs of
        one vector [V], a list of such lists of [N, V]. Raises UsageError for units, which stand for
        no tokens."""
        self._check_tokens("decode")
        self._check_top(top_k)
        rows = np.asarray(embeddings, np.float32)
        if rows.ndim not in (1, 2) or rows.shape[-1] != self.contract.dim:
            raise UsageError(
                f"decode takes vectors of {self.contract.dim} numbers, not {rows.shape}"
            )
        found = [self.tokens(_largest(row, top_k, None)) for row in np.atleast_2d(rows)]
        return found[0] if rows.ndim == 1 else found

    def tokens(self, weights: Weights) -> list[tuple[str, float]]:
        """Returns the tokens and weights of one text's `embed`. Raises UsageError as `decode`."""
        self._check_tokens("tokens")
        return [
            (self._tokens.token(int(index)), float(value))
            for index, value in zip(*weights, strict=True)
        ]

    def similarity(self, embeddings1: np.ndarray, embeddings2: np.ndarray) -> np.ndarray:
        """Returns the similarities of all pairs of dense rows, float32 [N, M], by the function that
        the model names: the dot product, mostly."""
        return similarity(embeddings1, embeddings2, self.contract.similarity)

    def similarity_pairwise(self, embeddings1: np.ndarray, embeddings2: np.ndarray) -> np.ndarray:
        """Returns the similarity of each dense row with the other side's of the same place, float32
        [N]."""
        return similarity_pairwise(embeddings1, embeddings2, self.contract.similarity)

    def _rows(
        self, texts: list[str], prompt: str | None, size: int, task: Task, first: int = 0
    ) -> np.ndarray:
        """Returns float32 [N, V]; `first` is the index of the first text in messages."""
        if not is_whole(size) or size < 1:
            raise UsageError(f"batch_size is {size!r}; it must be a whole number from 1")
        self._check_task(task)
        prefix = self.prefix(prompt, task)
        out = np.zeros((len(texts), self.contract.dim), np.float32)
        odd: dict[int, str] = {}
        start = after = 0
        for some in streams.windows(texts):
            start, after = after, after + len(some)
            found, wrong = self._read([prefix + text for text in some], task)
            # A text of no tokens has no weights; of another, `found` is empty and `odd` says why.
            wrong = {at: why for at, why in wrong.items() if len(found[at]) or why != NO_TOKENS}
            odd |= {start + at: why for at, why in wrong.items()}
            if odd:
                continue
            places = [at for at, ids in enumerate(found) if len(ids)]
            for rows in self.batches([len(found[at]) for at in places], size):
                chosen = [places[row] for row in rows]
                ids, mask = batching.pad([found[at] for at in chosen], self.contract.pad_id)
                out[[start + at for at in chosen]] = made = self.run(ids, mask)
                for row in np.flatnonzero(~np.isfinite(made).all(axis=1)):
                    odd[start + chosen[row]] = self._overflows
        if odd:
            raise TextError({first + at: why for at, why in odd.items()}, texts, first)
        return out

    def _check_tokens(self, call: str) -> None:
        if self.contract.units:
            raise UsageError(
                f"{call}: {self.contract.model} weighs units of an autoencoder, which stand for no "
                "tokens; embed gives their indices"
            )

    def _check_top(self, top_k: int | None) -> None:
        most = self.contract.units or self.contract.dim
        if top_k is not None and (not is_whole(top_k) or not 1 <= top_k <= most):
            raise UsageError(
                f"top_k is {top_k!r}; {self.contract.model} has 1 … {most} weights"
                f"{' of a text' if self.contract.units else ''}"
            )


def is_number(value: object) -> bool:
    """Returns whether `value` is a real number, and no bool."""
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool)


def _largest(row: np.ndarray, top_k: int | None, threshold: float | None) -> Weights:
    """Returns the weights of [V] that are above the threshold, or not zero where there is none."""
    at = np.flatnonzero(row if threshold is None else row > threshold)
    order = at[np.argsort(-row[at], kind="stable")][:top_k]
    return order.astype(np.int32), row[order].astype(np.float32)
