"""The tokenizer of a model, with the frame that a chat template puts around each text."""

from __future__ import annotations

from typing import Any

from goldfold.exporter.errors import ModelError
from goldfold.golden import framing
from goldfold.golden.errors import GoldenError


def framed(model: Any) -> str:
    """Returns the tokenizer of a SentenceTransformer as its Rust library writes it; a chat template
    that is a fixed frame is part of it (golden/framing.py). Raises ModelError for one that is
    not."""
    try:
        return framing.tokenizer_of(model)
    except GoldenError as error:
        raise ModelError(str(error)) from None
