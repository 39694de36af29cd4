"""Golden embeddings are the reference's results, and the measure of an artifact's drift from them.

`texts` holds the texts, `make` runs the reference (sentence-transformers, fp32) over them, `store`
keeps the result, `compare` measures an artifact against it, `gate` decides, `report` prints.

This package imports neither `exporter` nor `targets`: a reference that shares code with the checked
artifact would certify shared bugs. An import of it loads numpy at most; `make` alone loads torch,
and only when it runs.
"""

from goldfold.golden.errors import GoldenError

__all__ = ["GoldenError"]
