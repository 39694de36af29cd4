"""What an artifact promises its caller, and what is known of its texts."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

from msgspec import Meta, field

from goldfold.exporter.records import Record

if TYPE_CHECKING:
    import numpy as np

INPUT_IDS = "input_ids"
ATTENTION_MASK = "attention_mask"
EMBEDDING = "sentence_embedding"


Task = Literal["", "query", "document"]
"""What a text is for, as sentence-transformers' encode, encode_query and encode_document."""


class Contract(Record, frozen=True, kw_only=True):
    """What an artifact promises its caller. Serialised into every manifest."""

    model: str
    """The source model's name."""
    inputs: tuple[str, ...] = (INPUT_IDS, ATTENTION_MASK)
    """int64[batch, tokens] each; the mask is 1 where a token is real, and padding is on the
    right."""
    output: str = EMBEDDING
    """float32[batch, dim]."""
    dim: Annotated[int, Meta(gt=0, le=1 << 20)]
    """Size of the full embedding. No model comes near these limits; a manifest that lies might."""
    heads: tuple[int, ...] = ()
    """Sizes of further outputs, `sentence_embedding_256` and so on: leading dimensions of the
    embedding, normalised by themselves where the model normalises."""
    max_length: Annotated[int, Meta(gt=0, le=1 << 31)]
    """The most tokens a text may have, specials included; longer texts are truncated."""
    vocab_size: Annotated[int, Meta(gt=0, le=1 << 31)]
    """Token ids are 0 … vocab_size − 1."""
    pad_id: Annotated[int, Meta(ge=0, le=1 << 31)]
    normalized: bool
    """Whether the model itself ends in L2 normalisation."""
    prompts: dict[str, str] = field(default_factory=dict)
    """Text by name, put before a text; empty ones as well."""
    default_prompt_name: str | None = None
    lengths: dict[Task, int] = field(default_factory=dict)
    """Tokens that a text is cut to, where that is less than `max_length`: of a query, a document,
    or, under "", of a text that is said to be neither."""
    truncation_side: Literal["right", "left"] = "right"
    """Where a text that is too long loses tokens."""

    def length_of(self, task: Task) -> int:
        """The most tokens of a text of `task`, specials included."""
        return min(self.lengths.get(task, self.max_length), self.max_length)

    def shortened(self, max_length: int) -> Contract:
        """The same for texts of at most `max_length` tokens."""
        lengths = {task: n for task, n in self.lengths.items() if n < max_length}
        return self.with_(max_length=max_length, lengths=lengths)

    def prompt_name(self, task: Task) -> str:
        """The prompt that sentence-transformers takes for a text of `task` if none is named; "" is
        none."""
        names = {"query": ("query",), "document": ("document", "passage", "corpus")}.get(task, ())
        found = next((name for name in names if name in self.prompts), self.default_prompt_name)
        return found if found in self.prompts else ""

    def prompt_of(self, task: Task) -> str:
        """Its text."""
        return self.prompts.get(self.prompt_name(task), "")

    def output_of(self, dim: int) -> str:
        """The output of `dim` dimensions: `sentence_embedding`, or `sentence_embedding_256`."""
        return self.output if dim == self.dim else f"{EMBEDDING}_{dim}"


@dataclass(frozen=True)
class Words:
    """What an export knows of its texts once the model is loaded, before there is a graph."""

    tokenizer: str
    """As `Program.tokenizer`."""
    max_length: int
    """The most tokens of a text that is said to be no query and no document."""
    pad_id: int
    truncation_side: Literal["right", "left"] = "right"
    """Where a text that is too long loses tokens."""

    @classmethod
    def of(cls, contract: Contract, tokenizer: str) -> Words:
        """What an artifact with this contract makes of its texts."""
        return cls(tokenizer, contract.length_of(""), contract.pad_id, contract.truncation_side)


_TRUNCATION = re.compile(r'"truncation":\s*(?:null|\{[^{}]*\})')


def limited(tokenizer: str, length: int, direction: str = "Right") -> str:
    """`Program.tokenizer` with the length, in tokens, that other clients then cut a text at."""
    said = {"direction": direction, "max_length": length, "strategy": "LongestFirst", "stride": 0}
    return _TRUNCATION.sub(f'"truncation":{json.dumps(said)}', tokenizer, count=1)


def unlimited(tokenizer: str) -> str:
    """What `limited` was given."""
    return _TRUNCATION.sub('"truncation":null', tokenizer, count=1)


@dataclass(frozen=True)
class Reference:
    """What is known of the source model besides its graph: what other tools ask a folder for."""

    config: Mapping[str, Any]
    """The backbone's config.json."""
    similarity: str | None
    """sentence-transformers' name of the similarity to use, if the model says."""
    token_ids: Mapping[str, tuple[int, ...]]
    """Golden texts, prompts included, and the ids that the reference made of them."""


class Run(Protocol):
    """(input_ids int64[B,S], attention_mask int64[B,S]) → float32[B,D]; inputs are already
    checked. Any number of threads may call an artifact's at a time."""

    def __call__(
        self, input_ids: np.ndarray, attention_mask: np.ndarray, output: str | None = None
    ) -> np.ndarray:
        """`output` names one of the program's outputs (exporter/driver/heads.py); its first if
        None."""
        ...
