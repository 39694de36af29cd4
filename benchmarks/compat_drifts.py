"""The planted drifts of benchmarks/compat.py: each is a fault that people met, made for real where
sentence-transformers can make it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from goldfold.exporter.contract import Task
from goldfold.exporter.index.sides import Embed, Side

Index = Callable[[np.ndarray, list[str]], np.ndarray]
"""Vectors of an index, made of the true ones and their texts."""


@dataclass(frozen=True)
class Planted:
    """A drift between two artifacts, or in an index that `new` is to search."""

    name: str
    old: Side
    new: Side
    index: Index | None = None


@dataclass(frozen=True)
class St:
    """The model in sentence-transformers, and faults made in it."""

    folder: Path

    @cached_property
    def model(self) -> Any:
        from sentence_transformers import SentenceTransformer

        return SentenceTransformer(str(self.folder), device="cpu")

    def embed(
        self, change: Callable[[Any], None] = lambda model: None, batch_size: int = 32
    ) -> Embed:
        """Returns the encoder of a copy of the model that `change` changed."""
        model = copy.deepcopy(self.model)
        change(model)

        def embed(texts: Sequence[str], task: Task) -> np.ndarray:
            return model.encode(
                list(texts), batch_size=batch_size, show_progress_bar=False, convert_to_numpy=True
            )

        return embed


def memory(side: Side) -> Side:
    """Returns the side, which embeds the same texts once."""
    known: dict[tuple[Task, tuple[str, ...]], np.ndarray] = {}

    def embed(texts: Sequence[str], task: Task) -> np.ndarray:
        key = task, tuple(texts)
        if key not in known:
            known[key] = side.embed(texts, task)
        return known[key].copy()

    return replace(side, embed=embed)


def plants(base: Side, int4: Side, st: St) -> Iterator[Planted]:
    """Yields twenty planted drifts of `base`, an artifact in fp32."""

    def other(name: str, embed: Embed, old: Side = base, **changes: Any) -> Planted:
        return Planted(name, old, memory(replace(base, embed=embed, name=name, **changes)))

    def after(change: Callable[[np.ndarray], np.ndarray]) -> Embed:
        return lambda texts, task: change(base.embed(texts, task))

    yield other(
        "wrong prompt", lambda texts, task: base.embed([f"query: {text}" for text in texts], task)
    )
    yield other("other tokenizer: case is kept", st.embed(_cased))
    yield other(
        "other dimensions", after(lambda rows: rows[:, :256]),
        contract=base.contract.with_(dim=256),
    )  # fmt: skip
    yield other("missing normalisation", st.embed(lambda model: model.pop(2)))
    yield other("int4 where fp32 is said", int4.embed)
    yield other("rounded to bf16, as a plugin does", after(_bf16))
    yield other("mean pooling over padding", st.embed(_pool_padding))
    yield other("cls pooling instead of mean", st.embed(_cls))
    yield other("truncation at 64 tokens", st.embed(_short))
    yield other("two layers swapped", st.embed(_swap))
    yield other("other model: drawn weights", st.embed(_draw))
    draws = np.random.default_rng(3)
    order, signs = draws.permutation(base.contract.dim), draws.choice([-1, 1], base.contract.dim)
    yield other("dimensions permuted", after(lambda rows: rows[:, order]))
    yield other("signs of dimensions flipped", after(lambda rows: rows * signs))
    yield other("vectors scaled by 1.1", after(lambda rows: rows * 1.1))
    yield Planted("rows of an index doubled", base, base, _doubled)
    yield Planted("rows of an index shuffled", base, base, _shuffled)
    yield other("one script lost: Cyrillic", lambda texts, task: base.embed(_lost(texts), task))
    said = {"query": "query: ", "document": "passage: "}
    named = base.contract.with_(prompts=said)
    sides = [_prompted(base, said), _prompted(base, {"query": "passage: ", "document": "query: "})]
    yield other(
        "query and document swapped", sides[1],
        memory(replace(base, embed=sides[0], contract=named)), contract=named,
    )  # fmt: skip
    stale = st.embed(_swap)

    def older(rows: np.ndarray, texts: list[str]) -> np.ndarray:
        few = np.random.default_rng(4).choice(len(rows), len(rows) // 20, replace=False)
        rows[few] = stale([texts[row] for row in few], "document")
        return rows

    yield Planted("one row in twenty of an older model", base, base, older)
    yield Planted("rows of NaN", base, base, _nan)


def _bf16(rows: np.ndarray) -> np.ndarray:
    """Rounds to bf16, to nearest, ties to even."""
    raw = rows.astype(np.float32).view(np.uint32)
    raw = (raw + 0x7FFF + ((raw >> 16) & 1)) & np.uint32(0xFFFF0000)
    return raw.view(np.float32)


def _cased(model: Any) -> None:
    from tokenizers.normalizers import BertNormalizer

    model.tokenizer._tokenizer.normalizer = BertNormalizer(lowercase=False)


def _pool_padding(model: Any) -> None:
    import torch

    pooling = model[1]
    forward = pooling.forward

    def padded(features: dict[str, Any], **how: Any) -> dict[str, Any]:
        given = features["attention_mask"]
        features["attention_mask"] = torch.ones_like(given)
        return forward(features, **how)

    pooling.forward = padded


def _cls(model: Any) -> None:
    model[1] = type(model[1])(model.get_embedding_dimension(), pooling_mode="cls")


def _short(model: Any) -> None:
    model.max_seq_length = 64


def _swap(model: Any) -> None:
    layers = model[0].auto_model.encoder.layer
    layers[2], layers[3] = layers[3], layers[2]


def _draw(model: Any) -> None:
    import torch

    torch.manual_seed(0)
    for weight in model[0].auto_model.parameters():
        with torch.no_grad():
            weight.copy_(torch.randn_like(weight) * weight.std(unbiased=False) + weight.mean())


def _prompted(base: Side, prompts: dict[str, str]) -> Embed:
    return lambda texts, task: base.embed([prompts.get(task, "") + text for text in texts], task)


def _lost(texts: Sequence[str]) -> list[str]:
    return ["".join("?" if "Ѐ" <= c <= "ӿ" else c for c in text) for text in texts]


def _doubled(rows: np.ndarray, texts: list[str]) -> np.ndarray:
    rows[1::10] = rows[: len(rows) - 1 : 10]
    return rows


def _shuffled(rows: np.ndarray, texts: list[str]) -> np.ndarray:
    return rows[np.random.default_rng(5).permutation(len(rows))]


def _nan(rows: np.ndarray, texts: list[str]) -> np.ndarray:
    rows[:: len(rows) // 3] = np.nan
    return rows
