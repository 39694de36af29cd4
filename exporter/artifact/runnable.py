"""An opened artifact of any task and target: ids in, numbers out; and texts to ids."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast, get_args

import numpy as np

from goldfold.exporter import registry
from goldfold.exporter.artifact import processes
from goldfold.exporter.artifact.batcher import Batcher, Job
from goldfold.exporter.artifact.bundle import MANIFEST, TOKENIZER, Bundle
from goldfold.exporter.contract import Contract, Task
from goldfold.exporter.errors import ArtifactError, GoldfoldError, TextError, UsageError
from goldfold.exporter.evaluate import batches as batching
from goldfold.exporter.frontend.tokens import Tokens
from goldfold.exporter.system.files import read_tokenizer

_SHARING = threading.Lock()
"""Held while an encoder's own batcher is made."""

_OWN = {
    "embedding": ("embeds texts", "embed"),
    "scores": ("scores pairs of texts", "predict or rank"),
    "sparse": ("gives sparse vectors of texts", "embed or encode"),
    "multi_vector": ("gives a vector for each token", "encode_query, encode_document or rank"),
}


class Runnable:
    """`.run(input_ids, attention_mask)` for programs; any number of threads may call it at a time.
    It can be pickled (exporter/artifact/processes.py)."""

    _shared: Batcher | None = None

    def __init__(self, bundle: Bundle, run) -> None:
        self.bundle = bundle
        self._run = run
        self._call_tokens = registry.target(bundle.manifest.target).call_tokens
        self._words: Tokens | None = _read_tokens(bundle, self.contract)

    @property
    def _tokens(self) -> Tokens:
        if self._words is None:  # pickle leaves it out
            self._words = _read_tokens(self.bundle, self.contract)
        return self._words

    def __reduce__(self) -> tuple[Any, ...]:
        return processes.sent(self, self._run, "_words", "_shared")

    def __copy__(self) -> Runnable:
        return self  # nothing of it ever changes

    def __deepcopy__(self, memo: object) -> Runnable:
        return self

    @property
    def contract(self) -> Contract:
        return self.bundle.manifest.contract

    @property
    def batcher(self) -> Batcher:
        """The Batcher, of default limits, that all coroutines of `aembed` and `apredict` share."""
        with _SHARING:
            if self._shared is None or not self._shared.usable:
                self._shared = Batcher(cast("Any", self))
            return self._shared

    def batches(self, lengths: Sequence[int], size: int) -> list[list[int]]:
        """Returns which rows go through the runtime together (exporter/evaluate/batches.py)."""
        return batching.batches(lengths, size, self._call_tokens, batching.room(self.contract))

    def tokenize(self, texts: Sequence[str], task: Task = "") -> list[list[int]]:
        """Returns the token ids of each text, specials included, truncated to the model's length
        for the task. No prompt is added. Raises TextError for texts on which the tokenizer
        fails."""
        return self._tokens.ids(texts, task)

    def called(self, texts: Sequence[Any], call: str) -> list[list[int]]:
        """Returns the token ids that `embed`, `embed_query`, `embed_document` or `predict` makes;
        `call` is one of the names that goldens have for these (goldfold.golden.store.CALLS)."""
        return self._tokens.called(texts, call)

    def run(
        self,
        input_ids: np.ndarray,
        attention_mask: np.ndarray,
        dims: int | None = None,
        prompt: str = "",
    ) -> np.ndarray:
        """Run the model itself: int64 [B,S] ids and mask (1 on tokens, padding right) → float32
        [B,D]; [B,S,D] of a model that gives a vector for each token.

        `dims` is the size of one of the artifact's heads; the largest if None. `prompt` is the name
        of the prompt with which every row begins: a model that leaves prompts out of its pooling
        has to be told.

        Raises:
            UsageError: shapes differ, ids out of the vocabulary, a mask that is not ones then
                zeros, a row without tokens, more tokens than the model takes, a head or a prompt
                that is not there.
        """
        contract = self.contract
        dims = contract.dim if dims is None else dims
        if dims not in (contract.dim, *contract.heads):
            known = ", ".join(map(str, (contract.dim, *contract.heads)))
            raise UsageError(
                f"{contract.model} has no head of {dims} dimensions here; it has {known}"
            )
        self.prefix(prompt)
        if skipped := contract.unpooled.get(prompt, 0):
            return self._ran(input_ids, attention_mask, contract.output_after(skipped))
        return self._ran(input_ids, attention_mask, contract.output_of(dims))

    def _ran(self, input_ids: np.ndarray, attention_mask: np.ndarray, output: str) -> np.ndarray:
        ids, mask = self._checked(input_ids, attention_mask)
        contract, dims = self.contract, self.contract.outputs[output]
        try:
            found = self._run(ids, mask, output)
        except (GoldfoldError, MemoryError):
            raise
        except Exception as error:  # a runtime's own, of a graph that does not fit its sizes
            said = (" ".join(str(error).split()) or type(error).__name__)[:200]
            raise ArtifactError(
                f"{self.bundle.path}: its runtime fails on {ids.shape[0]} × {ids.shape[1]} tokens: "
                f"{said}"
            ) from error
        rows = np.asarray(found, dtype=np.float32)
        wanted = (*ids.shape, dims) if contract.task == "multi_vector" else (len(ids), dims)
        if rows.shape != wanted:
            raise ArtifactError(
                f"{self.bundle.path} is damaged: it gives {rows.shape}, and its {MANIFEST} says "
                f"{wanted}"
            )
        return rows

    def call(
        self, input_ids: np.ndarray, attention_mask: np.ndarray, output: str | None = None
    ) -> np.ndarray:
        """Run the model as `run` does, with the output by its name; None is the first. Raises
        UsageError for one that is not there."""
        if output is not None and output not in self.contract.outputs:
            raise UsageError(f"{self.contract.model} has no output {output!r}")
        return self._ran(input_ids, attention_mask, output or self.contract.output)

    def _checked(self, ids: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        try:
            ids, mask = np.asarray(ids), np.asarray(mask)
        except ValueError:  # numpy's error for ragged lists
            raise UsageError("the rows of input_ids must all have the same length") from None
        if ids.ndim != 2 or ids.shape != mask.shape or 0 in ids.shape:
            raise UsageError(
                f"input_ids {ids.shape} and attention_mask {mask.shape} "
                "must both be [batch, tokens]"
            )
        if ids.dtype.kind not in "iu" or mask.dtype.kind not in "iub":
            raise UsageError(
                f"input_ids are {ids.dtype}, attention_mask {mask.dtype}; give integers"
            )
        if ids.shape[1] > self.contract.max_length:
            raise UsageError(
                f"{ids.shape[1]} tokens; {self.contract.model} takes {self.contract.max_length}"
            )
        if ids.min() < 0 or ids.max() >= self.contract.vocab_size:
            raise UsageError(f"token ids must be 0 … {self.contract.vocab_size - 1}")
        mask = mask.astype(np.int64, copy=False)
        if not np.isin(mask, (0, 1)).all() or not mask[:, 0].all() or (np.diff(mask) > 0).any():
            raise UsageError("each row of attention_mask must be ones, at least one, then zeros")
        return np.ascontiguousarray(ids, dtype=np.int64), np.ascontiguousarray(mask)

    @property
    def _overflows(self) -> str:
        return (
            f"has no finite {self._result} in {self.bundle.manifest.precision}: a value of it is "
            "larger than that holds; use another precision"
        )

    def _read(self, texts: list[str], task: Task) -> tuple[list[np.ndarray], dict[int, str]]:
        """Returns the token ids of each text, uint32 [tokens], and by index why some texts cannot
        be embedded."""
        try:
            found, odd = self._tokens.arrays(texts, task), {}
        except TextError as error:
            odd = error.reasons
            good = [text for place, text in enumerate(texts) if place not in odd]
            rest = iter(self._tokens.arrays(good, task))
            none = np.empty(0, np.uint32)
            found = [none if place in odd else next(rest) for place in range(len(texts))]
        return found, {**self._tokens.unreadable(found), **odd}

    def outside(self, texts: Sequence[str]) -> dict[int, str]:
        """Returns by index which texts hold a character outside of the scripts of the vocabulary,
        and which. Raises UsageError where the vocabulary is not cut to scripts."""
        said = self.contract.cut
        if said is None or not said.characters:
            raise UsageError(
                f"strict_scripts: the vocabulary of {self.contract.model} is not cut to scripts "
                "here; leave it out"
            )
        odd = ((place, said.outside(text)) for place, text in enumerate(texts))
        scripts = ", ".join(said.scripts)
        return {
            place: f"holds U+{ord(letter):04X}, which is outside of the scripts {scripts}"
            for place, letter in odd
            if letter is not None
        }

    def prefix(self, prompt: str | None, task: Task = "") -> str:
        """Returns the text of the prompt of this name; None is the task's own prompt.

        Raises UsageError, listing the known names.
        """
        prompts = self.contract.prompts
        if prompt is not None and not isinstance(prompt, str):
            raise UsageError(f"prompt is {type(prompt).__name__}; give the name of one prompt")
        if prompt is None:
            return self.contract.prompt_of(task)
        if not prompt or prompt in prompts:
            return prompts.get(prompt, "")
        known = ", ".join(sorted(prompts)) or "none"
        raise UsageError(f"{self.contract.model} has no prompt {prompt!r}; it has: {known}")

    def _check_task(self, task: str) -> None:
        """Refuse a task that another route of the model computes. Raises UsageError."""
        if task not in get_args(Task):
            raise UsageError(f"task is {task!r}; it must be query, document or empty")
        route = self.contract.route
        if task and route and task != route:
            raise UsageError(
                f"{self.contract.model} is the {route} route of its model; export the other one "
                f"with --route {task}"
            )

    _result = "result"

    def _job(self, *_: Any, **__: Any) -> Job:
        """What a batcher does for one caller."""
        raise UsageError(
            f"{self.contract.model} {_OWN[self.contract.task][0]}, which no Batcher does; in "
            "asyncio, call it in asyncio.to_thread"
        )

    def _refused(self, name: str) -> UsageError:
        gives, call = _OWN[self.contract.task]
        return UsageError(f"{self.contract.model} {gives}, so it has no {name}; call {call}")

    def embed(self, *_: Any, **__: Any) -> Any:
        """Embed texts, where the model does that (exporter/artifact/encoder.py)."""
        raise self._refused("embed")

    def embed_stream(self, *_: Any, **__: Any) -> Any:
        """Embed any number of texts, where the model does that."""
        raise self._refused("embed_stream")

    def encode(self, *_: Any, **__: Any) -> Any:
        """As `embed`, under sentence-transformers' name."""
        raise self._refused("encode")

    def predict(self, *_: Any, **__: Any) -> Any:
        """Score pairs of texts, where the model does that (exporter/artifact/scorer.py)."""
        raise self._refused("predict")

    def rank(self, *_: Any, **__: Any) -> Any:
        """Rank documents for a query, where the model scores pairs, or compares tokens
        (exporter/artifact/late_encoder.py)."""
        raise self._refused("rank")


def ranked(
    scores: np.ndarray, texts: Sequence[str], top_k: int | None, return_documents: bool
) -> list[dict[str, Any]]:
    """Returns the `top_k` documents of the largest scores, the best first, as
    sentence-transformers' rank does. Documents of equal scores keep their order."""
    order = np.argsort(-scores, kind="stable")[:top_k]
    return [
        {
            "corpus_id": int(at),
            "score": float(scores[at]),
            **({"text": texts[at]} if return_documents else {}),
        }
        for at in order
    ]


def check_rank(query: Any, top_k: int | None) -> None:
    """Refuse the arguments of `rank` that are none. Raises UsageError."""
    if top_k is not None and (not is_whole(top_k) or top_k < 1):
        raise UsageError(f"top_k is {top_k!r}; it must be a whole number from 1")
    if not isinstance(query, str):
        raise UsageError(f"rank takes one query, not {type(query).__name__}")


def _read_tokens(bundle: Bundle, contract: Contract) -> Tokens:
    try:
        raw = read_tokenizer(bundle.path / TOKENIZER)
        found = Tokens(raw, contract)
    except (OSError, ValueError) as error:
        said = getattr(error, "strerror", None) or error
        raise ArtifactError(f"{bundle.path / TOKENIZER} cannot be read: {said}") from None
    bundle.check_bytes(TOKENIZER, raw)
    return found


def similarity(embeddings1: np.ndarray, embeddings2: np.ndarray, name: str) -> np.ndarray:
    """Returns the similarities of all pairs of rows, float32 [N, M], by the function of this name;
    distances are negative, as in sentence-transformers. Raises UsageError for rows of two sizes."""
    one, other = (np.atleast_2d(np.asarray(e, np.float32)) for e in (embeddings1, embeddings2))
    if one.shape[-1] != other.shape[-1]:
        raise UsageError(f"embeddings of {one.shape[-1]} and {other.shape[-1]} dimensions")
    match name:
        case "dot":
            return one @ other.T
        case "euclidean":
            return -np.linalg.norm(one[:, None] - other[None], axis=-1)
        case "manhattan":
            return -np.abs(one[:, None] - other[None]).sum(axis=-1)
    one, other = (
        e / np.maximum(np.linalg.norm(e, axis=1, keepdims=True), 1e-12) for e in (one, other)
    )
    return one @ other.T


def similarity_pairwise(embeddings1: np.ndarray, embeddings2: np.ndarray, name: str) -> np.ndarray:
    """Returns the similarity of each row with the other side's row of the same place, float32 [N].
    Raises UsageError for sides of two shapes."""
    one, other = (np.atleast_2d(np.asarray(e, np.float32)) for e in (embeddings1, embeddings2))
    if one.shape != other.shape:
        raise UsageError(f"embeddings of {one.shape} and {other.shape}; give as many of each")
    match name:
        case "dot":
            return (one * other).sum(axis=-1)
        case "euclidean":
            return -np.linalg.norm(one - other, axis=-1)
        case "manhattan":
            return -np.abs(one - other).sum(axis=-1)
    sizes = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return (one * other).sum(axis=-1) / np.maximum(sizes, 1e-12)


def is_whole(value: object) -> bool:
    """Returns whether `value` is an integer, numpy's included, but no bool."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def checked_texts(
    texts: str | Iterable[str], call: str = "embed", kind: str = "text", first: int = 0
) -> list[str]:
    """Returns a list of texts that the tokenizer takes: strings of whole Unicode characters. Raises
    UsageError, naming the call, or the place of what is none; `first` is the first text's."""
    if isinstance(texts, str):
        texts = [texts]
    elif isinstance(texts, (bytes, Mapping)) or not isinstance(texts, Iterable):
        raise UsageError(f"{call} takes a {kind} or a list of {kind}s, not {type(texts).__name__}")
    try:
        found = list(texts)
    except TypeError:  # an array without axes
        raise UsageError(f"{call} takes a {kind} or a list of {kind}s, not neither") from None
    for row, text in enumerate(found, first):
        if not isinstance(text, str):
            raise UsageError(f"{kind} {row} is {type(text).__name__}; {call} takes strings")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise UsageError(
                f"{kind} {row} holds half a character (a lone surrogate) at {error.start}"
            ) from None
    return found
