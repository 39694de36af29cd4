"""Static shapes of an artifact: `--batch` and `--buckets`, all from one `.xml` and one `.bin`.

The file itself stays open in both dimensions and names the requested shapes in its `rt_info`.
Reshaping a model keeps its constants as they are, so every shape is compiled from the same weights,
when it is first needed, and the folder holds nothing twice.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import openvino as ov

from goldfold.exporter.contract import ATTENTION_MASK, INPUT_IDS
from goldfold.exporter.errors import ArtifactError, TargetError
from goldfold.targets.openvino.options import OpenVinoOptions

_PLACE = "goldfold"
_KEYS = ("batch", "buckets")

Infer = Callable[[np.ndarray, np.ndarray, str], np.ndarray]
"""(ids, mask, output) → float32[B,D], or float32[B,S,D], at one shape."""


@dataclass(frozen=True)
class Shapes:
    """The static shapes to which an artifact's calls are padded."""

    batch: int = 0
    """Texts in every call; 0 if any number."""
    buckets: tuple[int, ...] = ()
    """Lengths in tokens, ascending. Longer texts run at their own length."""

    @classmethod
    def of(cls, model: ov.Model) -> Shapes:
        """Returns the shapes in a model's file. Raises ArtifactError."""
        if not model.has_rt_info([_PLACE]):
            return cls()
        try:
            batch, buckets = (str(model.get_rt_info([_PLACE, key]).astype(str)) for key in _KEYS)
            shapes = cls(int(batch), tuple(int(length) for length in buckets.split()))
        except (ValueError, RuntimeError):
            raise ArtifactError(
                "the model's file names a batch, or buckets, of no number"
            ) from None
        if shapes.batch < 0 or any(length < 1 for length in shapes.buckets):
            raise ArtifactError(f"the model's file names a batch of {batch}, buckets of {buckets}")
        return shapes

    def note(self, model: ov.Model) -> None:
        """Write the shapes into a model, if there are any."""
        if self != Shapes():
            model.set_rt_info(str(self.batch), [_PLACE, _KEYS[0]])
            model.set_rt_info(" ".join(map(str, self.buckets)), [_PLACE, _KEYS[1]])

    def length(self, tokens: int) -> int:
        """Returns the bucket for so many tokens; 0 where none is long enough."""
        return next((length for length in self.buckets if length >= tokens), 0)

    def reshaped(self, model: ov.Model, length: int) -> ov.Model:
        """Returns a copy for one length (0 is any), which shares the weights."""
        copy = model.clone()
        shape = ov.PartialShape([self.batch or -1, length or -1])
        copy.reshape({INPUT_IDS: shape, ATTENTION_MASK: shape})
        return copy


def settle(options: OpenVinoOptions, max_length: int) -> OpenVinoOptions:
    """Returns `options` in order, for a model of `max_length` tokens.

    Raises TargetError for a batch below one, and a bucket that is no length of the model's.
    """
    if options.batch is not None and options.batch < 1:
        raise TargetError(f"openvino: a batch of {options.batch} texts holds nothing")
    buckets = tuple(sorted(set(options.buckets)))
    for bucket in buckets:
        if not 1 <= bucket <= max_length:
            raise TargetError(
                f"openvino: a bucket of {bucket} tokens; the model takes 1 … {max_length}"
            )
    return options.with_(buckets=buckets)


def padded(
    shapes: Shapes, infer: Callable[[int], Infer], pad_id: int
) -> Callable[[np.ndarray, np.ndarray, str], np.ndarray]:
    """Returns a call of any shape through calls of these shapes. `infer` opens one length, 0 being
    any."""
    opened: dict[int, Infer] = {}
    opening = threading.Lock()

    def at(length: int) -> Infer:
        if length not in opened:
            with opening:  # once, however many threads ask: it costs seconds, and memory
                if length not in opened:
                    opened[length] = infer(length)
        return opened[length]

    def run(ids: np.ndarray, mask: np.ndarray, output: str) -> np.ndarray:
        tokens = ids.shape[1]
        length = shapes.length(tokens)
        infer_at = at(length)
        columns = max(length - ids.shape[1], 0)
        ids = np.pad(ids, ((0, 0), (0, columns)), constant_values=pad_id)
        mask = np.pad(mask, ((0, 0), (0, columns)))
        size = shapes.batch or len(ids)
        # The last call is filled up with its last text.
        lacking = ((0, -len(ids) % size), (0, 0))
        ids_all, mask_all = (np.pad(array, lacking, mode="edge") for array in (ids, mask))
        found = [
            infer_at(ids_all[place : place + size], mask_all[place : place + size], output)
            for place in range(0, len(ids_all), size)
        ]
        rows = np.concatenate(found)[: len(ids)]
        return rows[:, :tokens] if rows.ndim == 3 else rows  # a vector for each token

    return run
