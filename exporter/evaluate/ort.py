"""What every session of ONNX Runtime is told, whoever opens it."""

from __future__ import annotations

EXACT = ("session.qdq_matmulnbits_accuracy_level", "1")
"""Left to itself ONNX Runtime 1.32 rounds what integer weights are multiplied with to 8 bits, at
every call, wherever DequantizeLinear stands in front of MatMul; 1 is f32."""
