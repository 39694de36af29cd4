"""sentence-transformers' modules as plain tensor functions that trace well and are safe against
padding.

A stage reads one feature and writes one (`run`): hidden states [B,S,D] or a pooled vector [B,D], by
sentence-transformers' names. It computes what the module of sentence-transformers computes, with
one difference: padding is *selected away* (`where`), never multiplied by zero, because NaN × 0 is
NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from goldfold.exporter.contract import ATTENTION_MASK, EMBEDDING, INPUT_IDS, TOKEN_EMBEDDINGS
from goldfold.exporter.errors import ModelError

SCORES = "scores"
LAYERS, TOTAL = "all_layer_embeddings", "token_weights_sum"
PROMPT = "prompt_length"
"""The number of leading tokens that are a prompt's: an int, absent where a text has none."""
_FEATURES = (INPUT_IDS, ATTENTION_MASK, PROMPT, LAYERS)
"""Features that no stage writes."""

State = dict[str, Any]
"""Features by their names, as sentence-transformers hands them from module to module."""


class OnFeatures(torch.nn.Module):
    """A stage that reads several features: forward(state, mask [B,S]) → the features that it
    changes."""


def run(stages: Sequence[Any], state: State, mask: torch.Tensor) -> torch.Tensor:
    """Returns the result of the stages, in their order, on `state`: scores or the sentence
    embedding where there are any, else what the last of them writes. A stage that names no feature
    reads what the one before it wrote."""
    at = TOKEN_EMBEDDINGS
    for stage in stages:
        if isinstance(stage, OnFeatures):
            changed = stage(state, mask)
            state |= changed
            at = EMBEDDING if EMBEDDING in changed else at
            continue
        reads = getattr(stage, "reads", "") or at
        if reads not in state:
            if isinstance(stage, Normalize):
                continue  # sentence-transformers passes it over
            raise ModelError(f"{reads!r} is read before a module has made it")
        at = getattr(stage, "writes", "") or reads
        state[at] = stage(state[reads], mask)
    return next((state[name] for name in (SCORES, EMBEDDING) if name in state), state[at])


def divided(stages: Sequence[Any]) -> int:
    """Returns how many of the stages come before the first that treats a prompt's tokens in a way
    of their own; all of them where there is none."""
    parts = (at for at, stage in enumerate(stages) if isinstance(stage, (Pool, Foreign)))
    return next(parts, len(stages))


class Pool(OnFeatures):
    """Token vectors [B,S,D] and mask [B,S] → one vector per text [B, D · number of modes].

    The modes are sentence-transformers'; several are concatenated in the given order. Padding is on
    the right (the contract), so the first token is token 0 and position weights count from there.
    Unless `with_prompt`, the tokens of a prompt are left out; position weights count them.
    """

    def __init__(self, modes: tuple[str, ...], with_prompt: bool = True) -> None:
        super().__init__()
        for mode in modes:
            if mode not in MODES:
                raise ModelError(
                    f"pooling mode {mode!r} is unknown here; known are {', '.join(MODES)}"
                )
        self.modes = modes
        self.with_prompt = with_prompt

    def forward(self, state: State, mask: torch.Tensor) -> State:
        skip = 0 if self.with_prompt else int(state.get(PROMPT, 0))
        return {EMBEDDING: self.pooled(state[TOKEN_EMBEDDINGS], mask, skip, state.get(TOTAL))}

    def pooled(
        self,
        tokens: torch.Tensor,
        mask: torch.Tensor,
        skip: int = 0,
        total: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Returns the pooled vectors, without the first `skip` tokens; `total` [B] is the sum of
        the tokens' weights where they have some."""
        kept = mask & (torch.arange(tokens.shape[1]) >= skip) if skip else mask
        found = []
        for mode in self.modes:
            if mode == "cls":
                found.append(_first(tokens, mask, skip))
            elif mode == "lasttoken":
                found.append(_last(tokens, mask, skip))
            elif mode == "max":
                found.append(_max(tokens, kept))
            elif mode == "weightedmean":
                found.append(_weighted_mean(tokens, kept, total))
            else:
                count = _count(tokens, kept, total)
                share = count if mode == "mean" else count.sqrt()
                found.append(_total(tokens, kept) / share)
        return found[0] if len(found) == 1 else torch.cat(found, dim=-1)


def _total(tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return torch.where(mask.unsqueeze(-1), tokens, 0.0).sum(1)


def _count(tokens: torch.Tensor, mask: torch.Tensor, total: torch.Tensor | None) -> torch.Tensor:
    if total is not None:
        return total.unsqueeze(-1).clamp(min=_LEAST)
    # At least one: an all-padding row gives zeros instead of 0/0.
    return mask.to(tokens.dtype).sum(1, keepdim=True).clamp(min=1.0)


def _first(tokens: torch.Tensor, mask: torch.Tensor, skip: int) -> torch.Tensor:
    if not skip:
        return tokens[:, 0]
    # The first token where nothing is left, as sentence-transformers has it.
    index = torch.where(_length(mask) > skip, skip, 0)
    return _taken(tokens, index)


def _max(tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    lowest = torch.finfo(tokens.dtype).min
    return torch.where(mask.unsqueeze(-1), tokens, lowest).amax(1)


def _weighted_mean(
    tokens: torch.Tensor, mask: torch.Tensor, total: torch.Tensor | None
) -> torch.Tensor:
    position = torch.arange(1, tokens.shape[1] + 1, dtype=tokens.dtype)
    weights = torch.where(mask, position, 0.0)
    made = torch.where(mask.unsqueeze(-1), tokens * weights.unsqueeze(-1), 0.0).sum(1)
    if total is not None:
        return made / total.unsqueeze(-1).clamp(min=_LEAST)
    return made / weights.sum(1, keepdim=True).clamp(min=1.0)


def _last(tokens: torch.Tensor, mask: torch.Tensor, skip: int) -> torch.Tensor:
    # The last real token by its position, so that a hole in the mask does not move it.
    position = torch.arange(tokens.shape[1]).expand(mask.shape)
    found = _taken(tokens, torch.where(mask, position, 0).amax(1))
    return torch.where((_length(mask) > skip).unsqueeze(-1), found, 0.0) if skip else found


def _length(mask: torch.Tensor) -> torch.Tensor:
    return mask.to(torch.int64).sum(1)


def _taken(tokens: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Returns one token of each row: [B,S,D] and [B] → [B,D]."""
    index = index.unsqueeze(-1).unsqueeze(-1).expand(-1, 1, tokens.shape[2])
    return tokens.gather(1, index).squeeze(1)


MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
_LEAST = 1e-9
"""sentence-transformers' floor of a sum of weights."""


class Layers(OnFeatures):
    """The hidden states of some layers → their mean, weighted (WeightedLayerPooling). Without
    hidden states of all layers it changes nothing, as in sentence-transformers."""

    def __init__(self, source: Any) -> None:
        super().__init__()
        self.start: int = source.layer_start
        self.layer_weights: Any = source.layer_weights

    def forward(self, state: State, mask: torch.Tensor) -> State:
        if state.get(LAYERS) is None:
            return {}
        held = state[LAYERS][self.start :]
        if len(held) != len(self.layer_weights):
            raise ModelError(
                f"WeightedLayerPooling has {len(self.layer_weights)} weights from layer "
                f"{self.start} on, and the transformer gives {len(state[LAYERS])} hidden states"
            )
        weights = self.layer_weights.reshape(-1, 1, 1, 1)
        return {TOKEN_EMBEDDINGS: (torch.stack(held) * weights).sum(0) / self.layer_weights.sum()}


class Words(OnFeatures):
    """Token vectors times a weight for each id of the vocabulary (WordWeights)."""

    def __init__(self, source: Any) -> None:
        super().__init__()
        self.emb_layer: Any = source.emb_layer

    def forward(self, state: State, mask: torch.Tensor) -> State:
        weights = torch.where(mask, self.emb_layer(state[INPUT_IDS]).squeeze(-1), 0.0)
        return {
            TOKEN_EMBEDDINGS: state[TOKEN_EMBEDDINGS] * weights.unsqueeze(-1),
            TOTAL: weights.sum(1),
        }


class Foreign(OnFeatures):
    """A module of the model's own code, computed by its own forward."""

    def __init__(self, source: torch.nn.Module) -> None:
        super().__init__()
        self.source = source

    def forward(self, state: State, mask: torch.Tensor) -> State:
        found = self.source(dict(state))
        return {name: value for name, value in found.items() if name not in _FEATURES}


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


_NAMED = ("Dense", "Normalize")
"""Modules whose settings name the features that they read and write."""


def stage_of(module: torch.nn.Module, index: int) -> torch.nn.Module | None:
    """Returns the traced stage for one module after the Transformer; None for one that does
    nothing.

    Raises ModelError, naming the module, for a module that goldfold does not know.
    """
    kind = type(module).__name__
    place = f"module {index} ({kind})"
    if is_foreign(module):
        return Foreign(module)
    stage: Any
    match kind:
        case "Pooling":
            modes: Any = getattr(module, "pooling_mode")  # noqa: B009 — absent from Module's type
            kept = getattr(module, "include_prompt", True)
            return Pool((modes,) if isinstance(modes, str) else tuple(modes), kept)
        case "Dense":
            stage = Dense(module)
        case "LayerNorm":
            stage = Norm(module)
        case "Normalize":
            stage = Normalize()
        case "WeightedLayerPooling":
            return Layers(module)
        case "WordWeights":
            return Words(module)
        case "Dropout":
            return None
        case _:
            raise ModelError(f"{place} is not a module goldfold knows; nothing is dropped silently")
    if kind in _NAMED:
        stage.reads = getattr(module, "module_input_name", None) or EMBEDDING
        stage.writes = getattr(module, "module_output_name", None) or stage.reads
        known = (TOKEN_EMBEDDINGS, EMBEDDING, SCORES)
        for name in (stage.reads, stage.writes):
            if name not in known:
                raise ModelError(
                    f"{place} reads {stage.reads!r} and writes {stage.writes!r}; "
                    f"{TOKEN_EMBEDDINGS!r} and {EMBEDDING!r} are supported, so this model cannot "
                    "be exported"
                )
    return stage


def is_foreign(module: Any) -> bool:
    """Returns whether a module's class is of the model's own code."""
    return type(module).__module__.partition(".")[0] not in ("sentence_transformers", "torch")


def is_unit(stages: Sequence[Any]) -> bool:
    """Returns whether the sentence embedding, or of token vectors each of them, is normalised at
    its end."""
    pooled = any(isinstance(stage, Pool) for stage in stages)
    ends = [s for s in stages if not pooled or getattr(s, "writes", EMBEDDING) == EMBEDDING]
    return bool(ends) and isinstance(ends[-1], Normalize)
