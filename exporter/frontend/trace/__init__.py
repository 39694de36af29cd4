"""Model → Program. The only room of `exporter` that imports torch.

`attention.py` says how transformers' attention becomes one op, `modules.py` how
sentence-transformers' modules become tensor functions, `capture.py` runs torch's exporter and hands
over a `Program`, for which `lower.py` and `plain.py` take the shortest way to ONNX. `watch.py`
looks into the model itself.
"""

from goldfold.exporter.frontend.trace.capture import trace
from goldfold.exporter.frontend.trace.watch import watch

__all__ = ["trace", "watch"]
