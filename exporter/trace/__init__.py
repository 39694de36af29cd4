"""Model → Program. The only room of `exporter` that imports torch.

`attention.py` says how transformers' attention becomes one op, `modules.py` how
sentence-transformers' modules become tensor functions, `capture.py` runs torch's exporter and hands
over a `Program`, for which `lower.py` and `plain.py` take the shortest way to ONNX.
"""

from exporter.trace.capture import trace

__all__ = ["trace"]
