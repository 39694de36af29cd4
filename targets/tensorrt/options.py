"""The options of TensorRT beyond a precision: architectures and shapes."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from goldfold.exporter.options import Options


class TensorRtOptions(Options, frozen=True, kw_only=True):
    """The architectures and shapes of an engine (settings.py reads them)."""

    compute_capability: Annotated[
        tuple[str, ...], Meta(description="an architecture, as sm86; repeatable.")
    ] = ()
    profile: Annotated[
        tuple[str, ...],
        Meta(description="least:usual:most batch x tokens, as 1x1:8x128:32x512."),
    ] = ()
    compatible: Annotated[
        tuple[str, ...], Meta(description="version or hardware; repeatable.")
    ] = ()
