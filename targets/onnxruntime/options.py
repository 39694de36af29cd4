"""The options of the portable target beyond a precision: the opset of the file, and whether it may
use ONNX Runtime's own ops."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from goldfold.exporter.errors import TargetError
from goldfold.exporter.options import Options

OLDEST, NEWEST = 17, 23
"""The opsets that a file can be written for; each ONNX Runtime knows those up to one of its own."""


class OnnxRuntimeOptions(Options, frozen=True, kw_only=True):
    """The ops of the file: an older opset is for runtimes that are older than ONNX Runtime 1.23;
    ONNX Runtime's own ops are faster there."""

    opset: Annotated[
        int | None,
        Meta(description=f"the opset of the file, {OLDEST} to {NEWEST}; {NEWEST} by default."),
    ] = None
    contrib: Annotated[
        bool,
        Meta(description="use ONNX Runtime's own op for attention (com.microsoft) where it fits."),
    ] = False


def opset_of(options: OnnxRuntimeOptions) -> int:
    """Returns the opset of a file with these options."""
    return NEWEST if options.opset is None else options.opset


def settle(options: OnnxRuntimeOptions) -> OnnxRuntimeOptions:
    """Returns `options` with defaults. Raises TargetError for an opset that there is no program
    in."""
    opset = opset_of(options)
    if not OLDEST <= opset <= NEWEST:
        raise TargetError(
            f"onnxruntime: a program can be written for the opsets {OLDEST} to {NEWEST}, "
            f"not for --opset {opset}"
        )
    return options.with_(opset=opset)
