"""Model → Program. The only room of `exporter` that imports torch.

`attention.py` says how transformers' attention becomes one op, `modules.py` how
sentence-transformers' modules become tensor functions, `capture.py` runs torch's exporter and hands
over a `Program`.
"""

from exporter.trace.capture import trace

__all__ = ["trace"]
