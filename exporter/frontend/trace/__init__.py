"""Model → Program. The only room of `exporter` that imports torch.

`attention.py` turns transformers' attention into one op, `modules.py` turns sentence-transformers'
modules into tensor functions, and `capture.py` runs torch's exporter and returns a `Program`;
`lower.py` and `plain.py` take the shortest way to ONNX for it. `watch.py` reads values inside the
model itself.
"""

from goldfold.exporter.frontend.trace.capture import trace
from goldfold.exporter.frontend.trace.watch import watch

__all__ = ["trace", "watch"]
