"""The head as matrices: reading it, storing it in fewer bits, what that costs the embedding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from goldfold.exporter.errors import ModelError
from goldfold.exporter.frontend.source import Source
from goldfold.exporter.frontend.weights import read_object
from goldfold.golden.compare import reading, unit

RANKS = (128, 256, 384, 512)
"""The smaller Matryoshka sizes, and 384: from there on U [768,r] V [r,768] is no smaller than W."""
GROUP = 64


@dataclass(frozen=True)
class Head:
    """Both factors as f64 [out, in], and their product in f64."""

    w1: np.ndarray
    w2: np.ndarray

    @property
    def product(self) -> np.ndarray:
        return self.w2 @ self.w1


@dataclass(frozen=True)
class Format:
    """How weights are stored. `scale` numbers of a row share an fp16 scale; 0: none, -1: all."""

    name: str
    bits: int
    scale: int

    def bytes(self, *weights: np.ndarray) -> int:
        """Bytes of weights [out, in], their scales included."""
        return sum(w.size * self.bits // 8 + 2 * self._scales(w) for w in weights)

    def _scales(self, weight: np.ndarray) -> int:
        if self.scale == 0:
            return 0
        return weight.shape[0] if self.scale < 0 else weight.size // self.scale

    def stored(self, weight: np.ndarray) -> np.ndarray:
        """What a weight [out, in] reads as when it comes back, in f64."""
        if self.scale == 0:
            kind = {32: np.float32, 16: np.float16}[self.bits]
            return weight.astype(kind).astype(np.float64)
        levels = 2 ** (self.bits - 1) - 1
        width = weight.shape[1] if self.scale < 0 else self.scale
        groups = weight.reshape(weight.shape[0], -1, width)
        scale = np.abs(groups).max(axis=2, keepdims=True) / levels
        scale = scale.astype(np.float16).astype(np.float64)
        # A row of zeros has scale 0; any other value reads it back as zeros.
        scale[scale == 0] = 1.0
        codes = np.clip(np.rint(groups / scale), -levels, levels)
        return (codes * scale).reshape(weight.shape)


FORMATS = (
    Format("f32", 32, 0),
    Format("fp16", 16, 0),
    Format("int8 a row", 8, -1),
    Format(f"int4 g{GROUP}", 4, GROUP),
)


def read_head(source: Source) -> Head:
    """The last two Dense modules. Raises ModelError if they are not linear, or not next in line."""
    dense = [module for module in source.modules if module.kind == "Dense"][-2:]
    if len(dense) != 2 or dense[1].idx != dense[0].idx + 1:
        raise ModelError(f"{source.path}: no two Dense modules in a row")
    weights = []
    for module in dense:
        folder = source.path / module.path
        config = read_object(folder / "config.json")
        if config["bias"] or not config["activation_function"].endswith("Identity"):
            raise ModelError(f"{folder}: has a bias or an activation; this is about heads without")
        weights.append(load_file(folder / "model.safetensors")["linear.weight"])
    return Head(*(weight.astype(np.float64) for weight in weights))


def trunk_work(source: Source) -> tuple[int, Callable[[int], int]]:
    """The trunk's matrix parameters, and its multiply-adds on one text of n tokens.

    A layer has q, o [H, n_heads d], k, v [H, n_kv d], and gate, up, down [H, I]; a parameter is one
    multiply-add a token. Attention adds q kᵀ and its product with v: n² n_heads d each, all pairs
    counted, as a graph with a mask computes them. Embedding, norms and softmax are left out.

    Raises ModelError for another architecture than Gemma 3's.
    """
    file = source.path / "config.json"
    config = read_object(file)
    if config["model_type"] != "gemma3_text":
        raise ModelError(f"{file}: {config['model_type']}; the count is of gemma3_text")
    hidden, layers = config["hidden_size"], config["num_hidden_layers"]
    heads = config["num_attention_heads"] * config["head_dim"]
    shared = config["num_key_value_heads"] * config["head_dim"]
    layer = 2 * hidden * heads + 2 * hidden * shared + 3 * hidden * config["intermediate_size"]
    return layers * layer, lambda n: layers * (n * layer + 2 * n * n * heads)


def spectrum(weight: np.ndarray) -> dict[str, Any]:
    """Singular values s, sorted: extremes, condition, effective rank, energy of the first k.

    Effective rank is exp(H(s / sum s)) with Shannon's entropy H (Roy & Vetterli, "The effective
    rank", EUSIPCO 2007): k for k equal values. Energy of the first k is the share of sum s² that
    lies in them, which is also the share of |W|² that the best matrix of rank k keeps.
    """
    s = np.linalg.svd(weight, compute_uv=False)
    share, energy = s / s.sum(), s**2 / (s**2).sum()
    return {
        "largest": s[0],
        "median": float(np.median(s)),
        "smallest": s[-1],
        "condition": s[0] / s[-1],
        "effective_rank": float(np.exp(-(share * np.log(share)).sum())),
        "participation_ratio": float(1 / (energy**2).sum()),
        "energy": {k: float(energy[:k].sum()) for k in RANKS},
    }


def recover_pooled(product: np.ndarray, goldens: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Solve W p = g for every golden; p f64 [N, 768].

    Also the largest residual |W p - g| / |g|, and the largest relative change of p when each number
    of g moves by half an ulp of f32 at most, up or down by a seeded coin.
    """
    pooled = np.linalg.solve(product, goldens.T).T
    residual = np.linalg.norm(pooled @ product.T - goldens, axis=1)
    signs = np.random.default_rng(0).choice([-1.0, 1.0], size=goldens.shape)
    moved = np.linalg.solve(product, (goldens * (1 + 2.0**-24 * signs)).T).T
    change = np.linalg.norm(moved - pooled, axis=1) / np.linalg.norm(pooled, axis=1)
    return pooled, float((residual / np.linalg.norm(goldens, axis=1)).max()), float(change.max())


def distances(found: np.ndarray, exact: np.ndarray, dims: int) -> tuple[float, float]:
    """Worst and mean 1-cos of the first `dims` components, [N, 768] both."""
    rows = zip(unit(found[:, :dims]), unit(exact[:, :dims]), strict=True)
    values = [reading(a, b).distance for a, b in rows]
    return max(values), float(np.mean(values))
