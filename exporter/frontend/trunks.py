"""Transformers that no graph of one form computes for every text: each is refused by its name in
config.json, in one sentence that says why."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from goldfold.exporter.frontend.weights import refusal

_CHOOSE = "give a model of another kind"

_WHY = {
    "fnet": (
        "FNet mixes all positions by a Fourier transform, padding among them, so that a text has "
        "another vector in every batch"
    ),
    "longformer": (
        "Longformer cuts a text into windows of a length that its Python code pads the text to, "
        "and finds tokens of global attention by their values; a graph computes the same for all"
    ),
    "led": (
        "LED cuts a text into windows of a length that its Python code pads the text to, and a "
        "graph computes the same for all"
    ),
    "reformer": (
        "Reformer sorts tokens into buckets by random hashes, so that a text has no one vector"
    ),
    "xlnet": (
        "XLNet shifts its scores of positions by reshaping them along the text, which torch.export "
        "can follow for some numbers of tokens only"
    ),
}
"""By `model_type`: the reason."""


def check(file: Path, config: Mapping[str, Any]) -> None:
    """Refuse the config.json of a transformer that cannot be one graph. Raises ModelError."""
    kind = config.get("model_type")
    if kind == "big_bird" and config.get("attention_type", "block_sparse") != "original_full":
        blocks = 5 + 2 * _count(config, "num_random_blocks", 3)
        tokens = blocks * _count(config, "block_size", 64)
        raise refusal(
            f"{file}: BigBird attends to random blocks in texts of more than {tokens} tokens and "
            "to all tokens in others, and a graph computes the same for all; set attention_type to "
            '"original_full", which is the same model up to that length, or give another'
        )
    if isinstance(kind, str) and kind in _WHY:
        raise refusal(f"{file}: {_WHY[kind]}; {_CHOOSE}")


def _count(config: Mapping[str, Any], name: str, default: int) -> int:
    found = config.get(name, default)
    return found if isinstance(found, int) else default
