"""fastembed on an ONNX file that lies in a folder: it tokenizes itself, so texts go in.

A size is asked for in tokens: the texts are drawn from words that the tokenizer leaves whole, and
counted by it before they are used.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

NAME = "goldfold/measured"


def load(spec: dict[str, Any]) -> tuple[Callable[..., np.ndarray], Callable[..., list[str]]]:
    """An encode of texts, and a maker of `batch` texts of `tokens` tokens each."""
    from fastembed import TextEmbedding  # pyright: ignore[reportMissingImports]
    from fastembed.common.model_description import (  # pyright: ignore[reportMissingImports]
        ModelSource,
        PoolingType,
    )

    TextEmbedding.add_custom_model(
        model=NAME,
        pooling=PoolingType.DISABLED if spec["whole"] else PoolingType.MEAN,
        normalization=not spec["whole"],
        sources=ModelSource(hf=NAME),
        dim=spec["dim"],
        model_file=spec["file"],
    )
    model = TextEmbedding(
        model_name=NAME, specific_model_path=spec["folder"], threads=spec["threads"],
        providers=["CPUExecutionProvider"],
    )  # fmt: skip
    inner: Any = model.model
    tokenizer = inner.tokenizer

    def encode(texts: list[str], size: int) -> np.ndarray:
        return np.stack(list(model.embed(texts, batch_size=size)))

    def made(batch: int, tokens: int) -> list[str]:
        return drawn(
            lambda text: len(tokenizer.encode(text).ids), tokenizer.get_vocab(), batch, tokens
        )

    return encode, made


def drawn(
    count: Callable[[str], int], vocabulary: dict[str, int], batch: int, tokens: int
) -> list[str]:
    """`batch` texts, each of `tokens` tokens by `count`. Raises ValueError where it has no such
    text, which may be for a limit of its own."""
    extra = count("")
    known = sorted(word.removeprefix("▁") for word in vocabulary)
    words = [w for w in known if w.isascii() and w.isalpha() and w.islower() and len(w) > 3]
    rng = np.random.default_rng(0)
    order = [words[at] for at in rng.permutation(len(words))]
    whole = [w for w in order[:4000] if count(f"{w} {w}") == extra + 2]
    if tokens <= extra or not whole:
        raise ValueError(f"no text has {tokens} tokens")
    texts = [" ".join(rng.choice(whole, tokens - extra)) for _ in range(batch)]
    if wrong := {count(text) for text in texts} - {tokens}:
        raise ValueError(f"a text of {tokens} tokens has {min(wrong)} here")
    return texts
