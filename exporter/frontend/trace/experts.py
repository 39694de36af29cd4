"""Mixtures of experts as one wide layer, in which a token's routing weights are 0 for the experts
that it was not sent to.

Experts e = 1 … E compute y = Σ_e w_e · act(x U_e) D_e, where w_e is a token's routing weight, and 0
for all but its k experts. Side by side, U = [U_1 … U_E] and D = [D_1; …; D_E] stacked, this is

    y = (w ⊙ act(x U)) D

with each w_e spread over the columns of its expert. It is the same sum: the terms of the other
experts are 0 · number. Nothing depends on which experts are chosen but numbers, so a graph can hold
it, and the two products are linear maps like others. The router stays as the model has it: its
logits, their TopK, and whatever normalises them. The price is that each token is computed by all
experts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from goldfold.exporter.errors import ModelError


class Sizes:
    """The sizes [B, S] of the batch that is being computed: experts are given tokens in one row."""

    def __init__(self) -> None:
        self.batch: Any = None

    def note(self, _whole: torch.nn.Module, given: tuple, named: dict[str, Any]) -> None:
        """Remember the sizes of `input_ids`, before the model begins."""
        self.batch = tuple((given[0] if given else named["input_ids"]).shape)

    def unrowed(self, x: torch.Tensor) -> torch.Tensor:
        """x [B·S,N] → [B,S,N]: the tensor that a model laid in one row, where x is that."""
        if x.ndim == 3 or self.batch is None:
            return x
        whole = x._base
        if (
            whole is not None
            and whole.shape == (*self.batch, x.shape[-1])
            and whole.is_contiguous()
            and x.is_contiguous()
        ):
            return whole
        # A sum is no view: reshaping a view back, torch.export asks which strides it has.
        return (x + 0).reshape(*self.batch, x.shape[-1])


Matrices = dict[str, torch.Tensor]
"""Two weights by the names that the model's own have: U [D,E·N] first, then D [E·M,D]; behind them
b [E·N] and c [E,D], where experts have biases. A checkpoint that lacks one is told so by its name.
"""


class Wide(torch.nn.Module):
    """(x, chosen, weights) → Σ_e w_e · act(x U_e + b_e) D_e + w_e c_e.

    x is [T,D] or [B,S,D], chosen int64 [T,k] names each token's experts, weights [T,k] are those of
    the chosen ones, in the same order. Returns x's shape.
    """

    def __init__(
        self,
        sizes: Sizes,
        matrices: Matrices,
        act: Callable[[torch.Tensor], torch.Tensor],
        count: int,
    ) -> None:
        """`act` takes [B,S,E,N] to [B,S,E,M]; `count` is E."""
        super().__init__()
        self.sizes, self.act, self.count, self.names = sizes, act, count, tuple(matrices)
        for name, held in matrices.items():
            made = torch.nn.Parameter(held.detach().contiguous(), requires_grad=False)
            self.register_parameter(name, made)

    def forward(self, x: torch.Tensor, chosen: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        up, down, *biases = (getattr(self, name) for name in self.names)
        shape = x.shape
        chosen, weights = self.sizes.unrowed(chosen), self.sizes.unrowed(weights)
        mine = chosen.unsqueeze(-1) == torch.arange(self.count)
        routing = torch.where(mine, weights.to(x.dtype).unsqueeze(-1), 0.0).sum(-2)
        inner = self.sizes.unrowed(x) @ up
        if biases:
            inner = inner + biases[0]
        inner = self.act(inner.unflatten(-1, (self.count, -1)))
        made = (inner * routing.unsqueeze(-1)).flatten(-2) @ down
        if biases:
            made = made + routing @ biases[1]
        return made if made.shape == shape else made.reshape(shape) + 0  # no view, as above


class Packed(torch.nn.Module):
    """Nomic's experts, which are given all routing weights as well: (x, all, weights, chosen)."""

    def __init__(self, mlp: Wide, bias: torch.Tensor | None) -> None:
        super().__init__()
        self.mlp, self.bias = mlp, bias

    def forward(
        self, x: torch.Tensor, _all: torch.Tensor, weights: torch.Tensor, chosen: torch.Tensor
    ) -> torch.Tensor:
        made = self.mlp(x, chosen, weights)
        return made if self.bias is None else made + self.bias


def widen(whole: torch.nn.Module) -> str | None:
    """Replace every mixture of experts inside a model by its wide layer, and return a note on them;
    None if there are none.

    Known are those that transformers' interface of experts computes, and Nomic's. Raises ModelError
    for experts that no wide layer expresses.
    """
    sizes, most = Sizes(), 0
    places = [
        (parent, name)
        for parent in whole.modules()
        for name, child in parent.named_children()
        if _kind(child)
    ]
    for parent, name in places:  # one at a time: what is replaced leaves memory
        made = _wide(getattr(parent, name), sizes)
        setattr(parent, name, made.eval())
        most = max(most, (made.mlp if isinstance(made, Packed) else made).count)
    if not places:
        return None
    whole.register_forward_pre_hook(sizes.note, with_kwargs=True)
    return (
        f"A mixture of experts: {len(places)} of its modules compute all of their experts, up to "
        f"{most}, for every token, and weigh those that a token is not sent to by 0. A token whose "
        "experts are nearly equal may be sent to others where values are rounded otherwise."
    )


def _kind(module: Any) -> str:
    """Returns whose experts a module is; "" if it is none."""
    if hasattr(module, "_apply_gate") and hasattr(module, "_is_expert_parallel"):
        return "transformers"
    named = type(module).__name__ == "NomicExperts"
    return "Nomic" if named and hasattr(getattr(module, "mlp", None), "w1") else ""


def _wide(module: Any, sizes: Sizes) -> Wide | Packed:
    """Returns the wide layer of a module of experts."""
    if _kind(module) == "transformers":
        return _of_interface(module, sizes)
    mlp = module.mlp
    matrices = {"w1": mlp.w1.T, "w2": mlp.w2}
    wide = Wide(sizes, matrices, mlp.activation_fn, module.moe_num_experts)
    return Packed(wide, getattr(module, "bias", None))


def _of_interface(module: Any, sizes: Sizes) -> Wide:
    """The experts of transformers: weights [E,N,D] and [E,D,M], or both transposed."""
    if module.has_post_expert_norm:
        raise ModelError(
            f"its {type(module).__name__} norm the result of each expert, which is not supported"
        )
    name = "gate_up_proj" if module.has_gate else "up_proj"
    up, down = getattr(module, name), module.down_proj
    if not module.is_transposed:
        up, down = up.transpose(1, 2), down.transpose(1, 2)
    matrices = {name: up.transpose(0, 1).flatten(1), "down_proj": down.flatten(0, 1)}
    if module.has_bias:
        matrices[f"{name}_bias"] = getattr(module, f"{name}_bias").flatten()
        matrices["down_proj_bias"] = module.down_proj_bias
    act = module._apply_gate if module.has_gate else module.act_fn
    wide = Wide(sizes, matrices, act, up.shape[0])
    module._parameters.clear()  # or the method keeps them in memory
    return wide
