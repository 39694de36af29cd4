"""The contract of an artifact with its caller, and the facts about a model's texts."""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

from msgspec import UNSET, Meta, UnsetType, field

from goldfold.exporter.records import Record

if TYPE_CHECKING:
    import numpy as np

INPUT_IDS = "input_ids"
ATTENTION_MASK = "attention_mask"
EMBEDDING = "sentence_embedding"
LOGITS = "logits"
TOKEN_EMBEDDINGS = "token_embeddings"

Activation = Literal["identity", "sigmoid", "tanh"]
"""What turns the logits of a score into what `predict` returns."""


Task = Literal["", "query", "document"]
"""The purpose of a text, as in sentence-transformers' encode, encode_query and encode_document."""


class Frame(Record, frozen=True, kw_only=True):
    """A chat template as fixed text around a pair: before the query, between query and document,
    and after the document. Around one text nothing is in between."""

    before: str
    between: str
    after: str
    strip: bool = False
    """Whether white space at the ends of either text is dropped, as Python's `str.strip` does."""
    suffix: tuple[Annotated[int, Meta(ge=0, le=1 << 31)], ...] = ()
    """The tokens that end every text, one that was truncated as well: a language model is asked for
    its next word behind them."""

    def around(self, pair: tuple[str, str]) -> str:
        """Returns the text that the model reads."""
        query, document = (text.strip() for text in pair) if self.strip else pair
        return f"{self.before}{query}{self.between}{document}{self.after}"

    def ended(self, ids: list[int], length: int) -> list[int]:
        """Returns the ids of what was read, cut to `length` tokens, with the suffix at their
        end."""
        kept = self.suffix[-length:] if len(ids) >= length else ()
        return [*ids[: len(ids) - len(kept)], *kept]

    def about(self, text: str) -> str:
        """Returns what the model reads of one text, its prompt in front."""
        return f"{self.before}{text.strip() if self.strip else text}{self.after}"


class Tokenwise(Record, frozen=True, kw_only=True):
    """Of a model that gives a vector for each token: which tokens take part in scores.

    A query shorter than `query_tokens` is filled up with `filler`, and its fillers count; the mask
    is 1 on them only if `filler_seen`. Tokens that are skipped have vectors as others do, and are
    left out of scores: those of documents are skipped in texts without a task as well."""

    query_tokens: Annotated[int, Meta(ge=0, le=1 << 31)] = 0
    """The fewest tokens of a query; 0 where queries are not filled up."""
    filler: Annotated[int, Meta(ge=0, le=1 << 31)] | None = None
    filler_seen: bool = False
    """Whether attention sees the fillers."""
    skipped_in_queries: tuple[Annotated[int, Meta(ge=0, le=1 << 31)], ...] = ()
    skipped_in_documents: tuple[Annotated[int, Meta(ge=0, le=1 << 31)], ...] = ()

    def __post_init__(self) -> None:
        if (self.filler is None) != (self.query_tokens == 0):
            raise ValueError("query_tokens and filler are set together")


class Vocabulary(Record, frozen=True, kw_only=True):
    """The cut of a vocabulary: token ids are 0 … kept − 1, in the order of the source's ids.

    A text of `characters` has the source's tokens, each under its new id; any other text may be
    split into more tokens, as bytes or unknown ones, or into others. A vocabulary cut to a corpus
    names no characters."""

    scripts: tuple[str, ...] = ()
    """Unicode's names of the scripts, in lower case; the characters Common and Inherited, which all
    scripts use, belong to them."""
    characters: str = ""
    """Code points in hex, as "0-40,5b-60": the set."""
    kept: Annotated[int, Meta(gt=0, le=1 << 31)]
    """Number of the source's ids that the tokenizer kept."""
    of: Annotated[int, Meta(gt=0, le=1 << 31)]
    """Number of the source's ids."""
    digest: str
    """The sha256, in hex, of the kept ids as little-endian int64: the source's id of each new
    one."""
    corpus: str = ""
    """The sha256, in hex, of the file to which the vocabulary was cut."""

    def __post_init__(self) -> None:
        try:
            spans_of(self.characters)
        except ValueError:
            raise ValueError("characters is no list of code points such as 0-40,5b-60") from None

    def outside(self, text: str) -> str | None:
        """Returns the first character of `text` that is not in the set; None if there is none."""
        starts, ends = spans_of(self.characters)
        for letter in dict.fromkeys(text):
            at = bisect_right(starts, ord(letter)) - 1
            if at < 0 or ord(letter) > ends[at]:
                return letter
        return None


@lru_cache(maxsize=16)
def spans_of(text: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Returns the first and the last code points of ranges such as "0-40,5b-60", in order. Raises
    ValueError for other text."""
    parts = [part.partition("-") for part in text.split(",")] if text else []
    starts = tuple(int(start, 16) for start, _, _ in parts)
    ends = tuple(int(end or start, 16) for start, _, end in parts)
    if list(starts) != sorted(starts) or any(a > b for a, b in zip(starts, ends, strict=True)):
        raise ValueError("the ranges are not in order")
    return starts, ends


class Contract(Record, frozen=True, kw_only=True):
    """The contract of an artifact with its caller. Every manifest contains it."""

    model: str
    """The source model's name."""
    inputs: tuple[str, ...] = (INPUT_IDS, ATTENTION_MASK)
    """Each is int64[batch, tokens]; the mask is 1 where a token is real, and padding is on the
    right."""
    output: str = EMBEDDING
    """float32[batch, dim]; of `multi_vector` float32[batch, tokens, dim]."""
    task: Literal["embedding", "scores", "sparse", "multi_vector"] = "embedding"
    """What the output is: the embedding of a text, the logits of a pair of texts, one a label, a
    text's weights, one a token of a vocabulary, or a vector for each token of a text."""
    route: str = ""
    """Of a model with several routes: the one that the graph computes, mostly `query` or
    `document`."""
    labels: tuple[str, ...] = ()
    """The names of the logits, in their order; empty where the model names none."""
    similarity: Literal["cosine", "dot", "euclidean", "manhattan", "maxsim", "meanmaxsim"] = (
        "cosine"
    )
    """How the model compares two embeddings."""
    tokenwise: Tokenwise | None = None
    """Of token vectors: which of them count."""
    units: Annotated[int, Meta(ge=0, le=1 << 20)] = 0
    """Of a sparse autoencoder (CSR): the most units of a text that are not zero, of `dim`; 0 of
    weights of a vocabulary, which are as many as there are."""
    activation: Activation = "identity"
    """Of scores: what `predict` applies to the logits."""
    separator: Annotated[int, Meta(ge=0, le=1 << 31)] | None = None
    """Of scores: the token behind which the graph sees the second text of a pair; None where the
    model does not tell the two apart."""
    frame: Frame | None = None
    """Where a chat template makes the text that is read: what it puts around a pair, or around a
    text. A template of added tokens alone is a part of the tokenizer instead."""
    dim: Annotated[int, Meta(gt=0, le=1 << 20)]
    """Size of the full embedding. No real model comes near these limits; a forged manifest
    might."""
    heads: tuple[int, ...] = ()
    """Sizes of further outputs, `sentence_embedding_256` and so on: leading dimensions of the
    embedding, normalised by themselves where the model normalises."""
    max_length: Annotated[int, Meta(gt=0, le=1 << 31)]
    """The maximum length of a text in tokens, specials included; longer texts are truncated."""
    vocab_size: Annotated[int, Meta(gt=0, le=1 << 31)]
    """Token ids are 0 … vocab_size − 1."""
    vocabulary: Vocabulary | UnsetType = UNSET
    """Where the source's vocabulary was cut: what is left of it. The ids are then the artifact's
    own. Absent from the contract of a whole one."""
    pad_id: Annotated[int, Meta(ge=0, le=1 << 31)]
    normalized: bool
    """Whether the model itself ends in L2 normalisation."""
    prompts: dict[str, str] = field(default_factory=dict)
    """Prompt texts by name, each put before a text; empty prompts are listed as well."""
    default_prompt_name: str | None = None
    unpooled: dict[str, Annotated[int, Meta(gt=0, le=1 << 31)]] = field(default_factory=dict)
    """Where pooling leaves out the tokens of a prompt: by the name of the prompt, how many leading
    tokens of a text it leaves out. Such a text's embedding is the output `output_after` of that
    number."""
    lengths: dict[Task, int] = field(default_factory=dict)
    """Maximum lengths in tokens where they are below `max_length`: of a query, of a document, or,
    under "", of a text without a task."""
    truncation_side: Literal["right", "left"] = "right"
    """The side on which a text that is too long loses tokens."""

    def __post_init__(self) -> None:
        if self.labels and len(self.labels) != self.dim:
            raise ValueError(f"{len(self.labels)} labels name {self.dim} logits")
        if (self.task == "multi_vector") != (self.tokenwise is not None):
            raise ValueError("tokenwise belongs to the task multi_vector")
        if self.units and (self.task != "sparse" or self.units > self.dim):
            raise ValueError(f"units are {self.units} of {self.dim} in the task {self.task}")
        if self.tokenwise and self.tokenwise.query_tokens > self.length_of("query"):
            raise ValueError(
                f"queries are filled up to {self.tokenwise.query_tokens} tokens, and hold "
                f"{self.length_of('query')}"
            )
        if len(set(self.heads)) != len(self.heads) or not all(0 < n < self.dim for n in self.heads):
            raise ValueError(
                f"heads are {self.heads}, and must be sizes below {self.dim}, each once"
            )
        if self.unpooled and self.heads:
            raise ValueError("heads and unpooled exclude each other")

    @property
    def cut(self) -> Vocabulary | None:
        """The cut of the vocabulary; None of a whole one."""
        return None if isinstance(self.vocabulary, UnsetType) else self.vocabulary

    def length_of(self, task: Task) -> int:
        """Returns the maximum length of a text of `task` in tokens, specials included."""
        return min(self.lengths.get(task, self.max_length), self.max_length)

    def shortened(self, max_length: int) -> Contract:
        """Returns the contract for texts of at most `max_length` tokens."""
        lengths = {task: n for task, n in self.lengths.items() if n < max_length}
        return self.with_(max_length=max_length, lengths=lengths)

    def prompt_name(self, task: Task) -> str:
        """Returns the name of the prompt that sentence-transformers takes for a text of `task` if
        none is named; "" means none."""
        names = {"query": ("query",), "document": ("document", "passage", "corpus")}.get(task, ())
        found = next((name for name in names if name in self.prompts), self.default_prompt_name)
        return found if found in self.prompts else ""

    def prompt_of(self, task: Task) -> str:
        """Returns the text of the prompt for `task`."""
        return self.prompts.get(self.prompt_name(task), "")

    def output_of(self, dim: int) -> str:
        """Returns the name of the output of `dim` dimensions: `sentence_embedding`, or
        `sentence_embedding_256`."""
        return self.output if dim == self.dim else f"{EMBEDDING}_{dim}"

    def output_after(self, tokens: int) -> str:
        """Returns the name of the output of texts whose first `tokens` tokens are not pooled:
        `sentence_embedding_after_7`; of 0 the first output."""
        return f"{self.output}_after_{tokens}" if tokens else self.output

    @property
    def outputs(self) -> dict[str, int]:
        """The size of each output of the graph, by its name, in their order."""
        heads = {self.output_of(dim): dim for dim in (self.dim, *self.heads)}
        after = sorted(set(self.unpooled.values()))
        return heads | {self.output_after(tokens): self.dim for tokens in after}


@dataclass(frozen=True)
class Words:
    """Tokenizer facts of an export: known once the model is loaded, before there is a graph."""

    tokenizer: str
    """The tokenizer, as `Program.tokenizer`."""
    max_length: int
    """The maximum length in tokens of a text that is neither a query nor a document."""
    pad_id: int
    truncation_side: Literal["right", "left"] = "right"
    """The side on which a text that is too long loses tokens."""
    task: str = "embedding"
    """As in the contract."""
    framed: bool = False
    """Whether a chat template stands around texts that the tokenizer does not add."""

    @classmethod
    def of(cls, contract: Contract, tokenizer: str) -> Words:
        """Returns the tokenizer facts of an artifact with this contract."""
        return cls(
            tokenizer,
            contract.length_of(""),
            contract.pad_id,
            contract.truncation_side,
            contract.task,
            contract.frame is not None,
        )


_TRUNCATION = re.compile(r'"truncation":\s*(?:null|\{[^{}]*\})')


def limited(tokenizer: str, length: int, direction: str = "Right") -> str:
    """Returns `Program.tokenizer` with a maximum length in tokens, at which other clients then
    truncate."""
    said = {"direction": direction, "max_length": length, "strategy": "LongestFirst", "stride": 0}
    return _TRUNCATION.sub(f'"truncation":{json.dumps(said)}', tokenizer, count=1)


def unlimited(tokenizer: str) -> str:
    """Returns the tokenizer without the length that `limited` added."""
    return _TRUNCATION.sub('"truncation":null', tokenizer, count=1)


@dataclass(frozen=True)
class Reference:
    """Metadata of the source model besides its graph: other tools look for it in an artifact's
    folder."""

    config: Mapping[str, Any]
    """The backbone's config.json."""
    similarity: str | None
    """sentence-transformers' name of the similarity to use; None where the model names none."""
    token_ids: Mapping[str, tuple[int, ...]]
    """Golden texts, prompts included, and their token ids in the reference."""
    texts: Callable[[], Mapping[str, tuple[int, ...]]] = dict
    """Returns further texts, uncut, and their token ids in the source's own tokenizer: all that a
    companion tokenizer must agree on."""


@dataclass(frozen=True)
class Served:
    """An artifact that a layout is made of (`Target.lay_out`)."""

    folder: Path
    contract: Contract
    name: str
    """The artifact's precision as its manifest has it: fp32, fp16, or the name of a recipe."""
    precision: str
    """The floating precision: of all, or of what is not integers."""
    needs: frozenset[str] = frozenset()
    """The kinds of its integers (`Target.quantizes`)."""


class Run(Protocol):
    """A runnable artifact: (input_ids int64[B,S], attention_mask int64[B,S]) → float32[B,D]. Its
    inputs are already checked. Any number of threads may call it at a time."""

    def __call__(
        self, input_ids: np.ndarray, attention_mask: np.ndarray, output: str | None = None
    ) -> np.ndarray:
        """Runs the artifact; `output` names one of the program's outputs
        (exporter/driver/heads.py), and None is the first."""
        ...
