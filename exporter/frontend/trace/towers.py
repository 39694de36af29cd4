"""The text's side of a model of images and text, as it is called, and as it is padded.

CLIP's tower sees to the left, and takes the vector of the token that ends a text. SigLIP's sees
both ways and takes the last column, whatever is there, of texts that are all padded to one length:
padding is a part of what it reads. The graph then appends it, so that an artifact's inputs stay the
ids of a text and the mask of its own tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from goldfold.exporter.errors import ModelError

FORWARD, TEXT = "forward", "get_text_features"


@dataclass(frozen=True)
class Filling:
    """Every text is padded to `length` tokens with the id `pad`, which attention sees if `seen`."""

    length: int
    pad: int
    seen: bool

    def __call__(self, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns ids and mask int64 [B, length] of int64 [B,S], S at most `length`."""
        ids = torch.where(mask.to(torch.bool), ids, self.pad)
        rest = torch.full((ids.shape[0], self.length), self.pad, dtype=torch.int64)
        ids = torch.cat([ids, rest], dim=1)[:, : self.length]
        if self.seen:
            return ids, torch.ones_like(ids)
        return ids, torch.cat([mask, torch.zeros_like(rest)], dim=1)[:, : self.length]


def is_tower(first: Any) -> bool:
    """Returns whether a Transformer gives a text's embedding by a method of its own."""
    return _way(first).get("method", FORWARD) == TEXT


def output_of(first: Any) -> str:
    """Returns the name of the method's output. Raises ModelError where that is no embedding."""
    named, made = _way(first).get("method_output_name"), first.module_output_name
    if not isinstance(named, str) or made != "sentence_embedding":
        raise ModelError(
            f"its Transformer gives {made!r}, which is {named!r} of {TEXT}; a sentence_embedding "
            "by one name is supported"
        )
    return named


def callable_of(first: Any) -> Callable[..., Any]:
    """Returns what is called with the ids of a text."""
    return getattr(first.auto_model, TEXT) if is_tower(first) else first.auto_model


def placeholders(first: Any) -> set[str]:
    """Returns the tokens that stand for an image or a sound, of which sentence-transformers refuses
    a text that has none."""
    kinds = ("image_token", "video_token", "audio_token")
    found = (getattr(getattr(first, "processor", None), kind, None) for kind in kinds)
    return {token for token in found if isinstance(token, str)}


def entries(trunk: Any) -> int:
    """Returns the number of rows of the table of tokens."""
    return int(getattr(trunk, "text_model", trunk).get_input_embeddings().num_embeddings)


def filling_of(model: Any) -> Filling | None:
    """Returns how a model pads a text that goes in alone; None where it does not."""
    if "message" in getattr(model[0], "modality_config", {}):
        return None  # a chat template stands around every text
    features = model.preprocess(["a"])
    (ids,) = features["input_ids"].tolist()
    own = len(model.tokenizer("a", padding=False)["input_ids"])
    if len(ids) <= own:
        return None
    mask = features.get("attention_mask")
    filling = Filling(len(ids), ids[-1], mask is None or bool(mask.all()))
    if set(ids[own:]) != {filling.pad} or model.tokenizer.padding_side != "right":
        raise ModelError(
            "its settings pad a text that goes in alone, on its left or with several tokens; one "
            "token on the right is supported"
        )
    return filling


def own_ids(model: Any, text: str, ids: list[int], filling: Filling | None) -> list[int]:
    """Returns the ids of a text's own tokens, of those that reach the model."""
    if filling is None:
        return ids
    own = len(model.tokenizer(text, padding=False, truncation=False, verbose=False)["input_ids"])
    if len(ids) != filling.length or set(ids[own:]) - {filling.pad}:
        raise ModelError(
            f"its settings pad texts to another length than {filling.length} tokens ({text[:30]!r})"
        )
    return ids[:own]


def _way(first: Any) -> dict[str, Any]:
    ways = getattr(first, "modality_config", {})
    return ways.get("message") or ways.get("text", {})
