"""sentence-transformers' arguments of `encode`, as an artifact takes or refuses them.

| argument | here |
|---|---|
| `inputs` (or `sentences`), `prompt_name`, `prompt`, `batch_size` | as there |
| `normalize_embeddings` | as there |
| `show_progress_bar` | a line on standard error; None is no line |
| `output_value` | `sentence_embedding` alone: the graph ends in it |
| `precision` | as there; int8 and uint8 take the ranges of the artifact's golden texts |
| `convert_to_numpy`, `convert_to_tensor` | as there; torch is imported only for tensors |
| `truncate_dim` | as there, and normalised again where the model normalises |
| `device` | the one that the artifact's runtime computes on; any other is refused |
| `pool`, `chunk_size` | refused: an encoder serves any number of threads (docs/serving.md) |
| `task` | query, document or "" |
"""

from __future__ import annotations

from typing import Any, TypedDict

import numpy as np

from goldfold.exporter.contract import Contract, Task
from goldfold.exporter.errors import UsageError

_DEVICES = {"tensorrt": "cuda", "coreml": "mps"}
"""The device that a target computes on, by torch's name, where that is not the CPU alone."""


class Arguments(TypedDict, total=False):
    """The arguments that `encode` takes by name alone."""

    convert_to_numpy: bool
    convert_to_tensor: bool
    device: Any
    normalize_embeddings: bool
    truncate_dim: int | None
    pool: None
    chunk_size: None
    task: Task
    sentences: Any


def check(output_value: str | None, how: Arguments, call: str, target: str) -> None:
    """Refuse what no artifact does. Raises UsageError; TypeError for an unknown argument."""
    for name in how:
        if name not in Arguments.__annotations__:
            raise TypeError(f"{call}() got an unexpected keyword argument {name!r}")
    if output_value != "sentence_embedding":
        raise UsageError(
            f"output_value is {output_value!r}; an artifact gives 'sentence_embedding' alone"
        )
    for name in ("pool", "chunk_size"):
        if how.get(name) is not None:
            raise UsageError(
                f"{name}: an encoder shares its work among threads, not processes; leave it out"
            )
    device, own = how.get("device"), _DEVICES.get(target, "cpu")
    if device is not None and str(device).partition(":")[0] not in ("cpu", own)[own != "cpu" :]:
        raise UsageError(
            f"device is {str(device)!r}; this artifact of target {target} computes on {own!r}"
        )


def given(inputs: Any, how: Arguments) -> Any:
    """Returns the texts, under their old name too. Raises TypeError where there are none, or
    two."""
    if (inputs is None) == ("sentences" not in how):
        raise TypeError("encode() takes inputs, the texts")
    return how.get("sentences") if inputs is None else inputs


def named(
    contract: Contract, name: str | None, prompt: str | None
) -> tuple[str | None, str | None]:
    """Returns the name of a prompt, and its text where it is the caller's own: a text wins over a
    name. Raises UsageError for a text that the model's pooling would have to leave out."""
    if prompt is None:
        return name, None
    if not isinstance(prompt, str):
        raise UsageError(f"prompt is {type(prompt).__name__}; give a text")
    known = next((one for one, text in contract.prompts.items() if text == prompt), None)
    if known is not None or not prompt:
        return known or "", None
    if contract.unpooled:
        raise UsageError(
            f"prompt {prompt[:40]!r}: {contract.model} leaves prompts out of its pooling, which an "
            f"artifact does only with its own ({', '.join(contract.unpooled)}); give prompt_name"
        )
    return "", prompt


def converted(rows: np.ndarray, single: bool, how: Arguments) -> Any:
    """Returns rows as an array, a tensor, or a list of tensors; of a single text its row. Raises
    UsageError where torch is not installed."""
    tensor = how.get("convert_to_tensor", False)
    if how.get("convert_to_numpy", True) and not tensor:
        return rows[0] if single else rows
    try:
        import torch
    except ImportError:
        raise UsageError(
            "a tensor was asked for, and torch is not installed; leave out convert_to_tensor"
        ) from None
    made = torch.from_numpy(rows)
    if single:
        return made[0]
    return made if tensor else list(made)
