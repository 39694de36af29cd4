"""The encoder of an opened late-interaction artifact: texts in, a vector for each token out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from threading import Event
from typing import Any, get_args

import numpy as np

from goldfold.exporter.artifact import streams
from goldfold.exporter.artifact.runnable import (
    Runnable,
    check_rank,
    checked_texts,
    is_whole,
    ranked,
)
from goldfold.exporter.contract import Task, Tokenwise
from goldfold.exporter.errors import TextError, UsageError
from goldfold.exporter.evaluate import batches as batching
from goldfold.golden.tokenwise import DOCUMENT, QUERY

_CALLS: dict[str, Task] = {QUERY: "query", DOCUMENT: "document"}
_PAIRS = 1 << 24
"""The most dot products of tokens that `similarity` holds at a time: 64 MB."""


class LateEncoder(Runnable):
    """An encoder of tokens, with the names of sentence-transformers' MultiVectorEncoder:
    `.encode_query(texts)` and `.encode_document(texts)` give a float32 [tokens, D] for each text,
    `.similarity` and `.rank` compare them by MaxSim. `.run(input_ids, attention_mask)` is for
    programs, and gives the vectors of all tokens. Any number of threads may call them at a
    time."""

    _result = "vector of a token"

    def encode(
        self,
        inputs: str | Sequence[str],
        prompt_name: str | None = None,
        batch_size: int = 32,
        *,
        prompt: str | None = None,
        task: Task = "",
    ) -> list[np.ndarray] | np.ndarray:
        """Returns the vectors of the tokens that count, float32 [tokens, D] for each text in order;
        of one text alone, its array.

        Args:
            inputs: one text or many.
            prompt_name: one of the model's prompts, or "" for none. If None, the one for `task`.
            batch_size: the most texts in one call of the runtime.
            prompt: a text to put before each, instead of one of the model's prompts.
            task: query, document, or "" for neither. It chooses the prompt, the maximum length and
                which tokens count; a text without a task counts as a document.

        Raises:
            UsageError: an unknown prompt or task, something that is no text, a batch size below 1.
            TextError: texts that the tokenizer cannot read or makes no tokens of, or with values
                that are larger than the artifact's precision holds.
        """
        if not is_whole(batch_size) or batch_size < 1:
            raise UsageError(f"batch_size is {batch_size!r}; it must be a whole number from 1")
        if task not in get_args(Task):
            raise UsageError(f"task is {task!r}; it must be query, document or empty")
        before = self._prefix(prompt_name, prompt, task)
        texts = checked_texts(inputs)
        out: list[np.ndarray] = [np.empty(0)] * len(texts)
        odd: dict[int, str] = {}
        start = after = 0
        for some in streams.windows(texts):
            start, after = after, after + len(some)
            own = self._tokens.own_ids([before + text for text in some], task)
            odd |= {start + at: why for at, why in self._tokens.unreadable(own).items()}
            if odd:
                continue
            for at, rows in self._embedded(own, task, batch_size):
                out[start + at] = rows
                if not np.isfinite(rows).all():
                    odd[start + at] = self._overflows
        if odd:
            raise TextError(odd, texts)
        return out[0] if isinstance(inputs, str) else out

    def encode_stream(
        self,
        inputs: Iterable[str],
        *,
        window: int = 1024,
        progress: Callable[[int], None] | None = None,
        cancel: Event | None = None,
        **how: Any,
    ) -> Iterator[list[np.ndarray]]:
        """Embed the tokens of any number of texts in bounded memory: an iterator over lists of
        [tokens, D], in order. `window`, `progress` and `cancel` are those of Encoder.embed_stream,
        `how` the arguments of `encode`, and it raises as they do."""
        self.encode([], **how)  # raises for arguments that are wrong

        def compute(some: list[str], first: int, tick: streams.Tick) -> list[np.ndarray]:
            found = streams.placed(lambda own: self.encode(own, **how), some, first, some)
            tick(len(some))
            return list(found)

        def checked(text: str, place: int) -> str:
            return checked_texts([text], "encode_stream", first=place)[0]

        return streams.Flow(window, progress, cancel).through(inputs, checked, compute)

    def encode_query(
        self, inputs: str | Sequence[str], prompt_name: str | None = None, **how: Any
    ) -> list[np.ndarray] | np.ndarray:
        """As `encode`, for queries."""
        return self.encode(inputs, prompt_name, task="query", **how)

    def encode_document(
        self, inputs: str | Sequence[str], prompt_name: str | None = None, **how: Any
    ) -> list[np.ndarray] | np.ndarray:
        """As `encode`, for documents."""
        return self.encode(inputs, prompt_name, task="document", **how)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> np.ndarray:
        """Returns the MaxSim of all pairs, float32 [N, M]: for each token of one of `embeddings1`
        the largest dot product with a token of one of `embeddings2`, summed over the tokens; their
        mean where the model says meanmaxsim. Both are lists of [tokens, D], or one such array."""
        queries, documents = _listed(embeddings1), _listed(embeddings2)
        out = np.zeros((len(queries), len(documents)), np.float32)
        mean = self.contract.similarity == "meanmaxsim"
        full = [at for at, rows in enumerate(documents) if len(rows)]
        for row, query in enumerate(queries):
            if len(query) == 0 or not full:
                continue
            for some in _parts(full, documents, _PAIRS // len(query)):
                products = query @ np.concatenate([documents[at] for at in some]).T
                starts = np.cumsum([0, *(len(documents[at]) for at in some[:-1])])
                best = np.maximum.reduceat(products, starts, axis=1)
                out[row, some] = best.mean(axis=0) if mean else best.sum(axis=0)
        return out

    def rank(
        self,
        query: str,
        documents: Sequence[str],
        top_k: int | None = None,
        return_documents: bool = False,
        batch_size: int = 32,
    ) -> list[dict[str, Any]]:
        """Rank documents for a query by MaxSim: a list of {"corpus_id": index, "score": number},
        the best first, with the document under "text" if `return_documents`. `top_k` is the most
        that are returned. Raises as `encode`."""
        check_rank(query, top_k)
        texts = checked_texts(documents, "rank", "document")
        asked = self.encode_query([query], batch_size=batch_size)
        rows = self.encode_document(texts, batch_size=batch_size)
        return ranked(self.similarity(asked, rows)[0], texts, top_k, return_documents)

    def counted(self, ids: Sequence[int], call: str) -> list[int]:
        """Returns the places of the tokens that count for scores; `call` is one of the names that
        goldens have for `encode` and the others (goldfold.golden.store.CALLS)."""
        return np.flatnonzero(self._counts(np.asarray(ids), _CALLS.get(call, ""))).tolist()

    @property
    def _tokenwise(self) -> Tokenwise:
        assert self.contract.tokenwise is not None  # the contract checks it
        return self.contract.tokenwise

    def _counts(self, ids: np.ndarray, task: Task) -> np.ndarray:
        how = self._tokenwise
        skipped = how.skipped_in_queries if task == "query" else how.skipped_in_documents
        return ~np.isin(ids, skipped)

    def _embedded(self, own: Sequence[Sequence[int]], task: Task, size: int) -> Any:
        """Yields, for each text by its index, the vectors of the tokens that count."""
        how = self._tokenwise
        least = how.query_tokens if task == "query" else 0
        lengths = [max(len(ids), least) for ids in own]
        for rows in self.batches(lengths, size):
            ids, mask = batching.pad(
                [own[row] for row in rows], self.contract.pad_id, max(lengths[row] for row in rows)
            )
            for place, row in enumerate(rows):
                filled = slice(len(own[row]), lengths[row])
                ids[place, filled] = how.filler or 0
                mask[place, filled] = how.filler_seen
            made = self.run(ids, mask)
            for place, row in enumerate(rows):
                length = lengths[row]
                kept = self._counts(ids[place, :length], task)
                yield row, np.ascontiguousarray(made[place, :length][kept])

    def _prefix(self, name: str | None, prompt: str | None, task: Task) -> str:
        contract = self.contract
        if prompt is not None:
            return prompt
        if name is None:
            return contract.prompt_of(task)
        if name and name not in contract.prompts:
            known = ", ".join(contract.prompts) or "none"
            raise UsageError(f"{contract.model} has no prompt {name!r}; known: {known}")
        return contract.prompts.get(name, "")


def _listed(rows: Any) -> list[np.ndarray]:
    """Returns a list of [tokens, D]. Raises UsageError."""
    if isinstance(rows, np.ndarray) and rows.ndim == 2:
        rows = [rows]
    found = [np.asarray(one) for one in rows]
    if any(one.ndim != 2 for one in found) or len({one.shape[1] for one in found}) > 1:
        raise UsageError("similarity takes lists of arrays [tokens, dimensions], as encode gives")
    return found


def _parts(places: list[int], documents: list[np.ndarray], most: int) -> Any:
    """Yields places, in order, in runs whose documents have at most `most` tokens together."""
    run: list[int] = []
    tokens = 0
    for at in places:
        if run and tokens + len(documents[at]) > most:
            yield run
            run, tokens = [], 0
        run.append(at)
        tokens += len(documents[at])
    if run:
        yield run
