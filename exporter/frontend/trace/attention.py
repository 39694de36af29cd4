"""Attention and masks as the traced model sees them: one symbolic op, and a probe instead of a
mask.

transformers lets a library register its own attention and its own mask. Our mask hands the 2-D
padding mask through unchanged and asks transformers' mask function what kind of mask it stands for;
our attention writes one `goldfold.BandAttention` per layer. Both are checked: a layer's keywords
must agree with its probed mask, and a keyword that this file does not know is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

NAME = "goldfold"

HARMLESS = frozenset({"dropout", "position_ids", "use_cache", "deterministic", "output_attentions"})
"""Attention keywords that cannot change the result of an encoder in evaluation mode."""

UNDERSTOOD = frozenset({"scaling", "sliding_window", "is_causal", "softcap"})


class Refused(Exception):
    """The model's attention is more than BandAttention can express; the text says what."""


@dataclass(frozen=True)
class Mask:
    """The pairs that a mask function allows: |i − j| < window (0: no window), and j ≤ i if
    causal."""

    window: int
    causal: bool


@dataclass
class Recorder:
    """The record of one trace: its masks and its attention calls."""

    max_length: int
    calls: list[Mask] = field(default_factory=list)
    masks: list[Mask] = field(default_factory=list)
    by_tensor: dict[int, tuple[torch.Tensor, Mask]] = field(default_factory=dict)


@contextmanager
def registered(max_length: int) -> Iterator[Recorder]:
    """Register our attention and mask under NAME for the time of one trace."""
    from transformers import AttentionInterface, AttentionMaskInterface

    recorder = Recorder(max_length)
    AttentionInterface.register(NAME, _attention(recorder))
    AttentionMaskInterface.register(NAME, _mask(recorder))
    try:
        yield recorder
    finally:
        AttentionInterface._global_mapping.pop(NAME, None)
        AttentionMaskInterface._global_mapping.pop(NAME, None)


def probe(mask_function: Callable, max_length: int) -> Mask:
    """Returns the band of a transformers mask function, found by asking it which tokens token i
    sees.

    The probe looks at one whole row of a sequence twice as long as any the model takes, so that a
    window of any size shows on both sides, then at scattered other pairs. Raises Refused if the
    mask is not a band.
    """
    from torch._subclasses.fake_tensor import unset_fake_temporarily
    from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing

    with unset_fake_temporarily(), disable_proxy_modes_tracing():
        zero = torch.zeros((), dtype=torch.long)

        def sees(i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
            try:
                answer = mask_function(zero, zero, i, j)
            except Exception as error:
                raise Refused(f"its mask cannot be probed ({type(error).__name__})") from None
            return torch.as_tensor(answer).expand(torch.broadcast_shapes(i.shape, j.shape))

        middle = max_length + 1
        row = sees(torch.tensor(middle), torch.arange(2 * middle + 1)).nonzero().flatten()
        if len(row) == 0:
            raise Refused("its mask lets a token see nobody, not even itself")
        left, right = middle - int(row[0]), int(row[-1]) - middle
        causal = right == 0 < left  # a token that sees only itself does not count as causal
        window = 0 if left + 1 > max_length else left + 1
        grid = torch.linspace(0, 2 * middle, 97).long()
        i, j = grid[:, None], grid[None, :]
        expected = ((i - j).abs() < (left + 1 if left < middle else 4 * middle)) & (
            (j <= i) | (not causal)
        )
        symmetric = causal or right == left
        near = (i - j).abs() < max_length  # no text has tokens further apart
        if not symmetric or not torch.equal(sees(i, j) & near, expected & near):
            if (found := _within(sees, max_length)) is not None:
                return found
            raise Refused(f"its mask is not a band (token {middle} sees −{left} … +{right})")
    return Mask(window, causal)


def _within(sees: Callable, max_length: int) -> Mask | None:
    """Returns the mask of attention without a window, where a mask is that inside the longest text
    and something else beyond: chunks that no text fills."""
    if max_length < 2:
        return None
    i, j = torch.linspace(0, max_length - 1, 97).long()[:, None], torch.arange(max_length)[None, :]
    for causal in (True, False):
        if torch.equal(sees(i, j), (j <= i) if causal else torch.ones_like(j <= i)):
            return Mask(0, causal)
    return None


def _mask(recorder: Recorder) -> Callable:
    def mask(
        batch_size: Any,
        q_length: Any,
        kv_length: Any,
        q_offset: Any = 0,
        kv_offset: Any = 0,
        mask_function: Callable | None = None,
        attention_mask: torch.Tensor | None = None,
        **_: Any,
    ) -> torch.Tensor:
        if attention_mask is None or attention_mask.ndim != 2:
            raise Refused("it asks for a mask without handing over the 2-D padding mask")
        if mask_function is None:
            raise Refused("it asks for a mask without saying which")
        # One tensor per mask, so that each layer's mask can be told by identity.
        own = attention_mask.clone()
        found = probe(mask_function, recorder.max_length)
        recorder.masks.append(found)
        recorder.by_tensor[id(own)] = (own, found)
        return own

    return mask


def _attention(recorder: Recorder) -> Callable:
    def attention(
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        **keywords: Any,
    ) -> tuple[torch.Tensor, None]:
        kind = type(module).__name__
        for name, given in keywords.items():
            if name not in HARMLESS | UNDERSTOOD and given is not None:
                raise Refused(f"{kind} passes {name!r} to its attention")
        if keywords.get("dropout"):
            raise Refused(f"{kind} applies dropout in evaluation mode")
        if attention_mask is None or attention_mask.ndim != 2:
            raise Refused(f"{kind} attends without the 2-D padding mask")
        causal = keywords.get("is_causal")
        if causal is None:
            causal = bool(getattr(module, "is_causal", False))
        window = int(keywords.get("sliding_window") or 0)
        # A window wider than the longest text has no effect; probe() calls it no window as well.
        said = Mask(window if window <= recorder.max_length else 0, bool(causal))
        _agree(kind, said, attention_mask, recorder)
        recorder.calls.append(said)
        scaling = keywords.get("scaling")
        attended = torch.onnx.ops.symbolic(
            "goldfold::BandAttention",
            (query, key, value, attention_mask),
            {
                "scale": float(query.shape[-1] ** -0.5 if scaling is None else scaling),
                "window": said.window,
                "causal": int(said.causal),
                "softcap": float(keywords.get("softcap") or 0.0),
            },
            dtype=query.dtype,
            shape=(*query.shape[:-1], value.shape[-1]),
            version=1,
        )
        return attended.transpose(1, 2), None

    return attention


def _agree(kind: str, said: Mask, tensor: torch.Tensor, recorder: Recorder) -> None:
    """Check that keywords and probed mask agree; a mask that cannot be traced back must be one of
    ours."""
    known = recorder.by_tensor.get(id(tensor))
    candidates = [known[1]] if known else recorder.masks
    if said not in candidates:
        masks = [f"window {m.window}, causal {m.causal}" for m in candidates]
        raise Refused(
            f"{kind} says window {said.window}, causal {said.causal}, "
            f"but its mask says {' or '.join(masks) or 'nothing'}"
        )
