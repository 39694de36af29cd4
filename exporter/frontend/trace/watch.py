"""Intermediate values of the source model: the outputs of its modules on one batch."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

from goldfold.exporter.frontend.source import Source
from goldfold.exporter.frontend.trace.capture import load_whole


def watch(
    source: Source,
    ids: np.ndarray,
    mask: np.ndarray,
    modules: Iterable[str],
) -> dict[str, np.ndarray]:
    """Returns the outputs of the modules of these names, as `goldfold.module` spells them, on one
    batch.

    The model runs in torch, in float32, with eager attention. Modules that the model lacks, or that
    return no tensor, are left out. Raises ModelError if the model cannot be opened.
    """
    whole = load_whole(source)
    wanted = set(modules)
    found: dict[str, np.ndarray] = {}

    def keep(name: str):
        def hook(_module: torch.nn.Module, _given: object, out: object) -> None:
            first = out[0] if isinstance(out, tuple) else out
            if isinstance(first, torch.Tensor) and first.is_floating_point():
                found[name] = first.detach().numpy().copy()

        return hook

    for name, module in whole.named_modules():
        if name in wanted:
            module.register_forward_hook(keep(name))
    with torch.no_grad():
        whole(torch.from_numpy(ids), torch.from_numpy(mask))
    return found
