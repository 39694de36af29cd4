"""Bit widths that no type of ONNX has: such numbers lie packed in bytes (pack_table.py)."""

from __future__ import annotations

PACKED = (5, 6, 7)
