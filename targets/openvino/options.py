"""The options of OpenVINO beyond a precision: static shapes."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from goldfold.exporter.options import Options


class OpenVinoOptions(Options, frozen=True, kw_only=True):
    """Static shapes, all from one file (shapes.py); open ones by default."""

    batch: Annotated[
        int | None, Meta(description="texts per call; a smaller call is filled up.")
    ] = None
    buckets: Annotated[
        tuple[int, ...], Meta(description="static lengths in tokens, as 128,512.")
    ] = ()


HINTS = {"fp32": ("f32", "FP32"), "fp16": ("f16", "FP16"), "bf16": ("bf16", "BF16")}
"""INFERENCE_PRECISION_HINT and the capability it needs, by our precision."""

OPEN = OpenVinoOptions()
"""Open shapes: the defaults."""
