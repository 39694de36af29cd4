"""Settings of every session of ONNX Runtime."""

from __future__ import annotations

EXACT = ("session.qdq_matmulnbits_accuracy_level", "1")
"""Without this setting, ONNX Runtime 1.32 rounds the values that integer weights are multiplied
with to 8 bits, at every call, wherever DequantizeLinear stands in front of MatMul; 1 is f32."""
