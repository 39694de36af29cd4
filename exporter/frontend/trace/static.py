"""Static embedding models: a table of one vector a token, and the mean of a text's rows.

sentence-transformers gives the first module's tokenizer no special tokens and, unless its
tokenizer.json says so, no maximum length. An artifact has both in its tokenizer.json: no step that
adds special tokens, and a maximum length, `UNDECLARED` tokens where the model names none.

A table of model2vec may be stored in parts, as `table[mapping[id]] · weights[id]`. The graph looks
up each part, so that rows that many tokens share are stored once.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

from goldfold.exporter.contract import Contract
from goldfold.exporter.errors import ModelError, TextError
from goldfold.exporter.frontend.source import Source
from goldfold.exporter.frontend.tokens import Tokens
from goldfold.exporter.frontend.trace.lengths import SHORT, Lengths
from goldfold.exporter.frontend.trace.lengths import UNDECLARED as MOST
from goldfold.exporter.frontend.trace.modules import Pool

UNDECLARED = 1 << 15
"""Maximum tokens of a text where neither the tokenizer nor the caller names a number: the judge's
(golden/tables.py), which shares no code with this."""

_WHOLE, _TABLE, _MAPPING, _WEIGHTS = "embedding.weight", "embeddings", "mapping", "weights"
"""Tensors: of sentence-transformers' own module, and of model2vec."""

_LONG = "The bridge stays open until the river rises; danach fährt nur das Boot, 直到水退。 "


VECTORS = "token_embeddings"
POOL = Pool(("mean",))
"""What follows the rows of the table."""


class Rows(torch.nn.Module):
    """input_ids [B,S] → table[mapping[ids]] · weights[ids], float32 [B,S,D]; mapping [V] and
    weights [V] may be absent."""

    mapping: torch.Tensor | None
    weights: torch.Tensor | None

    def __init__(
        self, table: torch.Tensor, mapping: torch.Tensor | None, weights: torch.Tensor | None
    ) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding.from_pretrained(table.to(torch.float32))
        for name, held, kind in (
            ("mapping", mapping, torch.int64),
            ("weights", weights, torch.float32),
        ):
            self.register_buffer(name, None if held is None else held.to(kind).unsqueeze(-1))

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, return_dict: bool = True
    ) -> dict[str, torch.Tensor]:
        look = torch.nn.functional.embedding
        ids = input_ids if self.mapping is None else look(input_ids, self.mapping).squeeze(-1)
        rows = self.embedding(ids)
        if self.weights is not None:
            rows = rows * look(input_ids, self.weights)
        return {VECTORS: rows}


def trunk(model: Any, source: Source) -> Rows:
    """Returns the first module of a static model, with the tensors as its file holds them.

    Raises ModelError for tensors that do not fit each other, and for tensors that nothing reads,
    unless the source may be incomplete.
    """
    folder = source.loads / source.modules[0].path
    files = [file for file in source.tensors if file.parent == folder]
    held: dict[str, torch.Tensor] = {}
    for file in files:
        held |= load_file(file)
    wanted = (_WHOLE,) if _WHOLE in held else (_TABLE, _MAPPING, _WEIGHTS)
    unread = sorted(held.keys() - set(wanted))
    if unread and not source.incomplete:
        raise ModelError(
            f"{files[0]}: holds {unread[0]!r}, which sentence-transformers does not read beside "
            f"{wanted[0]!r}; save the model again, or pass --allow-incomplete if you know better"
        )
    table, mapping, weights = held[wanted[0]], None, None
    if wanted[0] == _TABLE:
        mapping, weights = held.get(_MAPPING), held.get(_WEIGHTS)
    count = model[0].num_embeddings
    for name, part in ((_MAPPING, mapping), (_WEIGHTS, weights)):
        if part is not None and part.shape != (count,):
            raise ModelError(
                f"{files[0]}: {name!r} is {list(part.shape)}, and there are {count} tokens; save "
                "the model again"
            )
    if mapping is not None and int(mapping.min()) < 0:
        raise ModelError(f"{files[0]}: {_MAPPING!r} names a row below 0; save the model again")
    return Rows(table, mapping, weights)


def settle(model: Any, asked: int | None) -> Lengths:
    """Returns the maximum length: the tokenizer's own, or `UNDECLARED` tokens, or more where more
    are `asked` for. From now on the model cuts its texts there."""
    cut = model[0].tokenizer.truncation
    own = None if cut is None else int(cut["max_length"])
    most = own or min(max(UNDECLARED, asked or 0), MOST)
    model[0].tokenizer.enable_truncation(most, direction=side(model))
    if own is not None:
        return Lengths(own, {})
    note = (
        "sentence-transformers cuts no text for this model; an artifact does, at its maximum "
        "length: what comes after it is not read."
    )
    return Lengths(most, {}, (note,), borrowed=True)


def side(model: Any) -> Literal["right", "left"]:
    """Returns the side on which texts that are too long lose tokens."""
    cut = model[0].tokenizer.truncation or {}
    return "left" if cut.get("direction", "").lower() == "left" else "right"


def ids(model: Any) -> tuple[int, int]:
    """Returns the id that fills a batch, and the number of ids. The mask hides the id, so that any
    row will do: it is the special token that is called so, or the first row."""
    rows = int(model[0].num_embeddings)
    added = sorted(model[0].tokenizer.get_added_tokens_decoder().items())
    pads = [i for i, token in added if token.special and "pad" in token.content.lower()]
    return next((i for i in pads if i < rows), 0), rows


def tokenizer(model: Any) -> str:
    """Returns the tokenizer as its Rust library writes it, without the step that adds special
    tokens, which sentence-transformers leaves out."""
    copy: Any = Tokenizer.from_str(model[0].tokenizer.to_str())
    copy.no_padding()
    copy.no_truncation()
    copy.post_processor = None
    return copy.to_str(pretty=False)


def check(model: Any, tokens: Tokens, contract: Contract) -> None:
    """Refuse a model whose texts become other tokens than its tokenizer.json and contract give.
    Raises ModelError."""
    long = _LONG * (2 + 2 * contract.max_length // 20)
    added = model[0].tokenizer.get_added_tokens_decoder().values()
    special = " ".join(f"in{token.content}word" for token in added)
    for text in (*SHORT, special, long):
        expected = model.preprocess([text])["input_ids"].tolist()
        try:
            (found,) = tokens.ids([text])
        except TextError:
            found = []
        if found != expected:
            raise ModelError(
                f"its texts become other tokens than its tokenizer.json says ({text[:30]!r}); save "
                "the model again"
            )
