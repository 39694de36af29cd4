"""A model that pads every text to one length: padding is then a part of what it reads.

SigLIP was trained so, and takes the vector of the last column. What identifies a text are the ids
of its own tokens; the padding behind them is always the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from goldfold.golden.errors import GoldenError


def is_filled(model: Any) -> bool:
    """Whether a text that goes in alone is padded."""
    ways = getattr(model[0], "modality_config", {})
    if "text" not in ways or "message" in ways:  # a table, or a template around every text
        return False
    return len(model.preprocess(["a"])["input_ids"][0]) > _count(model, "a")


def own(model: Any, text: str, ids: Sequence[int]) -> tuple[int, ...]:
    """Returns the ids of a text's own tokens, of those that reached a model that pads it. Raises
    GoldenError where something else than one token's padding follows them."""
    count = min(_count(model, text), len(ids))
    if len(set(ids[count:])) > 1:
        raise GoldenError(f"the reference pads {text[:30]!r} with several tokens")
    return tuple(ids[:count])


def uncut(model: Any) -> dict[str, Any]:
    """Returns the settings by which texts are not cut, and a mask tells their tokens apart from
    padding."""
    if not is_filled(model):
        return {"truncation": False}
    return {"truncation": False, "padding": True, "return_attention_mask": True}


def check(model: Any, length: int | None) -> None:
    """Refuse to cut a model's texts to fewer tokens than it pads them to, where it reads the
    padding. Raises GoldenError."""
    if length is None or not is_filled(model):
        return
    features = model.preprocess(["a"])
    full = int(features["input_ids"].shape[1])
    read = "attention_mask" not in features or not any(
        type(module).__name__ == "Pooling" for module in model
    )
    if read and length < full:
        raise GoldenError(
            f"the model pads every text to {full} tokens and reads the padding, so that texts of "
            f"{length} tokens would be another model's; leave --max-length out"
        )


def remedy(model: Any) -> str:
    """Returns what to set where padding changes a text's vector."""
    if "attention_mask" in model.preprocess(["a", "two words"]):
        return "correct padding_side, model_input_names or return_attention_mask in its settings"
    return (
        "there is no attention_mask: ask for one (model_input_names), or, of a model that was "
        'trained on padded texts, set processing_kwargs {"text": {"padding": "max_length"}} in '
        "its sentence_bert_config.json"
    )


def _count(model: Any, text: str) -> int:
    how: Any = {"padding": False, "truncation": False, "verbose": False}
    return len(model.tokenizer(text, **how)["input_ids"])
