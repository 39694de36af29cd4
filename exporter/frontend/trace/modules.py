"""sentence-transformers' modules as plain tensor functions that trace well and are safe against
padding.

Each stage takes `(hidden [B,S,D] or pooled [B,D], mask bool [B,S])` and computes what the module of
sentence-transformers computes, with one difference: padding is *selected away* (`where`), never
multiplied by zero, because NaN × 0 is NaN.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from goldfold.exporter.errors import ModelError


class Pool(torch.nn.Module):
    """Token vectors [B,S,D] and mask [B,S] → one vector per text [B, D · number of modes].

    The modes are sentence-transformers'; several are concatenated in the given order. Padding is on
    the right (the contract), so the first token is token 0 and position weights count from there.
    """

    def __init__(self, modes: tuple[str, ...]) -> None:
        super().__init__()
        for mode in modes:
            if mode not in MODES:
                raise ModelError(
                    f"pooling mode {mode!r} is unknown here; known are {', '.join(MODES)}"
                )
        self.modes = modes

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        pooled = [MODES[mode](tokens, mask) for mode in self.modes]
        return pooled[0] if len(pooled) == 1 else torch.cat(pooled, dim=-1)


def _total(tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return torch.where(mask.unsqueeze(-1), tokens, 0.0).sum(1)


def _count(tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    # At least one: an all-padding row gives zeros instead of 0/0.
    return mask.to(tokens.dtype).sum(1, keepdim=True).clamp(min=1.0)


def _mean(tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return _total(tokens, mask) / _count(tokens, mask)


def _mean_sqrt(tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return _total(tokens, mask) / _count(tokens, mask).sqrt()


def _cls(tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return tokens[:, 0]


def _max(tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    lowest = torch.finfo(tokens.dtype).min
    return torch.where(mask.unsqueeze(-1), tokens, lowest).amax(1)


def _weighted_mean(tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    position = torch.arange(1, tokens.shape[1] + 1, dtype=tokens.dtype)
    weights = torch.where(mask, position, 0.0)
    total = torch.where(mask.unsqueeze(-1), tokens * weights.unsqueeze(-1), 0.0).sum(1)
    return total / weights.sum(1, keepdim=True).clamp(min=1.0)


def _last(tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    # The last real token by its position, so that a hole in the mask does not move it.
    position = torch.arange(tokens.shape[1]).expand(mask.shape)
    last = torch.where(mask, position, 0).amax(1)
    index = last.unsqueeze(-1).unsqueeze(-1).expand(-1, 1, tokens.shape[2])
    return tokens.gather(1, index).squeeze(1)


MODES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "cls": _cls,
    "max": _max,
    "mean": _mean,
    "mean_sqrt_len_tokens": _mean_sqrt,
    "weightedmean": _weighted_mean,
    "lasttoken": _last,
}


class Dense(torch.nn.Module):
    """x [B,K] → activation(x Wᵀ + b) [B,N], plus the residual path where the module has one."""

    def __init__(self, source: torch.nn.Module) -> None:
        super().__init__()
        self.linear: Any = source.linear
        self.activation: Any = source.activation_function
        self.shortcut: Any = None
        if getattr(source, "use_residual", False):
            self.shortcut = getattr(source, "residual", None) or torch.nn.Identity()

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        out = self.activation(self.linear(x))
        return out if self.shortcut is None else out + self.shortcut(x)


class Norm(torch.nn.Module):
    """LayerNorm over the pooled vector."""

    def __init__(self, source: torch.nn.Module) -> None:
        super().__init__()
        self.norm: Any = source.norm

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.norm(x)


class Normalize(torch.nn.Module):
    """x / max(‖x‖₂, 1e-12): torch.nn.functional.normalize, eps included."""

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize(x, p=2.0, dim=-1)


class Leading(torch.nn.Module):
    """The first `dim` numbers of [B,D]: a model's own truncate_dim, after which
    sentence-transformers does not normalise again."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return x[:, : self.dim]


def stage_of(module: torch.nn.Module, index: int) -> torch.nn.Module | None:
    """Returns the traced stage for one module after the Transformer; None for one that does
    nothing.

    Raises ModelError, naming the module, for a module that goldfold does not know.
    """
    kind = type(module).__name__
    place = f"module {index} ({kind})"
    if kind != "Dropout":
        for key in ("module_input_name", "module_output_name"):
            name = getattr(module, key, "sentence_embedding")
            if name != "sentence_embedding" and (key, name) != ("module_output_name", "scores"):
                raise ModelError(
                    f"{place} has {key} {name!r}; only 'sentence_embedding' is supported, "
                    "so this model cannot be exported"
                )
    match kind:
        case "Pooling":
            modes = getattr(module, "pooling_mode")  # noqa: B009 — absent from torch's Module type
            return Pool((modes,) if isinstance(modes, str) else tuple(modes))
        case "Dense":
            return Dense(module)
        case "LayerNorm":
            return Norm(module)
        case "Normalize":
            return Normalize()
        case "Dropout":
            return None
    raise ModelError(f"{place} is not a module goldfold knows; nothing is dropped silently")
