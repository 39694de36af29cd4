"""Prompts whose tokens pooling leaves out (`include_prompt` false), as INSTRUCTOR's.

sentence-transformers leaves out a number of leading tokens that depends on the prompt alone: those
of the prompt, tokenized by itself, without a special token at its end. A graph has a result for
each such number, and the contract says which prompt has which.
"""

from __future__ import annotations

from typing import Any

from goldfold.exporter.errors import ModelError


def unpooled(model: Any) -> dict[str, int]:
    """Returns the number of leading tokens that pooling leaves out, by the name of the prompt;
    nothing where all tokens are pooled."""
    pools = [module for module in model if type(module).__name__ == "Pooling"]
    if all(getattr(pool, "include_prompt", True) for pool in pools):
        return {}
    found: dict[str, int] = {}
    for name, prompt in getattr(model, "prompts", {}).items():
        if not prompt:
            continue
        try:
            length = model.preprocess(["one"], prompt=prompt).get("prompt_length")
        except Exception as error:
            said = (str(error).splitlines() or [""])[0]
            raise ModelError(
                f"sentence-transformers makes no tokens of its prompt {name!r}: "
                f"{type(error).__name__}: {said}"
            ) from error
        if length:
            found[name] = int(length)
    return found
