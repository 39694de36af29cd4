"""A fault to be found: once this is imported, folding the attention's scale makes it a little more.

`test_fuzz.py` imports it in a process of its own, to see a failure's script fail, and fail rightly.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import onnx_ir as ir

from goldfold.exporter.ir import dialect
from goldfold.exporter.passes.fold_attention_scale import FoldAttentionScale

_rewrite = FoldAttentionScale.rewrite


def _wrong(self: FoldAttentionScale, model: ir.Model, *rest: Any) -> Any:
    """The law, and then a factor of 1.01 on every scale: 1−cos of some 1e-7 and more."""
    log = _rewrite(self, model, *rest)
    for node in dialect.band_attentions(model.graph):
        scale = 1.01 * dialect.Band.of(node).scale
        node.attributes["scale"] = ir.AttrFloat32("scale", scale)
    return log


@contextmanager
def planted() -> Iterator[None]:
    """The fault, for as long as this is open."""
    FoldAttentionScale.rewrite = _wrong  # type: ignore[method-assign]
    try:
        yield
    finally:
        FoldAttentionScale.rewrite = _rewrite  # type: ignore[method-assign]
