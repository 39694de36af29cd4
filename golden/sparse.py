"""The reference of sparse vectors: sentence-transformers' SparseEncoder in fp32 on the CPU."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from goldfold.golden.store import ROUNDING, Case
from goldfold.golden.tasks import level, scale_of

DENSE: Mapping[str, Any] = {"convert_to_sparse_tensor": False}
"""Arguments of `encode` for one dense tensor."""
_WIDE = 1 << 30
"""Parameters of the largest model that is run in f64: 8 GB."""
_MEASURED = 24
"""Texts that are run in f64."""
_ENDLESS = 1 << 40


def is_static(model: Any) -> bool:
    """Whether a model looks its vectors up, without a transformer (SparseStaticEmbedding)."""
    return type(model[0]).__name__ == "SparseStaticEmbedding"


def entries(first: Any) -> int:
    """The number of token ids that a model's first module knows."""
    if hasattr(first, "auto_model"):
        trunk = first.auto_model  # CLIP and its like keep texts and images apart
        return int(getattr(trunk, "text_model", trunk).get_input_embeddings().num_embeddings)
    return int(first.num_dimensions)


def units(model: Any) -> int:
    """How many units a model keeps of its sparse autoencoder (CSR), at most; 0 for another one."""
    kept = model.max_active_dims if type(model[-1]).__name__ == "SparseAutoEncoder" else None
    return int(kept or 0)


def tokenizer_of(model: Any, written: str) -> str:
    """A model's tokenizer.json as it is used: a static model adds no special tokens."""
    if not is_static(model):
        return written
    return json.dumps({**json.loads(written), "post_processor": None}, ensure_ascii=False)


def shorten(model: Any, length: int) -> None:
    """Let a static model cut texts to `length` tokens at most: its tokenizer alone decides."""
    if is_static(model):
        tokenizer = model[0].tokenizer
        tokenizer.model_max_length = min(tokenizer.model_max_length, length)


@contextmanager
def uncut(model: Any) -> Iterator[None]:
    """Let a model read texts whole while this is open, where no argument of a call says so: a
    static one, and a first module of the model's own code from before there was such an argument,
    which cuts by its own length."""
    first: Any = model[0]
    old = hasattr(first, "auto_model") and not hasattr(first, "processing_kwargs")
    held = first if old else first.tokenizer if is_static(model) else None
    name = "max_seq_length" if old else "model_max_length"
    own = getattr(held, name, None)
    if held is not None:
        setattr(held, name, _ENDLESS)
    try:
        yield
    finally:
        if held is not None:
            setattr(held, name, own)


def plain(model: Any) -> Mapping[str, Any]:
    """The arguments of `encode` for numbers as the last module gives them."""
    if hasattr(model, "decode"):  # a SparseEncoder
        return DENSE
    return {"normalize_embeddings": False, "convert_to_numpy": True}


def rounding(model: Any, cases: Sequence[Case], rows: Sequence[np.ndarray]) -> float:
    """How far the reference's f32 is from f64 on some of the goldens, at worst, as a share of its
    largest weight; 0 for a model whose weights take too much memory in f64. Of a CSR, both with the
    same units. The model is in f64 afterwards."""
    import torch

    if sum(one.numel() for one in model.parameters()) > _WIDE:
        return 0.0
    model.double()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    texts = [(c.prompt + c.text, r) for c, r in zip(cases, rows, strict=True) if not c.call]
    worst = 0.0
    for text, row in sorted(texts, key=lambda one: len(one[0]))[:_MEASURED]:
        wide = model.encode([text], prompt="", show_progress_bar=False, **DENSE)[0].numpy()
        wide, row = level(wide.astype(np.float64), row.astype(np.float64), units(model))
        worst = max(worst, float(np.abs(wide - row).max()))
    torch.set_num_threads(threads)
    return min(worst / scale_of(np.stack(rows)), ROUNDING)
