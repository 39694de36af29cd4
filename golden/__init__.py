"""Golden embeddings: what the reference says, and how far an artifact strays from it.

`texts` holds the texts, `make` runs the reference (sentence-transformers, fp32) over them, `store`
keeps the result, `compare` measures an artifact against it, `gate` decides, `report` prints.

This package imports neither `exporter` nor `targets`: a reference that shares code with what it
checks certifies shared bugs. Importing it costs numpy at most; torch is loaded by `make` alone,
and only when it runs.
"""

from goldfold.golden.errors import GoldenError

__all__ = ["GoldenError"]
