"""A stream of texts as an index or a search box sees it: many short, few long, in no order.

The texts are the paragraphs of Python's own language reference, which every Python carries
(`pydoc_data.topics`). Their lengths are drawn from a log-normal, cut where a paragraph would go on
and joined where it is too short; seeds are fixed, so one Python gives one stream.
"""

from __future__ import annotations

import hashlib
import math
from pydoc_data.topics import topics

import numpy as np

MEDIAN, SPREAD, LONGEST = 40, 1.0, 400
"""Words: the median, the standard deviation of log(words), and the most."""


def texts(count: int, prefix: str = "", seed: int = 0) -> list[str]:
    """`count` texts of 1 to LONGEST words, each after `prefix`, the prompt for documents: put there
    once and for all sides, since not every peer's export keeps the model's prompts."""
    rng = np.random.default_rng(seed)
    words = [word for name in sorted(topics) for word in topics[name].split()]
    sizes = np.exp(rng.normal(math.log(MEDIAN), SPREAD, count)).clip(1, LONGEST).astype(int)
    starts = rng.integers(0, len(words) - LONGEST, count)
    return [
        " ".join(words[start : start + size]) for start, size in zip(starts, sizes, strict=True)
    ]


def digest(stream: list[str]) -> str:
    """So that two records show whether they timed the same texts."""
    return hashlib.sha256("\n".join(stream).encode()).hexdigest()[:16]
