"""A first module of the model's own code, in a Transformer's place: traced by its own forward.

It takes token ids and a mask, and gives `token_embeddings`. Whatever else it computes on the way is
part of the graph.
"""

from __future__ import annotations

from typing import Any

import torch

from goldfold.exporter.contract import ATTENTION_MASK, INPUT_IDS, TOKEN_EMBEDDINGS
from goldfold.exporter.errors import ModelError
from goldfold.exporter.frontend.trace.lengths import eager
from goldfold.exporter.frontend.trace.modules import LAYERS, is_foreign


class Own(torch.nn.Module):
    """(input_ids, attention_mask) int64 [B,S] → {token_embeddings: float32 [B,S,D]}, by the forward
    of `source`."""

    def __init__(self, source: torch.nn.Module) -> None:
        super().__init__()
        self.source = source

    @property
    def inside(self) -> str:
        """The path of the transformer in this module, with a dot at its end."""
        trunk: Any = self.source.auto_model
        return next(f"{name}." for name, one in self.named_modules() if one is trunk)

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, return_dict: bool = True
    ) -> dict[str, Any]:
        found = self.source({INPUT_IDS: input_ids, ATTENTION_MASK: attention_mask})
        given = {TOKEN_EMBEDDINGS: found[TOKEN_EMBEDDINGS]}
        return given | {"hidden_states": found[LAYERS]} if LAYERS in found else given


def check(first: Any) -> None:
    """Refuse a first module of the model's own code that has no transformer and no tokenizer, as
    sentence-transformers' own has them. Raises ModelError."""
    if is_foreign(first) and not (hasattr(first, "auto_model") and hasattr(first, "tokenizer")):
        raise ModelError(
            f"its first module {type(first).__name__} is of the model's own code, and has no "
            "auto_model and tokenizer as sentence-transformers' Transformer; only such a one is "
            "supported"
        )


def trunk_of(first: torch.nn.Module) -> Own:
    """Returns the first module as a transformer. Raises ModelError for one that does not compute
    the vectors of tokens from their ids and the mask."""
    made, kind = Own(first).eval(), type(first).__name__
    ids = torch.full((2, 3), 5, dtype=torch.long)
    try:
        with torch.no_grad(), eager(first.auto_model):
            found = made(ids, torch.ones_like(ids))[TOKEN_EMBEDDINGS]
    except Exception as error:
        said = (str(error).splitlines() or [""])[0]
        raise ModelError(
            f"its first module {kind}, of the model's own code, makes no {TOKEN_EMBEDDINGS} of "
            f"{INPUT_IDS} and {ATTENTION_MASK}, which are all that an artifact has: "
            f"{type(error).__name__}: {said}"
        ) from error
    if not isinstance(found, torch.Tensor) or found.ndim != 3 or found.shape[:2] != ids.shape:
        raise ModelError(
            f"its first module {kind}, of the model's own code, does not give a vector for each "
            "token"
        )
    return made
