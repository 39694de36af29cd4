"""The scorer of an opened artifact of any target: pairs of texts in, scores out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from threading import Event
from typing import Any

import numpy as np

from goldfold.exporter.artifact import streams
from goldfold.exporter.artifact.batcher import Job
from goldfold.exporter.artifact.runnable import (
    Runnable,
    check_rank,
    checked_texts,
    is_whole,
    ranked,
)
from goldfold.exporter.errors import TextError, UsageError
from goldfold.exporter.evaluate import batches as batching

Pair = tuple[str, str]


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    small = np.exp(-np.abs(logits))  # of a large negative logit exp would overflow
    return (np.where(logits >= 0, 1.0, small) / (1.0 + small)).astype(np.float32)


ACTIVATIONS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "identity": lambda logits: logits,
    "sigmoid": _sigmoid,
    "tanh": np.tanh,
}


class Scorer(Runnable):
    """A scorer of pairs, a query and a document mostly: `.predict(pairs)` and `.rank(query,
    documents)`, as sentence-transformers' CrossEncoder has them, and `.run(input_ids,
    attention_mask)` for programs, which gives logits. Any number of threads may call them at a
    time."""

    _result = "score"

    def predict(
        self,
        pairs: Pair | Sequence[Pair],
        batch_size: int = 32,
        *,
        activation: str | None = None,
        apply_softmax: bool = False,
    ) -> np.ndarray:
        """Score pairs of texts: float32 [N] where the model has one label, else [N, labels]; of one
        pair alone a number, or [labels].

        Args:
            pairs: one pair or many. Where a pair has more tokens than the model takes, its longer
                text is truncated first.
            batch_size: the most pairs in one call of the runtime.
            activation: identity, sigmoid or tanh; the model's own if None.
            apply_softmax: make the scores of several labels a distribution, after the activation.

        Raises:
            UsageError: something that is no pair of texts, an unknown activation, a batch size
                below 1.
            TextError: pairs that the tokenizer cannot take apart again, whose tokens the model has
                no row for, or with values that are larger than the artifact's precision holds.
        """
        finish = self._finish(batch_size, activation, apply_softmax)
        single = _is_pair(pairs)
        made = _checked_pairs([pairs] if single else pairs)  # type: ignore[list-item]
        scores = finish(self.logits(made, batch_size))
        return scores[0] if single else scores

    def predict_stream(
        self,
        pairs: Iterable[Pair],
        batch_size: int = 32,
        *,
        window: int = streams.WINDOW,
        progress: Callable[[int], None] | None = None,
        cancel: Event | None = None,
        **how: Any,
    ) -> Iterator[np.ndarray]:
        """Score any number of pairs in bounded memory: an iterator over arrays of scores, in order.
        `window`, `progress` and `cancel` are those of Encoder.embed_stream, `how` the activation
        and apply_softmax of `predict`, and it raises as they do."""
        finish = self._finish(batch_size, **how)

        def compute(some: list[Pair], first: int, tick: streams.Tick) -> np.ndarray:
            said = [" | ".join(pair) for pair in some]
            logits = streams.placed(lambda own: self.logits(own, batch_size), some, first, said)
            tick(len(some))
            return finish(logits)

        def checked(pair: Pair, place: int) -> Pair:
            return _checked_pairs([pair], place)[0]

        return streams.Flow(window, progress, cancel).through(pairs, checked, compute)

    async def apredict(self, pairs: Pair | Sequence[Pair], **how: Any) -> np.ndarray:
        """As `predict`, for asyncio: pairs of coroutines that wait at the same time go through the
        runtime together (exporter/artifact/batcher.py)."""
        return await self.batcher.apredict(pairs, **how)

    def _finish(
        self, batch_size: int = 32, activation: str | None = None, apply_softmax: bool = False
    ) -> Callable[[np.ndarray], np.ndarray]:
        """Returns what makes scores of logits. Raises UsageError."""
        if not is_whole(batch_size) or batch_size < 1:
            raise UsageError(f"batch_size is {batch_size!r}; it must be a whole number from 1")
        name = self.contract.activation if activation is None else activation
        if name not in ACTIVATIONS:
            known = ", ".join(ACTIVATIONS)
            raise UsageError(f"activation is {activation!r}; it must be one of {known}")

        def finish(logits: np.ndarray) -> np.ndarray:
            scores = ACTIVATIONS[name](logits)
            if apply_softmax and self.contract.dim > 1:
                wide = np.exp(scores - scores.max(axis=1, keepdims=True))
                scores = (wide / wide.sum(axis=1, keepdims=True)).astype(np.float32)
            return scores[:, 0] if self.contract.dim == 1 else scores

        return finish

    def _job(self, pairs: Pair | Sequence[Pair], **how: Any) -> Job:
        """Returns what a batcher does for the arguments of `predict`. Raises UsageError."""
        finish = self._finish(**how)
        single = _is_pair(pairs)
        made = _checked_pairs([pairs] if single else pairs)  # type: ignore[list-item]
        return Job(
            made,
            lambda: self._read_pairs(made),
            None,
            self.run,
            self.contract.dim,
            lambda logits: finish(logits)[0] if single else finish(logits),
        )

    def _read_pairs(self, pairs: Sequence[Pair]) -> tuple[list[list[int]], dict[int, str]]:
        """Returns the token ids of each pair, and by index why some pairs have none."""
        try:
            found, odd = self._tokens.pair_ids(pairs), {}
        except TextError as error:
            odd = error.reasons
            rest = iter(self._tokens.pair_ids([p for at, p in enumerate(pairs) if at not in odd]))
            found = [[] if at in odd else next(rest) for at in range(len(pairs))]
        return found, {**self._tokens.unreadable(found), **odd}

    def rank(
        self,
        query: str,
        documents: Sequence[str],
        top_k: int | None = None,
        return_documents: bool = False,
        batch_size: int = 32,
    ) -> list[dict[str, Any]]:
        """Rank documents for a query: a list of {"corpus_id": index, "score": number}, the best
        first, with the document under "text" if `return_documents`.

        `top_k` is the most that are returned. Documents of equal scores keep their order. Raises as
        `predict`, and UsageError for a model of several labels.
        """
        if self.contract.dim != 1:
            names = ", ".join(self.contract.labels) or f"{self.contract.dim} of them"
            raise UsageError(
                f"{self.contract.model} has no one score to rank by, but labels ({names}); call "
                "predict"
            )
        check_rank(query, top_k)
        texts = checked_texts(documents, "rank", "document")
        scores = self.predict([(query, text) for text in texts], batch_size)
        return ranked(scores, texts, top_k, return_documents)

    def logits(self, pairs: Sequence[Pair], batch_size: int = 32) -> np.ndarray:
        """Returns the model's own numbers for pairs, before any activation: float32 [N, labels].
        Raises TextError."""
        out = np.empty((len(pairs), self.contract.dim), np.float32)
        odd: dict[int, str] = {}
        start = 0
        for some in streams.windows(pairs):
            found, wrong = self._read_pairs(some)
            odd |= {start + at: why for at, why in wrong.items()}
            for rows in [] if odd else self.batches([len(ids) for ids in found], batch_size):
                ids, mask = batching.pad([found[row] for row in rows], self.contract.pad_id)
                out[[start + row for row in rows]] = made = self.run(ids, mask)
                for row in np.flatnonzero(~np.isfinite(made).all(axis=1)):
                    odd[start + rows[row]] = self._overflows
            start += len(some)
        if odd:
            raise TextError(odd, [" | ".join(pair) for pair in pairs])
        return out


def _is_pair(found: Any) -> bool:
    return (
        isinstance(found, (tuple, list))
        and len(found) == 2
        and all(isinstance(one, str) for one in found)
    )


def _checked_pairs(pairs: Any, first: int = 0) -> list[Pair]:
    """Returns pairs of strings of whole Unicode characters; `first` is the first one's place.
    Raises UsageError."""
    if isinstance(pairs, (str, bytes, Mapping)) or not isinstance(pairs, Iterable):
        raise UsageError(f"predict takes pairs of texts, not {type(pairs).__name__}")
    found = []
    for row, pair in enumerate(pairs, first):
        pair = pair.tolist() if isinstance(pair, np.ndarray) else pair
        if not _is_pair(pair):
            what = "one text" if isinstance(pair, str) else f"{type(pair).__name__}"
            raise UsageError(f"row {row} is {what}; predict takes pairs of texts")
        checked_texts(pair)
        found.append((pair[0], pair[1]))
    return found
